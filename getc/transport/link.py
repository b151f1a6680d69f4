"""One live HTTP/2 connection that carries calls: a reader, a writer, and an end that tells every call the truth.

The writer alone sends: everybody else queues and wakes it, so what is queued in one turn of the hub leaves in one
piece.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import gevent
from gevent.hub import get_hub

from getc import timing
from getc.errors import EtcException, ProtocolError
from getc.transport.calls import Call
from getc.transport.sockets import Socket
from getc.wire.http2.connection import Connection
from getc.wire.http2.events import DataReceived, Event, GoAwayReceived, HeadersReceived, SettingsReceived, StreamReset
from getc.wire.http2.frames import ErrorCode

__all__ = ['Link']

log = logging.getLogger('getc')

CHUNK: Final = 64 * 1024
"""Bytes that are read at a time."""

SLICE: Final = 0.005
"""Seconds of work on what was read after which others get a turn, however much there is to read."""

TICK: Final = 5.0
"""Seconds between looks at whether the peer is there.  etcd takes pings less than 5 s apart for an attack."""

QUIET: Final = 10.0
"""Seconds of silence, with calls open, after which the peer is asked."""

PING: Final = b'getcping'

HTTP1: Final = b'HTTP/1'
NEEDED: Final = 'API v3 needs HTTP/2 all the way, and etcd 3.4 or newer'


class Link:
    """A connection to one server.

    Args:
        sock: Connected; the link closes it.
        url: The server, for errors.
        on_leave: Called with the link when no more calls may begin on it, perhaps twice.  Does not block.

    Attributes:
        has_spoken: The server has answered with a frame of HTTP/2.
    """

    def __init__(self, sock: Socket, url: str, on_leave: Callable[[Link], None]) -> None:
        self.url = url
        self.has_spoken = False
        self._sock = sock
        self._on_leave = on_leave
        self._connection = Connection()
        self._calls: dict[int, Call] = {}
        self._queue: OrderedDict[Call, tuple[bytes, bytes, bool]] = OrderedDict()  # they wait for a stream
        self._sent_id = 0  # the latest stream of which a byte may have left
        self._is_over = False
        self._is_leaving = False
        self._is_writing = True  # the writer begins with what the connection has to say
        self._heard_at = timing.now()
        self._asked_at: float | None = None
        self._looked_at = self._heard_at
        self._timer: Any = get_hub().loop.timer(TICK, TICK, ref=False)
        self._timer.start(self._look)
        self._writer = self._spawn(self._write, 'writer')
        self._reader = self._spawn(self._read, 'reader')

    # -- for the channel

    @property
    def is_usable(self) -> bool:
        """True if calls may begin here."""
        return not self._is_over and not self._is_leaving

    @property
    def calls(self) -> int:
        """Calls under way, with those that wait for a stream."""
        return len(self._calls) + len(self._queue)

    def begin(self, call: Call, block: bytes, data: bytes, end: bool) -> None:
        """Send a call now, or when the server takes one more.  Does not block."""
        call.begin(self)
        if self._connection.can_open and not self._queue:
            self._open(call, block, data, end)
        else:
            self._queue[call] = block, data, end
        self._write_soon()

    def close(self, error: EtcException) -> None:
        """End it: every call gets the error.  Does not block; the greenlets end soon."""
        for call in self._take_calls():
            call.fail(error)
        self._end('the connection was closed')

    def abandon(self) -> None:
        """In a forked child: let go of the parent's socket without a word to the server."""
        self._is_over = self._is_leaving = True
        self._take_calls()
        self._timer.close()
        os.close(self._sock.detach())  # now: a socket that is waited for closes in a later turn, if one comes
        self._stop()

    # -- for the calls (``Carrier``)

    def send(self, call: Call, data: bytes, end: bool) -> None:
        """More data of a call."""
        if call.stream_id:
            self._connection.send(call.stream_id, data, end=end)
            self._write_soon()
        elif call in self._queue:
            block, begun, _ = self._queue[call]
            self._queue[call] = block, begun + data, end

    def acknowledge(self, call: Call, size: int) -> None:
        """So many bytes of its answer were taken."""
        self._connection.acknowledge(call.stream_id, size)
        if self._connection.has_outgoing:
            self._write_soon()

    def forget(self, call: Call, code: int) -> None:
        """Nobody waits for the call any more."""
        if not call.stream_id:
            self._queue.pop(call, None)
        elif self._calls.pop(call.stream_id, None) is not None:
            self._connection.reset(call.stream_id, code)
            self._write_soon()
            self._after_end()

    def has_left(self, call: Call) -> bool:
        """True if any of the call may have reached the server."""
        return 0 < call.stream_id <= self._sent_id

    # -- sending

    def _open(self, call: Call, block: bytes, data: bytes, end: bool) -> None:
        call.stream_id = self._connection.open(block, data, end=end)
        self._calls[call.stream_id] = call

    def _after_end(self) -> None:
        """A stream has ended: another may begin, or the link may be over."""
        while self._queue and self._connection.can_open:
            call, request = self._queue.popitem(last=False)
            self._open(call, *request)
            self._write_soon()
        if self._is_leaving and not self._calls:
            self._end(f'{self.url} has gone away')

    def _write_soon(self) -> None:
        if not self._is_writing and not self._is_over:
            self._is_writing = True
            get_hub().loop.run_callback(self._writer.switch)

    def _write(self) -> None:
        with self._ending_on_errors():
            while not self._is_over:
                while self._connection.has_outgoing:
                    self._sent_id = self._connection.last_stream_id
                    self._sock.sendall(self._connection.take())
                self._is_writing = False
                get_hub().switch()

    # -- receiving

    def _read(self) -> None:
        busy = 0.0  # seconds of work since others had a turn for sure
        with self._ending_on_errors():
            while not self._is_over and (data := self._sock.recv(CHUNK)):
                began = self._heard_at = timing.now()
                self._asked_at = None
                if not self.has_spoken and data.startswith(HTTP1):
                    self._connection.shut_down(ErrorCode.HTTP_1_1_REQUIRED)
                    raise ProtocolError(f'an answer in HTTP/1: {NEEDED}')
                for event in self._connection.receive(data):
                    self._on_event(event)
                self.has_spoken = True
                if self._connection.has_outgoing:
                    self._write_soon()
                busy += timing.now() - began
                if busy > SLICE:
                    gevent.sleep(0)
                    busy = 0.0
            self._end(f'{self.url} closed the connection' + ('' if self.has_spoken else f' without a word: {NEEDED}'))

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
        elif isinstance(event, GoAwayReceived):
            self._leave(event)
        elif isinstance(event, SettingsReceived):
            self._after_end()

    def _drop(self, stream_id: int) -> None:
        if self._calls.pop(stream_id, None) is not None and (self._queue or self._is_leaving):
            self._after_end()

    def _leave(self, event: GoAwayReceived) -> None:
        """The server takes no more calls; those that it took go on."""
        if event.code != ErrorCode.NO_ERROR:
            reason = event.debug[:100].decode('ascii', 'replace')
            log.warning('%s goes away with code %d: %r', self.url, event.code, reason)
        self._is_leaving = True
        self._on_leave(self)
        queued, self._queue = self._queue, OrderedDict()
        for call in queued:
            call.on_reset(ErrorCode.REFUSED_STREAM)
        self._after_end()

    # -- whether the peer is there

    def _look(self) -> None:
        now, before, self._looked_at = timing.now(), self._looked_at, timing.now()
        if now - before > 1.5 * TICK:
            return  # this process did not run: what the peer has said may lie in the socket
        if self._asked_at is not None and now - self._asked_at >= TICK:
            self._end(f'{self.url} does not answer: silent for {now - self._heard_at:.0f} s')
        elif self._calls and self._asked_at is None and now - self._heard_at >= QUIET:
            self._asked_at = now
            self._connection.ping(PING)
            self._write_soon()

    # -- the end

    @contextmanager
    def _ending_on_errors(self) -> Iterator[None]:
        """Whatever ends the reader or the writer ends the link, and no call hangs."""
        try:
            yield
        except OSError as error:
            self._end(f'the connection to {self.url} broke: {error.strerror or type(error).__name__}')
        except ProtocolError as error:
            log.warning('%s: %s', self.url, str(error))  # a record may outlive us, and the traceback holds us
            self._is_leaving = True
            self._on_leave(self)
            for call in self._take_calls():
                call.violated(error)
            self._write_soon()
            gevent.sleep(0)  # the peer hears of it, if it listens
        except Exception:
            log.exception('%s: the connection failed', self.url)
        finally:
            self._end(f'the connection to {self.url} was given up')

    def _take_calls(self) -> list[Call]:
        calls = [*self._calls.values(), *self._queue]
        self._calls.clear()
        self._queue.clear()
        return calls

    def _end(self, what: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._timer.close()
        calls = self._take_calls()
        self._on_leave(self)
        for call in calls:
            call.lost(what)
        self._stop()

    def _stop(self) -> None:
        current = gevent.getcurrent()
        for greenlet in (self._reader, self._writer):
            if greenlet is not current:
                greenlet.kill(block=False)
        self._sock.close()

    def _spawn(self, task: Callable[[], None], what: str) -> gevent.Greenlet[[], None]:
        greenlet = gevent.spawn(task)
        greenlet.name = f'getc {what} of {self.url}'
        return greenlet
