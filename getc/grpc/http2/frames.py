"""HTTP/2 frames: their numbers, how one is packed, and what is said of one that breaks a rule.

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
    'HEAD',
    'HEAD_SIZE',
    'MAX_FRAME_SIZE',
    'MAX_STREAM_ID',
    'MAX_WINDOW',
    'PADDED',
    'PREFACE',
    'PRIORITY',
    'ErrorCode',
    'Kind',
    'Setting',
    'Violation',
    'frame',
    'settings_payload',
    'unpadded',
    'violated',
]

PREFACE: Final = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
"""What a client sends first."""

HEAD: Final = struct.Struct('>IBI')
"""A frame's head: length (24 bits) and kind (8) in one number, flags, stream."""

HEAD_SIZE: Final = HEAD.size

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


class Kind(IntEnum):
    """What a frame is."""

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
    """What one peer tells the other of itself."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

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


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Pack a frame."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings_payload(settings: dict[Setting, int]) -> bytes:
    """Pack what a SETTINGS frame says."""
    return b''.join(struct.pack('>HI', setting, value) for setting, value in settings.items())


def unpadded(payload: bytes) -> bytes:
    """What is left of a padded payload without its padding."""
    if not payload or payload[0] >= len(payload):
        violated(ErrorCode.PROTOCOL_ERROR, 'padding longer than its frame (6.1)')
    return payload[1 : len(payload) - payload[0]]


class Violation(Exception):
    """The peer breaks a rule.  The text names it."""

    def __init__(self, code: ErrorCode, rule: str) -> None:
        super().__init__(rule)
        self.code = code


def violated(code: ErrorCode, rule: str) -> NoReturn:
    """Raise a :class:`Violation`."""
    raise Violation(code, rule)
