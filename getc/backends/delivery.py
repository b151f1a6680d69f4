"""Delivery of notifications to one listener in a later iteration of the hub's loop, in the order of posting."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from gevent.hub import get_hub

from getc.backends.base import WatchListener
from getc.errors import EtcException

__all__ = ['EventQueue']

log = logging.getLogger(__name__)


class EventQueue:
    """A watch whose notifications are queued, so that the code that posts them never runs the listener's.

    An exception of the listener is a bug.  It is logged and ends the watch, since the listener has missed a change.

    Args:
        listener: The listener to notify.

    Attributes:
        listener: The listener.
    """

    __slots__ = ('_is_closed', '_pending', 'listener')

    def __init__(self, listener: WatchListener) -> None:
        self.listener = listener
        # The calls to make, with their arguments; None while there are none: most watches are idle.
        self._pending: deque[tuple[Callable[..., object], tuple[object, ...]]] | None = None
        self._is_closed = False

    def post(self, notify: Callable[..., object], *args: object) -> None:
        """Queue a notification.  Does nothing once the queue is closed.

        Args:
            notify: A method of ``listener`` other than ``on_ended``, or another function that does not block.
            args: Its arguments.
        """
        if self._is_closed:
            return
        if self._pending is None:
            self._pending = deque()
            get_hub().loop.run_callback(self._deliver)
        self._pending.append((notify, args))

    def end(self, error: EtcException) -> None:
        """Queue the last notification: close the queue, and call ``on_ended``.  Does nothing on a closed queue."""
        self.post(self._end, error)

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
            notify, args = self._pending.popleft()
            try:
                notify(*args)
            except Exception as error:
                log.exception('a listener of a watch has failed')
                if not self._is_closed:
                    self._end_with_failure(error)
        self._pending = None

    def _end(self, error: EtcException) -> None:
        self.close()
        self.listener.on_ended(error)

    def _end_with_failure(self, failure: Exception) -> None:
        error = EtcException(f'the listener of the watch has failed: {type(failure).__name__}')
        error.__cause__ = failure
        try:
            self._end(error)
        except Exception:
            log.exception('a listener of a watch has failed')
