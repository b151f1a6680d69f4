"""The shortcut for complete responses of the usual form, and equal events and rules for all others."""

from __future__ import annotations

import pytest

from getc.errors import ProtocolError
from getc.grpc.http2.events import (
    DataReceived,
    GoAwayReceived,
    HeadersReceived,
    ResponseReceived,
    StreamReset,
    StreamUnprocessed,
)
from getc.grpc.http2.frames import (
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    PADDED,
    ErrorCode,
    FrameType,
    encode_frame,
)
from getc.grpc.http2.headers import HeaderBlock
from getc.grpc.http2.protocol import Http2Connection
from tests.grpc.http2.peer import REQUEST_BLOCK
from tests.grpc.http2.server import (
    LATEST,
    connected,
    continuation,
    data,
    field,
    goaway,
    headers,
    indexed,
    reset,
    sent,
    window_update,
)

END = END_HEADERS | END_STREAM
STATUS = (b'grpc-status', b'0')

HEAD, DATA, LAST = headers(5), data(5, b'body'), headers(5, LATEST, END)
"""The frames of a response of the usual form."""

PARTS = (
    HeadersReceived(5, 200, (), False),
    DataReceived(5, b'body', 4, False),
    HeadersReceived(5, None, (STATUS,), True),
)
WHOLE = ResponseReceived(5, HeaderBlock((), 200), b'body', HeaderBlock((STATUS,), None))


def requesting(body: bytes = b'request') -> Http2Connection:
    """Return a client with cached header blocks and a request on stream 5."""
    client = connected(2, stream_window=DEFAULT_WINDOW)
    client.receive(headers(1) + headers(1, indexed(*STATUS), END) + headers(3) + headers(3, LATEST, END))
    assert client.open(REQUEST_BLOCK, body) == 5
    client.take()
    return client


def test_response_received_together_is_one_event() -> None:
    """Its stream is closed, and frames before and after it are processed as usual."""
    client = requesting()
    client.open(REQUEST_BLOCK)
    ping = encode_frame(FrameType.PING, 0, 0, bytes(8))
    other = headers(7) + data(7, b'other') + headers(7, LATEST, END)
    events = client.receive(ping + HEAD + DATA + LAST + other + ping)
    assert events == [WHOLE, WHOLE._replace(stream_id=7, data=b'other')]
    assert not len(client._receiving.streams)
    with pytest.raises(ProtocolError, match='HEADERS on a closed stream'):
        client.receive(LAST)


@pytest.mark.parametrize('at', range(1, len(HEAD + DATA + LAST)))
def test_response_split_at_any_byte_has_the_same_parts(at: int) -> None:
    client, received = requesting(), HEAD + DATA + LAST
    assert (*client.receive(received[:at]), *client.receive(received[at:])) in (PARTS, (WHOLE,))
    assert WHOLE.parts == PARTS
    assert not len(client._receiving.streams)


@pytest.mark.parametrize(
    ('received', 'events'),
    [
        (HEAD + DATA + DATA + LAST, (*PARTS[:2], *PARTS[1:])),
        (HEAD + LAST, (PARTS[0], PARTS[2])),
        (HEAD + data(5, b'body', END_STREAM), (PARTS[0], PARTS[1]._replace(ends=True))),
        (HEAD + data(5, b'\0body', PADDED) + LAST, (PARTS[0], PARTS[1]._replace(size=5), PARTS[2])),
        (HEAD + DATA + headers(5, field(*STATUS), END), PARTS),
        (HEAD + encode_frame(99, 0, 5, b'') + DATA + LAST, PARTS),
        (HEAD + encode_frame(FrameType.PING, 0, 0, bytes(8)) + DATA + LAST, PARTS),
        (headers(5, b'\x88' + field(b'n')) + DATA + LAST, (PARTS[0]._replace(fields=((b'n', b'x'),)), *PARTS[1:])),
        (headers(5, field(b':status', b'103')) + HEAD + DATA + LAST, PARTS),
        (HEAD + DATA + reset(5), (*PARTS[:2], StreamReset(5, ErrorCode.CANCEL))),
        (HEAD + window_update(5, 1) + DATA + LAST, PARTS),
        (HEAD + DATA + headers(5, LATEST, END_STREAM) + continuation(5, b'', END_HEADERS), PARTS),
        (HEAD + goaway(3), (PARTS[0], GoAwayReceived(3, 0, b''), StreamUnprocessed(5))),
    ],
)
def test_response_of_another_form_is_reported_in_parts(received: bytes, events: tuple[object, ...]) -> None:
    """There is another frame in between, or one of its frames is unusual."""
    client = requesting()
    assert client.receive(received) == list(events)
    assert not len(client._receiving.streams)


@pytest.mark.parametrize(
    ('received', 'rule'),
    [
        (DATA, 'DATA before HEADERS'),
        (LAST, 'response without :status'),
        (HEAD + DATA + HEAD, ':status in trailers'),
        (HEAD + DATA + headers(5, b'\x88', END), ':status in trailers'),
        (headers(5, LATEST) + DATA + LAST, 'response without :status'),
        (HEAD + headers(5, LATEST), 'trailers do not end the stream'),
        (HEAD + data(5, bytes(DEFAULT_FRAME_SIZE)) * 4, 'DATA exceeds the window of the stream'),
        (headers(3, b'', 0) + HEAD, 'header block is interrupted by another frame'),
        (HEAD + headers(3, b'', 0) + DATA, 'header block is interrupted by another frame'),
    ],
)
def test_rules_apply_to_every_response(received: bytes, rule: str) -> None:
    client = requesting()
    client.open(REQUEST_BLOCK)
    with pytest.raises(ProtocolError, match=rule):
        client.receive(received.replace(b'\0\0\0\3', b'\0\0\0\7'))


def test_response_with_another_status_is_reported_in_parts() -> None:
    client = requesting()
    client.open(REQUEST_BLOCK)
    assert client.receive(headers(5, b'\x8d') + LAST)[0] == PARTS[0]._replace(status=404)
    events = client.receive(headers(7, b'\x8d') + data(7, b'body') + headers(7, LATEST, END))
    assert events == [
        HeadersReceived(7, 404, (), False),
        DataReceived(7, b'body', 4, False),
        HeadersReceived(7, None, (STATUS,), True),
    ]


@pytest.mark.parametrize('received', [HEAD, HEAD + DATA])
def test_response_that_goes_on_after_a_reset_is_dropped(received: bytes) -> None:
    client = requesting()
    assert client.receive(received) == list(PARTS[: 1 + (DATA in received)])
    client.reset(5)
    assert client.receive(DATA + LAST) == []


def test_unsent_rest_of_a_request_is_dropped_when_its_response_ends() -> None:
    client = requesting(body=bytes(DEFAULT_WINDOW + 1))
    assert client.receive(HEAD + DATA + LAST) == list(PARTS)
    assert sent(client) == [(FrameType.RST_STREAM, 0, 5, bytes(4))]


def test_data_of_whole_responses_grow_the_window_of_the_connection() -> None:
    client = connected(2, connection_window=DEFAULT_WINDOW + 1)
    client.receive(headers(1) + headers(1, indexed(*STATUS), END) + headers(3) + headers(3, LATEST, END))
    client.take()
    full = bytes(DEFAULT_FRAME_SIZE)
    for stream_id in (5, 7, 9, 11):
        client.open(REQUEST_BLOCK)
        received = headers(stream_id) + data(stream_id, full) + headers(stream_id, LATEST, END)
        assert client.receive(received) == [WHOLE._replace(stream_id=stream_id, data=full)]
    assert [each for each in sent(client) if each[0] == FrameType.WINDOW_UPDATE] == [
        (FrameType.WINDOW_UPDATE, 0, 0, (2 * DEFAULT_FRAME_SIZE).to_bytes(4, 'big'))
    ] * 2
