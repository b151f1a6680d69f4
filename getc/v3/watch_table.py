"""The watches of one stream: those that were requested, and those that the server has created."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from getc.errors import EtcException
from getc.v3.create_queue import CreateQueue
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


Request: TypeAlias = tuple[WatchCreateRequest, WatchHandler, Callable[[], bool]]
"""A watch to request, with a function that is called before, and returns False if the watch was cancelled."""


class WatchTable:
    """The watches of one stream, with their handlers.

    Args:
        send: Sends a create request with an id.  Raises EtcException if the stream has ended.

    Attributes:
        created: The handlers of the created watches, by ``watch_id``.
    """

    __slots__ = ('_future', '_key', '_pending', '_send', 'created')

    def __init__(self, send: Callable[[WatchCreateRequest, int], object]) -> None:
        self._send = send
        self.created: dict[int, WatchHandler] = {}  # by watch_id
        self._pending: CreateQueue[Request] = CreateQueue(self._send_request)  # not created yet
        self._future: dict[int, int] = {}  # the start revisions that the server had not reached
        self._key = b''

    @property
    def is_empty(self) -> bool:
        """True if no watch was requested or created that has not ended."""
        return not (self.created or self._pending)

    @property
    def key(self) -> bytes:
        """A watched key: the first of the range of the watch that was created last; if none was, of a requested one."""
        return next(iter(self._pending))[0].key if self._pending and not self.created else self._key

    @property
    def is_proxied(self) -> bool:
        """True if the watches are created by ``etcd grpc-proxy``, which sends no progress responses, shares a watch of
        etcd among clients, and keeps the stream open when etcd is restarted."""
        return bool(self._pending.is_proxied)

    @property
    def waiting_since(self) -> float:
        """When the oldest create request without a response was sent; ``math.inf`` without such a request."""
        return self._pending.waiting_since

    def has_started(self, revision: int) -> bool:
        """Return True if no created watch starts after this revision."""
        return all(start <= revision for start in self._future.values())

    def request(self, request: WatchCreateRequest, handler: WatchHandler, before_request: Callable[[], bool]) -> None:
        """Request a watch, now or when earlier ones are created.  Does not block.

        Args:
            request: The watch; its ``watch_id`` is ignored.
            handler: Its callbacks.
            before_request: Called before the create request is sent; returns False if the watch was cancelled.

        Raises:
            EtcException: The stream has ended, with this error.
        """
        self._pending.add((request, handler, before_request))

    @property
    def has_waiting(self) -> bool:
        """True if watches wait for earlier ones to be created."""
        return self._pending.has_waiting

    def request_waiting(self) -> None:
        """Request the watches that waited for earlier ones.  Does not block; raises as :meth:`request`."""
        self._pending.send_waiting()

    def on_created(self, response: WatchResponse) -> WatchHandler | None:
        """Note that the server has created, or refused, a watch.

        Returns:
            Its handler; None if no watch was requested.
        """
        requested = self._pending.on_created(response.watch_id, is_refused=response.canceled)
        if requested is None:
            return None
        request, handler, _ = requested
        if not response.canceled:
            self._key = request.key
            self.created[response.watch_id] = handler
            if request.start_revision > response.header.revision:
                self._future[response.watch_id] = request.start_revision
        return handler

    def remove(self, watch_id: int) -> WatchHandler | None:
        """Remove a created watch, and return its handler, or None if no watch has this ID."""
        self._future.pop(watch_id, None)
        return self.created.pop(watch_id, None)

    def clear(self) -> list[WatchHandler]:
        """Remove all watches, and return their handlers."""
        handlers = [*self.created.values(), *(handler for _, handler, _ in self._pending.clear())]
        self.created.clear()
        self._future.clear()
        return handlers

    def _send_request(self, requested: Request, watch_id: int) -> bool:
        request, _, before_request = requested
        if not before_request():
            return False
        self._send(request, watch_id)
        return True
