"""The stores of this process by name: what a ``memory://NAME`` URL opens."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakValueDictionary

from getc.backends.base import Backend
from getc.backends.memory.backend import MemoryBackend
from getc.backends.memory.notifier import SharedStore

__all__ = ['LocalStore', 'StoreFactory', 'register', 'store_named']


class StoreFactory(Protocol):
    """Makes the backends of the clients of one ``memory://`` URL."""

    def backend(self) -> Backend:
        """Return a new backend."""


class LocalStore(SharedStore):
    """A store whose backends have no faults."""

    def backend(self) -> Backend:
        return MemoryBackend(self)


_named: WeakValueDictionary[str, StoreFactory] = WeakValueDictionary()


def store_named(name: str) -> StoreFactory:
    """Return the store of that name, which exists for as long as one of its clients does; a new one for ``''``."""
    store = _named.get(name) if name else None
    if store is None:
        store = LocalStore()
        if name:
            _named[name] = store
    return store


def register(name: str, store: StoreFactory) -> None:
    """Make ``memory://NAME`` open this store, for as long as it exists.

    Raises:
        ValueError: The name is in use.
    """
    if _named.setdefault(name, store) is not store:
        raise ValueError(f'memory://{name} is already in use')
