"""HostileConnection servers, and helpers for clients that connect to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.server import StreamServer
from gevent.socket import SO_LINGER, SO_SNDBUF, SOL_SOCKET, socket

import getc
from getc.grpc.http2.frames import PREFACE, FrameType
from getc.v3.schema.kv import KV, RangeResponse
from getc.v3.schema.mvccpb import KeyValue
from tests.support.grpc_server import GrpcServer, ServerCall
from tests.support.servers import answer_of, end, read_request, serving

__all__ = [
    'KERNEL_BUFFER_BYTES',
    'RESPONSE',
    'HostileConnection',
    'HostileServer',
    'Peer',
    'Trap',
    'healthy_server',
    'opened',
    'v2_response',
]

KERNEL_BUFFER_BYTES = 8 * 1024 * 1024
"""Bytes that the kernel accepts from a server although the client does not read them: its largest socket buffer."""


class HostileConnection:
    """One connection of a hostile server."""

    def __init__(self, sock: socket, server: HostileServer) -> None:
        self._sock = sock
        self._server = server

    def request(self) -> bytes:
        """Read one whole HTTP/1 request."""
        return read_request(self._sock)

    def receive(self) -> bytes:
        """Read the bytes that have arrived."""
        return self._sock.recv(65_536)

    def calls(self) -> Iterator[int]:
        """Yield the number of each HTTP/2 stream that the client opens, until it closes the connection."""
        data = b''
        while len(data) < len(PREFACE):
            piece = self.receive()
            if not piece:
                return
            data += piece
        data = data[len(PREFACE) :]
        while True:
            while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], 'big'):
                if data[3] == FrameType.HEADERS:
                    yield int.from_bytes(data[5:9], 'big')
                data = data[9 + int.from_bytes(data[:3], 'big') :]
            piece = self.receive()
            if not piece:
                return
            data += piece

    def send(self, data: bytes) -> None:
        """Send all of the data.

        Raises:
            OSError: The client has closed the connection.
        """
        view = memoryview(data)
        while view:
            count = self._sock.send(view)
            self._server.sent += count
            view = view[count:]

    def flood(self, data: bytes, before: bytes = b'') -> None:
        """Send the data repeatedly, until the client closes the connection."""
        self.send(before)
        many = data * max(1, 65_536 // len(data))
        while True:
            self.send(many)

    def trickle(self, data: bytes, before: bytes = b'') -> None:
        """Send the data repeatedly, with a delay, until the client closes the connection."""
        self.send(before)
        while True:
            self.send(data)
            gevent.sleep(0.02)

    def reset(self) -> None:
        """Reset the connection."""
        self._sock.setsockopt(SOL_SOCKET, SO_LINGER, b'\1\0\0\0\0\0\0\0')
        self._sock.close()

    def wait(self) -> None:
        """Send nothing until the client closes the connection."""
        while self._sock.recv(65_536):
            pass


@dataclass(frozen=True)
class Peer:
    """The behaviour of a hostile server, and the error of a client.

    Attributes:
        name: Names the behaviour.
        serve: Serves each connection.
        error: The class of the error that a call raises.
        text: A part of the error's text.
        max_bytes: Bytes that a client reads at most before it closes the connection; the kernel buffers some more.
        is_slow: True if the call ends by its timeout only.
    """

    name: str
    serve: Callable[[HostileConnection], object]
    error: type[getc.EtcException] = getc.ProtocolError
    text: str = ''
    max_bytes: int = 128 * 1024
    is_slow: bool = False

    def __str__(self) -> str:
        return self.name


class HostileServer:
    """A listening server with the behaviour of a peer.  A context manager.

    Attributes:
        url: Its URL.
        visits: The number of connections.
        sent: The number of bytes that were sent.
    """

    def __init__(self, peer: Peer) -> None:
        self.visits = 0
        self.sent = 0
        self._busy = 0
        self._peer = peer
        self._stack = ExitStack()

    def __enter__(self) -> HostileServer:
        self.url = self._stack.enter_context(serving(self._serve)).url
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _serve(self, sock: socket) -> None:
        self.visits += 1
        self._busy += 1
        sock.setsockopt(SOL_SOCKET, SO_SNDBUF, 65_536)
        try:
            self._peer.serve(HostileConnection(sock, self))
        finally:
            self._busy -= 1

    @property
    def is_busy(self) -> bool:
        """True while a client is connected."""
        return self._busy > 0


class Trap:
    """A server to which no client may connect.  A context manager.

    Attributes:
        url: Its URL.
        visits: The number of connections.
    """

    def __init__(self) -> None:
        self.visits = 0
        self._server = StreamServer(('127.0.0.1', 0), self._visited)

    def __enter__(self) -> Trap:
        self._server.start()
        self.url = f'http://127.0.0.1:{self._server.server_port}'
        return self

    def __exit__(self, *_: object) -> None:
        end(self._server)

    def _visited(self, *_: object) -> None:
        self.visits += 1


def v2_response(value: str = 'good', **more: Any) -> bytes:
    """Return the response of etcd v2 to a read of ``/a``."""
    extra = ''.join(f',"{name}":{text}' for name, text in more.items())
    body = f'{{"action":"get","node":{{"key":"/a","value":"{value}","modifiedIndex":7,"createdIndex":7{extra}}}}}'
    return answer_of(body.encode(), headers='Content-Type: application/json\r\nX-Etcd-Index: 7\r\n')


RESPONSE = RangeResponse(
    header={'revision': 7},
    kvs=[KeyValue(key=b'/a', value=b'good', create_revision=7, mod_revision=7, version=1)],
    count=1,
)


@contextmanager
def healthy_server(api: str) -> Iterator[str]:
    """Run a healthy server on which ``/a`` has the value ``'good'``; yield its URL."""
    if api == 'v2':

        def respond(sock: socket) -> None:
            while read_request(sock):
                sock.sendall(v2_response())

        with serving(respond) as endpoint:
            yield endpoint.url
        return

    def script(call: ServerCall) -> None:
        call.receive()
        assert call.path == KV.Range.path
        call.answer(RESPONSE.SerializeToString())

    with GrpcServer(script) as server:
        yield server.endpoint.url


@contextmanager
def opened(api: Any, *urls: str, timeout: float | None = 60.0, **options: Any) -> Iterator[getc.Client]:
    """Open a client of these servers."""
    with getc.etcd(list(urls), api=api, timeout=timeout, **options) as client:
        yield client
