"""TLS through proxies that forward it, and to proxies that end it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import getc
from getc.testing import Certificates, EtcdServer, wait_until
from tests.support.proxies import KINDS, RealProxy

pytestmark = pytest.mark.slow

OpenClient = Callable[..., getc.Client]


@pytest.fixture(scope='module')
def certificates() -> Iterator[Certificates]:
    with Certificates() as certificates:
        yield certificates


def follow(client: getc.Client) -> None:
    """Write and watch through a client."""
    client.ready(timeout=60)
    values: list[str | None] = []
    client.on_change('/cfg', lambda change: values.append(change.value))
    for number in range(10):
        client.set('/cfg/a', str(number))
    wait_until(lambda: values == [str(number) for number in range(10)])


@pytest.mark.parametrize('name', ['gateway', 'haproxy-tcp'])
def test_tls_of_etcd_passes_through_a_tcp_proxy(
    name: str, certificates: Certificates, upstream: EtcdServer, tmp_path: Path, open_client: OpenClient
) -> None:
    """With the certificate of the client."""
    own = certificates.issue('client')
    with EtcdServer(binary=upstream.binary.path, tls=certificates.mutual()) as server:
        with RealProxy(KINDS[name], server.binary.path, [server.url], tmp_path) as proxy:
            follow(open_client(proxy.secure_url, ca=certificates.ca, cert=own.cert, key=own.key))
            with getc.etcd(proxy.secure_url, ca=certificates.ca) as stranger, pytest.raises(getc.ConnectionError):
                stranger.get('/cfg/a', timeout=2)


@pytest.mark.parametrize('name', ['grpc-proxy', 'haproxy-h2', 'nginx'])
def test_proxy_ends_the_tls_of_its_clients(
    name: str,
    certificates: Certificates,
    open_proxy: Callable[..., RealProxy],
    open_client: OpenClient,
    tmp_path: Path,
) -> None:
    """ALPN of the proxy has to offer h2."""
    server = certificates.issue('127.0.0.1')
    both = tmp_path / 'both.pem'
    both.write_text(Path(server.cert).read_text('ascii') + Path(server.key).read_text('ascii'), 'ascii')
    secure = {
        'grpc-proxy': ('start \\\n', f'start --cert-file={server.cert} --key-file={server.key} \\\n'),
        'haproxy-h2': (' proto h2\n    default', f' ssl crt {both} alpn h2\n    default'),
        'nginx': (' http2;', f' ssl http2; ssl_certificate {server.cert}; ssl_certificate_key {server.key};'),
    }
    old, new = secure[name]
    proxy = open_proxy(KINDS[name], {old: new})
    follow(open_client(proxy.secure_url, ca=certificates.ca))
