"""The client's side of an HTTP/2 connection, as a state machine.

Whatever breaks a rule ends the connection with a ``ProtocolError`` that names the rule.  A fault of a single stream is
taken for the connection's as well, which the standard allows (5.4.2).  Everything a peer can make us hold is bounded.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn

from getc.errors import ProtocolError
from getc.grpc.http2.events import (
    AnswerReceived,
    DataReceived,
    Event,
    GoAwayReceived,
    HeadersReceived,
    PingAcknowledged,
    SettingsReceived,
    StreamNotTaken,
    StreamReset,
)
from getc.grpc.http2.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEAD_SIZE,
    MAX_FRAME_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    ErrorCode,
    Kind,
    Setting,
    Violation,
    frame,
    settings_payload,
    unpadded,
    violated,
)
from getc.grpc.http2.headers import MAX_BLOCK, NO_TABLE, HeaderDecoder, OpenBlock
from getc.grpc.http2.receive import ReceiveState
from getc.grpc.http2.send import SendState

__all__ = ['Http2Connection']

DATA: Final = int(Kind.DATA)
HEADERS: Final = int(Kind.HEADERS)
END: Final = END_HEADERS | END_STREAM

STREAM_WINDOW: Final = 1024 * 1024
"""Bytes of one answer that may come before they are taken."""

CONNECTION_WINDOW: Final = 16 * 1024 * 1024
"""The same for all together.  It opens again as bytes come: what nobody takes counts for its stream only, so a slow
reader of one stream does not hold up the others."""

MAX_QUEUED_ANSWERS: Final = 1000
"""Acknowledgements that wait for a peer who asks for them and does not read."""

MAX_IDLE_FRAMES: Final = 10_000
"""Frames in a row that bring nothing of an answer."""


class Http2Connection:
    """The client's side of a connection.

    Args:
        stream_window: Bytes of one answer that may come before they are acknowledged; 65,535 or more.
        connection_window: Bytes of all answers that may be on their way; more than 65,535.

    Attributes:
        max_streams: Streams that the peer allows at a time.
        has_settings: The peer has told its settings, with which it begins.

    Example::

        connection = Http2Connection()
        stream_id = connection.open(block, message)
        sock.sendall(connection.take())
        for event in connection.receive(sock.recv(65536)): ...
    """

    def __init__(self, *, stream_window: int = STREAM_WINDOW, connection_window: int = CONNECTION_WINDOW) -> None:
        if not DEFAULT_WINDOW <= stream_window <= MAX_WINDOW or not DEFAULT_WINDOW < connection_window <= MAX_WINDOW:
            raise ValueError(f'windows are {DEFAULT_WINDOW} to {MAX_WINDOW} bytes')
        self.max_streams = MAX_STREAM_ID
        self._is_going = False  # GOAWAY was sent or received
        self._told = -1  # the code of our GOAWAY: after a farewell a fault is still told, but not the other way round
        self._broken = ''  # the rule that the peer broke
        self._last_allowed = MAX_STREAM_ID
        self._outbox = SendState()
        self._inbox = ReceiveState(stream_window, connection_window)
        self._decoder = HeaderDecoder(MAX_BLOCK)
        self._tail = b''
        self._block: OpenBlock | None = None
        self.has_settings = False
        self._pings: deque[bytes] = deque()
        self._answers = 0
        self._idle_frames = 0
        self._handlers: dict[int, Callable[[int, int, bytes], Event | None]] = {
            Kind.DATA: self._on_data,
            Kind.HEADERS: self._on_headers,
            Kind.PRIORITY: self._on_priority,
            Kind.RST_STREAM: self._on_reset,
            Kind.SETTINGS: self._on_settings,
            Kind.PUSH_PROMISE: self._on_push,
            Kind.PING: self._on_ping,
            Kind.WINDOW_UPDATE: self._on_window_update,
            Kind.CONTINUATION: self._on_continuation,
        }
        settings = {Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: stream_window}
        settings[Setting.MAX_HEADER_LIST_SIZE] = MAX_BLOCK
        self._outbox.frames += [PREFACE, frame(Kind.SETTINGS, 0, 0, settings_payload(settings))]
        self._widen(0, connection_window - DEFAULT_WINDOW)

    # -- what we send

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._inbox.streams)

    @property
    def last_stream_id(self) -> int:
        """The latest stream that was opened; 0 before."""
        return self._inbox.last_id

    @property
    def can_open(self) -> bool:
        """True if the peer takes one more stream now."""
        inbox = self._inbox
        return len(inbox.streams) < self.max_streams and not self._is_going and inbox.last_id < MAX_STREAM_ID

    @property
    def is_leaving(self) -> bool:
        """True if it never will again: after a GOAWAY, or when all stream numbers are used."""
        return self._is_going or self._inbox.last_id >= MAX_STREAM_ID

    @property
    def has_outgoing(self) -> bool:
        """True if there are bytes to send."""
        return bool(self._outbox.frames)

    def take(self) -> bytes:
        """The bytes to send now; each is given out once."""
        self._answers = 0
        return self._outbox.take()

    def open(self, block: bytes, data: bytes = b'', *, end: bool = True) -> int:
        """Open a stream with these headers and this data, and return its number.

        Args:
            block: As :func:`~getc.grpc.http2.headers.encode_fields` makes it.
            data: What follows them.
            end: Nothing more will follow.

        Returns:
            The number; 0 if the peer takes no stream now.
        """
        if not self.can_open:
            return 0
        self._idle_frames = 0
        stream_id = self._inbox.open()
        self._outbox.open(stream_id, block if stream_id > 1 else NO_TABLE + block, data, end)
        return stream_id

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send data on a stream, or keep it until the peer's windows open.  Nothing if the stream is gone.

        Raises:
            RuntimeError: Our side of it has ended.
        """
        if stream_id not in self._inbox.streams:
            return
        sending = self._outbox.streams.get(stream_id)
        if sending is None or sending.has_ended:
            raise RuntimeError(f'our side of stream {stream_id} has ended')
        self._idle_frames = 0
        self._outbox.send(stream_id, sending, data, end)

    def unsent(self, stream_id: int) -> int:
        """Bytes of a stream that wait for the peer's windows."""
        sending = self._outbox.streams.get(stream_id)
        return 0 if sending is None else sending.unsent

    def reset(self, stream_id: int, code: int = ErrorCode.CANCEL) -> None:
        """End a stream.  What still comes of it is dropped.  Nothing if it is gone."""
        if stream_id in self._inbox.streams:
            self._inbox.cancel(stream_id)
            self._outbox.forget(stream_id)
            self._send_reset(stream_id, code)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """So many bytes of a stream's data were taken: as many more may come."""
        self._widen(stream_id, self._inbox.take(stream_id, size))

    def ping(self, payload: bytes) -> None:
        """Ask for a :class:`PingAcknowledged` with these 8 bytes."""
        if len(payload) != 8:
            raise ValueError('a ping has 8 bytes')
        self._pings.append(payload)
        self._outbox.frames.append(frame(Kind.PING, 0, 0, payload))

    def shut_down(self, code: int = ErrorCode.NO_ERROR) -> None:
        """Tell the peer that this is the end, and why."""
        self._is_going = True
        if code > self._told:
            self._told = code
            self._outbox.frames.append(frame(Kind.GOAWAY, 0, 0, struct.pack('>II', 0, code)))

    def _send_reset(self, stream_id: int, code: int) -> None:
        self._outbox.frames.append(frame(Kind.RST_STREAM, 0, stream_id, code.to_bytes(4, 'big')))

    def _widen(self, stream_id: int, more: int) -> None:
        if more:
            self._outbox.frames.append(frame(Kind.WINDOW_UPDATE, 0, stream_id, more.to_bytes(4, 'big')))

    def _forget(self, stream_id: int) -> None:
        self._inbox.end(stream_id)
        self._outbox.forget(stream_id)

    # -- what we receive

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes of the peer, in pieces of any size, and return what they tell.

        Raises:
            ProtocolError: The peer breaks a rule, or did so before.  What is to be sent says so to the peer; then it
                is over, and what these bytes told before the fault is lost.
        """
        if self._broken:
            raise ProtocolError(self._broken)
        if self._tail:
            data = self._tail + data
        events: list[Event] = []
        at, end = 0, len(data)
        try:
            while end - at >= HEAD_SIZE:
                word, flags, stream_id = HEAD.unpack_from(data, at)
                length, kind = word >> 8, word & 0xFF
                if length > DEFAULT_FRAME_SIZE:
                    violated(ErrorCode.FRAME_SIZE_ERROR, f'a frame of more than {DEFAULT_FRAME_SIZE} bytes (4.2)')
                begin = at + HEAD_SIZE
                if end - begin < length:
                    break
                at = begin + length
                if kind == HEADERS and flags == END_HEADERS:
                    last = self._take_answer(stream_id, data, begin, at, events)
                    if last:
                        at = last
                        continue
                self._on_frame(kind, flags, stream_id & MAX_STREAM_ID, data[begin:at], events)
        except Violation as violation:
            self._tail = b''
            self._broken = f'HTTP/2: {violation}'
            self.shut_down(violation.code)
            raise ProtocolError(self._broken) from None
        self._tail = data[at:]
        return events

    def _take_answer(self, stream_id: int, data: bytes, begin: int, second: int, events: list[Event]) -> int:
        """Take a whole answer that comes as most do, and return where it ends; 0 if something else lies there.

        That is known headers, a frame of data and known trailers, one after the other.  Each of them would be taken for
        itself as well: this is a shorter way to the same, and it leaves all that is else to the longer one.

        Args:
            stream_id: Its stream, as the frame says.
            data: What was received.
            begin: Where its headers begin in there.
            second: Where they end, and another frame may begin.
            events: What was told, and will be.
        """
        end = len(data) - HEAD_SIZE
        stream = self._inbox.streams.get(stream_id)
        if stream is None or stream.has_headers or second > end or self._block is not None or not self.has_settings:
            return 0
        word, flags, same_id = HEAD.unpack_from(data, second)
        size = word >> 8
        third = second + HEAD_SIZE + size
        if word & 0xFF != DATA or flags or same_id != stream_id or third > end or size > DEFAULT_FRAME_SIZE:
            return 0
        word, flags, same_id = HEAD.unpack_from(data, third)
        last: int = third + HEAD_SIZE + (word >> 8)
        if word & 0xFF != HEADERS or flags != END or same_id != stream_id or stream_id in self._outbox.streams:
            return 0
        known = self._decoder.remembered
        head, trailers = known.get(data[begin:second]), known.get(data[third + HEAD_SIZE : last])
        if head is None or trailers is None or head.status != 200 or trailers.status is not None or last > len(data):
            return 0
        self._idle_frames = 0
        del self._inbox.streams[stream_id]
        more = self._inbox.count(size)
        if more:
            self._widen(0, more)
        events.append(AnswerReceived(stream_id, head, data[second + HEAD_SIZE : third], trailers))
        return last

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if self._block is not None and kind != Kind.CONTINUATION:
            violated(ErrorCode.PROTOCOL_ERROR, 'a header block that is not continued at once (4.3)')
        if not self.has_settings and (kind != Kind.SETTINGS or flags & ACK):
            violated(ErrorCode.PROTOCOL_ERROR, 'a first frame that is not SETTINGS (3.4)')
        if kind == Kind.GOAWAY:
            events += self._on_goaway(stream_id, payload)
            return
        handler = self._handlers.get(kind)
        if handler is None:  # a kind that we do not know is ignored (4.1)
            self._count_idle()
            return
        event = handler(flags, stream_id, payload)
        if event is not None:
            events.append(event)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        size = len(payload)
        ends = flags & END_STREAM != 0
        data = unpadded(payload) if flags & PADDED else payload
        self._widen(0, self._inbox.count(size))
        stream = self._inbox.find(stream_id, 'DATA')
        if stream is None:
            self._count_idle()
            return None
        stream.check_data(size)
        if data or ends:
            self._idle_frames = 0
        else:
            self._count_idle()
        if ends:
            self._on_end(stream_id)
        return DataReceived(stream_id, data, size, ends) if stream.is_open else None

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if flags & PADDED:
            payload = unpadded(payload)
        if flags & PRIORITY:
            if len(payload) < 5:
                violated(ErrorCode.FRAME_SIZE_ERROR, 'HEADERS shorter than its priority (6.2)')
            payload = payload[5:]
        self._inbox.check_opened(stream_id, 'HEADERS')
        ends = flags & END_STREAM != 0
        if flags & END_HEADERS:
            return self._on_block(stream_id, payload, ends)
        self._block = OpenBlock(stream_id, ends, payload)
        return None

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        block = self._block
        if block is None or block.stream_id != stream_id:
            violated(ErrorCode.PROTOCOL_ERROR, 'a CONTINUATION of nothing (6.10)')
        block.add(payload)
        if not flags & END_HEADERS:
            return None
        self._block = None
        return self._on_block(stream_id, block.data, block.ends)

    def _on_block(self, stream_id: int, block: bytes, ends: bool) -> Event | None:
        fields, status = self._decoder.decode(block)  # also of streams that are gone: it may change the table
        stream = self._inbox.find(stream_id, 'HEADERS')
        if stream is None or not stream.check_block(status, ends):
            self._count_idle()
            return None
        self._idle_frames = 0
        if ends:
            self._on_end(stream_id)
        return HeadersReceived(stream_id, status, fields, ends) if stream.is_open else None

    def _on_end(self, stream_id: int) -> None:
        """The peer has ended its side: nobody waits for the rest of ours."""
        sending = self._outbox.streams.get(stream_id)
        if sending is not None and not sending.is_sent:
            self._send_reset(stream_id, ErrorCode.NO_ERROR)
        self._forget(stream_id)

    def _on_reset(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if len(payload) != 4:
            violated(ErrorCode.FRAME_SIZE_ERROR, 'RST_STREAM without its 4 bytes (6.4)')
        self._inbox.check_opened(stream_id, 'RST_STREAM')
        was_open = stream_id in self._inbox.streams
        self._forget(stream_id)
        if was_open:
            return StreamReset(stream_id, int.from_bytes(payload, 'big'))
        self._count_idle()
        return None

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if stream_id:
            violated(ErrorCode.PROTOCOL_ERROR, 'SETTINGS on a stream (6.5)')
        if flags & ACK:
            if payload:
                violated(ErrorCode.FRAME_SIZE_ERROR, 'an acknowledgement of SETTINGS that says something (6.5)')
            self._count_idle()
            return None
        if len(payload) % 6:
            violated(ErrorCode.FRAME_SIZE_ERROR, 'SETTINGS of a length that is no multiple of 6 (6.5)')
        self.has_settings = True
        self._answer(Kind.SETTINGS, b'')
        before = self.max_streams
        for setting, value in dict(struct.iter_unpack('>HI', payload)).items():  # said twice, the last one counts
            self._apply(setting, value)
        self._outbox.send_waiting()
        return SettingsReceived(self.max_streams) if self.max_streams != before else None

    def _apply(self, setting: int, value: int) -> None:
        # HEADER_TABLE_SIZE needs nothing: our blocks use no table.  MAX_HEADER_LIST_SIZE is advice.
        if setting == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                violated(ErrorCode.FLOW_CONTROL_ERROR, 'an initial window past 2**31 - 1 bytes (6.5.2)')
            self._outbox.set_stream_window(value)
        elif setting == Setting.MAX_FRAME_SIZE:
            if not DEFAULT_FRAME_SIZE <= value <= MAX_FRAME_SIZE:
                violated(ErrorCode.PROTOCOL_ERROR, f'a greatest frame of {value} bytes (6.5.2)')
            self._outbox.frame_size = value
        elif setting == Setting.MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif setting == Setting.ENABLE_PUSH and value:
            violated(ErrorCode.PROTOCOL_ERROR, 'a server that enables push (6.5.2)')

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if stream_id:
            violated(ErrorCode.PROTOCOL_ERROR, 'PING on a stream (6.7)')
        if len(payload) != 8:
            violated(ErrorCode.FRAME_SIZE_ERROR, 'PING without its 8 bytes (6.7)')
        if not flags & ACK:
            self._answer(Kind.PING, payload)
            return None
        if not self._pings or self._pings[0] != payload:
            self._count_idle()
            return None
        self._pings.popleft()
        self._idle_frames = 0
        return PingAcknowledged(payload)

    def _answer(self, kind: Kind, payload: bytes) -> None:
        self._count_idle()
        self._answers += 1
        if self._answers > MAX_QUEUED_ANSWERS:
            violated(ErrorCode.ENHANCE_YOUR_CALM, f'{kind.name} is asked for again and again, and no answer is read')
        self._outbox.frames.append(frame(kind, ACK, 0, payload))

    def _on_goaway(self, stream_id: int, payload: bytes) -> list[Event]:
        if stream_id:
            violated(ErrorCode.PROTOCOL_ERROR, 'GOAWAY on a stream (6.8)')
        if len(payload) < 8:
            violated(ErrorCode.FRAME_SIZE_ERROR, 'GOAWAY without its 8 bytes (6.8)')
        last, code = struct.unpack_from('>II', payload)
        last &= MAX_STREAM_ID
        if last > self._last_allowed:
            violated(ErrorCode.PROTOCOL_ERROR, 'GOAWAY that takes up streams again which it gave up (6.8)')
        self._count_idle()
        self._last_allowed = last
        self._is_going = True
        events: list[Event] = [GoAwayReceived(last, code, payload[8:])]
        for refused in [number for number in self._inbox.streams if number > last]:
            self._forget(refused)
            events.append(StreamNotTaken(refused))
        return events

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if len(payload) != 4:
            violated(ErrorCode.FRAME_SIZE_ERROR, 'WINDOW_UPDATE without its 4 bytes (6.9)')
        more = int.from_bytes(payload, 'big') & MAX_WINDOW
        if not more:
            violated(ErrorCode.PROTOCOL_ERROR, 'WINDOW_UPDATE by nothing (6.9)')
        self._count_idle()
        if stream_id:
            self._inbox.check_opened(stream_id, 'WINDOW_UPDATE')
        self._outbox.widen(stream_id, more)
        return None

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if not stream_id:
            violated(ErrorCode.PROTOCOL_ERROR, 'PRIORITY on no stream (6.3)')
        if len(payload) != 5:
            violated(ErrorCode.FRAME_SIZE_ERROR, 'PRIORITY without its 5 bytes (6.3)')
        self._count_idle()
        return None

    def _on_push(self, flags: int, stream_id: int, payload: bytes) -> NoReturn:
        violated(ErrorCode.PROTOCOL_ERROR, 'PUSH_PROMISE, which we do not take (8.4)')

    def _count_idle(self) -> None:
        """One more frame that brought nothing of an answer."""
        self._idle_frames += 1
        if self._idle_frames > MAX_IDLE_FRAMES:
            violated(ErrorCode.ENHANCE_YOUR_CALM, f'{MAX_IDLE_FRAMES} frames in a row that bring nothing')
