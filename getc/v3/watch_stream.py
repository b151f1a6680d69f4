"""A stream of etcd's Watch service with any number of watches on it.

Protocol facts (etcd 3.5, ``server/etcdserver/api/v3rpc/watch.go``): created responses arrive in the order of the
create requests.  A refused watch is ``created`` and ``canceled`` in one response, with a ``watch_id`` of -1; etcd 3.4
and 3.5.1 use the requested id there, or 0 if none was requested, and then send no more events of a watch 0 that may
exist.  Therefore getc chooses the ids, from 1 on.  A progress response for all watches has a ``watch_id`` of -1.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import gevent

from getc.errors import ConnectionError, EtcException, EventIndexCleared, ResponseTooLarge, Unauthorized
from getc.grpc.framing import Status
from getc.net.affinity import ThreadAffinity
from getc.timing import Deadline
from getc.v3.schema.kv import KV, RangeRequest, RangeResponse
from getc.v3.schema.watch import (
    Watch,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)
from getc.v3.status_errors import error_of_status
from getc.v3.stream import MessageStream
from getc.v3.watch_health import WatchHealthCheck
from getc.v3.watch_progress import WatchProgress

__all__ = ['Substream', 'WatchHandler', 'WatchStream']

log = logging.getLogger(__name__)

NO_WATCH_ID: Final = -1
"""The ``watch_id`` of a watch that was not created, and of a response for all watches of a stream."""

INVALID_ARGUMENT: Final = 3
PERMISSION_DENIED: Final = 7


class WatchHandler(Protocol):
    """Callbacks of one watch.  None of them may block, switch or raise."""

    __slots__ = ()

    def on_created(self, response: WatchResponse) -> None:
        """Called when the server has created the watch: every change after the response's revision is delivered."""

    def on_response(self, response: WatchResponse) -> None:
        """Called with the events of whole revisions: fragments are joined.  ``Substream.size`` is their size."""

    def on_ended(self, error: EtcException) -> None:
        """Called once, last, when the watch was refused, ended by the server, or lost with its stream.

        Not called after the watch was cancelled.  All watches of a lost stream receive the same error object.
        """


class Substream:
    """One watch on a watch stream.

    Args:
        request: The watch; its ``watch_id`` is ignored.
        handler: Its callbacks.

    Attributes:
        handler: The same.
        request: The same until the server has created the watch; None from then on, to save memory.
        key: The first key of the watched range.
        start_revision: The first revision to deliver; 0 for changes from now on.
        stream: The stream that the watch was last requested on; None before.
        watch_id: The id on the stream; -1 before the watch is created.
        created_revision: The revision of the server when it created the watch; 0 before.
        is_over: The handler is not called any more.
        size: The approximate size in bytes of the response that the handler receives.
        is_whole: The last response that the handler received arrived in one fragment.
        on_unauthorized: Called instead of ``handler.on_ended``, once, if the watch is refused as unauthorized; None for
            no such call.  It must not block or raise.
        stale_progress: The number of the last progress response that may have been sent before the watch was created.
    """

    __slots__ = (  # there may be tens of thousands
        '_fragments',
        'created_revision',
        'handler',
        'is_over',
        'is_whole',
        'key',
        'on_unauthorized',
        'request',
        'size',
        'stale_progress',
        'start_revision',
        'stream',
        'watch_id',
    )

    def __init__(self, request: WatchCreateRequest, handler: WatchHandler) -> None:
        self.handler = handler
        self.request: WatchCreateRequest | None = request
        self.key: bytes = request.key
        self.start_revision: int = request.start_revision
        self.stream: WatchStream | None = None
        self.on_unauthorized: Callable[[Substream], object] | None = None
        self.watch_id = NO_WATCH_ID
        self.created_revision = 0
        self.stale_progress = 0
        self.is_over = False
        self.is_whole = True
        self.size = 0
        self._fragments: WatchResponse | None = None  # the joined fragments of a revision that is not complete

    def cancel(self) -> None:
        """End the watch; its handler is not called any more.  Does not block, may be called twice."""
        self._close()
        if self.stream is not None:
            self.stream.cancel(self)

    # -- for the stream

    def on_created(self, response: WatchResponse) -> None:
        """Notify the handler that the server has created the watch."""
        self.request = self.on_unauthorized = None
        self.handler.on_created(response)

    def on_response(self, response: WatchResponse, size: int) -> None:
        """Join fragments, and pass whole revisions to the handler.

        Args:
            response: A response with events.
            size: Its bytes.
        """
        self.size += size
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

    def end(self, error: EtcException) -> None:
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

    def _close(self) -> None:
        self.is_over = True
        self.request = self.on_unauthorized = self._fragments = None


class WatchStream:
    """A stream of the Watch service.

    Args:
        messages: The gRPC stream, which this object owns from now on.

    Attributes:
        affinity: The process and the thread that the stream belongs to.
        on_progress: Called with the revision of each progress response for all watches.  It must not block or raise.
        revision: The latest revision in a response of the server.
        progress: What the progress responses prove.
    """

    def __init__(self, messages: MessageStream[WatchRequest, WatchResponse]) -> None:
        self.affinity = ThreadAffinity()
        self.affinity.check()
        self.on_progress: Callable[[int], object] | None = None
        self.revision = 0
        self.progress = WatchProgress()
        self._messages = messages
        self._created: dict[int, Substream] = {}  # by watch_id
        self._pending: deque[Substream] = deque()  # requested, not created yet
        self._progress_callbacks: list[Callable[[int | EtcException], object]] = []
        self._has_created = False
        self._last_id = 0
        self._closes_when_empty = False
        self._health = WatchHealthCheck(self)
        self._reader = gevent.spawn(self._read)
        self._reader.name = 'getc watch stream'

    @property
    def is_over(self) -> bool:
        """True if no watch can be added any more."""
        return self._messages.is_over

    @property
    def has_watches(self) -> bool:
        """True if a watch was created or requested and has not ended."""
        return bool(self._created or self._pending)

    def add(self, substream: Substream) -> None:
        """Request a watch.  Does not block.

        Raises:
            EtcException: The stream has ended, with this error.
        """
        assert substream.request is not None
        message = WatchRequest(create_request=substream.request)
        self._last_id += 1
        message.create_request.watch_id = self._last_id
        self._messages.send(message)
        substream.stream = self
        substream.stale_progress = self.progress.last_stale()
        self._pending.append(substream)

    def cancel(self, substream: Substream) -> None:
        """Send the server a cancel request for a watch of this stream.  Does not block, may be called twice."""
        if self._created.get(substream.watch_id) is not substream:
            return  # not created yet, or over
        del self._created[substream.watch_id]
        if not self.is_over:
            self._messages.send(WatchRequest(cancel_request=WatchCancelRequest(watch_id=substream.watch_id)))
            self._close_if_empty()

    def call_on_progress(self, callback: Callable[[int | EtcException], object]) -> None:
        """Request progress; call back with the server's revision, or with the error that ended the stream.

        Does not block.  From etcd 3.5.8 on the server does not answer while the stream has no watch.
        """
        self.request_progress()
        self._progress_callbacks.append(callback)

    def request_progress(self) -> None:
        """Request a progress response, which is passed to ``on_progress``.  Does not block.

        Raises:
            EtcException: The stream has ended, with this error.
        """
        self._messages.send(WatchRequest(progress_request=WatchProgressRequest()))
        if self.has_watches:  # otherwise the server drops the request
            self.progress.on_request()

    def covers(self, revision: int, substream: Substream) -> bool:
        """Return True if the latest progress response, of this revision, was sent after the watch was created.

        etcd sends the created response of a watch and the progress responses from two queues, in any order.
        """
        is_later = revision > substream.created_revision or self.progress.is_later_than(substream.stale_progress)
        return substream.created_revision > 0 and is_later

    def on_revision(self, revision: int) -> None:
        """Check the stream soon if another response shows a later revision than the stream.  Does not block."""
        if self.progress.has_responses and revision > self.revision:
            self._health.on_behind()

    # -- for the health check

    @property
    def url(self) -> str:
        """The URL of the server."""
        return self._messages.url

    @property
    def is_idle(self) -> bool:
        """True if no response is expected: the stream has no watch, is over, or belongs to the parent process."""
        return self.is_over or self.affinity.in_forked_child or not self.has_watches

    def expects_progress(self, revision: int) -> bool:
        """Return True if a server at this revision answers progress requests, as it has done before."""
        if not self.progress.proves_delivery:
            return self.progress.has_responses
        return self.progress.has_responses and all(each.start_revision <= revision for each in self._created.values())

    def read_revision(self, deadline: Deadline) -> int:
        """Read a watched key, linearizable, from the stream's own server, and return its revision.  Blocks.

        Raises:
            EtcException: The read failed; no other server is tried.
        """
        substream = next(iter((*self._pending, *self._created.values())))
        request = RangeRequest(key=substream.key, keys_only=True)
        return int(self.read(request, deadline).header.revision)

    def read(self, request: RangeRequest, deadline: Deadline) -> RangeResponse:
        """Read from the stream's own server.  Blocks.

        Raises:
            EtcException: The read failed; no other server is tried.
        """
        return self._messages.call(KV.Range, request, deadline)

    def on_unhealthy(self, error: ConnectionError) -> None:
        """End all watches: the server does not answer.  Does not block."""
        if error.is_outage:
            self._messages.report_silent(error)
        self.close(error)

    # -- closing

    def close_when_empty(self) -> None:
        """Close the stream when its last watch ends; no watch will be added.  Does not block."""
        self._closes_when_empty = True
        self._close_if_empty()

    def close(self, error: EtcException) -> None:
        """End all watches with this error.  Does not block."""
        self._reader.kill(block=False)
        self._end(error)

    # -- the reader

    def _read(self) -> None:
        error: EtcException = ConnectionError(f'{self.url} ended the watch stream', endpoint=self.url)
        try:
            while (response := self._receive()) is not None:
                self._on_response(response)
        except EtcException as failure:
            error = failure
        except Exception as bug:
            log.exception('the reader of the watch stream of %s failed', self.url)
            text = f'the reader of the watch stream of {self.url} failed: {type(bug).__name__}'
            error = ConnectionError(text, endpoint=self.url)
        finally:
            self._end(error)

    def _receive(self) -> WatchResponse | None:
        """Return the next response; one that is too large only ends its own watch.  None at the end of the stream."""
        while True:
            try:
                return self._messages.receive(Deadline(None))
            except ResponseTooLarge as error:
                assert self._messages.oversized is not None
                self._on_too_large(self._messages.oversized.watch_id, error)

    def _on_too_large(self, watch_id: int, error: ResponseTooLarge) -> None:
        substream = self._created.get(watch_id)
        if substream is not None:
            substream.cancel()
            substream.handler.on_ended(error)

    def _on_response(self, response: WatchResponse) -> None:
        self.revision = max(self.revision, response.header.revision)
        self._health.on_response()
        if response.created:
            self._on_created(response)
        elif response.canceled:
            substream = self._created.pop(response.watch_id, None)
            if substream is not None:
                substream.end(self._error_of(response))
                self._close_if_empty()
        elif response.events:
            substream = self._created.get(response.watch_id)
            if substream is not None:
                substream.on_response(response, self._messages.size)
        elif response.watch_id == NO_WATCH_ID:
            self._on_progress(response.header.revision)

    def _on_progress(self, revision: int) -> None:
        self.progress.on_response(is_first_watch_created=self._has_created)
        if self.on_progress is not None:
            self.on_progress(revision)
        callbacks, self._progress_callbacks = self._progress_callbacks, []
        for callback in callbacks:
            callback(revision)

    def _on_created(self, response: WatchResponse) -> None:
        self._has_created = True
        if not self._pending:
            return
        substream = self._pending.popleft()
        if response.canceled:
            substream.end(self._error_of(response))
            self._close_if_empty()
            return
        substream.watch_id = response.watch_id
        substream.created_revision = response.header.revision
        self._created[response.watch_id] = substream
        if substream.is_over:
            self.cancel(substream)  # the user cancelled the watch before the server had created it
        else:
            substream.on_created(response)

    def _close_if_empty(self) -> None:
        if self._closes_when_empty and not self.has_watches:
            self._messages.cancel()

    def _error_of(self, response: WatchResponse) -> EtcException:
        """Return why the server ended a watch: its text is that of a gRPC status, perhaps with the name of the code."""
        url = self._messages.url
        if response.compact_revision:
            cause = f'up to {response.compact_revision}'
            return EventIndexCleared('mvcc: required revision has been compacted', cause, endpoint=url)
        text = response.cancel_reason.rpartition('desc = ')[2] or 'the server cancelled the watch'
        code = PERMISSION_DENIED if 'permission denied' in text else INVALID_ARGUMENT
        secrets = self._messages.secrets
        return error_of_status(Status(code, text), Watch.Watch.path, is_write=False, url=url, secrets=secrets)

    def _end(self, error: EtcException) -> None:
        self._health.close()
        self._messages.cancel()
        substreams = [*self._created.values(), *self._pending]
        callbacks, self._progress_callbacks = self._progress_callbacks, []
        self._created.clear()
        self._pending.clear()
        for substream in substreams:
            substream.end(error)
        for callback in callbacks:
            callback(error)


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
