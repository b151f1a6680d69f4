"""A client that meets a hostile server, and what that server could do to it."""

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

__all__ = ['ANSWER', 'IN_THE_KERNEL', 'Hostile', 'HostileServer', 'Peer', 'Trap', 'good', 'opened', 'v2_answer']

IN_THE_KERNEL = 8 * 1024 * 1024
"""Bytes that the kernel takes from a server though nobody reads them: the room that the client's side may grow to."""


class Hostile:
    """One connection, as the hostile server sees it."""

    def __init__(self, sock: socket, server: HostileServer) -> None:
        self._sock = sock
        self._server = server

    def request(self) -> bytes:
        """A request of HTTP/1, whole."""
        return read_request(self._sock)

    def receive(self) -> bytes:
        """Whatever has come."""
        return self._sock.recv(65_536)

    def calls(self) -> Iterator[int]:
        """The streams of HTTP/2 that the client opens, one after the other, until it hangs up."""
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
        """Send all of it, as far as the client takes it.

        Raises:
            OSError: The client has hung up.
        """
        view = memoryview(data)
        while view:
            count = self._sock.send(view)
            self._server.sent += count
            view = view[count:]

    def flood(self, data: bytes, before: bytes = b'') -> None:
        """Send it again and again, until the client hangs up."""
        self.send(before)
        many = data * max(1, 65_536 // len(data))
        while True:
            self.send(many)

    def trickle(self, data: bytes, before: bytes = b'') -> None:
        """Send it again and again, slowly."""
        self.send(before)
        while True:
            self.send(data)
            gevent.sleep(0.02)

    def reset(self) -> None:
        """Hang up without a farewell."""
        self._sock.setsockopt(SOL_SOCKET, SO_LINGER, b'\1\0\0\0\0\0\0\0')
        self._sock.close()

    def wait(self) -> None:
        """Do nothing, until the client hangs up."""
        while self._sock.recv(65_536):
            pass


@dataclass(frozen=True)
class Peer:
    """A hostile server, and what a client says of it.

    Attributes:
        name: What it does.
        serve: Does it, on each connection.
        error: What a call raises.
        told: Part of the error's text.
        most: Bytes that a client takes before it hangs up, at the very most; the kernel takes some besides.
        is_slow: It never comes to an end by itself: what ends is the call's time.
    """

    name: str
    serve: Callable[[Hostile], object]
    error: type[getc.EtcException] = getc.ProtocolError
    told: str = ''
    most: int = 128 * 1024
    is_slow: bool = False

    def __str__(self) -> str:
        return self.name


class HostileServer:
    """A peer that listens.  A context manager.

    Attributes:
        url: Where it is.
        visits: Connections that it had.
        sent: Bytes that were taken of it.
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
            self._peer.serve(Hostile(sock, self))
        finally:
            self._busy -= 1

    @property
    def is_busy(self) -> bool:
        """True while a client is connected."""
        return self._busy > 0


class Trap:
    """A server to which nobody may be led.  A context manager.

    Attributes:
        url: Where it is.
        visits: How many came.
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


def v2_answer(value: str = 'good', **more: Any) -> bytes:
    """What etcd v2 says of ``/a``."""
    extra = ''.join(f',"{name}":{text}' for name, text in more.items())
    body = f'{{"action":"get","node":{{"key":"/a","value":"{value}","modifiedIndex":7,"createdIndex":7{extra}}}}}'
    return answer_of(body.encode(), headers='Content-Type: application/json\r\nX-Etcd-Index: 7\r\n')


ANSWER = RangeResponse(
    header={'revision': 7},
    kvs=[KeyValue(key=b'/a', value=b'good', create_revision=7, mod_revision=7, version=1)],
    count=1,
)


@contextmanager
def good(api: str) -> Iterator[str]:
    """A server that is well: ``/a`` has the value ``'good'``."""
    if api == 'v2':

        def answer(sock: socket) -> None:
            while read_request(sock):
                sock.sendall(v2_answer())

        with serving(answer) as endpoint:
            yield endpoint.url
        return

    def script(call: ServerCall) -> None:
        call.receive()
        assert call.path == KV.Range.path
        call.answer(ANSWER.SerializeToString())

    with GrpcServer(script) as server:
        yield server.endpoint.url


@contextmanager
def opened(api: Any, *urls: str, timeout: float | None = 60.0, **options: Any) -> Iterator[getc.Client]:
    """A client of these servers."""
    with getc.etcd(list(urls), api=api, timeout=timeout, **options) as client:
        yield client
