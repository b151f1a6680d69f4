"""A client whose backend fails on command, in virtual time, and checks for what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import getc
from getc.backends.memory.backend import MemoryBackend
from getc.testing import VirtualTime
from tests.support.clients import client_on
from tests.support.faulty import FaultyBackend
from tests.support.leftovers import check_greenlets


@pytest.fixture
def backend(etcd_clock: VirtualTime) -> FaultyBackend:
    return FaultyBackend()


@pytest.fixture
def client(request: pytest.FixtureRequest, backend: FaultyBackend, etcd_clock: VirtualTime) -> Iterator[getc.Client]:
    """Yield a client, and check that it leaves no greenlet after its close."""
    with client_on(backend, url='memory://faulty') as client:
        yield client
    etcd_clock.advance(0)
    check_greenlets(request)


@pytest.fixture
def other(backend: FaultyBackend) -> Iterator[getc.Client]:
    """A client of the same store that does not fail."""
    with client_on(MemoryBackend(backend.store), url='memory://other') as client:
        yield client
