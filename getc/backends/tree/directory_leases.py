"""Write nodes without a TTL of their own in directories with a TTL: they join the lease of the directory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import gevent

from getc import paths
from getc.backends.tree.codec.directory_lease import (
    NO_LEASE,
    DirectoryLease,
    is_refused_for_lease,
    marker_reads,
    nearest_lease,
)
from getc.backends.tree.codec.keyspace import NO_TTL
from getc.backends.tree.codec.responses import RANGE, results_of_txn
from getc.backends.tree.codec.write import parse_put, txn_of_put
from getc.backends.tree.large_values import result_of_write
from getc.errors import ResponseTooLarge
from getc.operations import Put
from getc.results import EtcdResult
from getc.timing import Backoff, Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, TxnRequest

__all__ = ['DirectoryLeases']

MAX_KNOWN: Final = 1000
"""Remembered directories with a TTL."""

MAX_LEASES: Final = 10_000
"""Leases of which is remembered whether they are those of directories."""


class DirectoryLeases:
    """Finds the lease that a node joins, and remembers the directories with a TTL, so that each is read once.

    A write compares that no directory above its node has a lease.  If that is refused, the markers of the directories
    are read, and the write is repeated with the lease of the nearest one that has one, and compares that.  What is
    remembered may be outdated: then the write is refused, and the markers are read again.

    Attributes:
        known: The leases of directories, by directory.

    Args:
        rpc: Calls etcd.
        is_strict: See :class:`~getc.backends.tree.backend.TreeV3`.
    """

    def __init__(self, rpc: RpcClient, *, is_strict: bool) -> None:
        self.known: dict[str, int] = {}
        self._rpc = rpc
        self._is_strict = is_strict
        self._roles: dict[int, bool] = {}  # by lease: whether it is that of a directory, which never changes

    def recall(self, directories: Sequence[str]) -> DirectoryLease:
        """Return the nearest of these directories, outermost first, that is known to have a lease.  No I/O."""
        for directory in reversed(directories):
            lease = self.known.get(directory)
            if lease:
                return DirectoryLease(directory, lease)
        return NO_LEASE

    def read(self, directories: Sequence[str], deadline: Deadline) -> DirectoryLease:
        """Read which is the nearest of these directories that has a lease, and remember it."""
        response = self._rpc.call(KV.Txn, TxnRequest(success=marker_reads(directories)), deadline, is_write=False)
        results = results_of_txn(response, *[RANGE] * len(directories), is_write=False)
        found = nearest_lease(directories, results)
        for directory in directories:
            self.known.pop(directory, None)
        if found.lease:
            self.note(found.directory, found.lease)
        return found

    def note(self, directory: str, lease: int) -> None:
        """Remember the lease of a directory; 0 for none."""
        self.known.pop(directory, None)
        if lease:
            if len(self.known) >= MAX_KNOWN:
                del self.known[next(iter(self.known))]
            self.known[directory] = lease

    def is_joined(self, key: str, lease: int, revision: int, deadline: Deadline, *, is_directory: bool) -> bool:
        """Return whether a node has no TTL of its own: its lease is that of a directory above it.

        Args:
            key: The node.
            lease: The lease that it has at the revision.
            revision: The revision.
            deadline: The end of the call.
            is_directory: The node is a directory.
        """
        directories = paths.ancestors(key) if self._is_strict else []
        if not directories:
            return False
        if not is_directory and lease in self._roles:
            return self._roles[lease]
        reads = TxnRequest(success=marker_reads(directories, revision))
        response = self._rpc.call(KV.Txn, reads, deadline, is_write=False)
        results = results_of_txn(response, *[RANGE] * len(directories), is_write=False)
        is_joined = any(found.kvs and found.kvs[0].lease == lease for found in results)
        if not is_directory:
            self.note_role(lease, is_joined)
        return is_joined

    def note_role(self, lease: int, is_of_directory: bool) -> None:
        """Remember whether a lease is that of a directory."""
        if len(self._roles) >= MAX_LEASES:
            del self._roles[next(iter(self._roles))]
        self._roles[lease] = is_of_directory

    def put(self, put: Put, deadline: Deadline) -> EtcdResult:
        """Write a node that has no TTL of its own and is, or probably is, in a directory with a TTL.

        Raises like ``Backend.execute``.
        """
        directories = paths.ancestors(put.key)
        joined = self.recall(directories)
        if not joined.lease:
            joined = self.read(directories, deadline)
        backoff = Backoff(base=0.005, cap=0.2)
        while True:
            try:
                response = self._rpc.call(KV.Txn, txn_of_put(put, joined=joined), deadline, is_write=True)
            except ResponseTooLarge as error:
                result = result_of_write(self._rpc, put, error, NO_TTL, deadline, is_strict=True)
                if result is not None:
                    return result
            else:
                if response.succeeded or not is_refused_for_lease(put, response, is_strict=True):
                    return parse_put(put, response)
            joined = self.read(directories, deadline)
            gevent.sleep(min(backoff.next_delay(), max(0.0, deadline.remaining())))
