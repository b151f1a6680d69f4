"""Fixtures with real etcds that have users and certificates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from getc.testing import Certificates, EtcdBinary, EtcdServer, ServerTLS
from tests.support.api_support import skip_unless_supported
from tests.support.auth_servers import AuthServer, ForbiddenServer, Served


@pytest.fixture(scope='session')
def served(etcd_binary: EtcdBinary) -> Served:
    """Start a server of the etcd under test; skips if that does not support the API."""

    def served(tls: ServerTLS | None = None, *, api: Any = None) -> EtcdServer:
        skip_unless_supported(api, etcd_binary)
        return EtcdServer(binary=etcd_binary.path, tls=tls)

    return served


@pytest.fixture
def forbidden() -> Iterator[ForbiddenServer]:
    """A server that must not receive a connection."""
    forbidden = ForbiddenServer()
    yield forbidden
    forbidden.close()


@pytest.fixture(params=['v2', 'v3'])
def auth_server(request: pytest.FixtureRequest, served: Served) -> Iterator[AuthServer]:
    """An etcd that can have users, for each API."""
    auth_server = AuthServer(served, request.param)
    with auth_server.server:
        yield auth_server
        auth_server.close()


@pytest.fixture
def v3_auth_server(served: Served) -> Iterator[AuthServer]:
    """An etcd that can have users, for API v3."""
    auth_server = AuthServer(served, 'v3')
    with auth_server.server:
        yield auth_server
        auth_server.close()


@pytest.fixture(scope='session')
def certificates() -> Iterator[Certificates]:
    """A certificate authority with certificates for a server and a client."""
    with Certificates() as certificates:
        yield certificates
