"""The lease of a directory with a TTL, which nodes below it join: compares and reads of the markers of directories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from getc.backends.tree.codec.keyspace import marker
from getc.backends.tree.codec.txn_failure import differences, failure_results
from getc.operations import Put
from getc.paths import ROOT
from getc.v3.schema.kv import Compare, RangeRequest, RequestOp, TxnResponse

__all__ = [
    'MAX_TXN_OPS',
    'NO_LEASE',
    'DirectoryLease',
    'is_refused_for_lease',
    'join_compares',
    'marker_reads',
    'nearest_lease',
]

MAX_TXN_OPS: Final = 128
"""Maximum number of compares, and of requests, of a transaction.  Source: etcd 3.5, ``--max-txn-ops``."""


class DirectoryLease(NamedTuple):
    """The nearest directory above a node that has a lease.

    Attributes:
        directory: The key of the directory; ``/``, which has no marker, if no directory above the node has a lease.
        lease: The ID of the lease; 0 for none.
    """

    directory: str
    lease: int


NO_LEASE: Final = DirectoryLease(ROOT, 0)


def join_compares(directories: Sequence[str], joined: DirectoryLease, count: int) -> list[Compare]:
    """Compare: this is the lease that a node in these directories joins.

    Args:
        directories: The directories above the node, outermost first.
        joined: The nearest of them that has a lease.
        count: Maximum number of compares.  If the directories are more, only the nearest of them are compared.
    """
    nearest = list(reversed(directories))
    compare = []
    if joined.lease:
        del nearest[nearest.index(joined.directory) :]
        compare.append(_has_lease(joined.directory, joined.lease))
    for directory in nearest[: count - len(compare)]:
        compare.append(_has_lease(directory, 0))
    return compare


def _has_lease(directory: str, lease: int) -> Compare:
    """Compare: the marker of a directory has this lease; with 0: it has none, or does not exist."""
    return Compare(key=marker(directory), target=Compare.CompareTarget.LEASE, lease=lease)


def marker_reads(directories: Iterable[str], revision: int = 0) -> list[RequestOp]:
    """Return the reads of the markers of directories, at a revision; 0 for the current one."""
    # Not with keys_only: etcd 3.7 then leaves out the lease.
    reads = [RangeRequest(key=marker(each), revision=revision) for each in directories]
    return [RequestOp(request_range=read) for read in reads]


def nearest_lease(directories: Sequence[str], found: Sequence[Any]) -> DirectoryLease:
    """Return the last of these directories whose marker has a lease.

    Args:
        directories: The directories above a node, outermost first.
        found: The result of each of the :func:`marker_reads`.
    """
    for directory, result in zip(reversed(directories), reversed(found), strict=True):
        if result.kvs and result.kvs[0].lease:
            return DirectoryLease(directory, result.kvs[0].lease)
    return NO_LEASE


def is_refused_for_lease(put: Put, response: TxnResponse, *, is_strict: bool) -> bool:
    """True if nothing that was read explains why a write was refused: it is the lease of a directory above the node.

    Args:
        put: The operation.
        response: What the :func:`~getc.backends.tree.codec.txn_failure.failure_reads` of the node have found.
        is_strict: The write compared the leases of the directories above.

    Raises:
        ProtocolError: The response has another shape.
    """
    if not is_strict or put.ttl is not None:
        return False
    *above, inside, itself = failure_results(put.key, response)
    if inside or any(above):
        return False
    if put.prev_exist is False:
        return not itself
    if put.prev_exist or put.is_compared:
        return bool(itself) and not differences(put, itself[0])
    return True
