"""The client side of a connection: the frames that it sends by itself, and its events."""

from __future__ import annotations

import struct

import pytest

from getc.errors import ProtocolError
from getc.grpc.http2.events import (
    DataReceived,
    GoAwayReceived,
    HeadersReceived,
    SettingsReceived,
    StreamUnprocessed,
)
from getc.grpc.http2.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    ErrorCode,
    FrameType,
    Setting,
    encode_frame,
    encode_settings,
)
from getc.grpc.http2.headers import MAX_BLOCK, encode_fields
from getc.grpc.http2.protocol import Http2Connection
from getc.grpc.http2.receive import MAX_CANCELLED
from tests.grpc.http2.peer import REQUEST, REQUEST_BLOCK, TRAILERS, Peer
from tests.grpc.http2.server import (
    END,
    FULL,
    LATEST,
    OK,
    connected,
    data,
    field,
    goaway,
    headers,
    indexed,
    reset,
    sent,
    settings,
    trailers,
    window_update,
)


def test_client_starts_with_preface_settings_and_window() -> None:
    client = Http2Connection(stream_window=100_000, connection_window=200_000)
    assert client.take().startswith(PREFACE)
    client = Http2Connection(stream_window=100_000, connection_window=200_000)
    payload = encode_settings(
        {Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: 100_000, Setting.MAX_HEADER_LIST_SIZE: MAX_BLOCK}
    )
    assert sent(client) == [
        (FrameType.SETTINGS, 0, 0, payload),
        (FrameType.WINDOW_UPDATE, 0, 0, (200_000 - DEFAULT_WINDOW).to_bytes(4, 'big')),
    ]
    assert not client.outgoing_frames and client.take() == b''


@pytest.mark.parametrize(
    'windows',
    [
        {'stream_window': DEFAULT_WINDOW - 1},
        {'stream_window': MAX_WINDOW + 1},
        {'connection_window': DEFAULT_WINDOW},
        {'connection_window': MAX_WINDOW + 1},
    ],
)
def test_invalid_windows_raise_value_error(windows: dict[str, int]) -> None:
    """The window of a stream is at least the default, and that of the connection is larger."""
    with pytest.raises(ValueError, match='windows must be'):
        Http2Connection(**windows)


def test_response_is_reported_in_order_and_closes_the_stream() -> None:
    """Interim responses are ignored; padding and priority are removed, and padding counts for the window."""
    client = connected(1)
    interim = headers(1, field(b':status', b'103') + field(b'link'))
    padded = headers(1, b'\x02' + bytes(5) + OK + b'\0\0', END_HEADERS | PADDED | PRIORITY)
    events = client.receive(interim + padded + data(1, b'\x03abc\0\0\0', PADDED) + data(1) + trailers(1))
    assert events == [
        HeadersReceived(1, 200, (), False),
        DataReceived(1, b'abc', 7, False),
        DataReceived(1, b'', 0, False),
        HeadersReceived(1, None, TRAILERS, True),
    ]
    assert len(client._receiving.streams) == 0
    assert not client.outgoing_frames


def test_response_ends_with_its_headers_or_with_data() -> None:
    client = connected(2)
    assert client.receive(headers(1, OK + END, END_HEADERS | END_STREAM)) == [HeadersReceived(1, 200, TRAILERS, True)]
    assert client.receive(headers(3) + data(3, b'x', END_STREAM))[1:] == [DataReceived(3, b'x', 1, True)]
    assert len(client._receiving.streams) == 0


def test_rest_of_a_request_is_dropped_when_its_response_has_ended() -> None:
    """The client sends RST_STREAM with NO_ERROR, and ignores further data for the stream."""
    client = connected()
    client.open(REQUEST_BLOCK, bytes(100_000), end=False)
    client.take()
    assert client.unsent(1) == 100_000 - DEFAULT_WINDOW
    client.receive(headers(1, OK + END, END_HEADERS | END_STREAM))
    assert sent(client) == [(FrameType.RST_STREAM, 0, 1, bytes(4))]
    client.send(1, b'more', end=True)
    client.reset(1)
    client.acknowledge(1, 10)
    assert (len(client._receiving.streams), client.unsent(1), client.outgoing_frames) == (0, 0, [])


def test_reset_is_sent_once_and_drops_waiting_data() -> None:
    client = connected()
    client.open(REQUEST_BLOCK, bytes(100_000))
    client.take()
    client.reset(1)
    client.reset(1)
    client.receive(window_update(1, 100_000) + window_update(0, 100_000))
    assert sent(client) == [(FrameType.RST_STREAM, 0, 1, ErrorCode.CANCEL.to_bytes(4, 'big'))]


def test_late_frames_of_thousands_of_cancelled_streams_are_dropped() -> None:
    """Their fields still change the dynamic table, and their data are granted again to the connection window."""
    client = connected(5_000, connection_window=DEFAULT_WINDOW + 1)
    for stream_id in range(1, 10_001, 2):
        client.reset(stream_id)
    client.take()
    late = b''.join(
        headers(number, OK + indexed(b'n', b'%d' % number)) + data(number, bytes(10)) + trailers(number)
        for number in range(1, 10_001, 2)
    )
    assert client.receive(late) == []
    more = sum(int.from_bytes(payload, 'big') for _, _, _, payload in sent(client))
    assert 50_000 - DEFAULT_WINDOW // 2 <= more <= 50_000
    number = client.open(REQUEST_BLOCK)
    assert client.receive(headers(number, OK + LATEST)) == [HeadersReceived(number, 200, ((b'n', b'9999'),), False)]


@pytest.mark.parametrize(
    ('late', 'rule'),
    [
        (headers(1) + trailers(1) + trailers(1), 'HEADERS on a closed stream'),
        (headers(1) + trailers(1) + data(1), 'DATA on a closed stream'),
        (reset(1) + data(1), 'DATA on a closed stream'),
        (data(1, b'x'), 'DATA before HEADERS'),
        (headers(1) + FULL * 4, 'DATA exceeds the window of the stream'),
    ],
)
def test_late_frames_of_a_cancelled_stream_are_checked(late: bytes, rule: str) -> None:
    client = connected(1, stream_window=DEFAULT_WINDOW)
    client.reset(1)
    with pytest.raises(ProtocolError, match=rule):
        client.receive(late)


def test_late_frames_of_streams_cancelled_long_ago_are_ignored() -> None:
    """Beyond MAX_CANCELLED streams; later streams that have ended are still checked."""
    client = connected()
    for _ in range(MAX_CANCELLED + 2):
        client.reset(client.open(REQUEST_BLOCK))
    last = client.open(REQUEST_BLOCK)
    client.take()
    assert client.receive(data(1, b'x') + headers(3) + trailers(3) + data(3, b'x') + trailers(3)) == []
    client.receive(headers(last) + trailers(last))
    with pytest.raises(ProtocolError, match='DATA on a closed stream'):
        client.receive(data(last, b'x'))


def test_window_of_a_stream_grows_when_half_of_it_is_acknowledged() -> None:
    client = connected(2, stream_window=100_000)
    client.receive(headers(1) + FULL * 6)
    assert not client.outgoing_frames
    client.acknowledge(1, 49_999)
    client.acknowledge(3, 49_999)
    assert not client.outgoing_frames
    client.acknowledge(1, 2)
    assert sent(client) == [(FrameType.WINDOW_UPDATE, 0, 1, (50_001).to_bytes(4, 'big'))]
    client.receive(FULL * 3)
    with pytest.raises(ProtocolError, match='DATA exceeds the window of the stream'):
        client.receive(FULL)


def test_slow_reader_of_one_stream_does_not_block_another() -> None:
    """The connection window grows as data are received."""
    client = connected(2, stream_window=DEFAULT_WINDOW, connection_window=DEFAULT_WINDOW + 1)
    client.receive(headers(1) + headers(3) + FULL * 3)
    assert sent(client) == [(FrameType.WINDOW_UPDATE, 0, 0, (2 * DEFAULT_FRAME_SIZE).to_bytes(4, 'big'))]
    assert len(client.receive(data(3, bytes(DEFAULT_FRAME_SIZE)) * 3)) == 3


def test_padding_is_granted_again_to_the_window_of_the_connection() -> None:
    client = connected(1, connection_window=DEFAULT_WINDOW + 1)
    client.receive(headers(1) + data(1, b'\xff' + bytes(255), PADDED) * 128)
    assert sent(client) == [(FrameType.WINDOW_UPDATE, 0, 0, (128 * 256).to_bytes(4, 'big'))]


def test_waiting_data_are_sent_when_settings_grow_their_window() -> None:
    """After the acknowledgement, from which on the server counts by the new settings."""
    client = connected()
    client.receive(settings(initial_window_size=0))
    client.open(REQUEST_BLOCK, b'body')
    client.take()
    client.receive(settings(initial_window_size=3))
    assert sent(client) == [(FrameType.SETTINGS, ACK, 0, b''), (FrameType.DATA, 0, 1, b'bod')]
    assert client.unsent(1) == 1


def test_settings_and_pings_are_acknowledged_in_order() -> None:
    """Only a change of the maximal number of streams is an event."""
    client = connected()
    received = (
        settings(max_concurrent_streams=7)
        + encode_frame(FrameType.PING, 0, 0, b'01234567')
        + settings(header_table_size=0)
    )
    assert client.receive(received) == [SettingsReceived(7)]
    assert sent(client) == [
        (FrameType.SETTINGS, ACK, 0, b''),
        (FrameType.PING, ACK, 0, b'01234567'),
        (FrameType.SETTINGS, ACK, 0, b''),
    ]
    assert client.receive(settings(max_concurrent_streams=7)) == []


def test_last_value_of_a_setting_in_one_frame_counts() -> None:
    """Earlier values are ignored: thousands of them would be thousands of changes to each stream."""
    twice = settings(max_concurrent_streams=1)[9:] + settings(max_concurrent_streams=5)[9:]
    assert connected().receive(encode_frame(FrameType.SETTINGS, 0, 0, twice)) == [SettingsReceived(5)]
    client = connected(1)
    client.receive(window_update(1, 1))
    too_much = settings(initial_window_size=MAX_WINDOW)[9:]
    assert client.receive(encode_frame(FrameType.SETTINGS, 0, 0, too_much + settings(initial_window_size=7)[9:])) == []


def test_streams_are_opened_up_to_the_limit_of_the_server() -> None:
    client = connected()
    client.receive(settings(max_concurrent_streams=2))
    assert [client.open(REQUEST_BLOCK), client.open(REQUEST_BLOCK)] == [1, 3]
    assert (client.can_open, len(client._receiving.streams), client.last_stream_id) == (False, 2, 3)
    assert client.open(REQUEST_BLOCK) == 0
    client.receive(headers(1) + trailers(1))
    assert client.can_open
    client.receive(settings(max_concurrent_streams=0))
    assert not client.can_open and not client.is_draining


def test_connection_is_draining_when_all_stream_numbers_are_used() -> None:
    client = connected()
    client._receiving.last_id = MAX_STREAM_ID - 2
    assert client.open(REQUEST_BLOCK) == MAX_STREAM_ID
    assert client.is_draining and not client.can_open
    assert client.receive(headers(MAX_STREAM_ID) + trailers(MAX_STREAM_ID))[-1].ends  # type: ignore[union-attr]


def test_ping_is_acknowledged_by_its_own_payload_only_and_once() -> None:
    client = connected()
    client.ping(b'01234567')
    client.ping(b'abcdefgh')
    assert [payload for _, _, _, payload in sent(client)] == [b'01234567', b'abcdefgh']
    one, other = encode_frame(FrameType.PING, ACK, 0, b'01234567'), encode_frame(FrameType.PING, ACK, 0, b'abcdefgh')
    acknowledged = []
    for frame in (encode_frame(FrameType.PING, ACK, 0, bytes(8)), one, one, other):
        client._control.idle_frames = 1
        assert client.receive(frame) == []
        acknowledged.append(client._control.idle_frames == 0)
    assert acknowledged == [False, True, False, True]
    with pytest.raises(ValueError, match='the payload of a ping must be 8 bytes'):
        client.ping(b'')


def test_goaway_ends_the_streams_above_the_last_one() -> None:
    """A graceful shutdown is two GOAWAY frames."""
    client = connected(3)
    assert client.receive(goaway(MAX_STREAM_ID)) == [GoAwayReceived(MAX_STREAM_ID, 0, b'')]
    assert client.is_draining and not client.can_open and len(client._receiving.streams) == 3
    assert client.receive(goaway(1, ErrorCode.ENHANCE_YOUR_CALM, b'too_many_pings')) == [
        GoAwayReceived(1, ErrorCode.ENHANCE_YOUR_CALM, b'too_many_pings'),
        StreamUnprocessed(3),
        StreamUnprocessed(5),
    ]
    assert client.receive(reset(3) + headers(1) + trailers(1))[-1] == HeadersReceived(1, None, TRAILERS, True)
    assert len(client._receiving.streams) == 0


def test_shut_down_sends_one_goaway_and_a_violation_another() -> None:
    client = connected(1)
    client.receive(goaway(1))
    client.shut_down()
    client.shut_down()
    assert sent(client) == [(FrameType.GOAWAY, 0, 0, bytes(8))]
    assert client.is_draining and not client.can_open
    with pytest.raises(ProtocolError):
        client.receive(headers(1) + trailers(1) + data(1))
    client.shut_down()
    assert sent(client) == [(FrameType.GOAWAY, 0, 0, struct.pack('>II', 0, ErrorCode.STREAM_CLOSED))]


def test_receive_raises_the_same_error_again_after_a_violation() -> None:
    client = connected(1)
    for _ in range(2):
        with pytest.raises(ProtocolError, match=r'^HTTP/2: DATA before HEADERS'):
            client.receive(data(1, b'x') + headers(1))
    assert len(sent(client)) == 1


def test_send_raises_runtime_error_after_the_end_of_the_request() -> None:
    client = connected(1)
    with pytest.raises(RuntimeError, match='cannot send on stream 1: END_STREAM was sent'):
        client.send(1, b'x')


def test_frames_of_unknown_types_and_priorities_are_ignored() -> None:
    client = connected(1)
    odd = (
        encode_frame(99, 255, 7, b'x') + encode_frame(FrameType.PRIORITY, 0, 8, bytes(5)) + encode_frame(10, 0, 0, b'')
    )
    assert client.receive(odd + headers(1)) == [HeadersReceived(1, 200, (), False)]
    assert not client.outgoing_frames


def test_long_header_block_is_sent_in_several_frames() -> None:
    client, peer = Http2Connection(), Peer()
    fields = (*REQUEST, *((b'x-%d' % number, b'v' * 9_000) for number in range(5)))
    client.open(encode_fields(fields), b'body')
    client.open(encode_fields(fields))
    peer.receive(client.take())
    assert [peer.requests[number].fields for number in (1, 3)] == [fields, fields]
    assert bytes(peer.requests[1].body) == b'body'
