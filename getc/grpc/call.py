"""Calls on a connection: one answer, or a stream of them, for the one greenlet that waits."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final, Protocol

from gevent import getcurrent
from gevent.hub import get_hub

from getc.error_context import copy_error
from getc.errors import ConnectionError, EtcException, HTTPError, ProtocolError, TimedOut
from getc.grpc.framing import OK, Messages, Oversized, Status, check_head, is_well, packed, status_of, whole_message
from getc.grpc.http2.events import DataReceived, HeadersReceived, ResponseReceived
from getc.grpc.http2.frames import ErrorCode
from getc.grpc.timer_wheel import TimerWheel
from getc.retry import proxy_may_have_forwarded
from getc.timing import Deadline

__all__ = ['LIMIT_OF_STREAMS', 'Call', 'CallTransport', 'GrpcError', 'OversizedAnswer', 'Stream', 'UnaryCall']

BUFFER_BYTES: Final = 1024 * 1024
"""Bytes of messages that wait to be taken; past it the peer is told to wait."""

OVERHEAD: Final = 64
"""Bytes that a message takes besides its own: even empty ones fill the room."""


LIMIT_OF_STREAMS: Final = (
    'SETTINGS_MAX_CONCURRENT_STREAMS: raise --max-concurrent-streams of etcd or the limit of the proxy'
)
"""What limits the streams of a connection, and what to do about it."""


class GrpcError(EtcException):
    """The server answered with a status other than OK.

    Attributes:
        status: Code and message.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return f'gRPC status {self.status.code}: {self.status.message}'


class OversizedAnswer(EtcException):
    """The server answered with a message that is larger than the bound.

    Attributes:
        answer: Its beginning, and its size.
    """

    def __init__(self, answer: Oversized) -> None:
        super().__init__(answer)
        self.answer = answer

    def __str__(self) -> str:
        return f'an answer of {self.answer.size} bytes'


class CallTransport(Protocol):
    """What carries calls: a connection."""

    def send(self, call: Call, data: bytes, end: bool) -> None:
        """More data of a call."""

    def acknowledge(self, call: Call, size: int) -> None:
        """So many bytes of its answer were taken."""

    def forget(self, call: Call, code: int) -> None:
        """Nobody waits for the call any more: end its stream if it has begun."""

    @property
    def heard_at(self) -> float:
        """When something came from the server last."""

    @property
    def max_streams(self) -> int:
        """How many streams the server allows at a time."""

    def probe(self) -> None:
        """Ask the server at once whether it is there.  If it does not answer, all calls on the connection end."""

    def has_left(self, call: Call) -> bool:
        """True if any of the call may have reached the server, or still may."""

    def has_unsent(self, call: Call) -> bool:
        """True if some of what was said of it waits for the server to take it."""


class Call:
    """A call, from the moment it is begun.

    Attributes:
        path: The method, for errors.
        url: The server, for errors.
        is_write: It may change something there.
        stream_id: Its stream; 0 while it waits for one.
    """

    __slots__ = (
        '_carrier',
        '_error',
        '_greenlet',
        '_heard_before',
        '_is_over',
        '_waking',
        'is_write',
        'path',
        'stream_id',
        'url',
    )

    def __init__(self, path: str, url: str, is_write: bool) -> None:
        self.path = path
        self.url = url
        self.is_write = is_write
        self.stream_id = 0
        self._carrier: CallTransport | None = None
        self._heard_before = 0.0  # when the server was heard last before the call was begun
        self._is_over = False
        self._error: EtcException | None = None
        self._greenlet: Any = None
        self._waking: Any = None

    # -- for the connection; none of these blocks or switches

    def begin(self, carrier: CallTransport, stream_id: int) -> None:
        """It is this connection's from now on."""
        self._carrier = carrier
        self._heard_before = carrier.heard_at
        self.stream_id = stream_id

    def on_headers(self, event: HeadersReceived) -> None:
        """The head of the answer, or its trailers."""
        try:
            if event.status is not None:
                check_head(event.status, event.fields)
            if event.ends:
                self._on_status(status_of(event.fields))
        except EtcException as error:
            self._fail_here(error)

    def on_data(self, event: DataReceived) -> None:
        """A piece of the answer."""
        raise NotImplementedError

    def on_answer(self, event: ResponseReceived) -> None:
        """The whole answer."""
        head, data, trailers = event.parts
        self.on_headers(head)
        self.on_data(data)
        self.on_headers(trailers)

    def on_reset(self, code: int) -> None:
        """The server ended the stream.

        Also REFUSED_STREAM leaves a write in doubt: haproxy sends it for every stream that it has not answered yet, for
        example because the server behind it has cancelled the call, or the connection to that server broke.
        """
        name = ErrorCode(code).name if code in ErrorCode.__members__.values() else str(code)
        self.fail_with(_ended(f'{self.url} ended the call with {name}'))

    def on_not_taken(self) -> None:
        """The server has not processed it, and never will: it is above the last stream of a GOAWAY, or was not sent."""
        self.fail(ConnectionError(f'{self.url} is going away and did not take the call', endpoint=self.url))

    def fail(self, error: EtcException) -> None:
        """It ends with this error, unless it is over."""
        if not self._is_over:
            self._is_over = True
            self._error = error
            self._wake()

    def fail_with(self, error: EtcException) -> None:
        """It ends with a copy of the error, which says what is true of this call."""
        self.fail(copy_error(error, maybe_applied=self._maybe_applied(), endpoint=self.url))

    def abandon(self) -> None:
        """In a forked child: it is the parent's.  Who waits for it is a copy of the parent's, and is not woken."""
        self._is_over = True
        self._error = ConnectionError(f'{self.path} was called before the fork', endpoint=self.url)
        self._error.is_outage = False

    # -- how it is done

    def timed_out(self, deadline: Deadline) -> TimedOut:
        """The error for a deadline that has passed."""
        if self._carrier is not None and not self.stream_id:
            what = (
                f'{self.path} was not sent within {deadline.timeout:g} s: {self.url} allows '
                f'{self._carrier.max_streams} streams at a time, and all are in use ({LIMIT_OF_STREAMS})'
            )
        else:
            what = f'no answer to {self.path} from {self.url} within {deadline.timeout:g} s'
        return TimedOut(what, maybe_applied=self._maybe_applied(), endpoint=self.url)

    def _maybe_applied(self) -> bool:
        return self.is_write and self._carrier is not None and self._carrier.has_left(self)

    def _on_status(self, status: Status) -> None:
        raise NotImplementedError

    def _fail_here(self, error: EtcException) -> None:
        """The answer is no good: drop the rest of it."""
        if isinstance(error, HTTPError) and not proxy_may_have_forwarded(error.status_code):
            self.fail(copy_error(error, endpoint=self.url))
        else:
            self.fail_with(error)
        self._give_up(ErrorCode.CANCEL)

    def _give_up(self, code: int) -> None:
        if self._carrier is not None:
            self._carrier.forget(self, code)

    def _pause(self) -> None:
        """Wait until something has happened, perhaps.  Whatever strikes, no later wake-up goes astray."""
        self._greenlet = getcurrent()
        try:
            get_hub().switch()
        finally:
            self._greenlet = None
            if self._waking is not None:
                self._waking.stop()
                self._waking = None

    def _wake(self) -> None:
        if self._greenlet is not None and self._waking is None:
            self._waking = get_hub().loop.run_callback(self._greenlet.switch)


class UnaryCall(Call):
    """One request, one answer."""

    __slots__ = ('_answer', '_deadline', '_messages')

    def __init__(self, path: str, url: str, is_write: bool, deadline: Deadline) -> None:
        Call.__init__(self, path, url, is_write)  # super() takes longer, and this is on the fast path
        self._deadline = deadline
        self._answer: bytes | None = None
        self._messages: Messages | None = None

    def wait(self, wheel: TimerWheel) -> bytes:
        """Return the answer.  Blocks until the deadline at most; whoever is killed here leaves a clean connection.

        Raises:
            GrpcError: The server says no.
            OversizedAnswer: The answer is larger than the bound.
            ConnectionError: No answer; ``maybe_applied`` says whether a write may have happened.
            HTTPError, ProtocolError: The answer is no gRPC.
        """
        at = self._deadline.at
        dues = wheel.add(self, at) if at != math.inf else None
        try:
            while not self._is_over:
                self._pause()
        except BaseException:
            self._is_over = True
            self._give_up(ErrorCode.CANCEL)
            raise
        finally:
            if dues is not None:
                dues.discard(self)
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def on_deadline(self) -> None:
        """The deadline has passed."""
        if not self._is_over:
            error = self.timed_out(self._deadline)
            carrier = self._carrier
            if carrier is not None and carrier.heard_at == self._heard_before:
                carrier.probe()  # before the stream ends: etcd takes pings without a stream for an attack
            self._give_up(ErrorCode.CANCEL)
            self.fail(error)

    def on_reset(self, code: int) -> None:
        """The server ended the stream: at the deadline because of the deadline, whichever is noticed first."""
        if self._deadline.has_passed():
            self.fail(self.timed_out(self._deadline))
        else:
            super().on_reset(code)

    def on_answer(self, event: ResponseReceived) -> None:
        """The whole answer."""
        message = whole_message(event.data)
        if message is not None and is_well(event.headers, event.trailers):
            self._answer = message
            self._is_over = True
            self._wake()
        else:
            super().on_answer(event)

    def _maybe_applied(self) -> bool:
        """A server does nothing before it has the whole request."""
        return super()._maybe_applied() and self._carrier is not None and not self._carrier.has_unsent(self)

    def on_data(self, event: DataReceived) -> None:
        """A piece of the answer."""
        assert self._carrier is not None
        try:
            data = event.data
            if self._messages is None:
                self._messages = Messages()
            for message in self._messages.feed(data):
                if self._answer is not None:
                    raise ProtocolError('gRPC: a second answer to a call that has one')
                if isinstance(message, Oversized):
                    raise OversizedAnswer(message)
                self._answer = message
        except (ProtocolError, OversizedAnswer) as error:
            self._fail_here(error)
            return
        if event.ends:
            self.fail_with(_ended(f'{self.url} ended the answer to {self.path} without a status'))
        else:
            self._carrier.acknowledge(self, event.size)

    def _on_status(self, status: Status) -> None:
        if status.code != OK:
            raise GrpcError(status)
        if self._answer is None or self._messages is None or not self._messages.is_between:
            raise ProtocolError('gRPC: OK without an answer, or in the middle of one')
        if not self._is_over:
            self._is_over = True
            self._wake()


class Stream(Call):
    """Messages both ways, until one side ends it.

    One greenlet at a time may receive.  Messages that are not taken wait, up to a bound past which the server is
    told to wait.  An iterator over the messages.
    """

    __slots__ = ('_held', '_messages', '_owed', '_received')

    def __init__(self, path: str, url: str, is_write: bool) -> None:
        super().__init__(path, url, is_write)
        self._messages = Messages()
        self._received: deque[bytes] = deque()
        self._held = 0  # bytes of messages that were not taken
        self._owed = 0  # bytes of windows to be given back when they are

    @property
    def is_over(self) -> bool:
        """True if nothing more will come or go; what came can still be received."""
        return self._is_over

    def send(self, message: bytes) -> None:
        """Send a message.  Does not block.

        Raises:
            EtcException: What ended the stream.
        """
        self._transmit(packed(message), end=False)

    def finish(self) -> None:
        """Say that no more messages will be sent.  Does not block."""
        self._transmit(b'', end=True)

    def receive(self, deadline: Deadline) -> bytes | None:
        """Return the next message; None when the server has ended the stream well.  Blocks until the deadline.

        A deadline that passes does no harm: what comes later is there for the next call.

        Raises:
            TimedOut: No message came in time.
            OversizedAnswer: A message is larger than the bound; the stream goes on.
            GrpcError: The server ended the stream with another status than OK.
            ConnectionError: The connection was lost.
        """
        if self._greenlet is not None:
            raise RuntimeError('another greenlet receives from this stream')
        while not self._received:
            if self._is_over:
                if self._error is not None:
                    raise self._error
                return None
            self._pause_until(deadline)
        message = self._received.popleft()
        self._held -= len(message) + OVERHEAD
        if self._owed and self._held < BUFFER_BYTES:
            owed, self._owed = self._owed, 0
            if self._carrier is not None:
                self._carrier.acknowledge(self, owed)
        if isinstance(message, Oversized):
            raise OversizedAnswer(message)
        return message

    def suspect(self) -> None:
        """Ask the server at once whether it is there: the user of the stream has waited in vain.  Does not block."""
        if self._carrier is not None and not self._is_over:
            self._carrier.probe()

    def cancel(self) -> None:
        """End the stream at once.  Does nothing if it has ended."""
        if not self._is_over:
            self._is_over = True
            self._give_up(ErrorCode.CANCEL)
            self._wake()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        message = self.receive(Deadline(None))
        if message is None:
            raise StopIteration
        return message

    def on_data(self, event: DataReceived) -> None:
        """A piece of what the server sends."""
        assert self._carrier is not None
        try:
            messages = self._messages.feed(event.data)
        except ProtocolError as error:
            self._fail_here(error)
            return
        for message in messages:
            self._received.append(message)
            self._held += len(message) + OVERHEAD
        if event.ends:
            self.fail_with(_ended(f'{self.url} ended {self.path} without a status'))
        elif self._held < BUFFER_BYTES:
            self._carrier.acknowledge(self, event.size)
        else:
            self._owed += event.size
        if messages:
            self._wake()

    def _on_status(self, status: Status) -> None:
        if status.code != OK:
            raise GrpcError(status)
        if not self._messages.is_between:
            raise ProtocolError('gRPC: OK in the middle of a message')
        if not self._is_over:
            self._is_over = True
            self._wake()

    def _transmit(self, data: bytes, end: bool) -> None:
        if self._is_over:
            raise self._error or ConnectionError(f'{self.path} has ended', endpoint=self.url)
        assert self._carrier is not None
        self._carrier.send(self, data, end)

    def _pause_until(self, deadline: Deadline) -> None:
        left = deadline.timeout_left()
        if left is None:
            self._pause()
            return
        timer = get_hub().loop.timer(left)
        timer.start(self._wake)
        try:
            self._pause()
        finally:
            timer.close()
        if deadline.has_passed() and not self._received and not self._is_over:
            raise self.timed_out(deadline)


def _ended(what: str) -> ConnectionError:
    """The error for a call that the peer has ended while the connection goes on."""
    error = ConnectionError(what)
    error.is_outage = False
    return error
