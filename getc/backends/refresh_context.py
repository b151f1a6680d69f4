"""What the refreshed nodes of one TTL share: how requests are sent, and the bounds of their renewals and watches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from gevent.lock import BoundedSemaphore

from getc.backends.acquired import acquired
from getc.backends.base import KeptNode, Watch, WatchListener
from getc.errors import EtcException
from getc.operations import Operation, WatchSpec
from getc.results import EtcdResult
from getc.timing import Deadline

__all__ = ['SLOTS_IN_USE', 'Execute', 'RefreshContext', 'StartWatch']

Execute = Callable[[Operation, Deadline], EtcdResult]
StartWatch = Callable[[WatchSpec, WatchListener], Watch]

MAX_RENEWALS_IN_FLIGHT: Final = 16
"""Of one TTL: sockets stay few, however many nodes are kept."""

SLOTS_IN_USE: Final = f'renewals of {MAX_RENEWALS_IN_FLIGHT} other nodes are in flight'


class RefreshContext:
    """What the refreshed nodes of one TTL share.

    Attributes:
        execute: Executes an operation.
        ttl: Seconds.
        nodes: The nodes that are kept.

    Args:
        execute: The same.
        start_watch: Starts a watch.
        ttl: Seconds.
        max_watched: Maximum number of nodes that are watched.
    """

    __slots__ = ('_max_watched', '_renewal_slots', '_start_watch', '_watched', 'execute', 'nodes', 'ttl')

    def __init__(self, execute: Execute, start_watch: StartWatch, ttl: int, *, max_watched: int) -> None:
        self.execute = execute
        self.ttl = ttl
        self.nodes: set[KeptNode] = set()
        self._renewal_slots = BoundedSemaphore(MAX_RENEWALS_IN_FLIGHT)
        self._start_watch = start_watch
        self._max_watched = max_watched
        self._watched: set[WatchListener] = set()

    def renewal_slot(self, key: str, deadline: Deadline) -> AbstractContextManager[None]:
        """Hold one of the ``MAX_RENEWALS_IN_FLIGHT`` slots.  Raises TimedOut if none is free in time."""
        return acquired(self._renewal_slots, deadline, 'renew {key}', SLOTS_IN_USE, key)

    def watch(self, key: str, index: int, listener: WatchListener) -> Watch | None:
        """Watch a node from an index on.  Returns None if ``max_watched`` nodes are watched, or it is refused."""
        if len(self._watched) >= self._max_watched:
            return None
        try:
            watch = self._start_watch(WatchSpec(key, index), listener)
        except EtcException:
            return None
        self._watched.add(listener)
        return watch

    def forget_watch(self, listener: WatchListener) -> None:
        """Free the watch slot of a node; a node without a watch may take it with its next renewal."""
        self._watched.discard(listener)
