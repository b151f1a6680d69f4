"""What the client's side of a connection does by itself, and what it tells."""

from __future__ import annotations

import struct

import pytest

from getc.errors import ProtocolError
from getc.grpc.http2.events import (
    DataReceived,
    GoAwayReceived,
    HeadersReceived,
    PingAcknowledged,
    SettingsReceived,
    StreamNotTaken,
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
    Kind,
    Setting,
    frame,
    settings_payload,
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


def test_client_begins_with_its_preface_settings_and_window() -> None:
    """No push, and the windows and the bound that it holds the server to."""
    client = Http2Connection(stream_window=100_000, connection_window=200_000)
    assert client.take().startswith(PREFACE)
    client = Http2Connection(stream_window=100_000, connection_window=200_000)
    said = settings_payload(
        {Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: 100_000, Setting.MAX_HEADER_LIST_SIZE: MAX_BLOCK}
    )
    assert sent(client) == [
        (Kind.SETTINGS, 0, 0, said),
        (Kind.WINDOW_UPDATE, 0, 0, (200_000 - DEFAULT_WINDOW).to_bytes(4, 'big')),
    ]
    assert not client.has_outgoing and client.take() == b''


@pytest.mark.parametrize(
    'windows',
    [
        {'stream_window': DEFAULT_WINDOW - 1},
        {'stream_window': MAX_WINDOW + 1},
        {'connection_window': DEFAULT_WINDOW},
        {'connection_window': MAX_WINDOW + 1},
    ],
)
def test_windows_that_cannot_be_are_refused(windows: dict[str, int]) -> None:
    """A stream's cannot shrink below the one that the server begins with, and the connection's only grows."""
    with pytest.raises(ValueError, match='windows are'):
        Http2Connection(**windows)


def test_answer_is_told_in_order_and_the_stream_is_gone() -> None:
    """Interim answers are nobody's business; padding and priority are taken off, and count for the window."""
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
    assert client.open_streams == 0
    assert not client.has_outgoing


def test_answer_may_be_trailers_only_or_end_with_data() -> None:
    """Both end the stream."""
    client = connected(2)
    assert client.receive(headers(1, OK + END, END_HEADERS | END_STREAM)) == [HeadersReceived(1, 200, TRAILERS, True)]
    assert client.receive(headers(3) + data(3, b'x', END_STREAM))[1:] == [DataReceived(3, b'x', 1, True)]
    assert client.open_streams == 0


def test_rest_of_a_request_is_dropped_when_its_answer_has_ended() -> None:
    """The server is told so, without an error; what is given after that goes nowhere."""
    client = connected()
    client.open(REQUEST_BLOCK, bytes(100_000), end=False)
    client.take()
    assert client.unsent(1) == 100_000 - DEFAULT_WINDOW
    client.receive(headers(1, OK + END, END_HEADERS | END_STREAM))
    assert sent(client) == [(Kind.RST_STREAM, 0, 1, bytes(4))]
    client.send(1, b'more', end=True)
    client.reset(1)
    client.acknowledge(1, 10)
    assert (client.open_streams, client.unsent(1), client.has_outgoing) == (0, 0, False)


def test_reset_is_told_once_and_nothing_of_the_stream_follows() -> None:
    """What waited of the request is dropped, too."""
    client = connected()
    client.open(REQUEST_BLOCK, bytes(100_000))
    client.take()
    client.reset(1)
    client.reset(1)
    client.receive(window_update(1, 100_000) + window_update(0, 100_000))
    assert sent(client) == [(Kind.RST_STREAM, 0, 1, ErrorCode.CANCEL.to_bytes(4, 'big'))]


def test_late_frames_of_thousands_of_cancelled_streams_are_dropped() -> None:
    """Fields of theirs change the table all the same, and their data are given back to the connection's window."""
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
        (headers(1) + trailers(1) + trailers(1), 'HEADERS on a stream that has ended'),
        (headers(1) + trailers(1) + data(1), 'DATA on a stream that has ended'),
        (reset(1) + data(1), 'DATA on a stream that has ended'),
        (data(1, b'x'), 'DATA before HEADERS'),
        (headers(1) + FULL * 4, 'more data than the window of the stream'),
    ],
)
def test_late_frames_of_a_cancelled_stream_are_held_to_the_rules(late: bytes, rule: str) -> None:
    """We have reset it, and so there may be one more answer, not any number of them."""
    client = connected(1, stream_window=DEFAULT_WINDOW)
    client.reset(1)
    with pytest.raises(ProtocolError, match=rule):
        client.receive(late)


def test_streams_cancelled_long_ago_are_given_the_benefit_of_the_doubt() -> None:
    """No more than so many are remembered; of later ones that have ended nothing is taken."""
    client = connected()
    for _ in range(MAX_CANCELLED + 2):
        client.reset(client.open(REQUEST_BLOCK))
    last = client.open(REQUEST_BLOCK)
    client.take()
    assert client.receive(data(1, b'x') + headers(3) + trailers(3) + data(3, b'x') + trailers(3)) == []
    client.receive(headers(last) + trailers(last))
    with pytest.raises(ProtocolError, match='DATA on a stream that has ended'):
        client.receive(data(last, b'x'))


def test_acknowledged_data_open_the_window_of_their_stream_in_halves() -> None:
    """Not before they are taken, whatever else is."""
    client = connected(2, stream_window=100_000)
    client.receive(headers(1) + FULL * 6)
    assert not client.has_outgoing
    client.acknowledge(1, 49_999)
    client.acknowledge(3, 49_999)
    assert not client.has_outgoing
    client.acknowledge(1, 2)
    assert sent(client) == [(Kind.WINDOW_UPDATE, 0, 1, (50_001).to_bytes(4, 'big'))]
    client.receive(FULL * 3)
    with pytest.raises(ProtocolError, match='more data than the window of the stream'):
        client.receive(FULL)


def test_slow_reader_of_one_stream_does_not_hold_up_another() -> None:
    """The connection's window opens as data come."""
    client = connected(2, stream_window=DEFAULT_WINDOW, connection_window=DEFAULT_WINDOW + 1)
    client.receive(headers(1) + headers(3) + FULL * 3)
    assert sent(client) == [(Kind.WINDOW_UPDATE, 0, 0, (2 * DEFAULT_FRAME_SIZE).to_bytes(4, 'big'))]
    assert len(client.receive(data(3, bytes(DEFAULT_FRAME_SIZE)) * 3)) == 3


def test_padding_is_given_back_to_the_window_of_the_connection() -> None:
    """It took as much of it as data do."""
    client = connected(1, connection_window=DEFAULT_WINDOW + 1)
    client.receive(headers(1) + data(1, b'\xff' + bytes(255), PADDED) * 128)
    assert sent(client) == [(Kind.WINDOW_UPDATE, 0, 0, (128 * 256).to_bytes(4, 'big'))]


def test_data_that_wait_are_sent_when_settings_open_their_window() -> None:
    """After these were acknowledged: the server counts by them from then on."""
    client = connected()
    client.receive(settings(initial_window_size=0))
    client.open(REQUEST_BLOCK, b'body')
    client.take()
    client.receive(settings(initial_window_size=3))
    assert sent(client) == [(Kind.SETTINGS, ACK, 0, b''), (Kind.DATA, 0, 1, b'bod')]
    assert client.unsent(1) == 1


def test_settings_and_pings_are_answered_at_once_and_in_order() -> None:
    """And told only where a caller cares: how many streams there may be."""
    client = connected()
    received = settings(max_concurrent_streams=7) + frame(Kind.PING, 0, 0, b'01234567') + settings(header_table_size=0)
    assert client.receive(received) == [SettingsReceived(7)]
    assert sent(client) == [
        (Kind.SETTINGS, ACK, 0, b''),
        (Kind.PING, ACK, 0, b'01234567'),
        (Kind.SETTINGS, ACK, 0, b''),
    ]
    assert client.receive(settings(max_concurrent_streams=7)) == []


def test_setting_that_is_said_twice_counts_as_said_last() -> None:
    """What was said before is as if it were not: thousands of them would be thousands of changes to each stream."""
    twice = settings(max_concurrent_streams=1)[9:] + settings(max_concurrent_streams=5)[9:]
    assert connected().receive(frame(Kind.SETTINGS, 0, 0, twice)) == [SettingsReceived(5)]
    client = connected(1)
    client.receive(window_update(1, 1))
    too_much = settings(initial_window_size=MAX_WINDOW)[9:]
    assert client.receive(frame(Kind.SETTINGS, 0, 0, too_much + settings(initial_window_size=7)[9:])) == []


def test_streams_are_opened_up_to_what_the_server_allows() -> None:
    """One that has ended makes room for another."""
    client = connected()
    client.receive(settings(max_concurrent_streams=2))
    assert [client.open(REQUEST_BLOCK), client.open(REQUEST_BLOCK)] == [1, 3]
    assert (client.can_open, client.open_streams, client.last_stream_id) == (False, 2, 3)
    assert client.open(REQUEST_BLOCK) == 0
    client.receive(headers(1) + trailers(1))
    assert client.can_open
    client.receive(settings(max_concurrent_streams=0))
    assert not client.can_open and not client.is_leaving


def test_connection_is_leaving_when_its_stream_numbers_are_used_up() -> None:
    """There are 2**30 of them."""
    client = connected()
    client._inbox.last_id = MAX_STREAM_ID - 2
    assert client.open(REQUEST_BLOCK) == MAX_STREAM_ID
    assert client.is_leaving and not client.can_open
    assert client.receive(headers(MAX_STREAM_ID) + trailers(MAX_STREAM_ID))[-1].ends  # type: ignore[union-attr]


def test_ping_is_told_of_when_its_own_answer_comes() -> None:
    """Another's is nothing, and a second one neither."""
    client = connected()
    client.ping(b'01234567')
    client.ping(b'abcdefgh')
    assert [payload for _, _, _, payload in sent(client)] == [b'01234567', b'abcdefgh']
    one, other = frame(Kind.PING, ACK, 0, b'01234567'), frame(Kind.PING, ACK, 0, b'abcdefgh')
    assert client.receive(frame(Kind.PING, ACK, 0, bytes(8)) + one + one) == [PingAcknowledged(b'01234567')]
    assert client.receive(other) == [PingAcknowledged(b'abcdefgh')]
    with pytest.raises(ValueError, match='a ping has 8 bytes'):
        client.ping(b'')


def test_goaway_refuses_what_is_beyond_and_lets_the_rest_end() -> None:
    """A server that leaves gracefully says so twice."""
    client = connected(3)
    assert client.receive(goaway(MAX_STREAM_ID)) == [GoAwayReceived(MAX_STREAM_ID, 0, b'')]
    assert client.is_leaving and not client.can_open and client.open_streams == 3
    assert client.receive(goaway(1, ErrorCode.ENHANCE_YOUR_CALM, b'too_many_pings')) == [
        GoAwayReceived(1, ErrorCode.ENHANCE_YOUR_CALM, b'too_many_pings'),
        StreamNotTaken(3),
        StreamNotTaken(5),
    ]
    assert client.receive(reset(3) + headers(1) + trailers(1))[-1] == HeadersReceived(1, None, TRAILERS, True)
    assert client.open_streams == 0


def test_shut_down_is_told_once_and_a_fault_after_it_as_well() -> None:
    """What is open still ends; a fault is told even to a server that leaves."""
    client = connected(1)
    client.receive(goaway(1))
    client.shut_down()
    client.shut_down()
    assert sent(client) == [(Kind.GOAWAY, 0, 0, bytes(8))]
    assert client.is_leaving and not client.can_open
    with pytest.raises(ProtocolError):
        client.receive(headers(1) + trailers(1) + data(1))
    client.shut_down()
    assert sent(client) == [(Kind.GOAWAY, 0, 0, struct.pack('>II', 0, ErrorCode.STREAM_CLOSED))]


def test_nothing_is_taken_after_a_fault() -> None:
    """The same rule is named again."""
    client = connected(1)
    for _ in range(2):
        with pytest.raises(ProtocolError, match=r'^HTTP/2: DATA before HEADERS'):
            client.receive(data(1, b'x') + headers(1))
    assert len(sent(client)) == 1


def test_request_that_has_ended_takes_nothing_more() -> None:
    """That is the caller's fault, not the server's."""
    client = connected(1)
    with pytest.raises(RuntimeError, match='our side of stream 1 has ended'):
        client.send(1, b'x')


def test_frames_of_unknown_kinds_and_priorities_are_ignored() -> None:
    """On any stream."""
    client = connected(1)
    odd = frame(99, 255, 7, b'x') + frame(Kind.PRIORITY, 0, 8, bytes(5)) + frame(10, 0, 0, b'')
    assert client.receive(odd + headers(1)) == [HeadersReceived(1, 200, (), False)]
    assert not client.has_outgoing


def test_peer_reads_a_long_header_block() -> None:
    """It leaves in one HEADERS and as many CONTINUATIONs as the server's frame size asks for."""
    client, peer = Http2Connection(), Peer()
    fields = (*REQUEST, *((b'x-%d' % number, b'v' * 9_000) for number in range(5)))
    client.open(encode_fields(fields), b'body')
    client.open(encode_fields(fields))
    peer.receive(client.take())
    assert [peer.requests[number].fields for number in (1, 3)] == [fields, fields]
    assert bytes(peer.requests[1].body) == b'body'
