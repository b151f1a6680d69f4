"""Frames about the whole connection: SETTINGS, PING, GOAWAY, WINDOW_UPDATE and PRIORITY, and limits for floods."""

from __future__ import annotations

import struct
from collections import deque
from typing import Final, NoReturn

from getc.grpc.http2.events import Event, GoAwayReceived, SettingsReceived, StreamUnprocessed
from getc.grpc.http2.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    FRAME_HEADER,
    MAX_FRAME_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW,
    ErrorCode,
    FrameType,
    Setting,
    encode_frame,
    raise_violation,
)
from getc.grpc.http2.receive import ReceiveState
from getc.grpc.http2.send import SendState

__all__ = ['ConnectionControl']

MAX_QUEUED_ACKS: Final = 1000
"""Acknowledgements of PING and SETTINGS that wait for a peer that does not read them."""

MAX_IDLE_FRAMES: Final = 10_000
"""Consecutive frames that are not part of a response."""


class ConnectionControl:
    """The state of a connection apart from its streams.

    The handlers (``on_...``) take flags, stream and payload of a frame, and raise ``Violation``.

    Args:
        sending: Gets the frames to send, and the windows and frame size of the peer.
        receiving: The streams that a GOAWAY may end.

    Attributes:
        max_streams: Streams that the peer allows to be open at a time.
        has_settings: The first SETTINGS of the peer were received.
        is_going_away: GOAWAY was sent or received.
        idle_frames: Consecutive received frames that are not part of a response.
        queued_acks: Acknowledgements that were queued since the last bytes were taken for sending.
    """

    __slots__ = (
        '_goaway_code',
        '_last_processed',
        '_pings',
        '_receiving',
        '_sending',
        'has_settings',
        'idle_frames',
        'is_going_away',
        'max_streams',
        'queued_acks',
    )

    def __init__(self, sending: SendState, receiving: ReceiveState) -> None:
        self.max_streams = MAX_STREAM_ID
        self.has_settings = False
        self.is_going_away = False
        self.idle_frames = 0
        self.queued_acks = 0
        self._sending = sending
        self._receiving = receiving
        self._goaway_code = -1  # of the last GOAWAY sent: NO_ERROR may be followed by one with an error
        self._last_processed = MAX_STREAM_ID
        self._pings: deque[bytes] = deque()

    def ping(self, payload: bytes) -> None:
        """Send a PING with these 8 bytes."""
        if len(payload) != 8:
            raise ValueError('the payload of a ping must be 8 bytes')
        self._pings.append(payload)
        self._sending.frames.append(encode_frame(FrameType.PING, 0, 0, payload))

    def shut_down(self, code: int) -> None:
        """Send GOAWAY, unless one with the same or a higher code was sent before."""
        self.is_going_away = True
        if code > self._goaway_code:
            self._goaway_code = code
            self._sending.frames.append(encode_frame(FrameType.GOAWAY, 0, 0, struct.pack('>II', 0, code)))

    def count_idle(self) -> None:
        """Count a frame that is not part of a response.

        Raises:
            Violation: There were too many in a row.
        """
        self.idle_frames += 1
        if self.idle_frames > MAX_IDLE_FRAMES:
            self._raise_idle()

    def _raise_idle(self) -> NoReturn:
        raise_violation(ErrorCode.ENHANCE_YOUR_CALM, f'{MAX_IDLE_FRAMES} frames in a row without effect')

    # -- received frames

    def on_settings(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        """Apply and acknowledge settings."""
        if stream_id:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'SETTINGS on a stream (6.5)')
        if flags & ACK:
            if payload:
                raise_violation(ErrorCode.FRAME_SIZE_ERROR, 'acknowledgement of SETTINGS has a payload (6.5)')
            self.count_idle()
            return None
        if len(payload) % 6:
            raise_violation(ErrorCode.FRAME_SIZE_ERROR, 'length of SETTINGS is not a multiple of 6 (6.5)')
        self.has_settings = True
        self._acknowledge(FrameType.SETTINGS, b'')
        before = self.max_streams
        for setting, value in dict(struct.iter_unpack('>HI', payload)).items():  # the last value of a setting counts
            self._apply(setting, value)
        self._sending.send_waiting()
        return SettingsReceived(self.max_streams) if self.max_streams != before else None

    def _apply(self, setting: int, value: int) -> None:
        # HEADER_TABLE_SIZE: requests use no dynamic table.  MAX_HEADER_LIST_SIZE is advisory.
        if setting == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise_violation(
                    ErrorCode.FLOW_CONTROL_ERROR, 'SETTINGS_INITIAL_WINDOW_SIZE larger than 2**31 - 1 (6.5.2)'
                )
            self._sending.set_stream_window(value)
        elif setting == Setting.MAX_FRAME_SIZE:
            if not DEFAULT_FRAME_SIZE <= value <= MAX_FRAME_SIZE:
                raise_violation(ErrorCode.PROTOCOL_ERROR, f'SETTINGS_MAX_FRAME_SIZE of {value} bytes (6.5.2)')
            self._sending.frame_size = value
        elif setting == Setting.MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif setting == Setting.ENABLE_PUSH and value:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'server enables push (6.5.2)')

    def on_ping(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        """Acknowledge a PING of the peer, or accept the acknowledgement of a PING of the client."""
        if stream_id:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'PING on a stream (6.7)')
        if len(payload) != 8:
            raise_violation(ErrorCode.FRAME_SIZE_ERROR, 'PING is not 8 bytes long (6.7)')
        if not flags & ACK:
            self._acknowledge(FrameType.PING, payload)
            return None
        if not self._pings or self._pings[0] != payload:
            self.count_idle()
            return None
        self._pings.popleft()
        self.idle_frames = 0
        return None

    def _acknowledge(self, frame_type: FrameType, payload: bytes) -> None:
        self.idle_frames += 1  # not by `count_idle`: etcd sends a PING and a WINDOW_UPDATE with most responses
        if self.idle_frames > MAX_IDLE_FRAMES:
            self._raise_idle()
        self.queued_acks += 1
        if self.queued_acks > MAX_QUEUED_ACKS:
            raise_violation(
                ErrorCode.ENHANCE_YOUR_CALM, f'{frame_type.name} flood: the peer does not read the acknowledgements'
            )
        self._sending.frames.append(FRAME_HEADER.pack(len(payload) << 8 | frame_type, ACK, 0) + payload)

    def on_goaway(self, stream_id: int, payload: bytes) -> list[Event]:
        """Close the streams that the peer will not process."""
        if stream_id:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'GOAWAY on a stream (6.8)')
        if len(payload) < 8:
            raise_violation(ErrorCode.FRAME_SIZE_ERROR, 'GOAWAY is shorter than 8 bytes (6.8)')
        last, code = struct.unpack_from('>II', payload)
        last &= MAX_STREAM_ID
        if last > self._last_processed:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'GOAWAY with a higher last stream than before (6.8)')
        self.count_idle()
        self._last_processed = last
        self.is_going_away = True
        events: list[Event] = [GoAwayReceived(last, code, payload[8:])]
        for unprocessed in [number for number in self._receiving.streams if number > last]:
            self._receiving.end(unprocessed)
            self._sending.drop(unprocessed)
            events.append(StreamUnprocessed(unprocessed))
        return events

    def on_window_update(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        """Grow a window of the peer."""
        if len(payload) != 4:
            raise_violation(ErrorCode.FRAME_SIZE_ERROR, 'WINDOW_UPDATE is not 4 bytes long (6.9)')
        increment = int.from_bytes(payload, 'big') & MAX_WINDOW
        if not increment:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'WINDOW_UPDATE with an increment of 0 (6.9)')
        self.idle_frames += 1
        if self.idle_frames > MAX_IDLE_FRAMES:
            self._raise_idle()
        if stream_id:
            self._receiving.check_opened(stream_id, 'WINDOW_UPDATE')
        self._sending.grow_window(stream_id, increment)
        return None

    def on_priority(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        """Check a PRIORITY frame, which has no effect."""
        if not stream_id:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'PRIORITY on stream 0 (6.3)')
        if len(payload) != 5:
            raise_violation(ErrorCode.FRAME_SIZE_ERROR, 'PRIORITY is not 5 bytes long (6.3)')
        self.count_idle()
        return None

    def on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> NoReturn:
        """Refuse a PUSH_PROMISE."""
        raise_violation(ErrorCode.PROTOCOL_ERROR, 'PUSH_PROMISE although push is disabled (8.4)')
