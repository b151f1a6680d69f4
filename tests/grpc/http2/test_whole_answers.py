"""An answer that comes as most do is told as a whole, any other in its parts; both mean the same, by the same rules."""

from __future__ import annotations

import pytest

from getc.errors import ProtocolError
from getc.grpc.http2.events import (
    AnswerReceived,
    DataReceived,
    GoAwayReceived,
    HeadersReceived,
    StreamNotTaken,
    StreamReset,
)
from getc.grpc.http2.frames import (
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    PADDED,
    ErrorCode,
    Kind,
    frame,
)
from getc.grpc.http2.headers import Block
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

HEAD, DATA, LAST = headers(5), data(5, b'answer'), headers(5, LATEST, END)
"""The frames of an answer as most are."""

PARTS = (
    HeadersReceived(5, 200, (), False),
    DataReceived(5, b'answer', 6, False),
    HeadersReceived(5, None, (STATUS,), True),
)
WHOLE = AnswerReceived(5, Block((), 200), b'answer', Block((STATUS,), None))


def asking(body: bytes = b'request') -> Http2Connection:
    """A client that knows the blocks of answers, and waits for a whole one on stream 5."""
    client = connected(2, stream_window=DEFAULT_WINDOW)
    client.receive(headers(1) + headers(1, indexed(*STATUS), END) + headers(3) + headers(3, LATEST, END))
    assert client.open(REQUEST_BLOCK, body) == 5
    client.take()
    return client


def test_answer_whose_bytes_come_together_is_one_event() -> None:
    """And its stream is gone; others come before and after it."""
    client = asking()
    client.open(REQUEST_BLOCK)
    ping = frame(Kind.PING, 0, 0, bytes(8))
    other = headers(7) + data(7, b'other') + headers(7, LATEST, END)
    events = client.receive(ping + HEAD + DATA + LAST + other + ping)
    assert events == [WHOLE, WHOLE._replace(stream_id=7, data=b'other')]
    assert not client.open_streams
    with pytest.raises(ProtocolError, match='HEADERS on a stream that has ended'):
        client.receive(LAST)


@pytest.mark.parametrize('at', range(1, len(HEAD + DATA + LAST)))
def test_answer_whose_bytes_are_split_is_told_in_its_parts(at: int) -> None:
    """Wherever they are; a whole answer can be taken apart, too."""
    client, received = asking(), HEAD + DATA + LAST
    assert (*client.receive(received[:at]), *client.receive(received[at:])) in (PARTS, (WHOLE,))
    assert WHOLE.parts == PARTS
    assert not client.open_streams


@pytest.mark.parametrize(
    ('received', 'events'),
    [
        (HEAD + DATA + DATA + LAST, (*PARTS[:2], *PARTS[1:])),
        (HEAD + LAST, (PARTS[0], PARTS[2])),
        (HEAD + data(5, b'answer', END_STREAM), (PARTS[0], PARTS[1]._replace(ends=True))),
        (HEAD + data(5, b'\0answer', PADDED) + LAST, (PARTS[0], PARTS[1]._replace(size=7), PARTS[2])),
        (HEAD + DATA + headers(5, field(*STATUS), END), PARTS),
        (HEAD + frame(99, 0, 5, b'') + DATA + LAST, PARTS),
        (HEAD + frame(Kind.PING, 0, 0, bytes(8)) + DATA + LAST, PARTS),
        (headers(5, b'\x88' + field(b'n')) + DATA + LAST, (PARTS[0]._replace(fields=((b'n', b'x'),)), *PARTS[1:])),
        (headers(5, field(b':status', b'103')) + HEAD + DATA + LAST, PARTS),
        (HEAD + DATA + reset(5), (*PARTS[:2], StreamReset(5, ErrorCode.CANCEL))),
        (HEAD + window_update(5, 1) + DATA + LAST, PARTS),
        (HEAD + DATA + headers(5, LATEST, END_STREAM) + continuation(5, b'', END_HEADERS), PARTS),
        (HEAD + goaway(3), (PARTS[0], GoAwayReceived(3, 0, b''), StreamNotTaken(5))),
    ],
)
def test_answer_that_comes_otherwise_is_told_in_its_parts(received: bytes, events: tuple[object, ...]) -> None:
    """Some other frame is between its own, or one of its own is not as most are."""
    client = asking()
    assert client.receive(received) == list(events)
    assert not client.open_streams


@pytest.mark.parametrize(
    ('received', 'rule'),
    [
        (DATA, 'DATA before HEADERS'),
        (LAST, 'an answer without :status'),
        (HEAD + DATA + HEAD, 'a :status in trailers'),
        (HEAD + DATA + headers(5, b'\x88', END), 'a :status in trailers'),
        (headers(5, LATEST) + DATA + LAST, 'an answer without :status'),
        (HEAD + headers(5, LATEST), 'trailers that do not end the stream'),
        (HEAD + data(5, bytes(DEFAULT_FRAME_SIZE)) * 4, 'more data than the window of the stream'),
        (headers(3, b'', 0) + HEAD, 'a header block that is not continued at once'),
        (HEAD + headers(3, b'', 0) + DATA, 'a header block that is not continued at once'),
    ],
)
def test_rules_are_the_same(received: bytes, rule: str) -> None:
    """As for answers that are told in parts."""
    client = asking()
    client.open(REQUEST_BLOCK)
    with pytest.raises(ProtocolError, match=rule):
        client.receive(received.replace(b'\0\0\0\3', b'\0\0\0\7'))


def test_answer_of_another_status_is_told_in_its_parts() -> None:
    """Whoever called looks at it first."""
    client = asking()
    client.open(REQUEST_BLOCK)
    assert client.receive(headers(5, b'\x8d') + LAST)[0] == PARTS[0]._replace(status=404)
    events = client.receive(headers(7, b'\x8d') + data(7, b'answer') + headers(7, LATEST, END))
    assert events == [
        HeadersReceived(7, 404, (), False),
        DataReceived(7, b'answer', 6, False),
        HeadersReceived(7, None, (STATUS,), True),
    ]


@pytest.mark.parametrize('received', [HEAD, HEAD + DATA])
def test_answer_that_is_cancelled_half_way_may_go_on(received: bytes) -> None:
    """The server does not know yet: what it sends keeps the rules."""
    client = asking()
    assert client.receive(received) == list(PARTS[: 1 + (DATA in received)])
    client.reset(5)
    assert client.receive(DATA + LAST) == []


def test_request_that_was_not_all_sent_is_ended_with_its_answer() -> None:
    """Told in parts: that is rare."""
    client = asking(body=bytes(DEFAULT_WINDOW + 1))
    assert client.receive(HEAD + DATA + LAST) == list(PARTS)
    assert sent(client) == [(Kind.RST_STREAM, 0, 5, bytes(4))]


def test_data_of_whole_answers_open_the_window_of_the_connection() -> None:
    """As all data do."""
    client = connected(2, connection_window=DEFAULT_WINDOW + 1)
    client.receive(headers(1) + headers(1, indexed(*STATUS), END) + headers(3) + headers(3, LATEST, END))
    client.take()
    full = bytes(DEFAULT_FRAME_SIZE)
    for stream_id in (5, 7, 9, 11):
        client.open(REQUEST_BLOCK)
        received = headers(stream_id) + data(stream_id, full) + headers(stream_id, LATEST, END)
        assert client.receive(received) == [WHOLE._replace(stream_id=stream_id, data=full)]
    assert [each for each in sent(client) if each[0] == Kind.WINDOW_UPDATE] == [
        (Kind.WINDOW_UPDATE, 0, 0, (2 * DEFAULT_FRAME_SIZE).to_bytes(4, 'big'))
    ] * 2
