"""The receiving side of a connection: open and cancelled streams, and the windows that the client grants."""

from __future__ import annotations

from typing import Final

from getc.grpc.http2.frames import ErrorCode, raise_violation

__all__ = ['ReceiveState', 'ReceiveStream']

MAX_CANCELLED: Final = 10_000
"""Streams reset by the client whose late frames are checked; late frames of older ones are ignored."""


class ReceiveStream:
    """The receiving side of one stream.

    Attributes:
        window: Bytes that the peer may still send.
        consumed: Bytes that were consumed and not yet granted again by a WINDOW_UPDATE.
        has_headers: The headers of the response were received.
        is_open: False after the client has reset the stream: late frames are checked and dropped.
    """

    __slots__ = ('consumed', 'has_headers', 'is_open', 'window')

    def __init__(self, window: int) -> None:
        self.window = window
        self.consumed = 0
        self.has_headers = False
        self.is_open = True

    def check_block(self, status: int | None, ends: bool) -> bool:
        """Check that a header block is allowed now.  Return False for an interim response, which is ignored.

        Raises:
            Violation: The block is not allowed.
        """
        if status is None:
            if not self.has_headers:
                raise_violation(ErrorCode.PROTOCOL_ERROR, 'response without :status (8.3.2)')
            if not ends:
                raise_violation(ErrorCode.PROTOCOL_ERROR, 'trailers do not end the stream (8.1)')
        elif self.has_headers:
            raise_violation(ErrorCode.PROTOCOL_ERROR, ':status in trailers (8.1)')
        elif status < 200:
            if ends:
                raise_violation(ErrorCode.PROTOCOL_ERROR, 'interim response ends the stream (8.1)')
            return False
        self.has_headers = True
        return True

    def check_data(self, size: int) -> None:
        """Count data against the window of the stream.

        Raises:
            Violation: The data exceed the window, or no headers were received.
        """
        self.window -= size
        if self.window < 0:
            raise_violation(ErrorCode.FLOW_CONTROL_ERROR, 'DATA exceeds the window of the stream (6.9.1)')
        if not self.has_headers:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'DATA before HEADERS (8.1)')


class ReceiveState:
    """The receiving side of all streams of a connection.

    Args:
        stream_window: Initial window of each stream, in bytes.
        connection_window: Window of the connection, in bytes.

    Attributes:
        streams: The open streams by number.
        last_id: Number of the stream that was opened last; 0 before.
    """

    def __init__(self, stream_window: int, connection_window: int) -> None:
        self.streams: dict[int, ReceiveStream] = {}
        self.last_id = 0
        self._stream_window = stream_window
        self._connection_window = connection_window
        self._received = 0  # bytes on all streams, not yet granted again by a WINDOW_UPDATE
        self._cancelled: dict[int, ReceiveStream] = {}
        self._forgotten_id = 0  # up to this number, a closed stream may be one that the client has reset

    def open(self) -> int:
        """Open a stream and return its number."""
        self.last_id = stream_id = self.last_id + 2 if self.last_id else 1
        self.streams[stream_id] = ReceiveStream(self._stream_window)
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """Close a stream that the client has reset; the peer may still send frames on it."""
        stream = self._cancelled[stream_id] = self.streams.pop(stream_id)
        stream.is_open = False
        if len(self._cancelled) > MAX_CANCELLED:
            oldest = next(iter(self._cancelled))
            del self._cancelled[oldest]
            self._forgotten_id = max(self._forgotten_id, oldest)

    def end(self, stream_id: int) -> None:
        """Close a stream that the peer has ended: no more frames are allowed on it."""
        self.streams.pop(stream_id, None)
        self._cancelled.pop(stream_id, None)

    # -- windows

    def on_data(self, size: int) -> int:
        """Count received data, and return the increment for the window of the connection, or 0.

        The window of the connection is granted again as data are received, so it is never exhausted and needs no check:
        the windows of the streams bound what is buffered.
        """
        self._received += size
        if self._received * 2 < self._connection_window:
            return 0
        increment, self._received = self._received, 0
        return increment

    def consume(self, stream_id: int, size: int) -> int:
        """Count consumed data of a stream, and return the increment for its window, or 0.

        The window is granted again once half of it is consumed, so that not every DATA frame costs a WINDOW_UPDATE.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            return 0
        stream.consumed += size
        if stream.consumed * 2 < self._stream_window:
            return 0
        increment, stream.consumed = stream.consumed, 0
        stream.window += increment
        return increment

    # -- checks of the stream of a frame

    def check_opened(self, stream_id: int, what: str) -> None:
        """Check that a stream was opened.

        Raises:
            Violation: The stream was never opened.
        """
        if not stream_id % 2 or stream_id > self.last_id:
            raise_violation(ErrorCode.PROTOCOL_ERROR, f'{what} on stream {stream_id}, which was never opened (5.1)')

    def find(self, stream_id: int, what: str) -> ReceiveStream | None:
        """Return the open or cancelled stream of a frame; None if the client may have reset it long ago.

        Raises:
            Violation: The stream was never opened, or the peer has ended it.
        """
        stream = self.streams.get(stream_id) or self._cancelled.get(stream_id)
        if stream is None:
            self.check_opened(stream_id, what)
            if stream_id > self._forgotten_id:
                raise_violation(ErrorCode.STREAM_CLOSED, f'{what} on a closed stream (5.1)')
        return stream
