"""gRPC framing: messages, timeouts, header blocks and statuses."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getc.errors import HTTPError, ProtocolError
from getc.grpc import framing
from getc.grpc.framing import (
    MessageDecoder,
    OversizedMessage,
    Status,
    check_headers,
    encode_message,
    encode_timeout,
    parse_status,
    request_block,
)
from getc.grpc.http2.headers import MAX_BLOCK, HeaderDecoder

BOUND = 8
"""Bytes of a message, because 16 MiB would take too long."""

SECONDS = {b'n': 1e-9, b'u': 1e-6, b'm': 1e-3, b'S': 1.0, b'M': 60.0, b'H': 3600.0}
GRPC = (b'content-type', b'application/grpc')


def decoded(block: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the fields of a request block, by a decoder of responses that gets a :status in front."""
    return HeaderDecoder(MAX_BLOCK).decode(block).fields


def timeout_of(field: bytes) -> tuple[float, bytes]:
    """Return the timeout that a server parses, and its text."""
    ((name, text),) = decoded(field)
    assert name == b'grpc-timeout'
    assert re.fullmatch(rb'[0-9]{1,8}[numSMH]', text)
    return int(text[:-1]) * SECONDS[text[-1:]], text


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_decoder_returns_messages_from_chunks_of_any_size(messages: list[bytes], data: st.DataObject) -> None:
    """Each message as soon as its last byte is fed."""
    stream = b''.join(encode_message(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader, found, fed = MessageDecoder(), [], 0
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[begin:end])
        fed = end
        whole = 0
        for message in messages:
            fed -= len(message) + 5
            whole += fed >= 0
        assert len(found) == whole
    assert found == messages
    assert reader.is_at_boundary


def test_decoder_returns_messages_fed_byte_by_byte() -> None:
    reader = MessageDecoder()
    found = [
        message for byte in encode_message(b'hello') + encode_message(b'') for message in reader.feed(bytes([byte]))
    ]
    assert found == [b'hello', b'']


def test_decoder_is_not_at_a_boundary_within_a_message() -> None:
    reader = MessageDecoder()
    assert reader.feed(encode_message(b'a') + encode_message(b'bc')[:-1]) == [b'a']
    assert not reader.is_at_boundary


def test_decoder_refuses_compressed_messages() -> None:
    with pytest.raises(ProtocolError, match='compressed'):
        MessageDecoder().feed(b'\1\0\0\0\1x')


@given(st.lists(st.integers(min_value=0, max_value=3 * BOUND), max_size=6), st.data())
def test_decoder_keeps_the_head_of_an_oversized_message(sizes: list[int], data: st.DataObject) -> None:
    """The rest is skipped, in chunks of any size; the other messages are complete."""
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]
    stream = b''.join(encode_message(message) for message in sent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, 'MAX_SIZE', framing.MESSAGE_PREFIX_SIZE + BOUND)
        patch.setattr(framing, 'OVERSIZED_HEAD', 4)
        reader, received = MessageDecoder(), []
        while stream:
            piece = data.draw(st.integers(min_value=1, max_value=len(stream)))
            received += reader.feed(stream[:piece])
            stream = stream[piece:]
    assert reader.is_at_boundary
    assert received == [message if len(message) <= BOUND else message[:4] for message in sent]
    for message, decoded in zip(sent, received, strict=True):
        assert (decoded.size if isinstance(decoded, OversizedMessage) else len(decoded)) == len(message)


def test_decoder_skips_an_oversized_message_without_buffering_it() -> None:
    """A message of exactly MAX_MESSAGE bytes is returned."""
    length = (framing.MAX_MESSAGE + 1).to_bytes(4, 'big')
    reader = MessageDecoder()
    assert reader.feed(b'\0' + length) == []
    [head] = reader.feed(b'x' * framing.OVERSIZED_HEAD)
    assert isinstance(head, OversizedMessage)
    assert (bytes(head), head.size) == (b'x' * framing.OVERSIZED_HEAD, framing.MAX_MESSAGE + 1)
    assert not reader.is_at_boundary
    whole = bytes(framing.MAX_MESSAGE)
    assert reader.feed(bytes(framing.MAX_MESSAGE + 1 - framing.OVERSIZED_HEAD) + encode_message(whole)) == [whole]
    assert reader.is_at_boundary


@given(st.floats(min_value=1e-9, max_value=1e11))
def test_timeout_is_rounded_up_by_one_percent_at_most(seconds: float) -> None:
    parsed, _ = timeout_of(encode_timeout(seconds))
    assert parsed >= seconds * (1 - 1e-6)
    assert parsed <= seconds * 1.011 + 1e-9


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0.0, b'1n'), (1e-12, b'1n'), (0.5, b'500000u'), (10.0, b'10000000u'), (86_400.0, b'86400000m')],
)
def test_timeout_has_eight_digits_at_most_in_the_finest_unit(seconds: float, text: bytes) -> None:
    assert timeout_of(encode_timeout(seconds))[1] in {text, text.replace(b'500000u', b'50000000n')}


def test_timeout_is_omitted_without_a_limit() -> None:
    """Also if the protocol cannot express the timeout."""
    assert encode_timeout(math.inf) == b''
    assert encode_timeout(1e13) == b''


def test_timeout_has_the_same_bytes_for_calls_with_equal_timeouts() -> None:
    """Microseconds after the start of the call do not matter."""
    assert encode_timeout(10.0) == encode_timeout(9.99999) == encode_timeout(9.9951)


def test_request_block_has_the_fields_of_the_protocol() -> None:
    """Pseudo-header fields are first, and metadata are never indexed."""
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
def test_parse_status_decodes_the_message(fields: list[tuple[bytes, bytes]], status: Status) -> None:
    """Messages are percent-encoded UTF-8; invalid encoding is kept."""
    assert parse_status(tuple(fields)) == status


@pytest.mark.parametrize(
    'fields', [(), ((b'grpc-status', b''),), ((b'grpc-status', b'-1'),), ((b'grpc-status', b'x'),)]
)
def test_parse_status_raises_protocol_error_without_a_number(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    with pytest.raises(ProtocolError, match='status'):
        parse_status(fields)


def test_check_headers_refuses_other_responses() -> None:
    """The page of a proxy is an HTTPError with its status; another content type is a ProtocolError."""
    check_headers(200, (GRPC,))
    check_headers(200, ((b'content-type', b'application/grpc+proto'),))
    check_headers(503, (GRPC,))  # the grpc-status is more precise
    for fields in ((), ((b'content-type', b'text/html'),)):
        with pytest.raises(HTTPError) as caught:
            check_headers(503, fields)
        assert caught.value.status_code == 503
        with pytest.raises(ProtocolError, match='content-type'):
            check_headers(200, fields)
    with pytest.raises(ProtocolError, match='content-type'):
        check_headers(200, ((b'content-type', b'application/grpc-web'),))
