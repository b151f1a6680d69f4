"""A whole etcd in this process: for programs and tests without a server."""

from __future__ import annotations

import sys
from itertools import count
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import gevent

from getc import timing
from getc.backends.base import Backend, KeepGroup, Watch, WatchListener
from getc.backends.delivery import EventQueue
from getc.backends.memory.store import Store, matches
from getc.backends.refresh import RefreshGroup
from getc.errors import ClientClosed, EtcException, EventIndexCleared
from getc.net.affinity import ThreadAffinity
from getc.operations import Append, Operation, Put, WatchSpec, check_v2_key, check_v2_ttl
from getc.paths import ROOT, ancestors, is_below
from getc.results import Deleted, Directory, EtcdResult
from getc.timing import Deadline

__all__ = ['MemoryBackend', 'SharedStore', 'StoreFactory', 'register', 'store_named']


class SharedStore:
    """A store with those who follow it.

    What has expired is taken away before anything else is done; a timer sees to it only where somebody follows, so
    that a store that nobody uses any more is not kept until its last TTL ends.

    Listeners are told on the next turn of the hub, in the order of the changes, and of one change in the order
    in which they came.  They are greenlets of one thread, so the store belongs to one.
    """

    def __init__(self) -> None:
        self._home = ThreadAffinity()
        self._store = Store()
        self._watches: dict[str, dict[_Watch, None]] = {}  # by the key they follow
        self._numbers = count()
        self._timer: Any = None
        self._timer_at: float | None = None

    def backend(self) -> Backend:
        """A client's way to it."""
        return MemoryBackend(self)

    def execute(self, operation: Operation) -> EtcdResult:
        """Do it, as it is now."""
        self._settle()
        try:
            return self._store.execute(operation)
        finally:
            self._settle()

    def follow(self, spec: WatchSpec, listener: WatchListener, siblings: set[_Watch]) -> _Watch:
        """Tell a listener of changes.  The watch is one of its siblings until it is closed."""
        self._settle()
        watch = _Watch(self, next(self._numbers), spec, listener, siblings)
        try:
            missed = [] if spec.index is None else list(self._store.since(spec))
            first = self._store.index + 1 if spec.index is None else spec.index
        except EventIndexCleared as error:
            watch.tell(error)
            return watch
        watch.tell(first - 1)
        for result in missed:
            watch.tell((result,))
        watch.tell(None)
        self._watches.setdefault(spec.key, {})[watch] = None
        self._set_timer(self._store.next_end())
        return watch

    def leave(self, watch: _Watch) -> None:
        """The watch is closed."""
        watches = self._watches.get(watch.spec.key)
        if watches is not None:
            watches.pop(watch, None)
            if not watches:
                del self._watches[watch.spec.key]
        if not self._watches:
            self._set_timer(None)

    def _settle(self) -> None:
        """Let nodes expire, tell of what has changed, and be there when the next one expires."""
        self._home.check('a store in memory')
        self._store.expire()
        news, self._store.news = self._store.news, []
        for result in news:
            for watch in self._followers_of(result):
                watch.tell((result,))
        if self._watches:
            self._set_timer(self._store.next_end())

    def _followers_of(self, result: EtcdResult) -> list[_Watch]:
        """Whoever is told of a change, in the order in which they came."""
        paths = [result.key, *ancestors(result.key), ROOT]
        if isinstance(result, Deleted) and isinstance(result.node, Directory):
            paths += [key for key in self._watches if is_below(key, result.key)]
        watches = [watch for path in paths for watch in self._watches.get(path, ()) if matches(watch.spec, result)]
        return sorted(watches, key=lambda watch: watch.number)

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
        self._settle()


class _Watch(EventQueue):
    """One who follows a store.

    Attributes:
        spec: What it follows.
        number: It grows from watch to watch.
    """

    __slots__ = ('_mates', '_store', 'number', 'spec')

    def __init__(
        self, store: SharedStore, number: int, spec: WatchSpec, listener: WatchListener, siblings: set[_Watch]
    ) -> None:
        super().__init__(listener)
        self.spec = spec
        self.number = number
        self._store = store
        self._mates = siblings
        siblings.add(self)

    def _on_closed(self) -> None:
        self._store.leave(self)
        self._mates.discard(self)


class MemoryBackend:
    """A backend on a store in this process.

    No call blocks or switches to another greenlet.

    Args:
        store: The store, which other backends may use too.
    """

    api: Final = 'memory'

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._watches: set[_Watch] = set()
        self._groups: dict[int, RefreshGroup] = {}
        self._is_closed = False

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        self._check_open()
        # The limits of the v2 API hold here as well, except that values may be any bytes.
        check_v2_key(operation.key)
        if isinstance(operation, (Put, Append)) and operation.ttl is not None:
            check_v2_ttl(operation.ttl)
        return self._store.execute(operation)

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        self._check_open()
        check_v2_key(spec.key)
        return self._store.follow(spec, listener, self._watches)

    def keep(self, ttl: int) -> KeepGroup:
        self._check_open()
        group = self._groups.get(ttl)
        if group is None:
            group = RefreshGroup(self.execute, self.watch, ttl, most_watched=sys.maxsize)
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
        """Have every watch end with this, on the next turn of the hub, in the order in which they came."""
        for watch in sorted(self._watches, key=lambda watch: watch.number):
            watch.tell(error)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')


class StoreFactory(Protocol):
    """What a ``memory://`` URL leads to."""

    def backend(self) -> Backend:
        """A client's way to it."""


_named: WeakValueDictionary[str, StoreFactory] = WeakValueDictionary()


def store_named(name: str) -> StoreFactory:
    """The store of that name: one for the process, for as long as a client of it exists; a new one for ``''``."""
    store = _named.get(name) if name else None
    if store is None:
        store = SharedStore()
        if name:
            _named[name] = store
    return store


def register(name: str, store: StoreFactory) -> None:
    """Have the name lead to this, for as long as it exists.

    Raises:
        ValueError: The name is in use.
    """
    if _named.setdefault(name, store) is not store:
        raise ValueError(f'memory://{name} is in use already')


_: type[Backend] = MemoryBackend
