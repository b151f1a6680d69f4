"""Header blocks: what is packed without state any decoder reads, and what is remembered is what hpack would say."""

from __future__ import annotations

import logging
from itertools import product
from random import Random

import hpack
import pytest

from getc.grpc.http2.frames import Violation
from getc.grpc.http2.headers import (
    MAX_BLOCK,
    MAX_CACHED_BLOCKS,
    MAX_CACHED_LENGTH,
    NO_TABLE,
    Block,
    Fields,
    HeaderDecoder,
    encode_fields,
)
from tests.grpc.http2.peer import ANSWER, REQUEST, TRAILERS

NAMES = [b'grpc-status', b'grpc-message', b'content-type', b'date', b'x', b'server']
VALUES = [b'', b'0', b'5', b'application/grpc', b'a rather long message, as servers send them', b'\xff\xfe']
TABLES = [0, 40, 100, 400, 4096]


def plain(decoder: hpack.Decoder, block: bytes) -> Fields:
    """What hpack itself makes of a block."""
    return tuple((bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True))


def as_block(fields: Fields) -> Block:
    if fields and fields[0][0] == b':status':
        return Block(fields[1:], int(fields[0][1]))
    return Block(fields, None)


def any_fields(random: Random) -> Fields:
    """An answer or trailers, often one that was there before."""
    rest = tuple((random.choice(NAMES), random.choice(VALUES)) for _ in range(random.choice([0, 1, 1, 2, 5])))
    return random.choice([((b':status', b'200'),), ((b':status', b'404'),), ()]) + rest


@pytest.mark.parametrize('seed', range(50))
def test_blocks_decode_as_hpack_decodes_them_whatever_is_remembered(seed: int) -> None:
    """Tables that change, shrink, overflow and grow; fields that are put in them, left out of them, or kept out."""
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
    assert len(decoder.remembered) <= MAX_CACHED_BLOCKS


def test_block_is_decoded_once_until_the_table_changes() -> None:
    """The same object comes back, and another one when its bytes mean something else."""
    encoder, decoder = hpack.Encoder(), HeaderDecoder(MAX_BLOCK)
    first = decoder.decode(encoder.encode([(b'n', b'1')]))
    again = encoder.encode([(b'n', b'1')])
    assert again == b'\xbe'
    assert decoder.decode(again) == first
    assert decoder.decode(again) is decoder.decode(again)
    decoder.decode(encoder.encode([(b'n', b'2')]))
    assert decoder.decode(again) == Block(((b'n', b'2'),), None)
    assert first == Block(((b'n', b'1'),), None)


@pytest.mark.parametrize(
    'change',
    [b'\x20', b'\x3f\x00\xbf', b'\x40\x01n\x012', b'\x7e\x012'],
    ids=['emptied', 'shrunk', 'new name', 'name of the table'],
)
def test_what_is_remembered_is_forgotten_when_the_table_changes(change: bytes) -> None:
    """An index then means another field, or none."""
    decoder, reference = HeaderDecoder(MAX_BLOCK), hpack.Decoder()
    for block in (b'\x40\x01n\x011', b'\xbe'):
        decoder.decode(block)
        plain(reference, block)
    for block in (change, b'\xbe'):
        try:
            expected = as_block(plain(reference, block))
        except hpack.HPACKError:
            with pytest.raises(Violation, match='does not decode'):
                decoder.decode(block)
            return
        assert decoder.decode(block) == expected
    assert decoder.decode(b'\xbe') != Block(((b'n', b'1'),), None)


def test_index_of_more_than_one_byte_is_not_taken_for_several() -> None:
    """Each of its bytes but the last has the high bit."""
    encoder, decoder = hpack.Encoder(), HeaderDecoder(MAX_BLOCK)
    many = [(b'n-%d' % number, b'1') for number in range(105)]
    decoder.decode(encoder.encode(many))
    block = encoder.encode(many[:2])
    assert block[0] == 0xFF and len(block) == 4
    for _ in range(2):
        assert decoder.decode(block).fields == tuple(many[:2])
    assert not decoder.remembered


def test_no_more_is_remembered_than_the_bounds() -> None:
    """Blocks that differ without end, short ones and long ones."""
    decoder = HeaderDecoder(MAX_BLOCK)
    for block in product(b'\x95\x96\x97', repeat=6):
        decoder.decode(bytes(block))
        assert 0 < len(decoder.remembered) <= MAX_CACHED_BLOCKS
    decoder.decode(b'\x95' * MAX_CACHED_LENGTH)
    assert b'\x95' * MAX_CACHED_LENGTH in decoder.remembered
    decoder.decode(b'\x95' * (MAX_CACHED_LENGTH + 1))
    assert b'\x95' * (MAX_CACHED_LENGTH + 1) not in decoder.remembered


def test_status_is_taken_off_the_fields() -> None:
    """Trailers have none, and nor has a block of nothing."""
    decoder = HeaderDecoder(MAX_BLOCK)
    assert decoder.decode(hpack.Encoder().encode(ANSWER)) == Block(((b'content-type', b'application/grpc'),), 200)
    assert decoder.decode(encode_fields(TRAILERS)) == Block(TRAILERS, None)
    assert decoder.decode(b'') == Block((), None)


@pytest.mark.parametrize('value', [b' ', b'a ', b' a', b'\t', b'\xff', b'"\\', b'%0A', b'\x7f\x01'])
def test_values_of_any_bytes_but_three_are_taken(value: bytes) -> None:
    """Messages of servers have spaces at their ends."""
    assert HeaderDecoder(MAX_BLOCK).decode(encode_fields([(b'grpc-message', value)])).fields[0][1] == value


@pytest.mark.parametrize('seed', range(300))
def test_junk_is_a_violation_and_nothing_else(seed: int) -> None:
    """Blocks that were cut, mixed and made up."""
    random = Random(seed)
    decoder, encoder = HeaderDecoder(MAX_BLOCK), hpack.Encoder()
    with pytest.raises(Violation):
        for _ in range(1_000):
            block = bytearray(encoder.encode(any_fields(random)) or b'\x88')
            block[random.randrange(len(block))] = random.randrange(256)
            decoder.decode(bytes(block[: random.randint(1, len(block))]) + random.randbytes(random.choice([0, 1, 9])))


@pytest.mark.parametrize('size', [0, 1, 126, 127, 128, 254, 255, 256, 16_510, 16_511, 16_512, 60_000])
def test_packed_fields_are_read_back_whatever_their_length(size: int) -> None:
    """Lengths take from one byte to four."""
    fields = ((b'x' * (size % 300 + 1), b'v' * size), (b'y', b''))
    assert plain(hpack.Decoder(), encode_fields(fields)) == fields
    assert encode_fields(fields) == encode_fields(fields[:1]) + encode_fields(fields[1:])


def test_packed_request_changes_no_table() -> None:
    """So blocks serve every connection, in any order, from the first one on, which says that there is no table."""
    decoder = hpack.Decoder()
    block = encode_fields(REQUEST)
    assert block.startswith(b'\x83\x86')
    for one in (NO_TABLE + block, block, block):
        assert plain(decoder, one) == REQUEST
        assert not decoder.header_table.dynamic_entries
    assert decoder.header_table_size == 0
    assert encode_fields([(b':scheme', b'https')]) == b'\x87'


def test_secret_field_is_never_indexed() -> None:
    """Whoever passes it on keeps it out of its tables."""
    ((name, value),) = decoded = list(hpack.Decoder().decode(encode_fields([(b'token', b's3cret')], True), raw=True))
    assert (name, value) == (b'token', b's3cret')
    assert not decoded[0].indexable
    assert hpack.Decoder().decode(encode_fields([(b'x', b'y')]), raw=True)[0].indexable  # type: ignore[index]


def test_packing_writes_nothing_to_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """A library's encoder writes what it packs, tokens too."""
    caplog.set_level(logging.DEBUG)
    encode_fields([(b'token', b's3cret')], secret=True)
    assert not caplog.records
    hpack.Encoder().encode([(b'token', b's3cret')])
    assert 's3cret' in caplog.text
