"""A backend on a store in this process: an etcd for tests, and for programs without a server."""

from __future__ import annotations

import sys
from typing import Any, Final

from getc.backends.base import Backend, KeepGroup, Watch, WatchListener
from getc.backends.conditions import check_size, facts_of
from getc.backends.creation_order import read_contenders, read_predecessor
from getc.backends.memory.notifier import MemoryWatch, SharedStore
from getc.backends.refresh import RefreshGroup
from getc.backends.store_index import index_of_read
from getc.errors import ClientClosed, EtcException
from getc.operations import (
    Append,
    Contenders,
    Get,
    Operation,
    Predecessor,
    Put,
    WatchSpec,
    check_v2_key,
    check_v2_ttl,
)
from getc.results import EtcdResult
from getc.timing import Deadline
from getc.transactions import AnyOperation, SnapshotRead, Transaction, TransactionResult

__all__ = ['MemoryBackend']


class MemoryBackend(Backend):
    """A backend on a store in this process.

    No call blocks or switches to another greenlet.

    Args:
        store: The store, which other backends may share.
    """

    api: Final = 'memory'

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._watches: set[MemoryWatch] = set()
        self._groups: dict[int, RefreshGroup] = {}
        self._is_closed = False

    def execute(self, operation: AnyOperation, deadline: Deadline) -> Any:
        self._check_open()
        if isinstance(operation, Transaction):
            return self._transact(operation)
        if isinstance(operation, SnapshotRead):
            check_v2_key(operation.key)
            return self._store.execute(operation)
        if isinstance(operation, Predecessor):
            return read_predecessor(self._execute, operation, deadline)
        if isinstance(operation, Contenders):
            return read_contenders(self._execute, operation, deadline)
        return self._execute(operation, deadline)

    def _execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        # The limits of the v2 API hold here as well, except that values may be any bytes.
        check_v2_key(operation.key)
        if isinstance(operation, (Put, Append)) and operation.ttl is not None:
            check_v2_ttl(operation.ttl)
        return self._store.execute(operation)

    def _transact(self, transaction: Transaction) -> TransactionResult:
        check_size(transaction, facts_of(transaction, is_strict=True))
        for key in transaction.keys:
            check_v2_key(key)
        for ttl in transaction.ttls:
            check_v2_ttl(ttl)
        return self._store.execute(transaction)

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        self._check_open()
        check_v2_key(spec.key)
        return self._store.watch(spec, listener, self._watches)

    def read_index(self, spec: WatchSpec, deadline: Deadline) -> int:
        return index_of_read(self, Get(spec.key, quorum=True), deadline)

    def keep_group(self, ttl: int) -> KeepGroup:
        self._check_open()
        group = self._groups.get(ttl)
        if group is None:
            group = RefreshGroup(self.execute, self.watch, ttl, max_watched=sys.maxsize)
            self._groups[ttl] = group
        return group

    def ready(self, deadline: Deadline) -> None:
        self._check_open()

    def clear(self) -> None:
        pass

    def close(self) -> None:
        self._is_closed = True
        for group in self._groups.values():
            group.close()
        for watch in list(self._watches):
            watch.close()

    def end_watches(self, error: EtcException) -> None:
        """End every watch with this error, in the next iteration of the hub's loop, in the order of creation."""
        for watch in sorted(self._watches, key=lambda watch: watch.number):
            watch.end(error)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')
