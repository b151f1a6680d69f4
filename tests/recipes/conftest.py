"""Fixtures of the tests of recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import getc
from getc import timing
from getc.operations import Operation
from getc.testing import EtcdServer, MemoryStore, VirtualTime, wait_until
from getc.testing.memory_faults import LinkedBackend
from tests.support.api_support import skip_unless_supported
from tests.support.interop import go, go_binary, start_go
from tests.support.leftovers import greenlets_of_getc, has_failed

__all__ = ['Open', 'client', 'go', 'go_binary', 'open_client', 'other', 'sent', 'start_go', 'store']

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


# -- in memory and virtual time, unless a module has a ``client`` of its own


@pytest.fixture
def store() -> MemoryStore:
    """Return an empty store."""
    return MemoryStore()


@pytest.fixture
def client(store: MemoryStore, etcd_clock: VirtualTime) -> Iterator[getc.Client]:
    """Yield a client of the store in virtual time."""
    with getc.etcd(store.url) as client:
        yield client


@pytest.fixture
def other(store: MemoryStore, etcd_clock: VirtualTime) -> Iterator[getc.Client]:
    """Yield another client, on a link of its own."""
    link = store.link()  # it exists for as long as it is referenced
    with getc.etcd(link.url) as other:
        yield other


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of all operations that any client sends."""
    sent: list[str] = []
    execute = LinkedBackend.execute

    def record(self: LinkedBackend, operation: Operation, deadline: timing.Deadline) -> object:
        sent.append(type(operation).__name__)
        return execute(self, operation, deadline)

    monkeypatch.setattr(LinkedBackend, 'execute', record)
    return sent
