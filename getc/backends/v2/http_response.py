"""Reading an HTTP response within limits of size, and of the bytes that are read without a switch of greenlets."""

from __future__ import annotations

import http.client
import io
import re
from typing import Any, Final

import gevent
import gevent.socket

__all__ = ['MAX_BODY', 'MAX_HEAD', 'BadResponse', 'BoundedResponse', 'TooLarge', 'is_body_ready', 'read_body']

MAX_BODY: Final = 16 * 1024 * 1024
MAX_HEAD: Final = 64 * 1024
BUFFER_BYTES: Final = 16 * 1024
YIELD_BYTES: Final = 256 * 1024
"""Bytes after which other greenlets run: a socket that always has data would never switch to the hub."""

MAX_CHUNKS: Final = 64 * 1024
"""Chunks of a body.  Chunks of one byte each would cost many times their content."""

MAX_LINE: Final = 4096
"""Bytes of the line with the size of a chunk."""

LENGTH: Final = re.compile(r'[0-9]{1,19}')
CHUNK_SIZE: Final = re.compile(rb'([0-9A-Fa-f]{1,16})[ \t]*(;.*)?\r?\n', re.DOTALL)


class BadResponse(http.client.HTTPException):
    """The response exceeds a limit, or can be read in two ways.  The text does not quote the response."""


class TooLarge(BadResponse):
    """The body is larger than ``MAX_BODY``.

    Attributes:
        size: Bytes of the body if known, else 0.
    """

    def __init__(self, text: str, size: int = 0) -> None:
        super().__init__(text)
        self.size = size


class _Meter(io.RawIOBase):
    """Counts the bytes of one response, and stops at a limit."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.received = 0
        self.limit = MAX_HEAD + BUFFER_BYTES  # the last buffer of a head may contain bytes of the body
        self.has_ended = False  # the peer has closed the connection
        self.is_paused = False  # nothing is read from the socket: only buffered bytes are there
        self._yield_at = YIELD_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.is_paused:
            return None
        count: int = self._raw.readinto(buffer)
        self.received += count
        self.has_ended = not count
        if self.received > self.limit:
            raise BadResponse(f'more than {self.limit} bytes')
        if self.received > self._yield_at:
            self._yield_at = self.received + YIELD_BYTES
            gevent.sleep(0)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
            super().close()


class _Metered:
    """The socket that http.client's response expects: an object with ``makefile``."""

    def __init__(self, meter: _Meter) -> None:
        self._meter = meter

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._meter, BUFFER_BYTES)


class BoundedResponse(http.client.HTTPResponse):
    """A response whose head and body are limited in size.

    Attributes:
        meter: Counts the bytes received so far.
    """

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        # The file keeps the socket open: http.client closes its own reference after the last response of a connection.
        self.sock = sock
        self.meter = _Meter(sock.makefile('rb', buffering=0))
        self._chunks = 0
        super().__init__(_Metered(self.meter), *args, **options)  # type: ignore[arg-type]

    def begin(self) -> None:
        super().begin()
        if self.meter.has_ended:  # http.client accepts a truncated head
            raise http.client.IncompleteRead(b'')
        # http.client skips status 100 only: the response after another one would be read by the next call.
        if self.status < 200:
            raise BadResponse('an interim response (status 1xx)')
        self._check_framing()
        self.meter.limit = 2 * MAX_BODY  # each chunk has a line of its own

    def _check_framing(self) -> None:
        """Refuse a response with an ambiguous length: a proxy may read it in another way.

        Source: RFC 9112, section 6.3.
        """
        lengths = self.headers.get_all('Content-Length', [])
        codings = self.headers.get_all('Transfer-Encoding', [])
        if codings and [coding.strip().lower() for coding in codings] != ['chunked']:
            raise BadResponse('a transfer coding other than chunked')
        if len(lengths) + len(codings) > 1:
            raise BadResponse('more than one length')
        if lengths and not LENGTH.fullmatch(lengths[0].strip()):
            raise BadResponse('a Content-Length that is not a number')

    def _read_next_chunk_size(self) -> int:
        # The method of http.client accepts every integer literal of Python: '0x2', '+2', '1_0'.
        line = self.fp.readline(MAX_LINE + 1)
        if not line:
            raise ValueError('the response has ended')
        match = CHUNK_SIZE.fullmatch(line)
        if match is None or len(line) > MAX_LINE:
            raise BadResponse('a chunk without a valid size')
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise BadResponse(f'more than {MAX_CHUNKS} chunks')
        size = int(match[1], 16)
        if not size:
            self.meter.limit = self.meter.received + MAX_HEAD  # limits the trailers
        return size


def read_body(response: BoundedResponse) -> bytes:
    """Read the response to its end, and return its body.

    Raises:
        TooLarge: The body is longer than ``MAX_BODY``.
        BadResponse: Its length is ambiguous, or it exceeds another limit.
        http.client.HTTPException, OSError, ValueError: It is truncated, or violates HTTP.
    """
    if response.length is None:
        body = response.read(MAX_BODY + 1)
    elif response.length <= MAX_BODY:
        body = response.read()
    else:
        raise TooLarge(f'a body of {response.length} bytes', response.length)
    if len(body) > MAX_BODY:
        raise TooLarge(f'a body of more than {MAX_BODY} bytes')
    return body


def is_body_ready(response: BoundedResponse, timeout: float | None) -> bool:
    """Wait until a byte of the body, or its end, can be read.  Return False after the timeout, in seconds."""
    if response.isclosed() or _is_buffered(response):
        return True
    pending = getattr(response.sock, 'pending', None)  # decrypted bytes that TLS has buffered
    if pending is not None and pending():
        return True
    late = gevent.socket.timeout('no byte')
    try:
        gevent.socket.wait_read(response.sock.fileno(), timeout, late)
    except gevent.socket.timeout as error:
        if error is not late:
            raise
        return False
    return True


def _is_buffered(response: BoundedResponse) -> bool:
    response.meter.is_paused = True
    try:
        return bool(response.fp.peek(1))
    finally:
        response.meter.is_paused = False
