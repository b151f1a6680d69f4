"""What a client receives: how much may come on each stream, and which streams may still be heard of."""

from __future__ import annotations

from typing import Final

from getc.grpc.http2.frames import ErrorCode, violated

__all__ = ['ReceiveState', 'ReceiveStream']

MAX_CANCELLED: Final = 10_000
"""Streams that we reset and of which late frames are checked; older ones are given the benefit of the doubt."""


class ReceiveStream:
    """The peer's side of a stream.

    Attributes:
        window: Bytes that may still come.
        taken: Bytes that were taken and that the peer was not told of yet.
        has_headers: The headers of the answer came.
        is_open: False after we have reset the stream.  What still comes is held to the same rules, and dropped.
    """

    __slots__ = ('has_headers', 'is_open', 'taken', 'window')

    def __init__(self, window: int) -> None:
        self.window = window
        self.taken = 0
        self.has_headers = False
        self.is_open = True

    def check_block(self, status: int | None, ends: bool) -> bool:
        """Refuse a header block out of its turn; False if it is interim, and the answer is still to come."""
        if status is None:
            if not self.has_headers:
                violated(ErrorCode.PROTOCOL_ERROR, 'an answer without :status (8.3.2)')
            if not ends:
                violated(ErrorCode.PROTOCOL_ERROR, 'trailers that do not end the stream (8.1)')
        elif self.has_headers:
            violated(ErrorCode.PROTOCOL_ERROR, 'a :status in trailers (8.1)')
        elif status < 200:
            if ends:
                violated(ErrorCode.PROTOCOL_ERROR, 'an interim answer that ends the stream (8.1)')
            return False
        self.has_headers = True
        return True

    def check_data(self, size: int) -> None:
        """Refuse data out of their turn, or too many."""
        self.window -= size
        if self.window < 0:
            violated(ErrorCode.FLOW_CONTROL_ERROR, 'more data than the window of the stream (6.9.1)')
        if not self.has_headers:
            violated(ErrorCode.PROTOCOL_ERROR, 'DATA before HEADERS (8.1)')


class ReceiveState:
    """The peer's side of all streams.

    Args:
        stream_window: Bytes that may come on a stream before they are taken.
        connection_window: Bytes that may be on their way in all.

    Attributes:
        streams: Those that are open.
        last_id: The latest that was opened; 0 before.
    """

    def __init__(self, stream_window: int, connection_window: int) -> None:
        self.streams: dict[int, ReceiveStream] = {}
        self.last_id = 0
        self._stream_window = stream_window
        self._connection_window = connection_window
        self._taken = 0  # bytes on all streams that the peer was not told of yet
        self._cancelled: dict[int, ReceiveStream] = {}
        self._forgotten_id = 0  # up to it, a stream that is gone may be one that we reset

    def open(self) -> int:
        """Begin a stream, and return its number."""
        self.last_id = stream_id = self.last_id + 2 if self.last_id else 1
        self.streams[stream_id] = ReceiveStream(self._stream_window)
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """We ended the stream; the peer may not know it yet."""
        stream = self._cancelled[stream_id] = self.streams.pop(stream_id)
        stream.is_open = False
        if len(self._cancelled) > MAX_CANCELLED:
            oldest = next(iter(self._cancelled))
            del self._cancelled[oldest]
            self._forgotten_id = max(self._forgotten_id, oldest)

    def end(self, stream_id: int) -> None:
        """The peer ended the stream: nothing of it may follow."""
        self.streams.pop(stream_id, None)
        self._cancelled.pop(stream_id, None)

    # -- windows

    def count(self, size: int) -> int:
        """Data came, on whichever stream; return by how much the connection's window is opened again.

        It is never closed, so it needs no check: what each stream may hold is the bound.
        """
        self._taken += size
        if self._taken * 2 < self._connection_window:
            return 0
        more, self._taken = self._taken, 0
        return more

    def take(self, stream_id: int, size: int) -> int:
        """Data of a stream were taken; return by how much its window is opened again.

        That is when half of it is used up: a frame for each piece would be too many.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            return 0
        stream.taken += size
        if stream.taken * 2 < self._stream_window:
            return 0
        more, stream.taken = stream.taken, 0
        stream.window += more
        return more

    # -- what a frame may be about

    def check_opened(self, stream_id: int, what: str) -> None:
        """Refuse a frame of a stream that never was."""
        if not stream_id % 2 or stream_id > self.last_id:
            violated(ErrorCode.PROTOCOL_ERROR, f'{what} on stream {stream_id}, which was never opened (5.1)')

    def find(self, stream_id: int, what: str) -> ReceiveStream | None:
        """Return the stream that a frame is about, and refuse it if that has ended; None if we reset it long ago."""
        stream = self.streams.get(stream_id) or self._cancelled.get(stream_id)
        if stream is None:
            self.check_opened(stream_id, what)
            if stream_id > self._forgotten_id:
                violated(ErrorCode.STREAM_CLOSED, f'{what} on a stream that has ended (5.1)')
        return stream
