"""Reading an HTTP answer within bounds: of the head, of the body, and of what one turn may take."""

from __future__ import annotations

import http.client
import io
import re
from typing import Any, Final

import gevent
import gevent.socket

__all__ = ['MAX_BODY', 'MAX_HEAD', 'BadResponse', 'Response', 'TooLarge', 'is_body_ready', 'read_body']

MAX_BODY: Final = 16 * 1024 * 1024
MAX_HEAD: Final = 64 * 1024
BUFFER: Final = 16 * 1024
TURN: Final = 256 * 1024
"""Bytes after which others get a turn: a socket that always has more would never let the hub go."""


MAX_CHUNKS: Final = 64 * 1024
"""Pieces of a body.  Of a byte each they would cost many times what they bring."""

MAX_LINE: Final = 4096
"""Bytes of the line that begins a chunk."""

LENGTH: Final = re.compile(r'[0-9]{1,19}')
CHUNK_SIZE: Final = re.compile(rb'([0-9A-Fa-f]{1,16})[ \t]*(;.*)?\r?\n', re.DOTALL)


class BadResponse(http.client.HTTPException):
    """The peer sends more than it may, or what can be read in two ways.  The text is ours, and quotes nothing."""


class TooLarge(BadResponse):
    """The body is larger than ``MAX_BODY``.

    Attributes:
        size: Bytes of it, as far as they are known; else 0.
    """

    def __init__(self, text: str, size: int = 0) -> None:
        super().__init__(text)
        self.size = size


class _Meter(io.RawIOBase):
    """The bytes of one answer, counted."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.received = 0
        self.limit = MAX_HEAD + BUFFER  # the last piece of a head may carry a piece of the body
        self.has_ended = False  # the peer has closed
        self.is_dry = False  # nothing is taken from the socket: what is buffered is all there is
        self._turn_ends = TURN

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.is_dry:
            return None
        count: int = self._raw.readinto(buffer)
        self.received += count
        self.has_ended = not count
        if self.received > self.limit:
            raise BadResponse(f'more than {self.limit} bytes')
        if self.received > self._turn_ends:
            self._turn_ends = self.received + TURN
            gevent.sleep(0)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
            super().close()


class _Metered:
    """A socket as http.client's response wants it: something to make a file of."""

    def __init__(self, meter: _Meter) -> None:
        self._meter = meter

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._meter, BUFFER)


class Response(http.client.HTTPResponse):
    """An answer whose head and body are bounded.

    Attributes:
        meter: What was received so far.
    """

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        # The file holds on to the socket: http.client closes its own side after a last answer.
        self.sock = sock
        self.meter = _Meter(sock.makefile('rb', buffering=0))
        self._chunks = 0
        super().__init__(_Metered(self.meter), *args, **options)  # type: ignore[arg-type]

    def begin(self) -> None:
        super().begin()
        if self.meter.has_ended:  # http.client takes half a head for one
            raise http.client.IncompleteRead(b'')
        if (
            self.status < 200
        ):  # http.client passes over 100 only, and the next answer would be taken for the next call's
            raise BadResponse('an interim answer')
        self._check_framing()
        self.meter.limit = 2 * MAX_BODY  # chunks have heads of their own

    def _check_framing(self) -> None:
        """Refuse an answer whose end is not said, or said twice: whoever is in between may read it another way.

        Source: RFC 9112, section 6.3.
        """
        lengths = self.headers.get_all('Content-Length', [])
        codings = self.headers.get_all('Transfer-Encoding', [])
        if codings and [coding.strip().lower() for coding in codings] != ['chunked']:
            raise BadResponse('a transfer coding other than chunked')
        if len(lengths) + len(codings) > 1:
            raise BadResponse('more than one length')
        if lengths and not LENGTH.fullmatch(lengths[0].strip()):
            raise BadResponse('a length that is no number')

    def _read_next_chunk_size(self) -> int:
        # http.client's own takes whatever Python takes for a number: '0x2', '+2', '1_0'.
        line = self.fp.readline(MAX_LINE + 1)
        if not line:
            raise ValueError('the answer has ended')
        match = CHUNK_SIZE.fullmatch(line)
        if match is None or len(line) > MAX_LINE:
            raise BadResponse('a chunk without a size')
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise BadResponse(f'more than {MAX_CHUNKS} chunks')
        size = int(match[1], 16)
        if not size:
            self.meter.limit = self.meter.received + MAX_HEAD  # for trailers
        return size


def read_body(response: Response) -> bytes:
    """Read the answer to its end.

    Raises:
        TooLarge: It is longer than ``MAX_BODY``.
        Unreadable: Its end is not clear.
        http.client.HTTPException, OSError, ValueError: It is cut, or breaks HTTP.
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


def is_body_ready(response: Response, timeout: float | None) -> bool:
    """Wait until there is something to read: a byte of the body, or its end.  False after the timeout."""
    if response.isclosed() or _is_buffered(response):
        return True
    pending = getattr(response.sock, 'pending', None)  # bytes that TLS holds already
    if pending is not None and pending():
        return True
    late = gevent.socket.timeout('quiet')
    try:
        gevent.socket.wait_read(response.sock.fileno(), timeout, late)
    except gevent.socket.timeout as error:
        if error is not late:
            raise
        return False
    return True


def _is_buffered(response: Response) -> bool:
    response.meter.is_dry = True
    try:
        return bool(response.fp.peek(1))
    finally:
        response.meter.is_dry = False
