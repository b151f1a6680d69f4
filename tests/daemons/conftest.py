"""A client whose etcd fails on command, in virtual time; and what must not be left behind."""

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
    """The client; when it was closed, nothing of it may go on."""
    with client_on(backend, url='memory://faulty') as client:
        yield client
    etcd_clock.advance(0)
    check_greenlets(request)


@pytest.fixture
def other(backend: FaultyBackend) -> Iterator[getc.Client]:
    """A client of the same store, for which all is well."""
    with client_on(MemoryBackend(backend.store), url='memory://well') as client:
        yield client
