"""The sending side of a connection: frames in the order in which they are sent, and data within the peer's windows."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from getc.grpc.http2.frames import (
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    MAX_WINDOW,
    ErrorCode,
    FrameType,
    encode_frame,
    raise_violation,
)

__all__ = ['SendState', 'SendStream']

HEADERS: Final = int(FrameType.HEADERS)


class SendStream:
    """The sending side of one stream.

    Attributes:
        window: Bytes that the peer accepts at the moment; may be negative.
        waiting: Data that wait for a window.
        has_ended: The last data were given to :meth:`SendState.send`.
    """

    __slots__ = ('has_ended', 'waiting', 'window')

    def __init__(self, window: int) -> None:
        self.window = window
        self.waiting: deque[memoryview] = deque()
        self.has_ended = False

    @property
    def is_sent(self) -> bool:
        """True if all data are in frames, up to END_STREAM."""
        return self.has_ended and not self.waiting

    @property
    def unsent(self) -> int:
        """Bytes that wait for a window."""
        return sum(len(data) for data in self.waiting)


class SendState:
    """The frames to send, and the sending side of the open streams.

    Attributes:
        frames: Frames that can be sent now.
        streams: The streams that have or may get data to send; requests that were sent whole have no entry.
        frame_size: The largest payload that the peer accepts.
        stream_window: Initial window of each stream.
    """

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.streams: dict[int, SendStream] = {}
        self.frame_size = DEFAULT_FRAME_SIZE
        self.stream_window = DEFAULT_WINDOW
        self._window = DEFAULT_WINDOW
        # Streams with waiting data and perhaps an open window of their own, in the order of their turns.
        self._ready: OrderedDict[int, SendStream] = OrderedDict()

    def open(self, stream_id: int, block: bytes, data: bytes = b'', end: bool = False) -> None:
        """Open a stream with a header block and the first data."""
        size, longest = len(data), self.frame_size
        fits = size <= longest >= len(block) and self.stream_window >= size <= self._window
        if end and fits:  # most requests: they need no state
            self._window -= size
            head = FRAME_HEADER.pack(len(block) << 8 | HEADERS, END_HEADERS, stream_id)
            self.frames.append(head + block + FRAME_HEADER.pack(size << 8, END_STREAM, stream_id) + data)
            return
        stream = self.streams[stream_id] = SendStream(self.stream_window)
        self._send_block(stream_id, block)
        if data or end:
            self.send(stream_id, stream, data, end)

    def _send_block(self, stream_id: int, block: bytes) -> None:
        fragments = [block[at : at + self.frame_size] for at in range(0, len(block), self.frame_size)] or [b'']
        for number, fragment in enumerate(fragments):
            frame_type = FrameType.CONTINUATION if number else FrameType.HEADERS
            flags = END_HEADERS if number == len(fragments) - 1 else 0
            self.frames.append(encode_frame(frame_type, flags, stream_id, fragment))

    def send(self, stream_id: int, stream: SendStream, data: bytes, end: bool) -> None:
        """Send data as far as the windows allow, and keep the rest until they grow."""
        stream.has_ended = end
        size = len(data)
        fits = size <= self.frame_size and size <= stream.window and size <= self._window
        if fits and not stream.waiting:
            stream.window -= size
            self._window -= size
            flags = END_STREAM if end else 0
            self.frames.append(FRAME_HEADER.pack(size << 8 | FrameType.DATA, flags, stream_id) + data)
        elif size or not stream.waiting:  # else END_STREAM goes with the data that wait
            # An empty frame always fits, except with a negative window, with which none may be sent (6.9.2).
            stream.waiting.append(memoryview(data))
            self._ready[stream_id] = stream
            self.send_waiting()

    def send_waiting(self) -> None:
        """Send waiting data as far as the windows allow, one frame of each stream in turn."""
        while self._ready and self._window > 0:
            stream_id, stream = self._ready.popitem(last=False)
            if stream.window > 0:
                self._send_frame(stream_id, stream)
                if stream.waiting:
                    self._ready[stream_id] = stream
            # Else the stream is added again when its own window grows.

    def _send_frame(self, stream_id: int, stream: SendStream) -> None:
        data = stream.waiting.popleft()
        size = min(len(data), self.frame_size, stream.window, self._window)
        stream.window -= size
        self._window -= size
        if size < len(data):
            stream.waiting.appendleft(data[size:])
        flags = END_STREAM if stream.is_sent else 0
        self.frames.append(encode_frame(FrameType.DATA, flags, stream_id, bytes(data[:size])))

    def drop(self, stream_id: int) -> None:
        """Remove a stream and its waiting data."""
        self._ready.pop(stream_id, None)
        self.streams.pop(stream_id, None)

    # -- the peer's windows

    def grow_window(self, stream_id: int, increment: int) -> None:
        """Grow the window of a stream, or of the connection (0), and send what fits; closed streams are ignored.

        Raises:
            Violation: The window exceeds ``MAX_WINDOW``.
        """
        if not stream_id:
            self._window += increment
            if self._window > MAX_WINDOW:
                raise_violation(ErrorCode.FLOW_CONTROL_ERROR, 'connection window larger than 2**31 - 1 bytes (6.9.1)')
        elif stream_id in self.streams:
            self._grow_stream_window(stream_id, self.streams[stream_id], increment)
        if self._ready:
            self.send_waiting()

    def set_stream_window(self, window: int) -> None:
        """Change the initial window of streams, and the windows of the open ones by the difference.

        Nothing is sent yet, because another setting of the same frame may change the frame size.

        Raises:
            Violation: The window of a stream exceeds ``MAX_WINDOW``.
        """
        increment, self.stream_window = window - self.stream_window, window
        for stream_id, stream in self.streams.items():
            self._grow_stream_window(stream_id, stream, increment)

    def _grow_stream_window(self, stream_id: int, stream: SendStream, increment: int) -> None:
        stream.window += increment
        if stream.window > MAX_WINDOW:
            raise_violation(ErrorCode.FLOW_CONTROL_ERROR, 'stream window larger than 2**31 - 1 bytes (6.9.1)')
        if stream.waiting:
            self._ready[stream_id] = stream
