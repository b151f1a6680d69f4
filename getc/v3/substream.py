"""One watch on a watch stream: joins the fragments of a revision, and can be cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from getc.errors import EtcException, Unauthorized
from getc.v3.schema.watch import WatchCreateRequest, WatchResponse
from getc.v3.watch_stream import WatchStream
from getc.v3.watch_table import WatchHandler

__all__ = ['Substream']

NO_WATCH_ID: Final = -1


class Substream(WatchHandler):
    """One watch on a watch stream.

    Args:
        request: The watch; its ``watch_id`` is ignored.
        handler: Its callbacks.

    Attributes:
        handler: The same.
        request: The same until the server has created the watch; None from then on, to save memory.
        stream: The stream that the watch was last requested on; None before.
        watch_id: The id on the stream; -1 before the watch is created.
        created_revision: The revision of the server when it created the watch; 0 before.
        is_over: The handler is not called any more.
        size: The approximate size in bytes of the response that the handler receives.
        is_whole: The last response that the handler received arrived in one fragment.
        on_unauthorized: Called instead of ``handler.on_ended``, once, if the watch is refused as unauthorized; None for
            no such call.  It must not block or raise.
    """

    __slots__ = (  # there may be tens of thousands
        '_fragments',
        '_stale_progress',
        'created_revision',
        'handler',
        'is_over',
        'is_whole',
        'on_unauthorized',
        'request',
        'size',
        'stream',
        'watch_id',
    )

    def __init__(self, request: WatchCreateRequest, handler: WatchHandler) -> None:
        self.handler = handler
        self.request: WatchCreateRequest | None = request
        self.stream: WatchStream | None = None
        self.on_unauthorized: Callable[[Substream], object] | None = None
        self.watch_id = NO_WATCH_ID
        self.created_revision = 0
        self.is_over = False
        self.is_whole = True
        self.size = 0
        self._stale_progress = 0  # the last progress response that may have been sent before the watch was created
        self._fragments: WatchResponse | None = None  # the joined fragments of a revision that is not complete

    def request_on(self, stream: WatchStream) -> None:
        """Request the watch on a stream.  Does not block.

        Raises:
            EtcException: The stream has ended, with this error.
        """
        assert self.request is not None
        self.stream = stream
        stream.create(self.request, self, self._before_request)

    def cancel(self) -> None:
        """End the watch; its handler is not called any more.  Does not block, may be called twice."""
        self._close()
        if self.stream is not None:
            self.stream.cancel(self.watch_id, self)

    def covers(self, revision: int) -> bool:
        """Return True if the latest progress response, of this revision, was sent after the watch was created.

        etcd sends the created response of a watch and the progress responses from two queues, in any order.
        """
        if self.stream is None or not self.created_revision:
            return False
        return revision > self.created_revision or self.stream.progress.is_later_than(self._stale_progress)

    # -- for the stream

    def on_created(self, response: WatchResponse) -> None:
        self.watch_id = response.watch_id
        self.created_revision = response.header.revision
        if self.is_over:  # the user cancelled the watch before the server had created it
            self.cancel()
        else:
            self.request = self.on_unauthorized = None
            self.handler.on_created(response)

    def on_response(self, response: WatchResponse) -> None:
        """Join fragments, and pass whole revisions to the handler."""
        if self.stream is not None:
            self.size += self.stream.response_bytes
        self.is_whole = self._fragments is None and not response.fragment
        if self._fragments is not None:
            joined, self._fragments = self._fragments, None
            joined.events.extend(response.events)  # type: ignore[attr-defined]
            joined.fragment = response.fragment
            response = joined
        if response.fragment:
            if response.events[0].kv.mod_revision == response.events[-1].kv.mod_revision:
                self._fragments = response  # may hold a million events from many fragments: they are not copied
                return
            self._fragments = _take_last_revision(response)
            response.fragment = False
        self.handler.on_response(response)
        self.size = 0

    def on_ended(self, error: EtcException) -> None:
        """Notify the handler, or ``on_unauthorized``, that the watch has ended; no effect after it is over."""
        if self.is_over:
            return
        retry = self.on_unauthorized
        if retry is not None and isinstance(error, Unauthorized):
            self.on_unauthorized = None
            retry(self)
        else:
            self._close()
            self.handler.on_ended(error)

    def _before_request(self) -> bool:
        """Return False if the watch was cancelled before it was requested."""
        if self.stream is not None:
            self._stale_progress = self.stream.progress.last_stale()
        return not self.is_over

    def _close(self) -> None:
        self.is_over = True
        self.request = self.on_unauthorized = self._fragments = None


def _take_last_revision(response: WatchResponse) -> WatchResponse:
    """Move the events of the last of several revisions into a response of their own."""
    events = response.events
    last = events[-1].kv.mod_revision
    start = len(events) - 1
    while events[start - 1].kv.mod_revision == last:
        start -= 1
    taken = WatchResponse(header=response.header, watch_id=response.watch_id, events=events[start:])
    del events[start:]  # type: ignore[attr-defined]
    return taken
