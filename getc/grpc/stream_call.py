"""Streaming gRPC calls: messages in both directions until one side ends the stream."""

from __future__ import annotations

from collections import deque
from typing import Final

from gevent.hub import get_hub

from getc import timing
from getc.errors import ConnectionError, ProtocolError
from getc.grpc.call import Call, GrpcError, OversizedResponse, incomplete_error
from getc.grpc.framing import OK, MessageDecoder, OversizedMessage, Status, encode_message
from getc.grpc.http2.events import DataReceived
from getc.grpc.http2.frames import ErrorCode
from getc.grpc.stalls import process_received
from getc.timing import Deadline

__all__ = ['StreamCall']

STREAM_BUFFER_BYTES: Final = 1024 * 1024
"""Bytes of buffered messages from which on the window of the stream is not granted again."""

MESSAGE_OVERHEAD: Final = 64
"""Bytes that a buffered message counts besides its own, so that empty messages fill the buffer as well."""


class StreamCall(Call):
    """A call with messages in both directions, and an iterator over the received messages.

    One greenlet at a time can receive.  Received messages are buffered; at ``STREAM_BUFFER_BYTES`` flow control stops
    the server.  Buffered messages can still be received after the stream has ended.
    """

    is_lasting = True

    __slots__ = ('_buffered', '_decoder', '_is_half_closed', '_received', '_unacknowledged')

    def __init__(self, path: str, url: str, is_write: bool) -> None:
        super().__init__(path, url, is_write)
        self._decoder = MessageDecoder()
        self._is_half_closed = False
        self._received: deque[bytes] = deque()
        self._buffered = 0  # bytes of received messages, with their overhead
        self._unacknowledged = 0  # bytes of the window that are granted again when there is space in the buffer

    def send(self, message: bytes) -> None:
        """Send a message.  Does not block.

        Raises:
            EtcException: The stream has ended; this is the reason.
        """
        self._transmit(encode_message(message), end=False)

    def finish(self) -> None:
        """Half-close the stream: no more messages are sent.  Does not block.

        Raises:
            EtcException: The stream has ended; this is the reason.
        """
        self._is_half_closed = True
        self._transmit(b'', end=True)

    @property
    def is_half_closed(self) -> bool:
        return self._is_half_closed

    def receive(self, deadline: Deadline) -> bytes | None:
        """Return the next message, or None after the server has ended the stream with OK.  Blocks until the deadline.

        After a timeout receiving can go on: no message is lost.

        Raises:
            TimedOut: No message was received in time.
            OversizedResponse: A message is larger than ``MAX_MESSAGE``; the stream goes on.
            GrpcError: The server ended the stream with another status than OK.
            ConnectionError: The connection was lost.
        """
        if self._greenlet is not None:
            raise RuntimeError(f'another greenlet receives from the stream of {self.path}')
        while not self._received:
            if self.is_over:
                if self._error is not None:
                    raise self._error
                return None
            self._park_until(deadline)
        message = self._received.popleft()
        self._buffered -= len(message) + MESSAGE_OVERHEAD
        if self._unacknowledged and self._buffered < STREAM_BUFFER_BYTES:
            size, self._unacknowledged = self._unacknowledged, 0
            if self._streams is not None:
                self._streams.acknowledge(self, size)
        if isinstance(message, OversizedMessage):
            raise OversizedResponse(message)
        return message

    def probe(self) -> None:
        """Check the health of the connection now, because an expected message is late.  Does not block."""
        if self._streams is not None and not self.is_over:
            self._streams.health.probe()

    def cancel(self) -> None:
        """End the stream at once.  Does nothing if it has ended."""
        if not self.is_over:
            self.is_over = True
            self._cancel_stream(ErrorCode.CANCEL)
            self._unpark()

    def __iter__(self) -> StreamCall:
        return self

    def __next__(self) -> bytes:
        message = self.receive(Deadline(None))
        if message is None:
            raise StopIteration
        return message

    def on_data(self, event: DataReceived) -> None:
        """Process a part of the response."""
        assert self._streams is not None
        try:
            messages = self._decoder.feed(event.data)
        except ProtocolError as error:
            self._fail_response(error)
            return
        for message in messages:
            self._received.append(message)
            self._buffered += len(message) + MESSAGE_OVERHEAD
        if event.ends:
            self.fail_with(incomplete_error(f'{self.url} ended the stream of {self.path} without a status'))
        elif self._buffered < STREAM_BUFFER_BYTES:
            self._streams.acknowledge(self, event.size)
        else:
            self._unacknowledged += event.size
        if messages:
            self._unpark()

    def _on_status(self, status: Status) -> None:
        if status.code != OK:
            raise GrpcError(status)
        if not self._decoder.is_at_boundary:
            raise ProtocolError(f'gRPC: status OK in the middle of a message of {self.path}')
        if not self.is_over:
            self.is_over = True
            self._unpark()

    def _transmit(self, data: bytes, end: bool) -> None:
        if self.is_over:
            raise self._error or ConnectionError(f'the stream of {self.path} has ended', endpoint=self.url)
        assert self._streams is not None
        self._streams.send(self, data, end)

    def _park_until(self, deadline: Deadline) -> None:
        left = deadline.timeout_left()
        if left is None:
            self._park()
            return
        due_at = timing.now() + left
        timer = get_hub().loop.timer(left)
        timer.start(self._unpark)
        try:
            self._park()
        finally:
            timer.close()
        if deadline.has_passed() and not self._received and not self.is_over:
            process_received(due_at)
            if not self._received and not self.is_over:
                raise self.timeout_error(deadline)
