"""The proxy that answers PINGs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gevent.queue import Queue
from gevent.server import StreamServer
from gevent.socket import create_connection, socket

from tests.faults.pings import PREFACE, PingProxy, acknowledgement_of, frames_of

SETTINGS = bytes.fromhex('000000 04 00 00000000')
PING = bytes.fromhex('000008 06 00 00000000') + b'12345678'
ACK = bytes.fromhex('000000 04 01 00000000')
PONG = bytes.fromhex('000008 06 01 00000000') + b'12345678'
DATA = bytes.fromhex('000003 00 01 00000001') + b'abc'


class Server:
    """Accepts one connection, and sends only what the test sends."""

    def __init__(self) -> None:
        self.accepted: Queue[socket] = Queue()
        self._server = StreamServer(('127.0.0.1', 0), self._serve)
        self._server.start()
        self.url = f'http://127.0.0.1:{self._server.server_port}'

    def _serve(self, sock: socket, _: object) -> None:
        self.accepted.put(sock.dup())

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def sockets() -> Iterator[tuple[socket, socket, PingProxy]]:
    """The client's socket, the server's socket, and the proxy between them; a timeout fails the test."""
    server = Server()
    with PingProxy(server.url) as proxy, create_connection(('127.0.0.1', proxy.port), timeout=20) as client:
        with server.accepted.get(timeout=20) as accepted:
            accepted.settimeout(20)
            yield client, accepted, proxy
    server.stop()


def read(sock: socket, size: int) -> bytes:
    """Receive a number of bytes."""
    data = b''
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more
        data += more
    return data


def test_ping_is_answered_when_the_server_is_silent(sockets: tuple[socket, socket, PingProxy]) -> None:
    """All other frames reach the server."""
    client, server, proxy = sockets
    for piece in (PREFACE[:10], PREFACE[10:] + SETTINGS + PING[:12], PING[12:] + ACK + DATA):
        client.sendall(piece)
    assert read(client, len(SETTINGS + PONG)) == SETTINGS + PONG
    assert read(server, len(PREFACE + SETTINGS + DATA)) == PREFACE + SETTINGS + DATA
    assert proxy.answered == 1


def test_server_frames_are_not_split_by_ping_acks(sockets: tuple[socket, socket, PingProxy]) -> None:
    """PINGs and SETTINGS of the server are forwarded to the client."""
    client, server, _ = sockets
    client.sendall(PREFACE + ACK + ACK)
    read(server, len(PREFACE + ACK))
    assert read(client, len(SETTINGS)) == SETTINGS
    server.sendall(DATA[:10])
    client.sendall(PING)
    assert read(client, len(PONG)) == PONG
    server.sendall(DATA[10:] + PING)
    assert read(client, len(DATA + PING)) == DATA + PING
    client.sendall(PONG)
    assert read(server, len(PONG)) == PONG


def test_other_protocols_are_forwarded_unchanged(sockets: tuple[socket, socket, PingProxy]) -> None:
    """The JSON gateway is used through the same proxies."""
    client, server, proxy = sockets
    client.sendall(b'POST / HTTP/1.1\r\n\r\n' + PING)
    assert read(server, 19 + len(PING)).endswith(PING)
    server.sendall(b'HTTP/1.1 200 OK\r\n\r\n')
    assert read(client, 19) == b'HTTP/1.1 200 OK\r\n\r\n'
    assert proxy.answered == 0


@pytest.mark.parametrize('side', [0, 1])
def test_both_sides_close_when_one_closes(sockets: tuple[socket, socket, PingProxy], side: int) -> None:
    sockets[0].sendall(PREFACE)
    read(sockets[1], len(PREFACE))
    read(sockets[0], len(SETTINGS))
    sockets[side].close()
    assert sockets[1 - side].recv(1) == b''


def test_only_complete_frames_are_removed() -> None:
    data = bytearray(SETTINGS + DATA + PING[:5])
    assert frames_of(data) == [SETTINGS, DATA]
    assert data == PING[:5]
    assert [acknowledgement_of(each) for each in (SETTINGS, DATA, PING, PONG)] == [None, None, PONG, None]
