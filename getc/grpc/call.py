"""A gRPC call on a connection: the part that unary and streaming calls share, and the errors of calls."""

from __future__ import annotations

from typing import Any, Final

from gevent import getcurrent
from gevent.hub import get_hub

from getc.error_context import copy_error
from getc.errors import ConnectionError, EtcException, HTTPError, TimedOut
from getc.grpc.framing import OversizedMessage, Status, check_headers, parse_status
from getc.grpc.http2.events import DataReceived, HeadersReceived, ResponseReceived
from getc.grpc.http2.frames import ErrorCode
from getc.grpc.streams import StreamOwner, Streams
from getc.retry import proxy_may_have_forwarded
from getc.timing import Deadline

__all__ = ['STREAM_LIMIT_HINT', 'Call', 'GrpcError', 'OversizedResponse', 'incomplete_error']

STREAM_LIMIT_HINT: Final = (
    'SETTINGS_MAX_CONCURRENT_STREAMS: raise --max-concurrent-streams of etcd or the limit of the proxy'
)
"""The name of the limit on the streams of a connection, and the remedy."""


class GrpcError(EtcException):
    """The server responded with a status other than OK.

    Attributes:
        status: Code and message.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return f'gRPC status {self.status.code}: {self.status.message}'


class OversizedResponse(EtcException):
    """The server responded with a message that is larger than ``MAX_MESSAGE``.

    Attributes:
        message: The head of the message, and its size.
    """

    def __init__(self, message: OversizedMessage) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f'a response of {self.message.size} bytes'


class Call(StreamOwner):
    """A call from its start to its end.

    Attributes:
        path: The method, for error messages.
        url: The endpoint, for error messages.
        is_write: The call may change the store.
        is_over: The call has ended.
        stream_id: The number of its stream; 0 while it waits for one.
    """

    __slots__ = (
        '_error',
        '_greenlet',
        '_last_received_at',
        '_streams',
        '_wakeup',
        'is_over',
        'is_write',
        'path',
        'url',
    )

    def __init__(self, path: str, url: str, is_write: bool) -> None:
        self.path = path
        self.url = url
        self.is_write = is_write
        self.is_over = False
        self.stream_id = 0
        self._streams: Streams[Call] | None = None
        self._last_received_at = 0.0  # when the connection received data last before the call was started
        self._error: EtcException | None = None
        self._greenlet: Any = None
        self._wakeup: Any = None

    @property
    def is_half_closed(self) -> bool:
        """True if the client sends no more messages, so that the server ends the call."""
        return True

    # -- called by the connection; no method blocks or switches

    def start(self, streams: Streams[Call], stream_id: int) -> None:
        """Attach the call to a connection.

        Args:
            streams: The streams of the connection.
            stream_id: The number of the stream; 0 if the call waits for one.
        """
        self._streams = streams
        self._last_received_at = streams.health.last_received_at
        self.stream_id = stream_id

    def on_headers(self, event: HeadersReceived) -> None:
        """Process the headers or the trailers of the response."""
        try:
            if event.status is not None:
                check_headers(event.status, event.fields)
            if event.ends:
                self._on_status(parse_status(event.fields))
        except EtcException as error:
            self._fail_response(error)

    def on_data(self, event: DataReceived) -> None:
        """Process a part of the response."""
        raise NotImplementedError

    def on_response(self, event: ResponseReceived) -> None:
        """Process a complete response."""
        headers, data, trailers = event.parts
        self.on_headers(headers)
        self.on_data(data)
        self.on_headers(trailers)

    def on_reset(self, code: int) -> None:
        """End the call after RST_STREAM of the server.

        A write may have been applied also with REFUSED_STREAM: haproxy sends it for every stream without a response,
        for example when the server behind it has cancelled the call, or when the connection to that server broke.
        """
        name = ErrorCode(code).name if code in ErrorCode.__members__.values() else str(code)
        self.fail_with(incomplete_error(f'{self.url} reset the stream of {self.path} with {name}'))

    def on_unprocessed(self) -> None:
        """End the call, which the server never processes: it was not sent, or is above the last stream of a GOAWAY."""
        what = f'{self.url} is going away and did not process {self.path}'
        self.fail(ConnectionError(what, endpoint=self.url))

    def fail(self, error: EtcException) -> None:
        """End the call with this error, unless it has ended."""
        if not self.is_over:
            self.is_over = True
            self._error = error
            self._unpark()

    def fail_with(self, error: EtcException) -> None:
        """End the call with a copy of the error that has the endpoint and ``maybe_applied`` of this call."""
        self.fail(copy_error(error, maybe_applied=self._maybe_applied(), endpoint=self.url))

    def abandon(self) -> None:
        """In a forked child, end the call without waking its greenlet, which is a copy of that of the parent."""
        self.is_over = True
        self._error = ConnectionError(f'{self.path} was called before the fork', endpoint=self.url)
        self._error.is_outage = False

    # -- for subclasses and the channel

    def timeout_error(self, deadline: Deadline) -> TimedOut:
        """Return the error for a deadline that has passed."""
        if self._streams is not None and not self.stream_id:
            what = (
                f'{self.path} was not sent within {deadline.timeout:g} s: {self.url} allows '
                f'{self._streams.max_streams} streams at a time, and all are in use ({STREAM_LIMIT_HINT})'
            )
        else:
            what = f'no response to {self.path} from {self.url} within {deadline.timeout:g} s'
        return TimedOut(what, maybe_applied=self._maybe_applied(), endpoint=self.url)

    def _maybe_applied(self) -> bool:
        return self.is_write and self._streams is not None and self._streams.may_have_been_sent(self)

    def _on_status(self, status: Status) -> None:
        raise NotImplementedError

    def _fail_response(self, error: EtcException) -> None:
        """End the call because of an invalid response, and cancel its stream."""
        if isinstance(error, HTTPError) and not proxy_may_have_forwarded(error.status_code):
            self.fail(copy_error(error, endpoint=self.url))
        else:
            self.fail_with(error)
        self._cancel_stream(ErrorCode.CANCEL)

    def _cancel_stream(self, code: int) -> None:
        if self._streams is not None:
            self._streams.cancel(self, code)

    def _park(self) -> None:
        """Switch to the hub until ``_unpark``.  After an exception no scheduled switch is left."""
        self._greenlet = getcurrent()
        try:
            get_hub().switch()
        finally:
            self._greenlet = None
            if self._wakeup is not None:
                self._wakeup.stop()
                self._wakeup = None

    def _unpark(self) -> None:
        if self._greenlet is not None and self._wakeup is None:
            self._wakeup = get_hub().loop.run_callback(self._greenlet.switch)


def incomplete_error(what: str) -> ConnectionError:
    """Return the error for a call that the server ended without a status, while the connection goes on."""
    error = ConnectionError(what)
    error.is_outage = False
    return error
