"""One HTTP/2 connection that multiplexes gRPC calls, from the connected socket to its end."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import gevent
import gevent.event

from getc import timing
from getc.error_context import copy_error
from getc.errors import ConnectionError, EtcException, ProtocolError
from getc.grpc.call import STREAM_LIMIT_HINT, Call
from getc.grpc.http2.events import (
    DataReceived,
    Event,
    GoAwayReceived,
    HeadersReceived,
    ResponseReceived,
    SettingsReceived,
    StreamReset,
    StreamUnprocessed,
)
from getc.grpc.http2.frames import MAX_STREAM_ID, ErrorCode
from getc.grpc.socket_io import start_io
from getc.grpc.stalls import wait_ready
from getc.grpc.streams import Streams
from getc.net.connect_errors import (
    MAYBE_NO_UPSTREAM,
    MAYBE_REVOKED,
    MAYBE_TLS_REQUIRED,
    TLS_REQUIRED,
    describe_broken,
    for_scheme,
    is_tls_rejection,
    is_tls_required,
)
from getc.net.sockets import Socket
from getc.timing import Deadline

__all__ = ['GrpcConnection']

log = logging.getLogger(__name__)

MAX_BATCH: Final = 4
"""Calls that are sent together: the server works on them while the next ones are started.  Sending each call by itself
costs both sides more than the call."""

TOO_MANY_PINGS: Final = 'too_many_pings'

HTTP1: Final = b'HTTP/1'
FRAME_START: Final = b'\0'  # the high byte of the length of a frame, which is less than 2**16
HTTP2_REQUIRED: Final = 'API v3 needs HTTP/2 end to end, and etcd 3.4 or newer'

CLOSED_BY_PEER: Final = (ConnectionResetError, BrokenPipeError)
"""Errors after the server has closed the connection without having read all data of the client."""


class GrpcConnection:
    """A connection to one server.

    Args:
        sock: A connected socket, which is closed with the connection.
        url: The endpoint, for error messages.
        on_draining: Called with the connection when no more calls can be started on it, and when it ends; it can be
            called several times, and must not block.
        ping_slowdown: Factor for the intervals between PINGs, for a server that complained about them.

    Attributes:
        has_settings: The server has sent its SETTINGS.
        health: Checks whether the server responds.
        pinged_too_often: The server has complained about PINGs.
    """

    def __init__(
        self, sock: Socket, url: str, on_draining: Callable[[GrpcConnection], None], *, ping_slowdown: float = 1.0
    ) -> None:
        self.url = url
        self.has_settings = False
        self.pinged_too_often = False
        self._first_bytes: bytes | None = b''  # of the server, until they show which protocol it uses
        self._is_http2 = False  # the first bytes of the server are those of a frame
        self._on_draining = on_draining
        self._has_warned = False
        self._batched = 0  # calls since the last data were sent
        self._error: EtcException | None = None  # why the connection ended
        self._is_draining = False
        self._is_decided = gevent.event.Event()  # the server has sent its SETTINGS, or the connection has ended
        self._io = start_io(sock, self)
        self._streams: Streams[Call] = Streams(
            self._io, on_freed=self._on_stream_end, on_dead=self._on_dead, ping_slowdown=ping_slowdown
        )
        self._http2 = self._streams.http2
        self._calls = self._streams.open
        self.health = self._streams.health

    # -- for the channel

    @property
    def calls(self) -> int:
        """Number of calls in flight, including those that wait for a stream."""
        return len(self._calls) + len(self._streams.queue)

    def start(self, call: Call, block: bytes, data: bytes, end: bool) -> None:
        """Send a call, or queue it until the server allows another stream.  Does not block.

        Args:
            call: The call.
            block: The header block.
            data: The first message, with its prefix; empty without one.
            end: No more messages follow.
        """
        streams = self._streams
        stream_id = 0 if streams.queue else self._http2.open(block, data, end=end)
        call.start(streams, stream_id)
        if stream_id:
            self._calls[stream_id] = call
            self._batched += 1
            if self._batched >= MAX_BATCH:
                self._io.send_now()
            elif not self._io.is_sending:
                self._io.send_soon()
            if stream_id == MAX_STREAM_ID:
                self._drain()
        else:
            streams.queue[call] = block, data, end
            self._warn_about_streams()

    def _warn_about_streams(self) -> None:
        """Log a warning, once, if streams that stay open use all that the server allows."""
        if not self._has_warned and all(each.is_lasting for each in self._calls.values()):
            self._has_warned = True
            text = '%s allows %d streams at a time (%s), and streams that stay open use all of them: calls wait for one'
            _log_soon(log.warning, text, self.url, self._streams.max_streams, STREAM_LIMIT_HINT)

    def wait_for_settings(self, deadline: Deadline) -> None:
        """Wait for the SETTINGS of the server, its first frame.  Blocks until the deadline at most.

        Raises:
            EtcException: The connection has ended; or no SETTINGS were received in time, which ends it as well.
        """
        if not wait_ready(self._is_decided, deadline):
            what = f'{self.url} accepted the connection and sent no HTTP/2 SETTINGS in time'
            self._end(ConnectionError(what))
        if not self.has_settings:
            assert self._error is not None
            raise copy_error(self._error, endpoint=self.url)

    def close(self, error: EtcException) -> None:
        """End the connection; every call fails with a copy of the error.  Does not block."""
        self._end(error)

    def retire(self, error: EtcException) -> None:
        """Start no more calls, and close the connection when the server has ended those in flight.  Does not block.

        Streams that the client has not half-closed could stay open, so they end with a copy of the error.
        """
        self._drain()
        for call in [each for each in self._calls.values() if not each.is_half_closed]:
            call.fail_with(error)
            self._streams.cancel(call, ErrorCode.CANCEL)
        self._on_stream_end()

    def abandon(self) -> None:
        """In a forked child, close the inherited socket without sending anything."""
        self._streams.is_over = self._is_draining = True
        for call in self._streams.detach():
            call.abandon()
        self.health.close()
        self._io.abandon()

    # -- for the health check

    def _on_dead(self, silence: float) -> None:
        self._end(ConnectionError(f'{self.url} does not respond: no data and no answer to a PING for {silence:.0f} s'))

    # -- sending

    def _on_stream_end(self) -> None:
        """Start queued calls if there are streams, and end the connection if it is draining and has no calls."""
        self._streams.start_queued()
        if self._http2.is_draining and not self._is_draining:
            self._drain()
        if self._is_draining and not self._calls:
            self._end(ConnectionError(f'{self.url} has closed the connection after a GOAWAY'))

    # -- for the socket (IOHandler)

    def outgoing(self) -> bytes:
        """Return the data to send; they count as sent."""
        self._streams.sent_id = self._http2.last_stream_id
        self._batched = 0
        return self._http2.take()

    def on_data(self, data: bytes) -> None:
        """Pass received data to the calls.  An exception ends the connection."""
        health = self.health
        health.last_received_at = timing.now()
        health.ping_sent_at = None
        if self._first_bytes is not None:
            data, self._first_bytes = self._first_bytes + data, None
            self._is_http2 = data.startswith(FRAME_START)
            if not self._is_http2:
                if len(data) < len(HTTP1):
                    self._first_bytes = data
                    return
                if is_tls_required(data):
                    return self._on_rejected(f'no connection to {self.url}: {for_scheme(TLS_REQUIRED, self.url)}')
                if data.startswith(HTTP1):
                    self._http2.shut_down(ErrorCode.HTTP_1_1_REQUIRED)
                    raise ProtocolError(f'{self.url} responds with HTTP/1: {HTTP2_REQUIRED}')
        for event in self._http2.receive(data):
            if event.__class__ is ResponseReceived:
                self._on_response(event)
            else:
                self._on_event(event)
        if not self.has_settings and self._http2.has_settings:
            self.has_settings = True
            self._is_decided.set()
        if self._http2.outgoing_frames:
            self._io.send_soon()

    def on_end(self, error: BaseException | None) -> None:
        """End the connection and all calls, for any reason."""
        if self._streams.is_over:
            return
        what = f'the connection to {self.url} was aborted'
        if error is None:
            what = f'{self.url} closed the connection'
        elif isinstance(error, OSError):
            what = describe_broken(self.url, error)
            if is_tls_rejection(error) and not self.has_settings:
                return self._on_rejected(what)
        elif isinstance(error, ProtocolError):
            self._on_protocol_error(error)
            return self._end(error)
        elif isinstance(error, Exception):
            _log_soon(log.error, '%s: the connection failed', self.url, exc_info=error)
        if not self.has_settings and (error is None or isinstance(error, CLOSED_BY_PEER)):
            is_secure = self.url.startswith(('https:', 'unixs:'))
            hint = MAYBE_REVOKED if is_secure else for_scheme(MAYBE_TLS_REQUIRED, self.url)
            what += f' without a response: {HTTP2_REQUIRED}; or {hint}; or {MAYBE_NO_UPSTREAM}'
        self._end(ConnectionError(what))

    # -- events

    def _on_response(self, event: ResponseReceived) -> None:
        call = self._calls.pop(event.stream_id, None)
        if call is not None:
            call.on_response(event)
            if self._streams.queue or self._is_draining:
                self._on_stream_end()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, (HeadersReceived, DataReceived)):
            call = self._calls.get(event.stream_id)
            if call is None:
                return
            if isinstance(event, DataReceived):
                call.on_data(event)
            else:
                call.on_headers(event)
            if event.ends:
                self._remove(event.stream_id)
        elif isinstance(event, StreamReset):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.on_reset(event.code)
                self._remove(event.stream_id)
        elif isinstance(event, StreamUnprocessed):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.on_unprocessed()
                self._remove(event.stream_id)
        elif isinstance(event, GoAwayReceived):
            self._on_goaway(event)
        elif isinstance(event, SettingsReceived):
            self._on_stream_end()

    def _remove(self, stream_id: int) -> None:
        if self._calls.pop(stream_id, None) is not None and (self._streams.queue or self._is_draining):
            self._on_stream_end()

    def _on_goaway(self, event: GoAwayReceived) -> None:
        if event.code != ErrorCode.NO_ERROR:
            # Other debug data may contain anything, so they are not logged.
            self.pinged_too_often = event.debug == TOO_MANY_PINGS.encode()
            reason = TOO_MANY_PINGS if self.pinged_too_often else 'unknown reason'
            _log_soon(log.warning, '%s is going away with code %d: %s', self.url, event.code, reason)
        self._drain()
        self._on_stream_end()

    # -- the end

    def _drain(self) -> None:
        """Start no more calls: after a GOAWAY, or when all stream numbers are used.  Calls in flight go on."""
        self._is_draining = True
        self._on_draining(self)
        queued, self._streams.queue = self._streams.queue, OrderedDict()
        for call in queued:
            call.on_unprocessed()

    def _on_rejected(self, what: str) -> None:
        """End the connection because the TLS handshake failed in the end: the server has processed no call."""
        error = ConnectionError(what, endpoint=self.url)
        for call in self._streams.detach():
            call.fail(copy_error(error))
        self._end(error)

    def _on_protocol_error(self, error: ProtocolError) -> None:
        if self._is_http2:  # else it is etcd 2 or no etcd, which only the caller can judge
            # str(): a log record may live longer than the connection, which the traceback of the error refers to.
            _log_soon(log.warning, '%s: %s', self.url, str(error))
        self._is_draining = True
        self._on_draining(self)
        for call in self._streams.detach():
            call.fail_with(error)
        self._io.flush_now()  # the GOAWAY with the error code

    def _end(self, error: EtcException) -> None:
        if self._streams.is_over:
            return
        self._streams.is_over = True
        self._error = error
        self._is_decided.set()
        self.health.close()
        calls = self._streams.detach()
        self._on_draining(self)
        for call in calls:
            call.fail_with(error)
        self._io.close()


def _log_soon(write: Callable[..., None], *args: object, **options: object) -> None:
    """Write to the log in a greenlet: logging handlers of the program may block, which nothing may do in the hub."""
    gevent.spawn(write, *args, **options)
