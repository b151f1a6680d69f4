"""HTTP/2 frames: types, flags, settings, error codes and encoding.

Source: RFC 9113, sections 4, 6 and 7.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NoReturn

__all__ = [
    'ACK',
    'DEFAULT_FRAME_SIZE',
    'DEFAULT_WINDOW',
    'END_HEADERS',
    'END_STREAM',
    'FRAME_HEADER',
    'FRAME_HEADER_SIZE',
    'MAX_FRAME_SIZE',
    'MAX_STREAM_ID',
    'MAX_WINDOW',
    'PADDED',
    'PREFACE',
    'PRIORITY',
    'ErrorCode',
    'FrameType',
    'Setting',
    'Violation',
    'encode_frame',
    'encode_settings',
    'raise_violation',
    'strip_padding',
]

PREFACE: Final = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
"""The first bytes that a client sends."""

FRAME_HEADER: Final = struct.Struct('>IBI')
"""The header of a frame: length (24 bits) and type (8 bits) in one number, flags, stream."""

FRAME_HEADER_SIZE: Final = FRAME_HEADER.size

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY: Final = 0x20

DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_SIZE: Final = 16_384
MAX_FRAME_SIZE: Final = 2**24 - 1
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1


class FrameType(IntEnum):
    """The type of a frame."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """A parameter of SETTINGS."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """The reason in RST_STREAM and GOAWAY."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def encode_frame(frame_type: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return a frame as bytes."""
    return FRAME_HEADER.pack(len(payload) << 8 | frame_type, flags, stream_id) + payload


def encode_settings(settings: dict[Setting, int]) -> bytes:
    """Return the payload of a SETTINGS frame."""
    return b''.join(struct.pack('>HI', setting, value) for setting, value in settings.items())


def strip_padding(payload: bytes) -> bytes:
    """Return the payload of a frame with the flag PADDED, without its padding.

    Raises:
        Violation: The padding is longer than the frame.
    """
    if not payload or payload[0] >= len(payload):
        raise_violation(ErrorCode.PROTOCOL_ERROR, 'padding is longer than the frame (6.1)')
    return payload[1 : len(payload) - payload[0]]


class Violation(Exception):
    """The peer violated a rule of HTTP/2, which the text names.

    Attributes:
        code: The error code for GOAWAY.
    """

    def __init__(self, code: ErrorCode, rule: str) -> None:
        super().__init__(rule)
        self.code = code


def raise_violation(code: ErrorCode, rule: str) -> NoReturn:
    """Raise a :class:`Violation`."""
    raise Violation(code, rule)
