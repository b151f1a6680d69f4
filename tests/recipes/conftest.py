"""Fixtures of the tests of recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import getc
from getc.testing import EtcdServer, MemoryStore, wait_until
from tests.support.api_support import skip_unless_supported
from tests.support.interop import go, go_binary, start_go
from tests.support.leftovers import greenlets_of_getc, has_failed

__all__ = ['Open', 'go', 'go_binary', 'open_client', 'start_go']

Open = Callable[[], getc.Client]
"""Opens a client."""


@pytest.fixture(params=['memory', 'v2', 'v3'])
def open_client(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Open clients of one empty store, on each backend; at the end no greenlet of getc may be left."""
    clients: list[getc.Client] = []
    store = MemoryStore()
    if request.param == 'memory':
        store.delay(0.001)  # so that each call switches
        url, api = store.url, None
    else:
        server: EtcdServer = request.getfixturevalue('etcd_server')
        skip_unless_supported(request.param, server.binary)
        url, api = server.url, request.param

    def open_client() -> getc.Client:
        clients.append(getc.etcd(url, api=api))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()
    if not has_failed(request):
        wait_until(lambda: greenlets_of_getc() == [])
