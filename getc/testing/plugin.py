"""The pytest plugin.  It is there where getc is installed; nothing needs to be imported.

==============  ==============================================================================
``etcd``        A client of an empty store in memory, for this test.
``etcd_clock``  Virtual time for the whole test; ``etcd_clock.advance(seconds)``.
``etcd_server``  A real etcd, started once per run and empty at the start of each test; ``.url``.
==============  ==============================================================================

Example::

    def test_presence_ends_with_its_server(etcd, etcd_clock):
        etcd.set('/servers/a', '10.0.0.7:7000', ttl=10)
        etcd_clock.advance(11)
        with pytest.raises(getc.KeyNotFound):
            etcd.get('/servers/a')

Where there is no etcd, tests of ``etcd_server`` are skipped and say how to get one.  They fail instead
where the environment has ``CI`` or ``GETC_REQUIRE_ETCD``: there a skipped test would go unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from gevent.hub import get_hub

from getc.client import Client
from getc.client import etcd as connect
from getc.testing.binaries import EtcdNotFound, find_etcd
from getc.testing.server import EtcdServer
from getc.testing.virtual import VirtualTime

__all__ = [
    'etcd',
    'etcd_clock',
    'etcd_server',
    'pytest_report_collectionfinish',
    'pytest_runtest_setup',
    'show_failures',
]

FIXTURES = {'etcd', 'etcd_clock', 'etcd_server'}


@pytest.fixture
def etcd_clock() -> Iterator[VirtualTime]:
    """Virtual time for gevent and getc: it moves on by ``advance(seconds)``, or where nothing else can happen.

    See :class:`getc.testing.VirtualTime`.
    """
    with VirtualTime() as clock:
        yield clock


@pytest.fixture
def etcd(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of an empty store in memory; closed after the test.

    It follows ``etcd_clock`` where the test has that one too, in whichever order they are named.
    """
    if 'etcd_clock' in request.fixturenames:
        request.getfixturevalue('etcd_clock')  # set up before us, and so torn down after us
    with connect('memory://') as client:
        yield client


@pytest.fixture(scope='session')
def _etcd_server_of_the_run() -> Iterator[EtcdServer]:
    try:
        server = EtcdServer(api='v2')
    except EtcdNotFound as error:
        if os.environ.get('CI') or os.environ.get('GETC_REQUIRE_ETCD'):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def etcd_server(_etcd_server_of_the_run: EtcdServer) -> EtcdServer:
    """A real etcd without any keys: ``getc.etcd(etcd_server.url)``.

    It is one for the whole run.  A test may kill, pause, wipe and restart it; the next one finds it running.
    """
    server = _etcd_server_of_the_run
    if server.pid is None:
        server.start()
    server.resume()
    server.clear()
    return server


def pytest_report_collectionfinish(items: list[pytest.Item]) -> str | None:
    """Say which etcd it will be, where a test needs one."""
    if not any('etcd_server' in getattr(item, 'fixturenames', ()) for item in items):
        return None
    try:
        return f'etcd_server: {find_etcd("v2")}'
    except EtcdNotFound as error:
        return f'etcd_server: {error}'


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let failures out of the hub, for tests that use these fixtures."""
    if FIXTURES.intersection(getattr(item, 'fixturenames', ())):
        show_failures()


def show_failures() -> None:
    """Have a ``pytest.fail`` in a greenlet, or in a signal's handler, end the test.

    The hub would print it and go on.  pytest-timeout fails a test from the handler of a signal, which
    runs in whichever greenlet is on: without this, that one would die and the test wait for ever.
    """
    hub = get_hub()
    failed = pytest.fail.Exception
    if failed not in hub.SYSTEM_ERROR:
        hub.SYSTEM_ERROR = (*hub.SYSTEM_ERROR, failed)
