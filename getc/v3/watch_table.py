"""The watches of one stream: those that were requested, and those that the server has created."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from getc.errors import EtcException
from getc.v3.schema.watch import WatchCreateRequest, WatchResponse

__all__ = ['WatchHandler', 'WatchTable']


class WatchHandler(Protocol):
    """Callbacks of one watch.  None of them may block, switch or raise."""

    __slots__ = ()

    def on_created(self, response: WatchResponse) -> None:
        """Called when the server has created the watch: every change after the response's revision is delivered."""

    def on_response(self, response: WatchResponse) -> None:
        """Called with events.  The stream passes fragments; a ``Substream`` joins them, and passes whole revisions."""

    def on_ended(self, error: EtcException) -> None:
        """Called once, last, when the watch was refused, ended by the server, or lost with its stream.

        Not called after the watch was cancelled.  All watches of a lost stream receive the same error object.
        """


class WatchTable:
    """The watches of one stream, with their handlers.  Created responses arrive in the order of the requests."""

    __slots__ = ('_created', '_future', '_key', '_pending')

    def __init__(self) -> None:
        self._created: dict[int, WatchHandler] = {}  # by watch_id
        self._pending: deque[tuple[WatchCreateRequest, WatchHandler]] = deque()  # requested, not created yet
        self._future: dict[int, int] = {}  # the start revisions that the server had not reached
        self._key = b''

    @property
    def is_empty(self) -> bool:
        """True if no watch was requested or created that has not ended."""
        return not (self._created or self._pending)

    @property
    def key(self) -> bytes:
        """A watched key: the first of the range of the watch that was created last; if none was, of a requested one."""
        return self._pending[0][0].key if self._pending and not self._created else self._key

    def has_started(self, revision: int) -> bool:
        """Return True if no created watch starts after this revision."""
        return all(start <= revision for start in self._future.values())

    def get(self, watch_id: int) -> WatchHandler | None:
        """Return the handler of a created watch; None if there is no such watch."""
        return self._created.get(watch_id)

    def on_requested(self, request: WatchCreateRequest, handler: WatchHandler) -> None:
        """Add a watch that was requested."""
        self._pending.append((request, handler))

    def on_created(self, response: WatchResponse) -> WatchHandler | None:
        """Note that the server has created, or refused, the watch that was requested first.

        Returns:
            Its handler; None if no watch was requested.
        """
        if not self._pending:
            return None
        request, handler = self._pending.popleft()
        if not response.canceled:
            self._key = request.key
            self._created[response.watch_id] = handler
            if request.start_revision > response.header.revision:
                self._future[response.watch_id] = request.start_revision
        return handler

    def remove(self, watch_id: int) -> WatchHandler | None:
        """Remove a created watch, and return its handler; None if there is no such watch."""
        self._future.pop(watch_id, None)
        return self._created.pop(watch_id, None)

    def clear(self) -> list[WatchHandler]:
        """Remove all watches, and return their handlers."""
        handlers = [*self._created.values(), *(handler for _, handler in self._pending)]
        self._created.clear()
        self._pending.clear()
        self._future.clear()
        return handlers
