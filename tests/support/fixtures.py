"""Fixtures that several folders import in their ``conftest.py``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from getc.grpc.channel import Channel
from getc.grpc.socket_io import PlainIO
from getc.net.endpoint import Endpoint
from tests.support.grpc_server import GrpcServer, Script
from tests.support.leftovers import check_greenlets, has_failed

__all__ = ['certificate', 'open_channel', 'serve']


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., GrpcServer]]:
    """Start gRPC servers that are stopped after the test; the test fails if the client violated the HTTP/2 protocol."""
    servers: list[GrpcServer] = []

    def serve(script: Script | None = None, **options: object) -> GrpcServer:
        servers.append(GrpcServer(script, **options).__enter__())  # type: ignore[arg-type]
        return servers[-1]

    yield serve
    for server in servers:
        server.__exit__(None, None, None)
    if not has_failed(request):
        broken = [connection.broken for server in servers for connection in server.connections]
        assert [reason for reason in broken if reason] == []


@pytest.fixture(scope='session')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    if shutil.which('openssl') is None:
        pytest.skip('the openssl command makes the certificate, and there is none')
    folder = tmp_path_factory.mktemp('tls')
    cert, key = folder / 'cert.pem', folder / 'key.pem'
    command = 'openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=getc'
    options = ['-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', str(key), '-out', str(cert)]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    return cert, key


@pytest.fixture
def open_channel(request: pytest.FixtureRequest) -> Iterator[Callable[..., Channel]]:
    """Open channels that are closed after the test; the test fails if a greenlet, socket or timer is left."""
    opened: list[Channel] = []

    def open_channel(endpoint: Endpoint, *args: object) -> Channel:
        channel = Channel(endpoint, *args)  # type: ignore[arg-type]
        opened.append(channel)
        return channel

    yield open_channel
    connections = [connection for channel in opened for connection in channel._connections]
    for channel in opened:
        channel.close()
    gevent.sleep(0)
    gevent.sleep(0)
    if has_failed(request):
        return
    check_greenlets(request)
    for channel in opened:
        assert (channel._connection, channel._connections, channel._attempt) == (None, set(), None)
        assert channel._timers._timer is None
    for connection in connections:
        assert connection._io._sock.fileno() == -1
        if isinstance(connection._io, PlainIO):
            assert not connection._io._readable.active and not connection._io._writable.active
        assert not connection.health._timer.active
