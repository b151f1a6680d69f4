"""Changes of the TTL of a directory: its marker, and the nodes in it without a TTL of their own, get another lease."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from getc import paths
from getc.backends.tree.codec.directory_lease import (
    MAX_TXN_OPS,
    DirectoryLease,
    join_compares,
    marker_reads,
    nearest_lease,
)
from getc.backends.tree.codec.keyspace import TTL, decode, directory_range, encode, marker
from getc.backends.tree.codec.responses import PUT, RANGE, malformed, results_of_txn
from getc.backends.tree.codec.txn_failure import is_absent, is_present, missing_node_error
from getc.errors import NotDir
from getc.results import Directory, Updated
from getc.v3.schema.kv import Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse
from getc.v3.schema.mvccpb import KeyValue

__all__ = [
    'DirectoryState',
    'batches_of',
    'keys_request',
    'nodes_to_move',
    'parse_change',
    'parse_state',
    'result_of_renewal',
    'txn_of_change',
    'txn_of_move',
    'txn_of_state',
]

MAX_BATCH_BYTES: Final = 256 * 1024
"""Bytes of the keys of one transaction, which contains each key twice.  etcd accepts requests of 1.5 MiB."""


class DirectoryState(NamedTuple):
    """A directory, as it was read at one revision.

    Attributes:
        marker: The key of the directory; None if the directory exists only because of the keys in it.
        outer: The nearest directory above that has a lease.
        page: The first keys of the directory.
        response: The response that contained them.
    """

    marker: KeyValue | None
    outer: DirectoryLease
    page: RangeResponse
    response: TxnResponse

    @property
    def lease(self) -> int:
        """The lease of the directory and of the nodes in it that have no TTL of their own; 0 for none."""
        return self.outer.lease if self.marker is None else self.marker.lease

    @property
    def has_own_ttl(self) -> bool:
        """True if the directory has a TTL of its own, not only that of a directory above."""
        return self.lease not in (0, self.outer.lease)


# -- reads


def txn_of_state(key: str, limit: int, *, is_strict: bool) -> TxnRequest:
    """Return the reads of a directory: its ancestors and their markers, the node as a value, and the keys in it.

    Args:
        key: The directory.
        limit: Maximum number of keys.
        is_strict: Read the ancestors and their markers.
    """
    ancestors = paths.ancestors(key) if is_strict else []
    reads = [RangeRequest(key=encode(each), keys_only=True) for each in (*ancestors, key)]
    success = [RequestOp(request_range=each) for each in reads]
    success += marker_reads(_compared(key, is_strict))
    success.append(RequestOp(request_range=keys_request(key, marker(key), limit)))
    return TxnRequest(success=success)


def _compared(key: str, is_strict: bool) -> list[str]:
    """Return the directories above a directory whose markers fit into its transactions: all but of very deep keys."""
    ancestors = paths.ancestors(key) if is_strict else []
    return ancestors[-(MAX_TXN_OPS - 2 - len(ancestors)) :]


def keys_request(key: str, start: bytes, limit: int) -> RangeRequest:
    """Return the read of keys of a directory with their leases, from a key on."""
    _, end = directory_range(key)
    return RangeRequest(key=start, range_end=end, limit=limit)  # not with keys_only: etcd 3.7 leaves out the lease


def parse_state(key: str, response: TxnResponse, *, is_strict: bool) -> DirectoryState | None:
    """Return the directory that was read; None if the node is a value.

    Raises:
        KeyNotFound: The node does not exist.
        NotDir: An ancestor is a value.
        ProtocolError: The response has another shape.
    """
    count = len(paths.ancestors(key)) if is_strict else 0
    directories = _compared(key, is_strict)
    results = results_of_txn(response, *[RANGE] * (count + 1 + len(directories) + 1), is_write=False)
    above, itself, markers, page = results[:count], results[count], results[count + 1 : -1], results[-1]
    for found in above:
        if found.kvs:
            raise NotDir('Not a directory', decode(found.kvs[0].key), response.header.revision)
    if itself.kvs:
        return None
    if not page.kvs:
        raise missing_node_error(key, [], response.header.revision)
    first = page.kvs[0] if page.kvs[0].key == marker(key) else None
    return DirectoryState(first, nearest_lease(directories, markers), page, response)


def nodes_to_move(key: str, kvs: Iterable[KeyValue], old: Collection[int], new: int) -> list[KeyValue]:
    """Return the keys of a directory that have no TTL of their own, and are not on the new lease yet.

    Args:
        key: The directory.
        kvs: Keys of it; its marker is left out.
        old: Leases that the directory had before.
        new: Its lease now.
    """
    leases = {0, *old} - {new}
    own = marker(key)
    return [kv for kv in kvs if kv.lease in leases and kv.key != own]


# -- writes


def txn_of_change(
    key: str, state: DirectoryState, new: int, nodes: Sequence[KeyValue], *, is_strict: bool
) -> TxnRequest:
    """Return the transaction that puts the marker on another lease, and with it as many of the nodes as fit.

    Args:
        key: The directory.
        state: The directory as it was read: the transaction is refused if its marker has changed since.
        new: The ID of the lease; 0 for none.
        nodes: Keys of the directory to be put on the lease as well; refused if one of them has changed since.
        is_strict: Compare that no ancestor is a value, and which of the directories above has a lease.
    """
    ancestors = paths.ancestors(key) if is_strict else []
    own = marker(key)
    compare = [is_absent(encode(each)) for each in (*ancestors, key)]
    compare += [is_absent(own)] if state.marker is None else _are_unchanged([state.marker])
    if is_strict:
        compare += join_compares(_compared(key, is_strict), state.outer, MAX_TXN_OPS - len(compare))
    success = [RequestOp(request_put=PutRequest(key=own, lease=new, ignore_value=state.marker is not None))]
    batch = next(batches_of(nodes, MAX_TXN_OPS - len(compare)), [])
    return TxnRequest(compare=compare + _are_unchanged(batch), success=success + _moves(batch, new))


def txn_of_move(key: str, nodes: Sequence[KeyValue], new: int) -> TxnRequest:
    """Return the transaction that puts nodes on the lease of their directory, which it compares with the marker's.

    It is refused if one of the nodes has changed since it was read.
    """
    own = marker(key)
    compare = [is_present(own), Compare(key=own, target=Compare.CompareTarget.LEASE, lease=new)]
    failure = marker_reads([key])
    return TxnRequest(compare=compare + _are_unchanged(nodes), success=_moves(nodes, new), failure=failure)


def batches_of(nodes: Sequence[KeyValue], count: int) -> Iterator[list[KeyValue]]:
    """Yield nodes in batches of at most this many, none for 0, and of a bounded size."""
    batch: list[KeyValue] = []
    size = 0
    for kv in nodes if count > 0 else ():
        if batch and (len(batch) == count or size + len(kv.key) > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(kv)
        size += len(kv.key)
    if batch:
        yield batch


def _are_unchanged(kvs: Iterable[KeyValue]) -> list[Compare]:
    """Compare: these keys exist, and were not written since they were read."""
    target = Compare.CompareTarget.MOD
    return [Compare(key=kv.key, target=target, mod_revision=kv.mod_revision) for kv in kvs]


def _moves(kvs: Iterable[KeyValue], new: int) -> list[RequestOp]:
    """Put these keys on a lease."""
    return [RequestOp(request_put=PutRequest(key=kv.key, lease=new, ignore_value=True)) for kv in kvs]


# -- results


def parse_change(key: str, state: DirectoryState, response: TxnResponse, ttl: TTL) -> Updated:
    """Return the result of a :func:`txn_of_change` that was applied.

    Raises:
        ProtocolError: The response has another shape.
    """
    if not response.responses:
        raise malformed('a change of {key} without the result of its put', is_write=True, key=key)
    results_of_txn(response, *[PUT] * len(response.responses))
    index = response.header.revision
    before = _directory(key, state)
    created = index if state.marker is None else before.created_index
    node = Directory(key, index, created, ttl.ttl, ttl.expiration)
    return Updated(node, before, index, 0, response.header.raft_term)


def result_of_renewal(key: str, state: DirectoryState, ttl: TTL) -> Updated:
    """Return the result of a refresh that has renewed the lease of a directory."""
    before = _directory(key, state)
    node = Directory(key, before.modified_index, before.created_index, ttl.ttl, ttl.expiration)
    return Updated(node, before, state.response.header.revision, 0, state.response.header.raft_term)


def _directory(key: str, state: DirectoryState) -> Directory:
    kv = state.marker
    return Directory(key) if kv is None else Directory(key, kv.mod_revision, kv.create_revision)
