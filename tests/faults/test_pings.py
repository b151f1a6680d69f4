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
    """Accepts one connection, and says only what the test sends."""

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
def ends() -> Iterator[tuple[socket, socket, PingProxy]]:
    """The client's end, the server's end, and the proxy between them; a test that hangs fails."""
    server = Server()
    with PingProxy(server.url) as proxy, create_connection(('127.0.0.1', proxy.port), timeout=20) as client:
        with server.accepted.get(timeout=20) as accepted:
            accepted.settimeout(20)
            yield client, accepted, proxy
    server.stop()


def read(sock: socket, size: int) -> bytes:
    """So many bytes."""
    data = b''
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more
        data += more
    return data


def test_ping_is_answered_though_the_server_says_nothing(ends: tuple[socket, socket, PingProxy]) -> None:
    """Everything else reaches the server."""
    client, server, proxy = ends
    for piece in (PREFACE[:10], PREFACE[10:] + SETTINGS + PING[:12], PING[12:] + ACK + DATA):
        client.sendall(piece)
    assert read(client, len(SETTINGS + PONG)) == SETTINGS + PONG
    assert read(server, len(PREFACE + SETTINGS + DATA)) == PREFACE + SETTINGS + DATA
    assert proxy.answered == 1


def test_frames_of_the_server_pass_whole_between_answers(ends: tuple[socket, socket, PingProxy]) -> None:
    """Its own PINGs and settings are the client's to answer."""
    client, server, _ = ends
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


def test_what_is_not_http2_passes_as_it_is(ends: tuple[socket, socket, PingProxy]) -> None:
    """The gateway is asked by the same ways."""
    client, server, proxy = ends
    client.sendall(b'POST / HTTP/1.1\r\n\r\n' + PING)
    assert read(server, 19 + len(PING)).endswith(PING)
    server.sendall(b'HTTP/1.1 200 OK\r\n\r\n')
    assert read(client, 19) == b'HTTP/1.1 200 OK\r\n\r\n'
    assert proxy.answered == 0


@pytest.mark.parametrize('side', [0, 1])
def test_end_of_one_side_is_the_end_of_the_other(ends: tuple[socket, socket, PingProxy], side: int) -> None:
    """As where the server is killed."""
    ends[0].sendall(PREFACE)
    read(ends[1], len(PREFACE))
    read(ends[0], len(SETTINGS))
    ends[side].close()
    assert ends[1 - side].recv(1) == b''


def test_frames_are_taken_whole() -> None:
    """The rest stays."""
    data = bytearray(SETTINGS + DATA + PING[:5])
    assert frames_of(data) == [SETTINGS, DATA]
    assert data == PING[:5]
    assert [acknowledgement_of(each) for each in (SETTINGS, DATA, PING, PONG)] == [None, None, PONG, None]
