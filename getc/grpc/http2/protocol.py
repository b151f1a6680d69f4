"""The client side of an HTTP/2 connection as a state machine.

Every violation of a rule ends the connection with a ``ProtocolError`` that names the rule, also one that concerns a
single stream, as RFC 9113 allows (5.4.2).  All memory that a peer can make the client allocate is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from getc.errors import ProtocolError
from getc.grpc.http2.control import ConnectionControl
from getc.grpc.http2.events import DataReceived, Event, HeadersReceived, ResponseReceived, StreamReset
from getc.grpc.http2.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    FRAME_HEADER_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    ErrorCode,
    FrameType,
    Setting,
    Violation,
    encode_frame,
    encode_settings,
    raise_violation,
    strip_padding,
)
from getc.grpc.http2.headers import EMPTY_TABLE, MAX_BLOCK, HeaderDecoder, UnfinishedBlock
from getc.grpc.http2.receive import ReceiveState
from getc.grpc.http2.send import SendState

__all__ = ['Http2Connection']

DATA: Final = int(FrameType.DATA)
HEADERS: Final = int(FrameType.HEADERS)
END_HEADERS_AND_STREAM: Final = END_HEADERS | END_STREAM

STREAM_WINDOW: Final = 1024 * 1024
"""Bytes of one response that the peer may send before they are consumed."""

CONNECTION_WINDOW: Final = 16 * 1024 * 1024
"""Bytes of all responses in flight.  They are granted again when they are received: data that are not consumed count
for the window of their stream only, so that a slow reader of one stream does not block the others."""


class Http2Connection:
    """The client side of a connection.

    Args:
        stream_window: Bytes of one response that the peer may send before they are acknowledged; at least 65,535.
        connection_window: Bytes of all responses in flight; more than 65,535.

    Attributes:
        last_stream_id: Number of the stream that was opened last; 0 before.
        outgoing_frames: Frames to send, which :meth:`take` removes.

    Example::

        connection = Http2Connection()
        stream_id = connection.open(block, message)
        sock.sendall(connection.take())
        for event in connection.receive(sock.recv(65536)): ...
    """

    def __init__(self, *, stream_window: int = STREAM_WINDOW, connection_window: int = CONNECTION_WINDOW) -> None:
        if not DEFAULT_WINDOW <= stream_window <= MAX_WINDOW or not DEFAULT_WINDOW < connection_window <= MAX_WINDOW:
            raise ValueError(f'windows must be {DEFAULT_WINDOW} to {MAX_WINDOW} bytes')
        self.last_stream_id = 0
        self._violation = ''  # the message about the rule that the peer has violated
        self._sending = SendState()
        self.outgoing_frames = self._sending.frames
        self._receiving = ReceiveState(stream_window, connection_window)
        self._control = ConnectionControl(self._sending, self._receiving)
        self._decoder = HeaderDecoder(MAX_BLOCK)
        self._tail = b''  # the beginning of an incomplete frame
        self._block: UnfinishedBlock | None = None
        self._handlers: dict[int, Callable[[int, int, bytes], Event | None]] = {
            FrameType.DATA: self._on_data,
            FrameType.HEADERS: self._on_headers,
            FrameType.PRIORITY: self._control.on_priority,
            FrameType.RST_STREAM: self._on_reset,
            FrameType.SETTINGS: self._control.on_settings,
            FrameType.PUSH_PROMISE: self._control.on_push_promise,
            FrameType.PING: self._control.on_ping,
            FrameType.WINDOW_UPDATE: self._control.on_window_update,
            FrameType.CONTINUATION: self._on_continuation,
        }
        settings = {Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: stream_window}
        settings[Setting.MAX_HEADER_LIST_SIZE] = MAX_BLOCK
        self._sending.frames += [PREFACE, encode_frame(FrameType.SETTINGS, 0, 0, encode_settings(settings))]
        self._send_window_update(0, connection_window - DEFAULT_WINDOW)

    # -- state

    @property
    def max_streams(self) -> int:
        """Streams that the peer allows to be open at a time."""
        return self._control.max_streams

    @property
    def has_settings(self) -> bool:
        """True once the SETTINGS were received with which a server begins."""
        return self._control.has_settings

    @property
    def can_open(self) -> bool:
        """True if a stream can be opened now."""
        control, receiving = self._control, self._receiving
        return (
            len(receiving.streams) < control.max_streams
            and not control.is_going_away
            and receiving.last_id < MAX_STREAM_ID
        )

    @property
    def is_draining(self) -> bool:
        """True if no stream can be opened any more: after a GOAWAY, or when all stream numbers are used."""
        return self._control.is_going_away or self._receiving.last_id >= MAX_STREAM_ID

    # -- sending

    def take(self) -> bytes:
        """Return the bytes to send now, and remove them."""
        self._control.queued_acks = 0
        data = b''.join(self.outgoing_frames)
        self.outgoing_frames.clear()
        return data

    def open(self, block: bytes, data: bytes = b'', *, end: bool = True) -> int:
        """Open a stream and return its number.

        Args:
            block: The header block, from :func:`~getc.grpc.http2.headers.encode_fields`.
            data: The first data.
            end: No more data will follow.

        Returns:
            The number of the stream; 0 if none can be opened now.
        """
        control, receiving = self._control, self._receiving
        # The same as `can_open`, without its frame.
        if len(receiving.streams) >= control.max_streams or control.is_going_away or receiving.last_id >= MAX_STREAM_ID:
            return 0
        control.idle_frames = 0
        self.last_stream_id = stream_id = receiving.open()
        self._sending.open(stream_id, block if stream_id > 1 else EMPTY_TABLE + block, data, end)
        return stream_id

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send data on a stream, or keep the data until the peer's windows grow.  Closed streams are ignored.

        Raises:
            RuntimeError: The end of the request was sent before.
        """
        if stream_id not in self._receiving.streams:
            return
        stream = self._sending.streams.get(stream_id)
        if stream is None or stream.has_ended:
            raise RuntimeError(f'cannot send on stream {stream_id}: END_STREAM was sent')
        self._control.idle_frames = 0
        self._sending.send(stream_id, stream, data, end)

    def unsent(self, stream_id: int) -> int:
        """Return the bytes of a stream that wait for the peer's windows."""
        stream = self._sending.streams.get(stream_id)
        return 0 if stream is None else stream.unsent

    def reset(self, stream_id: int, code: int = ErrorCode.CANCEL) -> None:
        """Reset a stream, and drop what the peer still sends on it.  Closed streams are ignored."""
        if stream_id in self._receiving.streams:
            self._receiving.cancel(stream_id)
            self._sending.drop(stream_id)
            self._send_reset(stream_id, code)

    def acknowledge(self, stream_id: int, size: int) -> bool:
        """Grant the peer ``size`` more bytes of window on a stream, because ``size`` bytes were consumed.

        Returns:
            True if a WINDOW_UPDATE is to be sent: it is once half of the window was consumed.
        """
        increment = self._receiving.consume(stream_id, size)
        if increment:
            self._send_window_update(stream_id, increment)
        return increment > 0

    def ping(self, payload: bytes) -> None:
        """Send a PING with these 8 bytes."""
        self._control.ping(payload)

    def shut_down(self, code: int = ErrorCode.NO_ERROR) -> None:
        """Send GOAWAY, unless one with the same or a higher code was sent before."""
        self._control.shut_down(code)

    def _send_reset(self, stream_id: int, code: int) -> None:
        self._sending.frames.append(encode_frame(FrameType.RST_STREAM, 0, stream_id, code.to_bytes(4, 'big')))

    def _send_window_update(self, stream_id: int, increment: int) -> None:
        if increment:
            payload = increment.to_bytes(4, 'big')
            self._sending.frames.append(encode_frame(FrameType.WINDOW_UPDATE, 0, stream_id, payload))

    def _drop_stream(self, stream_id: int) -> None:
        self._receiving.end(stream_id)
        self._sending.drop(stream_id)

    # -- receiving

    def receive(self, data: bytes) -> list[Event]:
        """Process bytes of the peer, in chunks of any size, and return their events.

        Raises:
            ProtocolError: The peer has violated a rule, with these bytes or before.  A GOAWAY is to be sent; the events
                of these bytes before the violation are lost.
        """
        if self._violation:
            raise ProtocolError(self._violation)
        if self._tail:
            data = self._tail + data
        events: list[Event] = []
        at, end = 0, len(data)
        try:
            while end - at >= FRAME_HEADER_SIZE:
                word, flags, stream_id = FRAME_HEADER.unpack_from(data, at)
                length, frame_type = word >> 8, word & 0xFF
                if length > DEFAULT_FRAME_SIZE:
                    raise_violation(ErrorCode.FRAME_SIZE_ERROR, f'frame larger than {DEFAULT_FRAME_SIZE} bytes (4.2)')
                begin = at + FRAME_HEADER_SIZE
                if end - begin < length:
                    break
                at = begin + length
                if frame_type == HEADERS and flags == END_HEADERS:
                    response_end = self._take_response(stream_id, data, begin, at, events)
                    if response_end:
                        at = response_end
                        continue
                self._on_frame(frame_type, flags, stream_id & MAX_STREAM_ID, data[begin:at], events)
        except Violation as violation:
            self._tail = b''
            self._violation = f'HTTP/2: {violation}'
            self.shut_down(violation.code)
            raise ProtocolError(self._violation) from None
        self._tail = data[at:]
        return events

    def _take_response(self, stream_id: int, data: bytes, begin: int, second: int, events: list[Event]) -> int:
        """Take a complete response of the usual form, and return its end; 0 if there is something else.

        The usual form is cached headers, one DATA frame and cached trailers, without other frames in between.  Frame by
        frame they would lead to the same: this is a shortcut, and everything else goes the general way.

        Args:
            stream_id: The stream of the HEADERS frame.
            data: The bytes received.
            begin: Where the payload of the HEADERS frame begins.
            second: Where it ends, and the next frame may begin.
            events: The event is appended here.
        """
        end = len(data) - FRAME_HEADER_SIZE
        control = self._control
        stream = self._receiving.streams.get(stream_id)
        if stream is None or stream.has_headers or second > end or self._block is not None or not control.has_settings:
            return 0
        word, flags, same_id = FRAME_HEADER.unpack_from(data, second)
        size = word >> 8
        third = second + FRAME_HEADER_SIZE + size
        if word & 0xFF != DATA or flags or same_id != stream_id or third > end or size > DEFAULT_FRAME_SIZE:
            return 0
        word, flags, same_id = FRAME_HEADER.unpack_from(data, third)
        response_end: int = third + FRAME_HEADER_SIZE + (word >> 8)
        if word & 0xFF != HEADERS or flags != END_HEADERS_AND_STREAM or same_id != stream_id:
            return 0
        if stream_id in self._sending.streams or response_end > len(data):
            return 0
        cached = self._decoder.cached
        headers, trailers = cached.get(data[begin:second]), cached.get(data[third + FRAME_HEADER_SIZE : response_end])
        if headers is None or trailers is None or headers.status != 200 or trailers.status is not None:
            return 0
        control.idle_frames = 0
        del self._receiving.streams[stream_id]
        increment = self._receiving.on_data(size)
        if increment:
            self._send_window_update(0, increment)
        events.append(ResponseReceived(stream_id, headers, data[second + FRAME_HEADER_SIZE : third], trailers))
        return response_end

    def _on_frame(self, frame_type: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if self._block is not None and frame_type != FrameType.CONTINUATION:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'header block is interrupted by another frame (4.3)')
        if not self._control.has_settings and (frame_type != FrameType.SETTINGS or flags & ACK):
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'first frame is not SETTINGS (3.4)')
        if frame_type == FrameType.GOAWAY:
            events += self._control.on_goaway(stream_id, payload)
            return
        handler = self._handlers.get(frame_type)
        if handler is None:  # unknown types are ignored (4.1)
            self._control.count_idle()
            return
        event = handler(flags, stream_id, payload)
        if event is not None:
            events.append(event)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        size = len(payload)
        ends = flags & END_STREAM != 0
        data = strip_padding(payload) if flags & PADDED else payload
        increment = self._receiving.on_data(size)
        if increment:
            self._send_window_update(0, increment)
        stream = self._receiving.find(stream_id, 'DATA')
        if stream is None:
            self._control.count_idle()
            return None
        stream.check_data(size)
        if data or ends:
            self._control.idle_frames = 0
        else:
            self._control.count_idle()
        if ends:
            self._on_end(stream_id)
        return DataReceived(stream_id, data, size, ends) if stream.is_open else None

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if flags & PADDED:
            payload = strip_padding(payload)
        if flags & PRIORITY:
            if len(payload) < 5:
                raise_violation(ErrorCode.FRAME_SIZE_ERROR, 'HEADERS shorter than its priority fields (6.2)')
            payload = payload[5:]
        self._receiving.check_opened(stream_id, 'HEADERS')
        ends = flags & END_STREAM != 0
        if flags & END_HEADERS:
            return self._on_block(stream_id, payload, ends)
        self._block = UnfinishedBlock(stream_id, ends, payload)
        return None

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        block = self._block
        if block is None or block.stream_id != stream_id:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'CONTINUATION without a header block (6.10)')
        block.add(payload)
        if not flags & END_HEADERS:
            return None
        self._block = None
        return self._on_block(stream_id, block.data, block.ends)

    def _on_block(self, stream_id: int, block: bytes, ends: bool) -> Event | None:
        fields, status = self._decoder.decode(block)  # also of closed streams: the block may change the dynamic table
        stream = self._receiving.find(stream_id, 'HEADERS')
        if stream is None or not stream.check_block(status, ends):
            self._control.count_idle()
            return None
        self._control.idle_frames = 0
        if ends:
            self._on_end(stream_id)
        return HeadersReceived(stream_id, status, fields, ends) if stream.is_open else None

    def _on_end(self, stream_id: int) -> None:
        """Close a stream whose response is complete; the rest of the request is not needed any more."""
        stream = self._sending.streams.get(stream_id)
        if stream is not None and not stream.is_sent:
            self._send_reset(stream_id, ErrorCode.NO_ERROR)
        self._drop_stream(stream_id)

    def _on_reset(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if len(payload) != 4:
            raise_violation(ErrorCode.FRAME_SIZE_ERROR, 'RST_STREAM is not 4 bytes long (6.4)')
        self._receiving.check_opened(stream_id, 'RST_STREAM')
        was_open = stream_id in self._receiving.streams
        self._drop_stream(stream_id)
        if was_open:
            return StreamReset(stream_id, int.from_bytes(payload, 'big'))
        self._control.count_idle()
        return None
