"""Fixtures that several folders import in their ``conftest.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.grpc_server import GrpcServer, Script
from tests.support.leftovers import has_failed

__all__ = ['serve']


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., GrpcServer]]:
    """Start gRPC servers that are stopped after the test; a client that broke a rule of HTTP/2 fails the test."""
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
