"""A stream of etcd's Watch service with any number of watches on it.

Protocol facts (etcd 3.5, ``server/etcdserver/api/v3rpc/watch.go``): created responses arrive in the order of the
create requests, except through ``etcd grpc-proxy``: see :mod:`getc.v3.create_queue`.  A refused watch is ``created``
and ``canceled`` in one response, with a ``watch_id`` of -1; etcd 3.4 and 3.5.1 use the requested id there, or 0 if none
was requested, and then send no more events of a watch 0 that may exist.  Therefore getc chooses the ids, from 1 on.  A
progress response for all watches has a ``watch_id`` of -1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import gevent

from getc.errors import ConnectionError, EtcException, EventIndexCleared, ResponseTooLarge
from getc.grpc.framing import Status
from getc.net.affinity import ThreadAffinity
from getc.timing import Deadline
from getc.v3.schema.kv import KV, RangeRequest, RangeResponse
from getc.v3.schema.watch import (
    Watch,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchRequest,
    WatchResponse,
)
from getc.v3.status_errors import error_of_status
from getc.v3.stream import MessageStream
from getc.v3.watch_health import WatchHealthCheck
from getc.v3.watch_progress import WatchProgress
from getc.v3.watch_table import WatchHandler, WatchTable
from getc.v3.watched_store import WatchedStore

__all__ = ['WatchStream']

log = logging.getLogger(__name__)

ALL_WATCHES: Final = -1
"""The ``watch_id`` of a response for all watches of a stream."""

INVALID_ARGUMENT: Final = 3
PERMISSION_DENIED: Final = 7


class WatchStream:
    """A stream of the Watch service.

    Args:
        messages: The gRPC stream, which this object owns from now on.

    Attributes:
        affinity: The process and the thread that the stream belongs to.
        on_progress: Called with the revision of each progress response for all watches.  It must not block or raise.
        revision: The latest revision in a response of the server.
        response_bytes: The size in bytes of the response that is passed to a handler.
        progress: What the progress responses prove.
        is_proxied: The watches are created by ``etcd grpc-proxy``.
    """

    def __init__(self, messages: MessageStream[WatchRequest, WatchResponse]) -> None:
        self.affinity = ThreadAffinity()
        self.affinity.check()
        self.on_progress: Callable[[int], object] | None = None
        self.revision = 0
        self.response_bytes = 0
        self.is_proxied = False
        self._messages = messages
        self._watches = WatchTable(self._send_request)
        self._store = WatchedStore()
        self.progress = WatchProgress(messages, self._watches)
        self._progress_callbacks: list[Callable[[int | EtcException], object]] = []
        self._has_created = False
        self._closes_when_empty = False
        self._health = WatchHealthCheck(messages, self._watches, self.progress, self._store, self._on_unhealthy)
        self._reader = gevent.spawn(self._read)
        self._reader.name = 'getc watch stream'
        self._reader.rawlink(self._on_reader_over)

    @property
    def is_over(self) -> bool:
        """True if no watch can be added any more."""
        return self._messages.is_over

    @property
    def has_watches(self) -> bool:
        """True if a watch was created or requested and has not ended."""
        return not self._watches.is_empty

    def create(self, request: WatchCreateRequest, handler: WatchHandler, before_request: Callable[[], bool]) -> None:
        """Request a watch.  Does not block.

        Args:
            request: The watch; its ``watch_id`` is ignored.
            handler: Its callbacks.
            before_request: Called before the create request is sent, perhaps not at once; returns False if the watch
                was cancelled.

        Raises:
            EtcException: The stream has ended, with this error.
        """
        if self.is_over:
            self._messages.send(WatchRequest())  # raises
        self._watches.request(request, handler, before_request)

    def cancel(self, watch_id: int, handler: WatchHandler) -> None:
        """End the watch with this id if it was created for this handler, on this stream.

        Does not block, may be called twice.
        """
        if self._watches.created.get(watch_id) is not handler:
            return  # not created yet, or over
        self._watches.remove(watch_id)
        if not self.is_over:
            self._messages.send(WatchRequest(cancel_request=WatchCancelRequest(watch_id=watch_id)))
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
        self.progress.request()

    def on_revision(self, revision: int) -> None:
        """Check the stream soon if another response shows a later revision than the stream.  Does not block."""
        if self.progress.has_responses and revision > self.revision:
            self._health.on_behind()

    @property
    def url(self) -> str:
        """The URL of the server."""
        return self._messages.url

    def read(self, request: RangeRequest, deadline: Deadline) -> RangeResponse:
        """Read from the stream's own server.  Blocks.

        Raises:
            EtcException: The read failed; no other server is tried.
        """
        response = self._messages.call(KV.Range, request, deadline)
        if not self._store.is_known:
            self._store.observe(response.header)
        return response

    def _send_request(self, request: WatchCreateRequest, watch_id: int) -> None:
        message = WatchRequest(create_request=request)
        message.create_request.watch_id = watch_id
        self._messages.send(message)

    # -- closing

    def close_when_empty(self) -> None:
        """Close the stream when its last watch ends; no watch will be added.  Does not block."""
        self._closes_when_empty = True
        self._close_if_empty()

    def close(self, error: EtcException) -> None:
        """End all watches with this error.  Does not block."""
        self._reader.kill(block=False)
        self._end(error)

    def _on_unhealthy(self, error: ConnectionError) -> None:
        """End all watches: the server does not answer.  Does not block."""
        if error.is_outage:
            self._messages.report_silent(error)
        self.close(error)

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

    def _on_reader_over(self, reader: object) -> None:
        """End all watches if the reader was killed before it ran; otherwise they have ended already."""
        self._end(ConnectionError(f'the reader of the watch stream of {self.url} was killed', endpoint=self.url))

    def _receive(self) -> WatchResponse | None:
        """Return the next response; one that is too large only ends its own watch.  None at the end of the stream."""
        while True:
            try:
                return self._messages.receive(Deadline(None))
            except ResponseTooLarge as error:
                assert self._messages.oversized is not None
                self._on_too_large(self._messages.oversized.watch_id, error)

    def _on_too_large(self, watch_id: int, error: ResponseTooLarge) -> None:
        handler = self._watches.created.get(watch_id)
        if handler is not None:
            self.cancel(watch_id, handler)
            handler.on_ended(error)

    def _on_response(self, response: WatchResponse) -> None:
        self._health.on_response()
        if response.created:
            self._on_created(response)
            return
        self.revision = max(self.revision, response.header.revision)
        if self.is_proxied:
            self._store.check(response, self.url)
        if response.canceled:
            handler = self._watches.remove(response.watch_id)
            if handler is not None:
                handler.on_ended(self._error_of(response))
                self._close_if_empty()
        elif response.events:
            handler = self._watches.created.get(response.watch_id)
            if handler is not None:
                self.response_bytes = self._messages.size
                handler.on_response(response)
        elif response.watch_id == ALL_WATCHES:
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
        handler = self._watches.on_created(response)
        if handler is None:
            return
        self.is_proxied = self.is_proxied or self._watches.is_proxied
        if self.is_proxied:
            self.progress.proves_delivery = False
            self._messages.report_grpc_proxy()
            self._store.observe(response.header)
        else:
            self.revision = max(self.revision, response.header.revision)
        if response.canceled:
            handler.on_ended(self._error_of(response))
        else:
            handler.on_created(response)
        if self._watches.has_waiting:
            self._watches.request_waiting()  # raises if the stream ended after this response
        self._close_if_empty()

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
        handlers = self._watches.clear()
        callbacks, self._progress_callbacks = self._progress_callbacks, []
        for handler in handlers:
            handler.on_ended(error)
        for callback in callbacks:
            callback(error)
