"""Single fields of protobuf's, packed here where making a message of each takes longer than the rest of the call.

Parts of a message that are packed for themselves may be put together.  Source: protobuf's encoding.
"""

from __future__ import annotations

__all__ = ['bytes_field', 'number_field']

MORE = 0x80
"""Set in every byte of a number but the last; each has seven bits of it, the lowest first."""


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
