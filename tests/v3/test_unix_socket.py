"""Clients on the unix socket of a real etcd: calls, daemons, TLS, and errors."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gevent.socket
import pytest

import getc
from getc.testing import Certificates, EtcdBinary, EtcdServer, wait_until


@pytest.fixture(scope='module')
def server(etcd_binary: EtcdBinary) -> Iterator[EtcdServer]:
    with EtcdServer(binary=etcd_binary.path, unix_socket=True) as server:
        yield server


@pytest.fixture(scope='module')
def certificates() -> Iterator[Certificates]:
    with Certificates() as certificates:
        yield certificates


@pytest.fixture(scope='module')
def secure_server(etcd_binary: EtcdBinary, certificates: Certificates) -> Iterator[EtcdServer]:
    with EtcdServer(binary=etcd_binary.path, unix_socket=True, tls=certificates.mutual()) as server:
        yield server


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: ``tmp_path`` may be too long for the address of a socket."""
    with tempfile.TemporaryDirectory(prefix='getc-') as name:
        yield Path(name)


def test_client_works_over_a_unix_socket(server: EtcdServer) -> None:
    """Calls and daemons, and without a detection of the API."""
    with getc.etcd(server.socket_url) as client:
        assert (client.api, client.endpoints) == ('v3', (server.socket_url,))
        assert client.url.startswith('unix:///')
        client.ready()
        client.set('/a', 'x' * 1_000_000)
        assert len(client.get('/a').value or '') == 1_000_000
        mirror = client.mirror('/servers')
        keeper = client.keep_node('/servers/one', ttl=5)
        wait_until(lambda: '/servers/one' in mirror)
        assert client.wait('/a', client.get('/a').index).key == '/a'
        assert keeper.state is getc.KeeperState.KEPT
        client.clear()
        assert client.v3.cluster.member_list().members[0].name == 'getc'


def test_client_reconnects_when_the_server_restarts(server: EtcdServer) -> None:
    """While it is down there is no socket, or nothing listens on it."""
    with getc.etcd(server.socket_url) as client:
        mirror = client.mirror('/restarted')
        client.set('/restarted/a', '1')
        server.kill()
        with pytest.raises(getc.ConnectionError):
            client.get('/restarted', timeout=1)
        server.start()
        client.ready(timeout=30)
        client.set('/restarted/b', '2')
        wait_until(lambda: set(mirror) == {'/restarted/a', '/restarted/b'})


def test_unix_socket_and_tcp_are_endpoints_of_one_client(server: EtcdServer) -> None:
    with getc.etcd(['unix:///nonexistent/etcd.sock', server.url]) as client:
        client.set('/a', '1')
        assert f'in_use={server.url}' in repr(client)


def test_tls_over_a_unix_socket_verifies_localhost(secure_server: EtcdServer, certificates: Certificates) -> None:
    own = certificates.client
    url = secure_server.socket_url
    assert url.startswith('unixs:///')
    with getc.etcd(url, ca=certificates.ca, cert=own.cert, key=own.key) as client:
        client.set('/a', '1')
        assert client.get('/a').value == '1'
    with (
        getc.etcd(url, cert=own.cert, key=own.key) as client,
        pytest.raises(getc.ConnectionError, match=f'the certificate of {url} is not trusted'),
    ):
        client.get('/a')


def test_scheme_without_tls_on_a_socket_with_tls_and_vice_versa_is_named(
    server: EtcdServer, secure_server: EtcdServer
) -> None:
    with (
        getc.etcd(secure_server.socket_url.replace('unixs:', 'unix:')) as client,
        pytest.raises(getc.ConnectionError, match='use unixs:// in the URL'),
    ):
        client.get('/a', timeout=5)
    with (
        getc.etcd(server.socket_url.replace('unix:', 'unixs:')) as client,
        pytest.raises(getc.ConnectionError, match='use unix:// in the URL'),
    ):
        client.get('/a', timeout=5)


def test_missing_socket_and_one_without_a_server_are_refused(folder: Path) -> None:
    """A write that failed so was not applied."""
    for name, message in (
        ('missing', 'no socket at unix:///.*: check the path'),
        ('left', 'check that etcd runs there'),
    ):
        path = str(folder / name)
        if name == 'left':
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(path)
        with getc.etcd(f'unix://{path}') as client:
            with pytest.raises(getc.errors.ConnectionRefused, match=message) as caught:
                client.set('/a', '1')
            assert not caught.value.maybe_applied


def test_socket_of_another_program_is_not_an_etcd(folder: Path) -> None:
    path = str(folder / 'silent')
    listener = gevent.socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    try:
        with (
            getc.etcd(f'unix://{path}') as client,
            pytest.raises(getc.ConnectionError, match=f'unix://{path}') as caught,
        ):
            client.set('/a', '1', timeout=0.5)
        assert not caught.value.maybe_applied
    finally:
        listener.close()
