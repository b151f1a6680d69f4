"""Delivery of notifications to one listener in a later iteration of the hub's loop, in the order of posting."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from gevent.hub import get_hub

from getc.backends.base import WatchListener
from getc.errors import EtcException
from getc.results import EtcdResult

__all__ = ['EventQueue']

Notification = Sequence[EtcdResult] | EtcException | int | None


class EventQueue:
    """A watch whose notifications are queued, so that the code that posts them never runs the listener's.

    Args:
        listener: The listener to notify.
    """

    __slots__ = ('_is_closed', '_listener', '_pending')

    def __init__(self, listener: WatchListener) -> None:
        self._listener = listener
        self._pending: deque[Notification] | None = None  # None while empty: most watches are idle
        self._is_closed = False

    def post(self, notification: Notification) -> None:
        """Queue one notification.  Does nothing once the queue is closed.

        Args:
            notification: The changes of a revision, the error that ended the watch, the index at which the watch is
                live, or None once the watch has caught up.
        """
        if self._is_closed:
            return
        if self._pending is None:
            self._pending = deque()
            get_hub().loop.run_callback(self._deliver)
        self._pending.append(notification)

    def close(self) -> None:
        """Discard queued notifications and deliver no more.  Does not block, may be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self._pending = None
            self._on_closed()

    def _on_closed(self) -> None:
        """Release what a subclass holds.  Called once."""

    def _deliver(self) -> None:
        while self._pending:  # a listener may close the queue
            notification = self._pending.popleft()
            if isinstance(notification, int):
                self._listener.on_live(notification)
            elif notification is None:
                self._listener.on_caught_up()
            elif isinstance(notification, EtcException):
                self.close()
                self._listener.on_ended(notification)
            else:
                self._listener.on_changes(notification)
        self._pending = None
