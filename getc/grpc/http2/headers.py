"""Header blocks (HPACK): requests are encoded without state, and decoded blocks of responses are cached.

Requests do not use the dynamic table, so the block of a method is encoded once and serves every connection.  The
encoder is here because that of ``hpack`` keeps a table and writes what it encodes, including tokens, to its log.
``hpack`` decodes.  Source: RFC 7541.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import hpack

from getc.grpc.http2.frames import ErrorCode, raise_violation

__all__ = [
    'EMPTY_TABLE',
    'MAX_BLOCK',
    'Fields',
    'HeaderBlock',
    'HeaderDecoder',
    'UnfinishedBlock',
    'encode_fields',
]

Fields = tuple[tuple[bytes, bytes], ...]
"""Names and values in the order of the block."""

EMPTY_TABLE: Final = b'\x20'
"""Prefix of the first block on a connection: sets the size of the client's dynamic table to 0."""

LITERAL: Final = b'\x00'
NEVER_INDEXED: Final = b'\x10'
INDEXED: Final = 0x80

STATIC: Final = {(b':method', b'POST'): 3, (b':scheme', b'http'): 6, (b':scheme', b'https'): 7}
"""Indices in the static table of the fields of a gRPC request.  Source: RFC 7541, appendix A."""

CONNECTION_FIELDS: Final = frozenset(
    {b'connection', b'keep-alive', b'proxy-connection', b'transfer-encoding', b'upgrade'}
)
"""Fields of HTTP/1 that HTTP/2 forbids.  Source: RFC 9113, section 8.2.2."""

NAME: Final = re.compile(rb'[!-9;-@\[-~]+')
FORBIDDEN_IN_VALUES: Final = re.compile(rb'[\0\r\n]')
"""Source: RFC 9113, section 8.2.1.  Leading and trailing spaces are accepted: messages of servers may have them."""

MAX_BLOCK: Final = 64 * 1024
"""Bytes of a header block, encoded and decoded."""

MAX_CONTINUATIONS: Final = 64

MAX_DECODED_BLOCKS: Final = 256
MAX_DECODED_BLOCK_BYTES: Final = 64


class HeaderBlock(NamedTuple):
    """A decoded header block.

    Attributes:
        fields: The fields without ``:status``.
        status: The HTTP status; None for trailers.
    """

    fields: Fields
    status: int | None


def encode_fields(fields: Iterable[tuple[bytes, bytes]], secret: bool = False) -> bytes:
    """Return a header block, or a part of one, that does not depend on the dynamic table.

    Args:
        fields: Names in lower case, and values; pseudo-header fields first.
        secret: Mark the fields as never indexed, so that proxies keep them out of their tables as well.
    """
    parts = []
    for name, value in fields:
        index = STATIC.get((name, value))
        if index is not None:
            parts.append(bytes([INDEXED | index]))
        else:
            parts.append((NEVER_INDEXED if secret else LITERAL) + _string(name) + _string(value))
    return b''.join(parts)


def _string(text: bytes) -> bytes:
    """Return a string literal: its length as an integer with a prefix of 7 bits, and the bytes."""
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    length -= 127
    encoded = bytearray([127])
    while length >= 128:
        encoded.append(length % 128 | 128)
        length //= 128
    encoded.append(length)
    return bytes(encoded) + text


class UnfinishedBlock:
    """A header block without END_HEADERS, to be continued by CONTINUATION frames.

    Attributes:
        stream_id: The stream of the block.
        ends: The block has END_STREAM.
        data: The bytes received.
    """

    __slots__ = ('_continuations', 'data', 'ends', 'stream_id')

    def __init__(self, stream_id: int, ends: bool, data: bytes) -> None:
        self.stream_id = stream_id
        self.ends = ends
        self.data = data
        self._continuations = 0

    def add(self, data: bytes) -> None:
        """Append the payload of a CONTINUATION frame.

        Raises:
            Violation: The block is too long, or has too many CONTINUATION frames.
        """
        self.data += data
        self._continuations += 1
        if len(self.data) > MAX_BLOCK or self._continuations > MAX_CONTINUATIONS:
            raise_violation(
                ErrorCode.ENHANCE_YOUR_CALM,
                'header block is too long or has too many CONTINUATION frames (10.5.1)',
            )


class HeaderDecoder:
    """Decodes the header blocks of one peer, in the order in which they are received.

    A block of indexed fields only decodes to the same fields until the dynamic table changes.  Most blocks of etcd are
    of this kind, so they are cached.

    Args:
        max_size: Bytes of the decoded fields of one block, with 32 for each field (RFC 9113, 6.5.2).

    Attributes:
        cached: Decoded blocks by their bytes, valid for the current dynamic table.
    """

    def __init__(self, max_size: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=max_size)
        self.cached: dict[bytes, HeaderBlock] = {}

    def decode(self, block: bytes) -> HeaderBlock:
        """Decode a block.

        Raises:
            Violation: The block violates HPACK or HTTP/2, or exceeds the bound.
        """
        found = self.cached.get(block)
        if found is not None:
            return found
        try:
            fields = tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            raise_violation(ErrorCode.ENHANCE_YOUR_CALM, 'header list is larger than the limit (10.5.1)')
        except hpack.HPACKError:
            raise_violation(ErrorCode.COMPRESSION_ERROR, 'header block cannot be decoded (4.3)')
        decoded = _checked(fields)
        if len(self.cached) == MAX_DECODED_BLOCKS or not _is_all_indexed(block):
            self.cached.clear()  # the block may have changed the table
        if _is_all_indexed(block):
            self.cached[block] = decoded
        return decoded


def _is_all_indexed(block: bytes) -> bool:
    """Return True if every byte is an indexed field, and the block is short enough for the cache.

    The last byte of an index of several bytes has no high bit, and neither has the first byte of a literal.
    """
    return min(block, default=0) >= INDEXED and len(block) <= MAX_DECODED_BLOCK_BYTES


def _checked(fields: Fields) -> HeaderBlock:
    status: int | None = None
    for position, (name, value) in enumerate(fields):
        if name.startswith(b':'):
            if name != b':status' or position or not (len(value) == 3 and value.isdigit() and value >= b'100'):
                raise_violation(
                    ErrorCode.PROTOCOL_ERROR,
                    'pseudo-header fields of a response are not a single leading :status (8.3)',
                )
            status = int(value)
        elif not NAME.fullmatch(name):
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'field name is invalid or not in lower case (8.2.1)')
        elif FORBIDDEN_IN_VALUES.search(value):
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'field value contains NUL, CR or LF (8.2.1)')
        elif name in CONNECTION_FIELDS:
            raise_violation(ErrorCode.PROTOCOL_ERROR, 'connection-specific field of HTTP/1 (8.2.2)')
    return HeaderBlock(fields[1:], status) if status is not None else HeaderBlock(fields, None)
