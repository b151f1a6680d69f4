"""What a client sends: frames in the order in which they leave, data only as far as the peer's windows allow."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from getc.grpc.http2.frames import (
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    MAX_WINDOW,
    ErrorCode,
    Kind,
    frame,
    violated,
)

__all__ = ['SendState', 'SendStream']

HEADERS: Final = int(Kind.HEADERS)


class SendStream:
    """Our side of a stream.

    Attributes:
        window: Bytes that the peer takes at the moment.
        waiting: Data that wait for a window.
        has_ended: Nothing more will be given to send.
    """

    __slots__ = ('has_ended', 'waiting', 'window')

    def __init__(self, window: int) -> None:
        self.window = window
        self.waiting: deque[memoryview] = deque()
        self.has_ended = False

    @property
    def is_sent(self) -> bool:
        """True if all was given out."""
        return self.has_ended and not self.waiting

    @property
    def unsent(self) -> int:
        """Bytes that wait for a window."""
        return sum(len(data) for data in self.waiting)


class SendState:
    """Frames that are to be sent.

    Attributes:
        frames: Those to send now.
        streams: Our side of each open stream that has something left to send, or may get it.
        frame_size: The longest payload that the peer takes.
        stream_window: The window with which a stream begins.
    """

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.streams: dict[int, SendStream] = {}
        self.frame_size = DEFAULT_FRAME_SIZE
        self.stream_window = DEFAULT_WINDOW
        self._window = DEFAULT_WINDOW
        self._ready: OrderedDict[int, SendStream] = (
            OrderedDict()
        )  # in turn: their data wait for the connection's window

    def take(self) -> bytes:
        """All bytes to send now; each is given out once."""
        data = b''.join(self.frames)
        self.frames.clear()
        return data

    def open(self, stream_id: int, block: bytes, data: bytes = b'', end: bool = False) -> None:
        """Begin a stream with its header block, and with data that follow it."""
        size, longest = len(data), self.frame_size
        fits = size <= longest >= len(block) and self.stream_window >= size <= self._window
        if end and fits:  # most requests: nothing of them stays behind
            self._window -= size
            head = HEAD.pack(len(block) << 8 | HEADERS, END_HEADERS, stream_id)
            self.frames.append(head + block + HEAD.pack(size << 8, END_STREAM, stream_id) + data)
            return
        sending = self.streams[stream_id] = SendStream(self.stream_window)
        self._send_block(stream_id, block)
        if data or end:
            self.send(stream_id, sending, data, end)

    def _send_block(self, stream_id: int, block: bytes) -> None:
        pieces = [block[at : at + self.frame_size] for at in range(0, len(block), self.frame_size)] or [b'']
        for number, piece in enumerate(pieces):
            kind = Kind.CONTINUATION if number else Kind.HEADERS
            flags = END_HEADERS if number == len(pieces) - 1 else 0
            self.frames.append(frame(kind, flags, stream_id, piece))

    def send(self, stream_id: int, sending: SendStream, data: bytes, end: bool) -> None:
        """Send data, or what the windows allow of it; the rest follows when they open."""
        sending.has_ended = end
        size = len(data)
        fits = size <= self.frame_size and size <= sending.window and size <= self._window
        if fits and not sending.waiting:
            sending.window -= size
            self._window -= size
            self.frames.append(HEAD.pack(size << 8 | Kind.DATA, END_STREAM if end else 0, stream_id) + data)
        elif size or not sending.waiting:  # else the end goes with what waits
            # A frame of nothing fits, save where the stream's window is negative: then there must be none (6.9.2).
            sending.waiting.append(memoryview(data))
            self._ready[stream_id] = sending
            self.send_waiting()

    def send_waiting(self) -> None:
        """Send what the windows allow: a frame of each stream in turn."""
        while self._ready and self._window > 0:
            stream_id, sending = self._ready.popitem(last=False)
            if sending.window > 0:
                self._send_frame(stream_id, sending)
                if sending.waiting:
                    self._ready[stream_id] = sending
            # Else it gets its turn again when its own window opens.

    def _send_frame(self, stream_id: int, sending: SendStream) -> None:
        data = sending.waiting.popleft()
        size = min(len(data), self.frame_size, sending.window, self._window)
        sending.window -= size
        self._window -= size
        if size < len(data):
            sending.waiting.appendleft(data[size:])
        flags = END_STREAM if sending.is_sent else 0
        self.frames.append(frame(Kind.DATA, flags, stream_id, bytes(data[:size])))

    def forget(self, stream_id: int) -> None:
        """Drop a stream with what waits of it."""
        self._ready.pop(stream_id, None)
        self.streams.pop(stream_id, None)

    # -- the peer's windows

    def widen(self, stream_id: int, more: int) -> None:
        """The peer takes so many more bytes on a stream, or in all (0); of a stream that is gone it says nothing."""
        if not stream_id:
            self._window += more
            if self._window > MAX_WINDOW:
                violated(ErrorCode.FLOW_CONTROL_ERROR, 'a window past 2**31 - 1 bytes (6.9.1)')
        elif stream_id in self.streams:
            self._widen(stream_id, self.streams[stream_id], more)
        self.send_waiting()

    def set_stream_window(self, window: int) -> None:
        """Streams begin with another window, and those that are open are changed by the difference.

        Nothing is sent yet: another setting of the same frame may say how.
        """
        more, self.stream_window = window - self.stream_window, window
        for stream_id, sending in self.streams.items():
            self._widen(stream_id, sending, more)

    def _widen(self, stream_id: int, sending: SendStream, more: int) -> None:
        sending.window += more
        if sending.window > MAX_WINDOW:
            violated(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window past 2**31 - 1 bytes (6.9.1)")
        if sending.waiting:
            self._ready[stream_id] = sending
