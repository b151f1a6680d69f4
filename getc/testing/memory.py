"""A store in memory in a test's hands: it is disconnected, wiped, compacted, and loses answers on command."""

from __future__ import annotations

from itertools import count

from getc.backends.base import Backend
from getc.backends.memory.notifier import SharedStore
from getc.backends.memory.registry import register
from getc.backends.memory.store import Store
from getc.errors import EventIndexCleared
from getc.paths import normalize
from getc.testing.faults import Faults, LinkedBackend

__all__ = ['MemoryLink', 'MemoryStore']

_numbers = count(1)


class MemoryStore(Faults):
    """An etcd in memory that fails on command: ``getc.etcd(store.url)`` is a client of it.

    All of its clients meet the faults of the store.  Those who come by a :meth:`link` of their own meet that
    one's faults, too: so one server is cut off, and the others are not.

    Under :class:`VirtualTime` the outcome is the same each time.  Faults are about the present: those that
    wait for a call (:meth:`fail_next`, :meth:`lose_next_reply`) are met by the very next one, whoever's it is.

    Args:
        name: The store is that of ``memory://NAME``; None for a name that nobody else has.

    Attributes:
        url: ``memory://NAME``.

    Raises:
        ValueError: There is a store of that name already.

    Example::

        from getc.testing import MemoryStore, VirtualTime

        store = MemoryStore()
        with VirtualTime() as clock, getc.etcd(store.url) as etcd:
            keeper = etcd.keep_node('/servers/a', 'here', ttl=10)
            store.disconnect()
            clock.advance(10)
            assert keeper.state is getc.KeeperState.LOST
            store.connect()
            clock.advance(2)
            assert keeper.state is getc.KeeperState.KEPT
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self._name = f'store-{next(_numbers)}' if name is None else name
        self.url = f'memory://{self._name}'
        self._store = _Contents()
        self._links = count(1)
        register(self._name, self)

    def link(self) -> MemoryLink:
        """A way to the store with faults of its own, for the clients that come by its ``url``."""
        return MemoryLink(self, f'{self._name}/link-{next(self._links)}')

    def wipe(self) -> None:
        """Empty it, its index back at 0 and its history gone: a server that lost its disk.  Connections break."""
        self._store.wipe()
        self._break_off('the store was wiped')

    def compact(self) -> None:
        """Forget all history, and tell each watch that it missed some: watchers compare, and tell the difference.

        So it goes where a client was too far behind when etcd was compacted.
        """
        index = self._store.compact()
        lost = EventIndexCleared('The event in requested index is outdated and cleared', 'compacted', index)
        for end in list(self._ends):
            end.end_watches(lost)

    def expire(self, key: str) -> None:
        """Have a node expire now, whatever time it has left.

        Raises:
            KeyNotFound: There is none.
            ValueError: It has no TTL, so it never would.
        """
        self._store.expire_now(normalize(key))

    def backend(self) -> Backend:
        """A client's way to it.  For :func:`getc.etcd`."""
        return self._linked_backend(())

    def _linked_backend(self, ways: tuple[Faults, ...]) -> Backend:
        return LinkedBackend(self._store, (*ways, self))

    def __repr__(self) -> str:
        return f'<MemoryStore {self.url}{"" if self.is_connected else " disconnected"}>'


class MemoryLink(Faults):
    """A way to a :class:`MemoryStore`, with faults of its own.  ``store.link()`` makes it.

    Attributes:
        url: What leads its clients this way.
    """

    def __init__(self, store: MemoryStore, name: str) -> None:
        super().__init__()
        self.url = f'memory://{name}'
        self._store = store
        register(name, self)

    def backend(self) -> Backend:
        """A client's way to the store.  For :func:`getc.etcd`."""
        return self._store._linked_backend((self,))

    def __repr__(self) -> str:
        return f'<MemoryLink {self.url}{"" if self.is_connected else " disconnected"}>'


class _Contents(SharedStore):
    """The store itself."""

    def expire_now(self, key: str) -> None:
        self._advance()
        self._store.expire_now(key)
        self._advance()

    def compact(self) -> int:
        self._advance()
        self._store.events.clear()
        return self._store.index

    def wipe(self) -> None:
        self._advance()  # what happened before is told
        self._store = Store()
        self._set_timer(None)
