"""A store in memory with its watches: expires nodes in time and notifies watches of changes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, overload

import gevent

from getc import timing
from getc.backends.base import WatchListener
from getc.backends.delivery import EventQueue
from getc.backends.memory.store import Store
from getc.errors import EventIndexCleared
from getc.net.affinity import ThreadAffinity
from getc.operations import Operation, WatchSpec
from getc.paths import ROOT, ancestors, is_below
from getc.results import Deleted, Directory, EtcdResult
from getc.transactions import Snapshot, SnapshotRead, Transaction, TransactionResult

__all__ = ['MemoryWatch', 'SharedStore']


class SharedStore:
    """A store that any number of backends of one thread share.

    Expired nodes are deleted before every operation.  A timer deletes them in time only while there is a watch: the
    timer holds a reference to the store, which otherwise would stay in memory until its last TTL has run out.

    Watches are notified in the next iteration of the hub's loop, in the order of the changes, and of one change in the
    order in which the watches were created.
    """

    def __init__(self) -> None:
        self._affinity = ThreadAffinity()
        self._store = Store()
        self._watches: dict[str, dict[MemoryWatch, None]] = {}  # by the watched key
        self._numbers = count()
        self._timer: Any = None
        self._timer_at: float | None = None

    @overload
    def execute(self, operation: Operation) -> EtcdResult: ...

    @overload
    def execute(self, operation: Transaction) -> TransactionResult: ...

    @overload
    def execute(self, operation: SnapshotRead) -> Snapshot: ...

    def execute(self, operation: Operation | Transaction | SnapshotRead) -> Any:
        """Perform the operation on the current state of the store."""
        self._advance()
        try:
            if isinstance(operation, Transaction):
                return self._store.transact(operation)
            if isinstance(operation, SnapshotRead):
                return self._store.read(operation)
            return self._store.execute(operation)
        finally:
            self._advance()

    def watch(self, spec: WatchSpec, listener: WatchListener, siblings: set[MemoryWatch]) -> MemoryWatch:
        """Notify a listener of changes.  The watch is in ``siblings`` until it is closed."""
        self._advance()
        watch = MemoryWatch(self, next(self._numbers), spec, listener, siblings)
        try:
            missed = [] if spec.index is None else list(self._store.since(spec))
            first = self._store.index + 1 if spec.index is None else spec.index
        except EventIndexCleared as error:
            watch.end(error)
            return watch
        watch.post(listener.on_live, first - 1)
        for results in missed:
            watch.post(listener.on_changes, results)
        watch.post(listener.on_caught_up)
        self._watches.setdefault(spec.key, {})[watch] = None
        self._set_timer(self._store.next_expiration())
        return watch

    def report_progress(self, watch: MemoryWatch, on_progress: Callable[[int], object]) -> None:
        """Call a function with the index of the store, after the changes up to it were delivered to a watch."""
        self._advance()
        watch.post(on_progress, self._store.index)

    def remove(self, watch: MemoryWatch) -> None:
        """Stop notifying a watch."""
        watches = self._watches.get(watch.spec.key)
        if watches is not None:
            watches.pop(watch, None)
            if not watches:
                del self._watches[watch.spec.key]
        if not self._watches:
            self._set_timer(None)

    def _advance(self) -> None:
        """Delete expired nodes, notify watches of pending changes, and set the timer for the next expiration."""
        self._affinity.check('a store in memory')
        self._store.expire()
        pending, self._store.pending = self._store.pending, []
        for results in pending:
            matching: dict[MemoryWatch, list[EtcdResult]] = {}
            for result in results:
                for watch in self._matching(result):
                    matching.setdefault(watch, []).append(result)
            for watch in sorted(matching, key=lambda watch: watch.number):
                watch.post(watch.listener.on_changes, tuple(matching[watch]))
        if self._watches:
            self._set_timer(self._store.next_expiration())

    def _matching(self, result: EtcdResult) -> list[MemoryWatch]:
        """Return the watches that report a change."""
        paths = [result.key, *ancestors(result.key), ROOT]
        if isinstance(result, Deleted) and isinstance(result.node, Directory):
            paths += [key for key in self._watches if is_below(key, result.key)]
        return [watch for path in paths for watch in self._watches.get(path, ()) if watch.spec.matches(result)]

    def _set_timer(self, at: float | None) -> None:
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._timer_at = at
        if at is not None:
            self._timer = gevent.get_hub().loop.timer(max(0.0, at - timing.now()))
            self._timer.start(self._on_timer)

    def _on_timer(self) -> None:
        self._timer_at = None
        self._advance()


class MemoryWatch(EventQueue):
    """A watch of a store in memory.

    Attributes:
        spec: What is watched.
        number: Increases with each watch of the store.
    """

    __slots__ = ('_siblings', '_store', 'number', 'spec')

    def __init__(
        self, store: SharedStore, number: int, spec: WatchSpec, listener: WatchListener, siblings: set[MemoryWatch]
    ) -> None:
        super().__init__(listener)
        self.spec = spec
        self.number = number
        self._store = store
        self._siblings = siblings
        siblings.add(self)

    def request_progress(self, index: int, on_progress: Callable[[int], object]) -> None:
        self._store.report_progress(self, on_progress)

    def _on_closed(self) -> None:
        self._store.remove(self)
        self._siblings.discard(self)
