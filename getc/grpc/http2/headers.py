"""Header blocks (HPACK): requests packed without state, answers decoded once and remembered.

Requests use no dynamic table, so the block of a method is built once and serves every connection.  It is
packed here, in a few lines, because a library's encoder keeps a table and writes what it packs, tokens too, to its log.
``hpack`` decodes, where the work is.  Source: RFC 7541.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import hpack

from getc.grpc.http2.frames import ErrorCode, violated

__all__ = ['MAX_BLOCK', 'NO_TABLE', 'Block', 'Fields', 'HeaderDecoder', 'OpenBlock', 'encode_fields']

Fields = tuple[tuple[bytes, bytes], ...]
"""Names and values, in the order in which they came."""

NO_TABLE: Final = b'\x20'
"""Put in front of a connection's first block: our dynamic table has no room.  Blocks then depend on nothing."""

LITERAL: Final = b'\x00'
NEVER_INDEXED: Final = b'\x10'
INDEXED: Final = 0x80

STATIC: Final = {(b':method', b'POST'): 3, (b':scheme', b'http'): 6, (b':scheme', b'https'): 7}
"""The fields of a gRPC request that the static table has.  Source: RFC 7541, appendix A."""

CONNECTION_FIELDS: Final = frozenset(
    {b'connection', b'keep-alive', b'proxy-connection', b'transfer-encoding', b'upgrade'}
)
"""They belong to HTTP/1.  Source: RFC 9113, section 8.2.2."""

NAME: Final = re.compile(rb'[!-9;-@\[-~]+')
NOT_IN_VALUES: Final = re.compile(rb'[\0\r\n]')
"""Source: RFC 9113, section 8.2.1.  A value that begins or ends with a space is taken: a server's message may."""

MAX_BLOCK: Final = 64 * 1024
"""Bytes of a header block, packed and unpacked."""

MAX_CONTINUATIONS: Final = 64

MAX_CACHED_BLOCKS: Final = 256
MAX_CACHED_LENGTH: Final = 64


class Block(NamedTuple):
    """A header block as it was decoded.

    Attributes:
        fields: Without ``:status``.
        status: The HTTP status; None for trailers.
    """

    fields: Fields
    status: int | None


def encode_fields(fields: Iterable[tuple[bytes, bytes]], secret: bool = False) -> bytes:
    """Pack fields into a block, or a part of one, that changes no state.

    Args:
        fields: Names (in lower case) and values; the ones that begin with a colon first.
        secret: Whoever passes them on is told to keep them out of its tables, too.
    """
    parts = []
    for name, value in fields:
        index = STATIC.get((name, value))
        if index is not None:
            parts.append(bytes([INDEXED | index]))
        else:
            parts.append((NEVER_INDEXED if secret else LITERAL) + _text(name) + _text(value))
    return b''.join(parts)


def _text(text: bytes) -> bytes:
    """A string literal: its length as an integer with a prefix of 7 bits, and the bytes."""
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    length -= 127
    head = bytearray([127])
    while length >= 128:
        head.append(length % 128 | 128)
        length //= 128
    head.append(length)
    return bytes(head) + text


class OpenBlock:
    """A header block of which CONTINUATIONs are still to come.

    Attributes:
        stream_id: Its stream.
        ends: The peer's side ends with it.
        data: What came of it.
    """

    __slots__ = ('_pieces', 'data', 'ends', 'stream_id')

    def __init__(self, stream_id: int, ends: bool, data: bytes) -> None:
        self.stream_id = stream_id
        self.ends = ends
        self.data = data
        self._pieces = 0

    def add(self, data: bytes) -> None:
        """Take what one more CONTINUATION brings.

        Raises:
            Violation: It is too much, or in too many pieces.
        """
        self.data += data
        self._pieces += 1
        if len(self.data) > MAX_BLOCK or self._pieces > MAX_CONTINUATIONS:
            violated(ErrorCode.ENHANCE_YOUR_CALM, 'a header block is too long, or in too many pieces (10.5.1)')


class HeaderDecoder:
    """Decodes the blocks that one peer sends, in the order in which they come.

    A block of nothing but indexed fields decodes the same until the table changes: etcd's blocks are mostly that, so
    each is decoded once.

    Args:
        max_size: Bytes that the fields of one block may take, with 32 for each (RFC 9113, 6.5.2).

    Attributes:
        remembered: The blocks that decode to the same whenever they come next.
    """

    def __init__(self, max_size: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=max_size)
        self.remembered: dict[bytes, Block] = {}

    def decode(self, block: bytes) -> Block:
        """Decode a block.

        Raises:
            Violation: It breaks a rule of HPACK or HTTP/2, or the bound.
        """
        found = self.remembered.get(block)
        if found is not None:
            return found
        try:
            fields = tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            violated(ErrorCode.ENHANCE_YOUR_CALM, 'header fields exceed the bound (10.5.1)')
        except hpack.HPACKError:
            violated(ErrorCode.COMPRESSION_ERROR, 'a header block does not decode (4.3)')
        decoded = _checked(fields)
        if len(self.remembered) == MAX_CACHED_BLOCKS or not _is_all_indexed(block):
            self.remembered.clear()  # the table has changed, perhaps
        if _is_all_indexed(block):
            self.remembered[block] = decoded
        return decoded


def _is_all_indexed(block: bytes) -> bool:
    """True if each byte is an indexed field of its own, and there are few.

    An index of more than one byte ends in one without the high bit; any literal begins with such a byte.
    """
    return min(block, default=0) >= INDEXED and len(block) <= MAX_CACHED_LENGTH


def _checked(fields: Fields) -> Block:
    status: int | None = None
    for position, (name, value) in enumerate(fields):
        if name.startswith(b':'):
            if name != b':status' or position or not (len(value) == 3 and value.isdigit() and value >= b'100'):
                violated(ErrorCode.PROTOCOL_ERROR, 'a pseudo-header of an answer is not one :status in front (8.3)')
            status = int(value)
        elif not NAME.fullmatch(name):
            violated(ErrorCode.PROTOCOL_ERROR, 'the name of a field is not one, or not in lower case (8.2.1)')
        elif NOT_IN_VALUES.search(value):
            violated(ErrorCode.PROTOCOL_ERROR, 'a field has NUL, CR or LF in its value (8.2.1)')
        elif name in CONNECTION_FIELDS:
            violated(ErrorCode.PROTOCOL_ERROR, 'a field belongs to HTTP/1 (8.2.2)')
    return Block(fields[1:], status) if status is not None else Block(fields, None)
