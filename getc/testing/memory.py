"""A store in memory with fault injection: disconnect, wipe, compact, delayed and lost replies."""

from __future__ import annotations

from itertools import count

from getc.backends.base import Backend
from getc.backends.memory.notifier import SharedStore
from getc.backends.memory.registry import register
from getc.backends.memory.store import Store
from getc.errors import EventIndexCleared
from getc.paths import normalize
from getc.testing.memory_faults import Faults, LinkedBackend

__all__ = ['MemoryLink', 'MemoryStore']

_numbers = count(1)


class MemoryStore(Faults):
    """An etcd in memory with fault injection.  ``getc.etcd(store.url)`` returns a client of it.

    The faults of the store apply to all of its clients.  Clients of a :meth:`link` meet the faults of the link as
    well, so that one client can be cut off while the others are not.

    Under :class:`VirtualTime` the outcome is deterministic.  :meth:`fail_next` and :meth:`lose_next_reply` apply to
    the next call of any client, including calls of daemons.

    Args:
        name: The store is reached at ``memory://NAME``; None for a unique name.

    Attributes:
        url: ``memory://NAME``.

    Raises:
        ValueError: A store of that name exists already.

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
        self._store = _MemoryContents()
        self._links = count(1)
        register(self._name, self)

    def link(self) -> MemoryLink:
        """Return a connection to the store with faults of its own, for clients of its ``url``."""
        return MemoryLink(self, f'{self._name}/link-{next(self._links)}')

    def wipe(self) -> None:
        """Delete all nodes and the history, reset the index to 0, and break all connections: a lost disk."""
        self._store.wipe()
        self._break_connections('the store was wiped')

    def compact(self) -> None:
        """Delete the event history, and end each watch as one that has missed events, so that watchers resync.

        This simulates a client that was too far behind when etcd was compacted.
        """
        index = self._store.compact()
        cleared = EventIndexCleared('The event in requested index is outdated and cleared', 'compacted', index)
        for backend in list(self._backends):
            backend.end_watches(cleared)

    def expire(self, key: str) -> None:
        """Expire a node now, whatever its remaining TTL.

        Raises:
            KeyNotFound: The node does not exist.
            ValueError: The node has no TTL.
        """
        self._store.expire_now(normalize(key))

    def backend(self) -> Backend:
        """Return a backend for a client.  Used by :func:`getc.etcd`."""
        return self._linked_backend(())

    def _linked_backend(self, links: tuple[Faults, ...]) -> Backend:
        return LinkedBackend(self._store, (*links, self))

    def __repr__(self) -> str:
        return f'<MemoryStore {self.url}{"" if self.is_connected else " disconnected"}>'


class MemoryLink(Faults):
    """A connection to a :class:`MemoryStore` with faults of its own.  :meth:`MemoryStore.link` returns it.

    Attributes:
        url: The URL for clients of this link.
    """

    def __init__(self, store: MemoryStore, name: str) -> None:
        super().__init__()
        self.url = f'memory://{name}'
        self._store = store
        register(name, self)

    def backend(self) -> Backend:
        """Return a backend for a client.  Used by :func:`getc.etcd`."""
        return self._store._linked_backend((self,))

    def __repr__(self) -> str:
        return f'<MemoryLink {self.url}{"" if self.is_connected else " disconnected"}>'


class _MemoryContents(SharedStore):
    """The store behind all links."""

    def expire_now(self, key: str) -> None:
        self._advance()
        self._store.expire_now(key)
        self._advance()

    def compact(self) -> int:
        self._advance()
        self._store.events.clear()
        return self._store.index

    def wipe(self) -> None:
        self._advance()  # deliver earlier events first
        self._store = Store()
        self._set_timer(None)
