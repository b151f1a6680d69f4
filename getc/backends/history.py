"""The history of a store, and the error that ends a watch once the history that it needs is lost."""

from __future__ import annotations

from typing import Final

from getc.errors import EventIndexCleared

__all__ = ['ANOTHER_STORE', 'HISTORY_CLEARED', 'V2_HISTORY_EVENTS', 'another_store', 'dropped_by_proxy']

V2_HISTORY_EVENTS: Final = 1000
"""Events that etcd v2 remembers, of the whole store.  Source: etcd 3.5, ``v2store/store.go``."""

HISTORY_CLEARED: Final = 'The event in requested index is outdated and cleared'
"""etcd's text for error 401.  Source: etcd 3.5, ``v2error/error.go``."""

ANOTHER_STORE: Final = 'the store was replaced, or restored to an earlier state'


def another_store(index: int | None, *, endpoint: str | None = None) -> EventIndexCleared:
    """Return the error of a watch whose store was replaced, or restored to an earlier state.

    Args:
        index: The index of the store that answers now; None if unknown.
        endpoint: The server that answered, if known.
    """
    return EventIndexCleared(HISTORY_CLEARED, ANOTHER_STORE, index, endpoint=endpoint)


def dropped_by_proxy(index: int, endpoint: str) -> EventIndexCleared:
    """Return the error of a watch whose further changes ``etcd grpc-proxy`` may have dropped.

    Args:
        index: The index of the last change that was received.
        endpoint: The proxy.
    """
    cause = f'etcd grpc-proxy may drop what follows on {index}, if others watch the same key'
    return EventIndexCleared(HISTORY_CLEARED, cause, index, endpoint=endpoint)
