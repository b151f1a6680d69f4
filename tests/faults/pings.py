"""A proxy that answers HTTP/2 PINGs itself, as nginx and haproxy do, in whatever state the server behind it is."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

import gevent
from gevent.lock import RLock
from gevent.server import StreamServer
from gevent.socket import IPPROTO_TCP, TCP_NODELAY, create_connection, socket

__all__ = ['PingProxy', 'acknowledgement_of', 'frames_of']

PREFACE: Final = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
HEAD: Final = 9
"""Bytes of a frame header.  Source: RFC 9113, section 4.1."""

SETTINGS: Final = 4
PING: Final = 6
ACK: Final = 1

NO_SETTINGS: Final = bytes((0, 0, 0, SETTINGS, 0, 0, 0, 0, 0))
"""The first frame of a server, which changes no setting."""

CHUNK: Final = 64 * 1024


def frames_of(data: bytearray) -> list[bytes]:
    """Remove the complete frames from the beginning of the data, and return them."""
    frames = []
    while len(data) >= HEAD and len(data) >= (size := HEAD + int.from_bytes(data[:3], 'big')):
        frames.append(bytes(data[:size]))
        del data[:size]
    return frames


def acknowledgement_of(frame: bytes) -> bytes | None:
    """Return the acknowledgement of a PING; None for other frames."""
    if frame[3] != PING or frame[4] & ACK:
        return None
    return frame[:4] + bytes((ACK,)) + frame[5:]


class PingProxy:
    """Forwards connections to a server, except for the HTTP/2 PINGs of clients, which it answers.  A context manager.

    It also sends the first SETTINGS of each HTTP/2 connection, so that new connections look healthy, too.  Other
    protocols are forwarded unchanged.

    Args:
        target: The URL of the server.

    Attributes:
        answered: The number of PINGs that were answered.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname is not None and parts.port is not None
        self.answered = 0
        self._address = parts.hostname, parts.port
        self._server = StreamServer(('127.0.0.1', 0), self._serve)

    @property
    def port(self) -> int:
        """The port of the proxy."""
        return int(self._server.server_port)

    @property
    def url(self) -> str:
        """The URL of the proxy."""
        return f'http://127.0.0.1:{self.port}'

    def __enter__(self) -> PingProxy:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(timeout=0)  # kills its greenlets, which close their sockets

    def _serve(self, client: socket, _: object) -> None:
        try:
            with create_connection(self._address) as server:
                for sock in (client, server):
                    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
                _Connection(self, client, server).run()
        except OSError:
            pass  # one side is closed, so the other is closed as well


class _Connection:
    """A connection of a client, and the connection to the server."""

    def __init__(self, proxy: PingProxy, client: socket, server: socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._is_http2 = False
        self._has_begun = False  # the client has acknowledged the settings of the proxy
        self._sending = RLock()  # two greenlets send to the client

    def run(self) -> None:
        """Forward in both directions until one side closes its connection."""
        head = bytearray()
        while len(head) < len(PREFACE) and PREFACE.startswith(head):
            data = self._client.recv(CHUNK)
            if not data:
                return
            head += data
        self._is_http2 = head.startswith(PREFACE)
        if self._is_http2:
            self._send_down(NO_SETTINGS)
            self._server.sendall(PREFACE)
            del head[: len(PREFACE)]
        directions = [
            gevent.spawn(self._forward, self._client, head, self._send_up),
            gevent.spawn(self._forward, self._server, bytearray(), self._send_down),
        ]
        try:
            gevent.wait(directions, count=1)
        finally:
            gevent.killall(directions)

    def _forward(self, source: socket, data: bytearray, send: Callable[[bytes], None]) -> None:
        try:
            while True:
                if self._is_http2:
                    for frame in frames_of(data):
                        send(frame)
                else:
                    send(bytes(data))
                    data.clear()
                more = source.recv(CHUNK)
                if not more:
                    return
                data += more
        except OSError:
            pass  # the connection is closed

    def _send_up(self, piece: bytes) -> None:
        answer = acknowledgement_of(piece) if self._is_http2 else None
        if answer is not None:
            self._proxy.answered += 1
            self._send_down(answer)
        elif self._is_http2 and not self._has_begun and piece[3:5] == bytes((SETTINGS, ACK)):
            self._has_begun = True  # the server did not send these settings
        else:
            self._server.sendall(piece)

    def _send_down(self, piece: bytes) -> None:
        with self._sending:
            self._client.sendall(piece)
