"""gRPC over HTTP/2: what a call's headers say, messages across DATA frames, and how a call ends.

Source: grpc/grpc, ``doc/PROTOCOL-HTTP2.md``.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from getc.errors import EtcException, HTTPError, ProtocolError
from getc.grpc.http2.headers import Fields, HeaderBlock, encode_fields

__all__ = [
    'MAX_MESSAGE',
    'OK',
    'Messages',
    'Oversized',
    'Status',
    'check_head',
    'is_well',
    'packed',
    'request_block',
    'status_of',
    'timeout_field',
    'whole_message',
]

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of one message that is received."""

BEGINNING: Final = 128
"""Bytes of a longer message that are kept: the header of an etcd response and the numbers after it take less."""

LENGTH: Final = struct.Struct('>BI')
"""What is in front of a message: a flag for compression, and the length."""

PREFIX: Final = LENGTH.size
LARGEST: Final = PREFIX + MAX_MESSAGE

OK: Final = 0

CONTENT_TYPE: Final = re.compile(rb'application/grpc(?:[+;].*)?')

UNITS: Final = ((b'n', 1e-9), (b'u', 1e-6), (b'm', 1e-3), (b'S', 1.0), (b'M', 60.0), (b'H', 3600.0))
DIGITS: Final = 3
"""Timeouts are rounded up to so many digits: whoever asks for 10 s sends the same bytes each time."""


class Status(NamedTuple):
    """How a call ended.

    Attributes:
        code: 0 for good.
        message: What the server says of it.
    """

    code: int
    message: str


def request_block(
    path: bytes, *, authority: bytes, is_secure: bool, metadata: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """The header block of a call, without its timeout.  It serves every call of the method.

    Args:
        path: ``/package.Service/Method``.
        authority: The server's host and port.
        is_secure: TLS is spoken.
        metadata: Further fields.  They are kept out of tables on the way, since tokens are among them.
    """
    fields = (
        (b':method', b'POST'),
        (b':scheme', b'https' if is_secure else b'http'),
        (b':path', path),
        (b':authority', authority),
        (b'te', b'trailers'),
        (b'content-type', b'application/grpc'),
        (b'user-agent', b'getc'),
    )
    return encode_fields(fields) + encode_fields(metadata, secret=True)


def timeout_field(seconds: float) -> bytes:
    """The part of a block that tells the server after how long nobody waits any more; empty for never.

    It is never shorter than asked for.
    """
    if 10.0 <= seconds < 100.0:  # without a call: the default timeout with its grace is in this range
        return _timeout_field(math.ceil(seconds * 10 - 1e-6) / 10)
    return b'' if seconds == math.inf else _timeout_field(_rounded_up(seconds))


def _rounded_up(seconds: float) -> float:
    if seconds <= 1e-9:
        return 1e-9
    step = 10.0 ** (math.floor(math.log10(seconds)) - DIGITS + 1)
    return math.ceil(seconds / step - 1e-6) * step


@lru_cache(maxsize=1024)
def _timeout_field(seconds: float) -> bytes:
    for unit, size in UNITS:
        count = math.ceil(seconds / size - 1e-6)
        if count < 10**8:  # eight digits at most
            return encode_fields([(b'grpc-timeout', b'%d%s' % (count, unit))])
    return b''


def packed(message: bytes) -> bytes:
    """A message as it stands in DATA frames: uncompressed, its length in front."""
    return LENGTH.pack(0, len(message)) + message


def whole_message(data: bytes) -> bytes | None:
    """The message that this is from its first byte to its last; None if it is anything else."""
    size = len(data) - PREFIX
    return data[PREFIX:] if size >= 0 and LENGTH.unpack_from(data) == (0, size) else None


class Oversized(bytes):
    """The first ``BEGINNING`` bytes of a message that is longer than ``MAX_MESSAGE``.

    Attributes:
        size: Bytes of the whole message.
    """

    size: int

    @classmethod
    def of(cls, beginning: bytes, size: int) -> Oversized:
        """The beginning of a message of that size."""
        made = cls(beginning)
        made.size = size
        return made


class Messages:
    """Puts together the messages of one answer, whatever frames they come in.

    A message that is longer than ``MAX_MESSAGE`` takes no memory: it is skipped, all but its beginning.
    """

    __slots__ = ('_begun', '_needed', '_to_skip')

    def __init__(self) -> None:
        self._begun = bytearray()  # a message that is not whole
        self._needed = PREFIX  # bytes of it before it is worth another look
        self._to_skip = 0  # bytes of an oversized message that are still to come

    @property
    def is_between(self) -> bool:
        """True if no message has begun that is not whole."""
        return not (self._begun or self._to_skip)

    def feed(self, data: bytes) -> list[bytes]:
        """Take a piece of the answer, and return the messages that it completes.

        A message that is longer than ``MAX_MESSAGE`` is returned as :class:`Oversized`, as soon as its beginning is
        there.

        Raises:
            ProtocolError: A message is compressed, which was not asked for.
        """
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            self._to_skip -= skipped
            data = data[skipped:]
        if self._begun:
            self._begun += data
            if len(self._begun) < self._needed:
                return []
            data = bytes(self._begun)
            self._begun.clear()
        messages: list[bytes] = []
        at, end = 0, len(data)
        self._needed = PREFIX
        while end - at >= PREFIX:
            size = _size(data, at)
            kept = size if size <= LARGEST else PREFIX + BEGINNING
            if end - at < kept:
                self._needed = kept
                break
            message = data[at + PREFIX : at + kept]
            if size > LARGEST:
                message = Oversized.of(message, size - PREFIX)
                self._to_skip = max(0, size - (end - at))
            messages.append(message)
            at += size
        if at < end:
            self._begun += data[at:]
        return messages


def _size(data: bytes, at: int) -> int:
    """Bytes of the message that begins there, with its prefix."""
    if data[at]:
        raise ProtocolError('gRPC: a compressed message, which was not asked for')
    return PREFIX + int.from_bytes(data[at + 1 : at + PREFIX], 'big')


@lru_cache(maxsize=64)
def is_well(head: HeaderBlock, trailers: HeaderBlock) -> bool:
    """True if an answer that begins and ends with these blocks is gRPC's, and OK."""
    try:
        check_head(head.status, head.fields)
        return status_of(trailers.fields).code == OK
    except EtcException:
        return False


def check_head(status: int | None, fields: Fields) -> None:
    """Refuse the head of an answer that is not gRPC's.

    Raises:
        HTTPError: Another HTTP status than 200: a proxy's page, most likely.
        ProtocolError: Another content type.
    """
    if CONTENT_TYPE.fullmatch(_value(fields, b'content-type') or b''):
        return
    if status != 200:
        raise HTTPError(status or 0, 'the answer is not gRPC')
    raise ProtocolError('gRPC: the answer has another content-type than application/grpc')


def status_of(fields: Fields) -> Status:
    """How the call ended, by its trailers.

    Raises:
        ProtocolError: There is no status, or it is no number.
    """
    code = _value(fields, b'grpc-status')
    if code == b'0':
        return Status(OK, '')
    if code is None or not (code.isdigit() and len(code) <= 3):
        raise ProtocolError('gRPC: the call ended without a grpc-status that is a number')
    message = unquote_to_bytes(_value(fields, b'grpc-message') or b'').decode('utf-8', 'replace')
    return Status(int(code), message)


def _value(fields: Fields, name: bytes) -> bytes | None:
    for key, value in fields:
        if key == name:
            return value
    return None
