"""One live HTTP/2 connection that carries calls over a wire, and has an end that tells every call the truth."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import gevent
import gevent.event
from gevent.hub import get_hub

from getc import timing
from getc.error_context import copy_error
from getc.errors import ConnectionError, EtcException, ProtocolError
from getc.grpc.call import LIMIT_OF_STREAMS, Call, Stream
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
from getc.grpc.http2.frames import ErrorCode
from getc.grpc.http2.protocol import Http2Connection
from getc.grpc.socket_io import wire_for
from getc.net.affinity import close_watcher
from getc.net.connect_errors import MAYBE_REVOKED, TLS_REQUIRED, describe_broken, is_tls_rejection, is_tls_required
from getc.net.sockets import Socket
from getc.timing import Deadline

__all__ = ['GrpcConnection']

log = logging.getLogger('getc')

HEALTH_INTERVAL: Final = 5.0
"""Seconds between looks at whether the peer is there."""

IDLE_TIMEOUT: Final = 10.0
"""Seconds of silence, with calls open, after which the peer is asked."""

PING_GAP: Final = 5.0
"""Seconds between pings, at least.  etcd takes pings that are closer for an attack."""

PING_TIMEOUT: Final = 5.0
"""Seconds for the answer to a ping."""

SUSPECT_TIMEOUT: Final = 2.0
"""The same where a call has timed out already, and nothing was heard since it was sent."""

LATE: Final = 0.2
"""Seconds by which a timer that is later than that shows that this process did not run."""

MAX_BATCH: Final = 4
"""Calls that leave together, at most: the server is at work on them while the next ones begin.  Each call by itself
would have both sides do more for sending than for the call."""

PING: Final = b'getcping'

TOO_MANY_PINGS: Final = 'too_many_pings'

HTTP1: Final = b'HTTP/1'
FRAME: Final = b'\0'  # a frame's length is less than 2**16
NEEDED: Final = 'API v3 needs HTTP/2 all the way, and etcd 3.4 or newer'
OR_TLS: Final = '; or it speaks TLS, and its URL begins with https://'

SHUT: Final = (ConnectionResetError, BrokenPipeError)
"""So a connection ends as well that the server has closed, if it had not read all that we sent."""


class GrpcConnection:
    """A connection to one server.

    Args:
        sock: Connected; the link closes it.
        url: The server, for errors.
        on_leave: Called with the link when no more calls may begin on it, perhaps again and again.  Does not block.
        ping_slowdown: By how much pings are rarer than usual, for a server that complained about them.

    Attributes:
        has_spoken: The server has answered with a frame of HTTP/2.
        heard_at: When something came last.
        ping_slowdown: The same.
        pinged_too_often: The server has complained about pings.
    """

    def __init__(
        self, sock: Socket, url: str, on_leave: Callable[[GrpcConnection], None], *, ping_slowdown: float = 1.0
    ) -> None:
        self.url = url
        self.has_spoken = False
        self.heard_at = timing.now()
        self.pinged_too_often = False
        self.ping_slowdown = ping_slowdown
        self._beginning: bytes | None = b''  # of what it says, until that shows what it speaks
        self._on_leave = on_leave
        self._connection = Http2Connection()
        self._calls: dict[int, Call] = {}
        self._queue: OrderedDict[Call, tuple[bytes, bytes, bool]] = OrderedDict()  # they wait for a stream
        self._has_warned = False
        self._begun = 0  # calls of this piece
        self._sent_id = 0  # the latest stream of which a byte may have left
        self._is_over = False
        self._error: EtcException | None = None  # what ended it
        self._is_leaving = False
        self._settled = gevent.event.Event()  # the server has spoken, or the link is over
        self._asked_at: float | None = None  # when the ping was sent that is not answered
        self._pinged_at = -math.inf
        self._is_suspect = False
        self._looked_at = self.heard_at
        self._timer: Any = get_hub().loop.timer(HEALTH_INTERVAL, HEALTH_INTERVAL, ref=False)
        self._timer.start(self._look)
        self._answer_timer: Any = None
        self._wire = wire_for(sock, self)

    # -- for the channel

    @property
    def calls(self) -> int:
        """Calls under way, with those that wait for a stream."""
        return len(self._calls) + len(self._queue)

    def begin(self, call: Call, block: bytes, data: bytes, end: bool) -> None:
        """Send a call now, or when the server takes one more.  Does not block."""
        stream_id = 0 if self._queue else self._connection.open(block, data, end=end)
        call.begin(self, stream_id)
        if stream_id:
            self._calls[stream_id] = call
            self._begun += 1
            if self._begun >= MAX_BATCH:
                self._wire.send_now()
            elif not self._wire.is_sending:
                self._wire.send_soon()
            if self._connection.is_leaving:
                self._leave()
        else:
            self._queue[call] = block, data, end
            self._check_streams()

    def _check_streams(self) -> None:
        """Warn, once, if calls wait for streams that stay open."""
        if not self._has_warned and all(isinstance(each, Stream) for each in self._calls.values()):
            self._has_warned = True
            text = '%s allows %d streams at a time (%s), and streams that stay open use all of them: calls wait for one'
            _tell(log.warning, text, self.url, self.max_streams, LIMIT_OF_STREAMS)

    def wait_spoken(self, deadline: Deadline) -> None:
        """Wait for the server's SETTINGS, with which it shows that it is there.  Blocks until the deadline at most.

        Raises:
            EtcException: What ended the link before, or that no SETTINGS have come in time: then it ends as well.
        """
        if not self._settled.wait(deadline.timeout_left()):
            self._end(ConnectionError(f'{self.url} accepted the connection, and said nothing: no SETTINGS of HTTP/2'))
        if not self.has_spoken:
            assert self._error is not None
            raise copy_error(self._error, endpoint=self.url)

    def close(self, error: EtcException) -> None:
        """End it: every call gets a copy of the error.  Does not block."""
        self._end(error)

    def abandon(self) -> None:
        """In a forked child: let go of the parent's socket without a word to the server."""
        self._is_over = self._is_leaving = True
        for call in self._detach_calls():
            call.abandon()
        self._stop_timers()
        self._wire.abandon()

    # -- for the calls (``Carrier``)

    def send(self, call: Call, data: bytes, end: bool) -> None:
        """More data of a call."""
        if call.stream_id:
            self._connection.send(call.stream_id, data, end=end)
            self._wire.send_soon()
        elif call in self._queue:
            block, begun, _ = self._queue[call]
            self._queue[call] = block, begun + data, end

    def acknowledge(self, call: Call, size: int) -> None:
        """So many bytes of its answer were taken."""
        # What is outgoing already is somebody's who will say so: an answer to a PING waits for the greenlets that
        # what came with it has woken, and leaves with their next calls.
        said = self._connection.has_outgoing
        self._connection.acknowledge(call.stream_id, size)
        if not said and self._connection.has_outgoing:
            self._wire.send_soon()

    def forget(self, call: Call, code: int) -> None:
        """Nobody waits for the call any more."""
        if not call.stream_id:
            self._queue.pop(call, None)
        elif self._calls.pop(call.stream_id, None) is not None:
            self._connection.reset(call.stream_id, code)
            self._wire.send_soon()
            self._after_end()

    def has_left(self, call: Call) -> bool:
        """True if any of the call may have reached the server, or still may, for what is queued is not taken back."""
        return call.stream_id > 0 and (call.stream_id <= self._sent_id or not self._is_over)

    def has_unsent(self, call: Call) -> bool:
        """True if some of what was said of it waits for the server to take it."""
        return self._connection.unsent(call.stream_id) > 0

    @property
    def max_streams(self) -> int:
        """How many streams the server allows at a time."""
        return self._connection.max_streams

    # -- sending

    def _after_end(self) -> None:
        """A stream has ended: another may begin, or the link may be over."""
        while self._queue and self._connection.can_open:
            call, (block, data, end) = self._queue.popitem(last=False)
            call.stream_id = self._connection.open(block, data, end=end)
            self._calls[call.stream_id] = call
            self._wire.send_soon()
        if self._connection.is_leaving and not self._is_leaving:
            self._leave()
        if self._is_leaving and not self._calls:
            self._end(ConnectionError(f'{self.url} has gone away'))

    # -- for the wire (``Traffic``)

    def outgoing(self) -> bytes:
        """What is to be sent; it counts as sent."""
        self._sent_id = self._connection.last_stream_id
        self._begun = 0
        return self._connection.take()

    def on_data(self, data: bytes) -> None:
        """Tell the calls what has come.  What it raises ends the link."""
        self.heard_at = timing.now()
        self._asked_at = None
        if self._beginning is not None:
            data, self._beginning = self._beginning + data, None
            if not data.startswith(FRAME):
                if len(data) < len(HTTP1):
                    self._beginning = data
                    return
                if is_tls_required(data):
                    return self._turned_away(f'no connection to {self.url}: {TLS_REQUIRED}')
                if data.startswith(HTTP1):
                    self._connection.shut_down(ErrorCode.HTTP_1_1_REQUIRED)
                    raise ProtocolError(f'an answer in HTTP/1: {NEEDED}')
        for event in self._connection.receive(data):
            if event.__class__ is ResponseReceived:
                self._on_answer(event)
            else:
                self._on_event(event)
        if not self.has_spoken and self._connection.has_settings:
            self.has_spoken = True
            self._settled.set()
        if self._connection.has_outgoing:
            self._wire.send_soon()

    def on_end(self, error: BaseException | None) -> None:
        """Whatever ends the wire ends the link, and no call hangs."""
        if self._is_over:
            return
        what = f'the connection to {self.url} was given up'
        if error is None:
            what = f'{self.url} closed the connection'
        elif isinstance(error, OSError):
            what = describe_broken(self.url, error)
            if is_tls_rejection(error) and not self.has_spoken:
                return self._turned_away(what)
        elif isinstance(error, ProtocolError):
            self._on_protocol_error(error)
            return self._end(error)
        elif isinstance(error, Exception):
            _tell(log.error, '%s: the connection failed', self.url, exc_info=error)
        if not self.has_spoken and (error is None or isinstance(error, SHUT)):
            hint = f'; or {MAYBE_REVOKED}' if self.url.startswith('https:') else OR_TLS
            what += f' without a word: {NEEDED}{hint}'
        self._end(ConnectionError(what))

    # -- what has come

    def _on_answer(self, event: ResponseReceived) -> None:
        call = self._calls.pop(event.stream_id, None)
        if call is not None:
            call.on_answer(event)
            if self._queue or self._is_leaving:
                self._after_end()

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
                self._drop(event.stream_id)
        elif isinstance(event, StreamReset):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.on_reset(event.code)
                self._drop(event.stream_id)
        elif isinstance(event, StreamUnprocessed):
            call = self._calls.get(event.stream_id)
            if call is not None:
                call.on_not_taken()
                self._drop(event.stream_id)
        elif isinstance(event, GoAwayReceived):
            self._on_goaway(event)
        elif isinstance(event, SettingsReceived):
            self._after_end()

    def _drop(self, stream_id: int) -> None:
        if self._calls.pop(stream_id, None) is not None and (self._queue or self._is_leaving):
            self._after_end()

    def _on_goaway(self, event: GoAwayReceived) -> None:
        if event.code != ErrorCode.NO_ERROR:
            # What else it says may be anything, so it is not repeated.
            self.pinged_too_often = event.debug == TOO_MANY_PINGS.encode()
            reason = TOO_MANY_PINGS if self.pinged_too_often else 'no reason that is known'
            _tell(log.warning, '%s goes away with code %d: %s', self.url, event.code, reason)
        self._leave()
        self._after_end()

    # -- whether the peer is there

    def probe(self) -> None:
        """Ask the peer whether it is there, as soon as a ping may be sent: a call has waited for it in vain."""
        self._is_suspect = True
        self._ping_if_due(SUSPECT_TIMEOUT)

    def _look(self) -> None:
        now, before, self._looked_at = timing.now(), self._looked_at, timing.now()
        if now - before > 1.5 * HEALTH_INTERVAL:
            return  # this process did not run: what the peer has said may lie in the socket
        if self._is_suspect:
            self._ping_if_due(SUSPECT_TIMEOUT)
        elif now - self.heard_at >= IDLE_TIMEOUT * self.ping_slowdown:
            self._ping_if_due(PING_TIMEOUT)

    def _ping_if_due(self, answer_in: float) -> None:
        now = timing.now()
        # etcd takes a ping without a stream for an attack as well.
        if self._calls and self._asked_at is None and now - self._pinged_at >= PING_GAP * self.ping_slowdown:
            self._is_suspect = False
            self._asked_at = self._pinged_at = now
            self._connection.ping(PING)
            self._wire.send_soon()
            self._await_answer(now, answer_in)

    def _await_answer(self, asked_at: float, seconds: float) -> None:
        """End the link if the ping of that time is not answered within so many seconds."""
        if self._answer_timer is not None:
            self._answer_timer.close()
        due = timing.now() + seconds
        self._answer_timer = get_hub().loop.timer(seconds, ref=False)
        self._answer_timer.start(self._on_answer_due, asked_at, due)

    def _on_answer_due(self, asked_at: float, due: float) -> None:
        now = timing.now()
        if self._asked_at != asked_at:
            return
        if now - due > LATE:  # this process did not run: what the peer has said may lie in the socket
            self._await_answer(asked_at, LATE)
        else:
            self._end(ConnectionError(f'{self.url} does not answer: silent for {now - self.heard_at:.0f} s'))

    def _stop_timers(self) -> None:
        close_watcher(self._timer)
        if self._answer_timer is not None:
            close_watcher(self._answer_timer)

    # -- the end

    def _leave(self) -> None:
        """No more calls begin: the server takes none, or all numbers are used.  Those that it took go on."""
        self._is_leaving = True
        self._on_leave(self)
        queued, self._queue = self._queue, OrderedDict()
        for call in queued:
            call.on_not_taken()

    def _turned_away(self, what: str) -> None:
        """There is no connection after all: nothing that was sent was looked at."""
        error = ConnectionError(what, endpoint=self.url)
        for call in self._detach_calls():
            call.fail(copy_error(error))
        self._end(error)

    def _on_protocol_error(self, error: ProtocolError) -> None:
        _tell(log.warning, '%s: %s', self.url, str(error))  # a record may outlive us, and the traceback holds us
        self._is_leaving = True
        self._on_leave(self)
        for call in self._detach_calls():
            call.fail_with(error)
        self._wire.flush_now()  # the peer hears of it, if it listens

    def _detach_calls(self) -> list[Call]:
        calls = [*self._calls.values(), *self._queue]
        self._calls.clear()
        self._queue.clear()
        return calls

    def _end(self, error: EtcException) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._error = error
        self._settled.set()
        self._stop_timers()
        calls = self._detach_calls()
        self._on_leave(self)
        for call in calls:
            call.fail_with(error)
        self._wire.close()


def _tell(write: Callable[..., None], *args: object, **options: object) -> None:
    """Write to the log in a greenlet: the program's handlers may block, which nothing may in the hub."""
    gevent.spawn(write, *args, **options)
