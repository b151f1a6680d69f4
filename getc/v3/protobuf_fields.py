"""Encodes single protobuf fields, for hot paths where building a message takes longer than the rest of the call.

The concatenation of encoded fields is an encoded message.  Source: protobuf's encoding.
"""

from __future__ import annotations

__all__ = ['beginning', 'bytes_field', 'nested_field', 'number_field']

CONTINUATION = 0x80
"""Set in every byte of a varint except the last; each byte has seven bits, the lowest first."""

HEADER_TAG = 1 << 3 | 2
"""The tag of the first field of each etcd response: its header, a message."""

WIRE_TYPE_MASK = 7
VARINT = 0


def bytes_field(number: int, content: bytes) -> bytes:
    """Encode a field with bytes, text or a message.  Its number is at most 15."""
    size = len(content)
    if size < CONTINUATION:
        return bytes((number << 3 | 2, size)) + content
    return bytes((number << 3 | 2,)) + _varint(size) + content


def nested_field(outer: int, inner: int, content: bytes) -> bytes:
    """Encode a field with a message whose only field is ``inner``, with this content.  The numbers are at most 15."""
    size = len(content)
    if size + 2 < CONTINUATION:
        return bytes((outer << 3 | 2, size + 2, inner << 3 | 2, size)) + content
    return bytes_field(outer, bytes_field(inner, content))


def number_field(number: int, value: int) -> bytes:
    """Encode a field with an integer of 0 or more.  Its number is at most 15."""
    return bytes((number << 3,)) + _varint(value)


def _varint(value: int) -> bytes:
    packed = bytearray()
    while value >= CONTINUATION:
        packed.append(value & 0x7F | CONTINUATION)
        value >>= 7
    packed.append(value)
    return bytes(packed)


def beginning(packed: bytes) -> bytes:
    """Return the first fields of a truncated etcd response: its header, and the integers that follow it.

    The result ends before the first field of another kind and before an incomplete field: it contains no key or value.
    """
    whole = at = 0
    while at < len(packed):
        tag = packed[at]
        if tag == HEADER_TAG and not whole:
            size, at = _read_varint(packed, at + 1)
            at += size
        elif whole and tag & WIRE_TYPE_MASK == VARINT and tag < CONTINUATION:
            _, at = _read_varint(packed, at + 1)
        else:
            break
        if at > len(packed):
            break
        whole = at
    return packed[:whole]


def _read_varint(packed: bytes, at: int) -> tuple[int, int]:
    """Return a varint and the position after it, which is past the end of the bytes if the varint is incomplete."""
    value = shift = 0
    while at < len(packed):
        byte = packed[at]
        at += 1
        value |= (byte & ~CONTINUATION) << shift
        if byte < CONTINUATION:
            return value, at
        shift += 7
    return value, at + 1
