"""gRPC's framing, metadata and statuses: bytes to values, whatever pieces they come in."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getc.errors import HTTPError, ProtocolError
from getc.grpc import framing
from getc.grpc.framing import Messages, Oversized, Status, check_head, packed, request_block, status_of, timeout_field
from getc.grpc.http2.headers import MAX_BLOCK, HeaderDecoder

BOUND = 8
"""Bytes of a message, where 16 MiB would take too long."""

SECONDS = {b'n': 1e-9, b'u': 1e-6, b'm': 1e-3, b'S': 1.0, b'M': 60.0, b'H': 3600.0}
GRPC = (b'content-type', b'application/grpc')


def decoded(block: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The fields of a request's block, by a decoder of answers that is told of one :status."""
    return HeaderDecoder(MAX_BLOCK).decode(block).fields


def timeout_of(field: bytes) -> tuple[float, bytes]:
    """The seconds that a server reads, and the text."""
    ((name, text),) = decoded(field)
    assert name == b'grpc-timeout'
    assert re.fullmatch(rb'[0-9]{1,8}[numSMH]', text)
    return int(text[:-1]) * SECONDS[text[-1:]], text


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_messages_are_put_together_from_any_pieces(messages: list[bytes], data: st.DataObject) -> None:
    """What is fed in pieces comes out whole, each message as soon as its last byte is there."""
    stream = b''.join(packed(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader, found, fed = Messages(), [], 0
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[begin:end])
        fed = end
        whole = 0
        for message in messages:
            fed -= len(message) + 5
            whole += fed >= 0
        assert len(found) == whole
    assert found == messages
    assert reader.is_between


def test_messages_are_whole_when_they_come_byte_by_byte() -> None:
    """The prefix itself may be cut."""
    reader = Messages()
    found = [message for byte in packed(b'hello') + packed(b'') for message in reader.feed(bytes([byte]))]
    assert found == [b'hello', b'']


def test_messages_are_unfinished_between_prefix_and_end() -> None:
    """A stream that ends there has lost something."""
    reader = Messages()
    assert reader.feed(packed(b'a') + packed(b'bc')[:-1]) == [b'a']
    assert not reader.is_between


def test_messages_refuse_compression() -> None:
    """The flag is an error: no compression was offered."""
    with pytest.raises(ProtocolError, match='compressed'):
        Messages().feed(b'\1\0\0\0\1x')


@given(st.lists(st.integers(min_value=0, max_value=3 * BOUND), max_size=6), st.data())
def test_messages_keep_the_beginning_of_one_that_is_past_the_bound(sizes: list[int], data: st.DataObject) -> None:
    """The rest of it is skipped, in whatever pieces it comes; the messages around it are whole."""
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]
    stream = b''.join(packed(message) for message in sent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, 'LARGEST', framing.PREFIX + BOUND)
        patch.setattr(framing, 'BEGINNING', 4)
        reader, received = Messages(), []
        while stream:
            piece = data.draw(st.integers(min_value=1, max_value=len(stream)))
            received += reader.feed(stream[:piece])
            stream = stream[piece:]
    assert reader.is_between
    assert received == [message if len(message) <= BOUND else message[:4] for message in sent]
    for message, came in zip(sent, received, strict=True):
        assert (came.size if isinstance(came, Oversized) else len(came)) == len(message)


def test_messages_skip_what_is_past_the_bound_without_keeping_it() -> None:
    """A message of just the bound is taken; of one byte more no more than its beginning takes memory."""
    length = (framing.MAX_MESSAGE + 1).to_bytes(4, 'big')
    reader = Messages()
    assert reader.feed(b'\0' + length) == []
    [beginning] = reader.feed(b'x' * framing.BEGINNING)
    assert isinstance(beginning, Oversized)
    assert (bytes(beginning), beginning.size) == (b'x' * framing.BEGINNING, framing.MAX_MESSAGE + 1)
    assert not reader.is_between
    whole = bytes(framing.MAX_MESSAGE)
    assert reader.feed(bytes(framing.MAX_MESSAGE + 1 - framing.BEGINNING) + packed(whole)) == [whole]
    assert reader.is_between


@given(st.floats(min_value=1e-9, max_value=1e11))
def test_timeout_is_never_shorter_and_hardly_longer(seconds: float) -> None:
    """The server gives up after the caller does, and not a percent later."""
    told, _ = timeout_of(timeout_field(seconds))
    assert told >= seconds * (1 - 1e-6)
    assert told <= seconds * 1.011 + 1e-9


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0.0, b'1n'), (1e-12, b'1n'), (0.5, b'500000u'), (10.0, b'10000000u'), (86_400.0, b'86400000m')],
)
def test_timeout_of_a_call(seconds: float, text: bytes) -> None:
    """Eight digits at most, in the finest unit that has room; nothing left is the least there is."""
    assert timeout_of(timeout_field(seconds))[1] in {text, text.replace(b'500000u', b'50000000n')}


def test_timeout_is_left_out_when_there_is_none() -> None:
    """Never, and times that the format cannot say."""
    assert timeout_field(math.inf) == b''
    assert timeout_field(1e13) == b''


def test_timeout_takes_same_bytes_for_calls_of_one_timeout() -> None:
    """10 s less the microseconds that a call has lived."""
    assert timeout_field(10.0) == timeout_field(9.99999) == timeout_field(9.9951)


def test_request_block_has_what_grpc_asks_for() -> None:
    """Pseudo-headers in front, te: trailers, and metadata that is kept out of tables on the way."""
    block = request_block(b'/a.B/C', authority=b'etcd:2379', is_secure=True, metadata=[(b'token', b'secret')])
    assert b'\x10\x05token\x06secret' in block
    plain = request_block(b'/a.B/C', authority=b'etcd:2379', is_secure=False)
    assert block[0] == plain[0] == 0x83
    assert (block[1], plain[1]) == (0x87, 0x86)
    assert b'\x02te\x08trailers' in plain
    assert b'/a.B/C' in plain
    assert b'etcd:2379' in plain


@pytest.mark.parametrize(
    ('fields', 'status'),
    [
        ([(b'grpc-status', b'0')], Status(0, '')),
        ([(b'x', b'y'), (b'grpc-status', b'5'), (b'grpc-message', b'etcdserver: no')], Status(5, 'etcdserver: no')),
        ([(b'grpc-status', b'13'), (b'grpc-message', b'a%20b%25%C3%A9')], Status(13, 'a b%é')),
        ([(b'grpc-status', b'13'), (b'grpc-message', b'100%')], Status(13, '100%')),
        ([(b'grpc-status', b'13'), (b'grpc-message', b'%zz%ff')], Status(13, '%zz�')),
        ([(b'grpc-status', b'99')], Status(99, '')),
    ],
)
def test_status_of_trailers(fields: list[tuple[bytes, bytes]], status: Status) -> None:
    """Messages are percent-encoded UTF-8; what is badly encoded is shown as it is."""
    assert status_of(tuple(fields)) == status


@pytest.mark.parametrize(
    'fields', [(), ((b'grpc-status', b''),), ((b'grpc-status', b'-1'),), ((b'grpc-status', b'x'),)]
)
def test_status_is_refused_when_it_is_none(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """No status, or one that is no number, leaves it open how the call ended."""
    with pytest.raises(ProtocolError, match='status'):
        status_of(fields)


def test_head_is_refused_when_it_is_not_grpc() -> None:
    """A page of a proxy is an HTTPError with its status; another content type is against the protocol."""
    check_head(200, (GRPC,))
    check_head(200, ((b'content-type', b'application/grpc+proto'),))
    check_head(503, (GRPC,))  # its grpc-status says more
    for fields in ((), ((b'content-type', b'text/html'),)):
        with pytest.raises(HTTPError) as caught:
            check_head(503, fields)
        assert caught.value.status_code == 503
        with pytest.raises(ProtocolError, match='content-type'):
            check_head(200, fields)
    with pytest.raises(ProtocolError, match='content-type'):
        check_head(200, ((b'content-type', b'application/grpc-web'),))
