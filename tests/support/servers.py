"""Small servers with scripted behaviour, for tests of the transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import socket

from getc.net.endpoint import Endpoint, parse_endpoints

__all__ = ['answer_of', 'end', 'read_request', 'serving', 'start_server']

Handler = Callable[[socket], None]


@contextmanager
def serving(handler: Handler, *, scheme: str = 'http', **options: object) -> Iterator[Endpoint]:
    """Serve each connection by a handler on a free port; the handler is killed at the end."""

    def handle(sock: socket, _address: object) -> None:
        try:
            handler(sock)
        except OSError:
            pass  # the client disconnected, which such servers provoke

    server = start_server(handle, **options)
    try:
        yield parse_endpoints(f'{scheme}://127.0.0.1:{server.server_port}')[0]
    finally:
        end(server)


def start_server(handle: Callable[[socket, object], None], **options: object) -> StreamServer:
    """Start a server on a free port whose connections end with it; with ``ssl_context`` it uses TLS.

    The handshake is done by the first read or write of the handler: a greenlet that is killed in gevent's own
    handshake leaves its socket open.
    """
    if 'ssl_context' in options:
        options = {'do_handshake_on_connect': False, **options}
    server = StreamServer(('127.0.0.1', 0), handle, spawn=Pool(), backlog=128, **options)
    server.start()
    return server


def end(server: StreamServer, timeout: float = 0) -> None:
    """Stop the server, and kill its handlers after a number of seconds.

    Accepted connections need one iteration of the hub to start: a handler that is killed before leaves its socket open.
    """
    server.close()
    gevent.sleep(0)
    server.stop(timeout=timeout)


def read_request(sock: socket) -> bytes:
    """Read one whole request; returns b'' if the client closed the connection."""
    data = b''
    while b'\r\n\r\n' not in data:
        piece = sock.recv(65536)
        if not piece:
            return b''
        data += piece
    head, _, body = data.partition(b'\r\n\r\n')
    length = 0
    for line in head.split(b'\r\n'):
        name, _, value = line.partition(b':')
        if name.lower() == b'content-length':
            length = int(value)
    while len(body) < length:
        body += sock.recv(65536)
    return head + b'\r\n\r\n' + body


def answer_of(body: bytes, *, status: str = '200 OK', headers: str = 'Content-Type: application/json\r\n') -> bytes:
    """Return an HTTP response with Content-Length."""
    return f'HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n'.encode() + body
