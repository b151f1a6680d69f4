"""gRPC over HTTP/2: header blocks of requests, messages across DATA frames, and the status of a response.

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
from getc.grpc.http_responses import describe_http_response

__all__ = [
    'MAX_MESSAGE',
    'OK',
    'OVERSIZED_HEAD',
    'MessageDecoder',
    'OversizedMessage',
    'Status',
    'check_headers',
    'encode_message',
    'encode_timeout',
    'is_ok_response',
    'parse_status',
    'request_block',
    'single_message',
]

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of one received message."""

OVERSIZED_HEAD: Final = 128
"""Bytes that are kept of a longer message: enough for the header of an etcd response and the numbers after it."""

MESSAGE_PREFIX: Final = struct.Struct('>BI')
"""The prefix of a message: the compressed flag and the length."""

MESSAGE_PREFIX_SIZE: Final = MESSAGE_PREFIX.size
MAX_SIZE: Final = MESSAGE_PREFIX_SIZE + MAX_MESSAGE

OK: Final = 0

CONTENT_TYPE: Final = re.compile(rb'application/grpc(?:[+;].*)?')

TIMEOUT_UNITS: Final = ((b'n', 1e-9), (b'u', 1e-6), (b'm', 1e-3), (b'S', 1.0), (b'M', 60.0), (b'H', 3600.0))
TIMEOUT_DIGITS: Final = 3
"""Timeouts are rounded up to this number of digits, so that calls with equal timeouts send the same bytes."""


class Status(NamedTuple):
    """The status of a response.

    Attributes:
        code: 0 (OK) for success.
        message: The message of the server.
    """

    code: int
    message: str


def request_block(
    path: bytes, *, authority: bytes, is_secure: bool, metadata: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """Return the header block of a call without its timeout, which serves every call of the method.

    Args:
        path: ``/package.Service/Method``.
        authority: Host and port of the server.
        is_secure: The connection uses TLS.
        metadata: Further fields; they are encoded as never indexed, because tokens are among them.
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


def encode_timeout(seconds: float) -> bytes:
    """Return the field ``grpc-timeout`` as a part of a header block; empty for ``math.inf``.  Rounds up."""
    if 10.0 <= seconds < 100.0:  # a fast path for the default timeout with its grace
        return _encode_timeout(math.ceil(seconds * 10 - 1e-6) / 10)
    return b'' if seconds == math.inf else _encode_timeout(_rounded_up(seconds))


def _rounded_up(seconds: float) -> float:
    if seconds <= 1e-9:
        return 1e-9
    step = 10.0 ** (math.floor(math.log10(seconds)) - TIMEOUT_DIGITS + 1)
    return math.ceil(seconds / step - 1e-6) * step


@lru_cache(maxsize=1024)
def _encode_timeout(seconds: float) -> bytes:
    for unit, size in TIMEOUT_UNITS:
        count = math.ceil(seconds / size - 1e-6)
        if count < 10**8:  # the protocol allows eight digits
            return encode_fields([(b'grpc-timeout', b'%d%s' % (count, unit))])
    return b''


def encode_message(message: bytes) -> bytes:
    """Return an uncompressed message with its prefix, as it is sent in DATA frames."""
    return MESSAGE_PREFIX.pack(0, len(message)) + message


def single_message(data: bytes) -> bytes | None:
    """Return the message if the data are exactly one uncompressed message with its prefix; else None."""
    size = len(data) - MESSAGE_PREFIX_SIZE
    return data[MESSAGE_PREFIX_SIZE:] if size >= 0 and MESSAGE_PREFIX.unpack_from(data) == (0, size) else None


class OversizedMessage(bytes):
    """The first ``OVERSIZED_HEAD`` bytes of a message that is longer than ``MAX_MESSAGE``.

    Attributes:
        size: Bytes of the whole message.
    """

    size: int

    @classmethod
    def of(cls, head: bytes, size: int) -> OversizedMessage:
        """Return the head of a message of this size."""
        made = cls(head)
        made.size = size
        return made


class MessageDecoder:
    """Decodes the messages of one response from data in chunks of any size.

    A message that is longer than ``MAX_MESSAGE`` takes no memory: all but its head is skipped.
    """

    __slots__ = ('_buffer', '_needed', '_to_skip')

    def __init__(self) -> None:
        self._buffer = bytearray()  # an incomplete message with its prefix
        self._needed = MESSAGE_PREFIX_SIZE  # bytes in the buffer before decoding goes on
        self._to_skip = 0  # bytes of an oversized message that are still to be received

    @property
    def is_at_boundary(self) -> bool:
        """True if there is no incomplete message."""
        return not (self._buffer or self._to_skip)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that are completed by the data.

        A message that is longer than ``MAX_MESSAGE`` is returned as :class:`OversizedMessage`, as soon as its head is
        received.

        Raises:
            ProtocolError: A message is compressed, which the client does not accept.
        """
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            self._to_skip -= skipped
            data = data[skipped:]
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        messages: list[bytes] = []
        at, end = 0, len(data)
        self._needed = MESSAGE_PREFIX_SIZE
        while end - at >= MESSAGE_PREFIX_SIZE:
            if data[at]:
                raise ProtocolError('gRPC: a compressed message, although no compression was accepted')
            size = MESSAGE_PREFIX_SIZE + int.from_bytes(data[at + 1 : at + MESSAGE_PREFIX_SIZE], 'big')
            kept = size if size <= MAX_SIZE else MESSAGE_PREFIX_SIZE + OVERSIZED_HEAD
            if end - at < kept:
                self._needed = kept
                break
            message = data[at + MESSAGE_PREFIX_SIZE : at + kept]
            if size > MAX_SIZE:
                message = OversizedMessage.of(message, size - MESSAGE_PREFIX_SIZE)
                self._to_skip = max(0, size - (end - at))
            messages.append(message)
            at += size
        if at < end:
            self._buffer += data[at:]
        return messages


@lru_cache(maxsize=64)
def is_ok_response(headers: HeaderBlock, trailers: HeaderBlock) -> bool:
    """Return True if these are headers and trailers of a gRPC response with status OK."""
    try:
        check_headers(headers.status, headers.fields)
        return parse_status(trailers.fields).code == OK
    except EtcException:
        return False


def check_headers(status: int | None, fields: Fields) -> None:
    """Check that the headers are those of a gRPC response.

    Raises:
        HTTPError: The HTTP status is not 200, most likely because a proxy has answered.
        ProtocolError: The content type is not that of gRPC.
    """
    if CONTENT_TYPE.fullmatch(_value(fields, b'content-type') or b''):
        return
    if status != 200:
        raise HTTPError(status or 0, describe_http_response(status or 0, _value(fields, b'server')))
    raise ProtocolError('gRPC: the content-type of the response is not application/grpc')


def parse_status(fields: Fields) -> Status:
    """Return the status in the trailers of a response.

    Raises:
        ProtocolError: There is no status, or it is not a number.
    """
    code = _value(fields, b'grpc-status')
    if code == b'0':
        return Status(OK, '')
    if code is None or not (code.isdigit() and len(code) <= 3):
        raise ProtocolError('gRPC: the response ended without a grpc-status that is a number')
    message = unquote_to_bytes(_value(fields, b'grpc-message') or b'').decode('utf-8', 'replace')
    return Status(int(code), message)


def _value(fields: Fields, name: bytes) -> bytes | None:
    for key, value in fields:
        if key == name:
            return value
    return None
