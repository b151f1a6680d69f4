"""Header blocks: encoding without state, and a cache of decoded blocks that agrees with hpack."""

from __future__ import annotations

import logging
from itertools import product
from random import Random

import hpack
import pytest

from getc.grpc.http2.frames import Violation
from getc.grpc.http2.headers import (
    EMPTY_TABLE,
    MAX_BLOCK,
    MAX_DECODED_BLOCK_BYTES,
    MAX_DECODED_BLOCKS,
    Fields,
    HeaderBlock,
    HeaderDecoder,
    encode_fields,
)
from tests.grpc.http2.peer import ANSWER, REQUEST, TRAILERS

NAMES = [b'grpc-status', b'grpc-message', b'content-type', b'date', b'x', b'server']
VALUES = [b'', b'0', b'5', b'application/grpc', b'a rather long message, as servers send them', b'\xff\xfe']
TABLES = [0, 40, 100, 400, 4096]


def plain(decoder: hpack.Decoder, block: bytes) -> Fields:
    """Return the fields as hpack decodes them."""
    return tuple((bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True))


def as_block(fields: Fields) -> HeaderBlock:
    if fields and fields[0][0] == b':status':
        return HeaderBlock(fields[1:], int(fields[0][1]))
    return HeaderBlock(fields, None)


def any_fields(random: Random) -> Fields:
    """Return headers or trailers, often the same as before."""
    rest = tuple((random.choice(NAMES), random.choice(VALUES)) for _ in range(random.choice([0, 1, 1, 2, 5])))
    return random.choice([((b':status', b'200'),), ((b':status', b'404'),), ()]) + rest


@pytest.mark.parametrize('seed', range(50))
def test_blocks_decode_as_with_hpack(seed: int) -> None:
    """With tables that shrink, overflow and grow, and fields that are indexed, not indexed and never indexed."""
    random = Random(seed)
    encoder, reference, decoder = hpack.Encoder(), hpack.Decoder(), HeaderDecoder(MAX_BLOCK)
    kinds = [hpack.HeaderTuple, hpack.HeaderTuple, hpack.HeaderTuple, hpack.NeverIndexedHeaderTuple]
    for _ in range(500):
        size = random.choice(TABLES)
        if random.random() < 0.02 and size != encoder.header_table_size:
            encoder.header_table_size = size
        fields = any_fields(random)
        block = encoder.encode([random.choice(kinds)(*one) for one in fields], huffman=random.random() < 0.5)
        assert plain(reference, block) == fields
        assert decoder.decode(block) == as_block(fields)
    assert len(decoder.cached) <= MAX_DECODED_BLOCKS


def test_block_is_decoded_once_until_the_table_changes() -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder(MAX_BLOCK)
    first = decoder.decode(encoder.encode([(b'n', b'1')]))
    again = encoder.encode([(b'n', b'1')])
    assert again == b'\xbe'
    assert decoder.decode(again) == first
    assert decoder.decode(again) is decoder.decode(again)
    decoder.decode(encoder.encode([(b'n', b'2')]))
    assert decoder.decode(again) == HeaderBlock(((b'n', b'2'),), None)
    assert first == HeaderBlock(((b'n', b'1'),), None)


@pytest.mark.parametrize(
    'change',
    [b'\x20', b'\x3f\x00\xbf', b'\x40\x01n\x012', b'\x7e\x012'],
    ids=['emptied', 'shrunk', 'new name', 'name of the table'],
)
def test_cache_is_cleared_when_the_table_changes(change: bytes) -> None:
    """The same index then refers to another field, or to none."""
    decoder, reference = HeaderDecoder(MAX_BLOCK), hpack.Decoder()
    for block in (b'\x40\x01n\x011', b'\xbe'):
        decoder.decode(block)
        plain(reference, block)
    for block in (change, b'\xbe'):
        try:
            expected = as_block(plain(reference, block))
        except hpack.HPACKError:
            with pytest.raises(Violation, match='cannot be decoded'):
                decoder.decode(block)
            return
        assert decoder.decode(block) == expected
    assert decoder.decode(b'\xbe') != HeaderBlock(((b'n', b'1'),), None)


def test_block_with_an_index_of_several_bytes_is_not_cached() -> None:
    """All of its bytes but the last have the high bit."""
    encoder, decoder = hpack.Encoder(), HeaderDecoder(MAX_BLOCK)
    many = [(b'n-%d' % number, b'1') for number in range(105)]
    decoder.decode(encoder.encode(many))
    block = encoder.encode(many[:2])
    assert block[0] == 0xFF and len(block) == 4
    for _ in range(2):
        assert decoder.decode(block).fields == tuple(many[:2])
    assert not decoder.cached


def test_cache_is_bounded_in_blocks_and_in_their_length() -> None:
    decoder = HeaderDecoder(MAX_BLOCK)
    for block in product(b'\x95\x96\x97', repeat=6):
        decoder.decode(bytes(block))
        assert 0 < len(decoder.cached) <= MAX_DECODED_BLOCKS
    decoder.decode(b'\x95' * MAX_DECODED_BLOCK_BYTES)
    assert b'\x95' * MAX_DECODED_BLOCK_BYTES in decoder.cached
    decoder.decode(b'\x95' * (MAX_DECODED_BLOCK_BYTES + 1))
    assert b'\x95' * (MAX_DECODED_BLOCK_BYTES + 1) not in decoder.cached


def test_status_is_separate_from_the_fields() -> None:
    decoder = HeaderDecoder(MAX_BLOCK)
    assert decoder.decode(hpack.Encoder().encode(ANSWER)) == HeaderBlock(((b'content-type', b'application/grpc'),), 200)
    assert decoder.decode(encode_fields(TRAILERS)) == HeaderBlock(TRAILERS, None)
    assert decoder.decode(b'') == HeaderBlock((), None)


@pytest.mark.parametrize('value', [b' ', b'a ', b' a', b'\t', b'\xff', b'"\\', b'%0A', b'\x7f\x01'])
def test_values_of_any_bytes_except_nul_cr_and_lf_are_accepted(value: bytes) -> None:
    assert HeaderDecoder(MAX_BLOCK).decode(encode_fields([(b'grpc-message', value)])).fields[0][1] == value


@pytest.mark.parametrize('seed', range(300))
def test_random_blocks_raise_nothing_but_a_violation(seed: int) -> None:
    random = Random(seed)
    decoder, encoder = HeaderDecoder(MAX_BLOCK), hpack.Encoder()
    with pytest.raises(Violation):
        for _ in range(1_000):
            block = bytearray(encoder.encode(any_fields(random)) or b'\x88')
            block[random.randrange(len(block))] = random.randrange(256)
            decoder.decode(bytes(block[: random.randint(1, len(block))]) + random.randbytes(random.choice([0, 1, 9])))


@pytest.mark.parametrize('size', [0, 1, 126, 127, 128, 254, 255, 256, 16_510, 16_511, 16_512, 60_000])
def test_encoded_fields_of_any_length_can_be_decoded(size: int) -> None:
    """Lengths have from one byte to four."""
    fields = ((b'x' * (size % 300 + 1), b'v' * size), (b'y', b''))
    assert plain(hpack.Decoder(), encode_fields(fields)) == fields
    assert encode_fields(fields) == encode_fields(fields[:1]) + encode_fields(fields[1:])


def test_encoded_request_does_not_change_the_table() -> None:
    """So a block serves every connection, in any order, after the prefix that sets the table size to 0."""
    decoder = hpack.Decoder()
    block = encode_fields(REQUEST)
    assert block.startswith(b'\x83\x86')
    for one in (EMPTY_TABLE + block, block, block):
        assert plain(decoder, one) == REQUEST
        assert not decoder.header_table.dynamic_entries
    assert decoder.header_table_size == 0
    assert encode_fields([(b':scheme', b'https')]) == b'\x87'


def test_secret_field_is_never_indexed() -> None:
    ((name, value),) = decoded = list(hpack.Decoder().decode(encode_fields([(b'token', b's3cret')], True), raw=True))
    assert (name, value) == (b'token', b's3cret')
    assert not decoded[0].indexable
    assert hpack.Decoder().decode(encode_fields([(b'x', b'y')]), raw=True)[0].indexable  # type: ignore[index]


def test_encoder_logs_no_fields(caplog: pytest.LogCaptureFixture) -> None:
    """The encoder of hpack does, and tokens are among the fields."""
    caplog.set_level(logging.DEBUG)
    encode_fields([(b'token', b's3cret')], secret=True)
    assert not caplog.records
    hpack.Encoder().encode([(b'token', b's3cret')])
    assert 's3cret' in caplog.text
