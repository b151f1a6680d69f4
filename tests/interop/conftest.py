"""Fixtures for tests with etcd's own client in Go: see ``tests/support/interop.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import getc
from getc.testing import EtcdServer
from tests.support.interop import go, go_binary, start_go

__all__ = ['go', 'go_binary', 'start_go']


@pytest.fixture
def etcd(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    """A client of the server that ``go`` uses, on the v3 API."""
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client
