"""Single fields of protobuf's, packed here where making a message of each takes longer than the rest of the call.

Parts of a message that are packed for themselves may be put together.  Source: protobuf's encoding.
"""

from __future__ import annotations

__all__ = ['beginning', 'bytes_field', 'number_field']

MORE = 0x80
"""Set in every byte of a number but the last; each has seven bits of it, the lowest first."""


HEADER = 1 << 3 | 2
"""How the first field of each of etcd's responses begins, which is a message."""

WIRE_TYPE = 7
NUMBER = 0


def bytes_field(number: int, content: bytes) -> bytes:
    """A field that is bytes, text or a message.  Its number is at most 15."""
    size = len(content)
    if size < MORE:
        return bytes((number << 3 | 2, size)) + content
    return bytes((number << 3 | 2,)) + _varint(size) + content


def number_field(number: int, value: int) -> bytes:
    """A field that is a whole number, 0 or more.  Its own number is at most 15."""
    return bytes((number << 3,)) + _varint(value)


def _varint(value: int) -> bytes:
    packed = bytearray()
    while value >= MORE:
        packed.append(value & 0x7F | MORE)
        value >>= 7
    packed.append(value)
    return bytes(packed)


def beginning(packed: bytes) -> bytes:
    """The first fields of an etcd response that was cut off: its header, and the numbers that follow it.

    It ends before the first field that is neither, or that is not whole, so it never holds a key or a value.
    """
    whole = at = 0
    while at < len(packed):
        tag = packed[at]
        if tag == HEADER and not whole:
            size, at = _read_varint(packed, at + 1)
            at += size
        elif whole and tag & WIRE_TYPE == NUMBER and tag < MORE:
            _, at = _read_varint(packed, at + 1)
        else:
            break
        if at > len(packed):
            break
        whole = at
    return packed[:whole]


def _read_varint(packed: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends; past the end of what is there if it is not whole."""
    value = shift = 0
    while at < len(packed):
        byte = packed[at]
        at += 1
        value |= (byte & ~MORE) << shift
        if byte < MORE:
            return value, at
        shift += 7
    return value, at + 1
