"""Unary gRPC calls: one request and one response."""

from __future__ import annotations

import math

from getc.errors import ProtocolError
from getc.grpc.call import Call, GrpcError, OversizedResponse, incomplete_error
from getc.grpc.framing import OK, MessageDecoder, OversizedMessage, Status, is_ok_response, single_message
from getc.grpc.http2.events import DataReceived, ResponseReceived
from getc.grpc.http2.frames import ErrorCode
from getc.grpc.timer_wheel import TimerWheel
from getc.timing import Deadline

__all__ = ['UnaryCall']


class UnaryCall(Call):
    """A call with one request and one response."""

    __slots__ = ('_deadline', '_decoder', '_response')

    def __init__(self, path: str, url: str, is_write: bool, deadline: Deadline) -> None:
        Call.__init__(self, path, url, is_write)  # faster than super(), on the hot path
        self._deadline = deadline
        self._response: bytes | None = None
        self._decoder: MessageDecoder | None = None

    def wait(self, timers: TimerWheel) -> bytes:
        """Return the response.  Blocks until the deadline at most.

        If the greenlet is killed, the stream is reset and the connection can be used further.

        Raises:
            GrpcError: The status is not OK.
            OversizedResponse: The response is larger than ``MAX_MESSAGE``.
            ConnectionError: There was no response; ``maybe_applied`` is True if a write may have been applied.
            HTTPError: A proxy has answered.
            ProtocolError: The response is not a valid gRPC response.
        """
        at = self._deadline.at
        slot = timers.add(self.on_deadline, at) if at != math.inf else None
        try:
            while not self.is_over:
                self._park()
        except BaseException:
            self.is_over = True
            self._cancel_stream(ErrorCode.CANCEL)
            raise
        finally:
            if slot is not None:
                slot.discard(self.on_deadline)
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # breaks the cycle of this frame, the error and its traceback
        assert self._response is not None
        return self._response

    def on_deadline(self) -> None:
        """End the call, and check the health of the connection if nothing was received since the call was started."""
        if not self.is_over:
            error = self.timeout_error(self._deadline)
            streams = self._streams
            if streams is not None and streams.health.last_received_at == self._last_received_at:
                streams.health.probe()  # before the stream is reset: etcd accepts no pings without a stream
            self._cancel_stream(ErrorCode.CANCEL)
            self.fail(error)

    def on_reset(self, code: int) -> None:
        """End the call after RST_STREAM; a reset after the deadline is a timeout, which the server may notice first."""
        if self._deadline.has_passed():
            self.fail(self.timeout_error(self._deadline))
        else:
            super().on_reset(code)

    def on_response(self, event: ResponseReceived) -> None:
        """Process a complete response."""
        message = single_message(event.data)
        if message is not None and is_ok_response(event.headers, event.trailers):
            self._response = message
            self.is_over = True
            self._unpark()
        else:
            super().on_response(event)

    def _maybe_applied(self) -> bool:
        """Return False also if a part of the request is unsent: a server processes complete requests only."""
        return super()._maybe_applied() and self._streams is not None and not self._streams.has_unsent(self)

    def on_data(self, event: DataReceived) -> None:
        """Process a part of the response."""
        assert self._streams is not None
        try:
            if self._decoder is None:
                self._decoder = MessageDecoder()
            for message in self._decoder.feed(event.data):
                if self._response is not None:
                    raise ProtocolError(f'gRPC: a second message in the response to {self.path}')
                if isinstance(message, OversizedMessage):
                    raise OversizedResponse(message)
                self._response = message
        except (ProtocolError, OversizedResponse) as error:
            self._fail_response(error)
            return
        if event.ends:
            self.fail_with(incomplete_error(f'{self.url} ended the response to {self.path} without a status'))
        else:
            self._streams.acknowledge(self, event.size)

    def _on_status(self, status: Status) -> None:
        if status.code != OK:
            raise GrpcError(status)
        if self._response is None or self._decoder is None or not self._decoder.is_at_boundary:
            raise ProtocolError(f'gRPC: status OK without a complete message in the response to {self.path}')
        if not self.is_over:
            self.is_over = True
            self._unpark()
