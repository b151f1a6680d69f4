"""Fixtures of all tests: time limits, and cleanup of what a test has started."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gevent
import pytest
from hypothesis import settings

from getc.testing import wait_until
from pytest_getc import propagate_failures
from tests.support.api_support import needs_etcd
from tests.support.built_servers import name_built_servers
from tests.support.leftovers import FAILED, Leftovers, has_failed


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of ``make test-servers``."""
    parser.addoption('--needs-etcd', action='store_true', help='run only the tests that use a real etcd')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that do not depend on the etcd, if the option is given."""
    if config.getoption('--needs-etcd'):
        deselected = [item for item in items if not needs_etcd(item)]
        items[:] = [item for item in items if needs_etcd(item)]
        if deselected:
            config.hook.pytest_deselected(items=deselected)


def pytest_configure() -> None:
    """Run clusters on the servers that ``make servers`` has built, and let no generated test fail for its duration."""
    name_built_servers()
    settings.register_profile('getc', deadline=None)
    settings.load_profile('getc')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Mark a failed test, so that its fixtures do not report consequences of the failure."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def _cleanup(request: pytest.FixtureRequest) -> Iterator[None]:
    """Close clients and kill greenlets that a test has left, and fail a test that passed but left a client open.

    The first fixture of each test, so it is torn down last.
    """
    propagate_failures()  # pytest-timeout must be able to end a test whose greenlets block
    leftovers = Leftovers()
    with leftovers.recording():
        yield
        clients = [repr(client) for client in leftovers.open_clients()]
        leftovers.end_all()
    if clients and not has_failed(request):
        pytest.fail(f'the test left open: {", ".join(clients)}', pytrace=False)


@pytest.fixture(autouse=True, scope='session')
def _handle_sigint() -> None:
    """Handle SIGINT if it is ignored, as in a background job of a shell, because child programs would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(name='wait_until')
def _wait_until() -> Callable[..., None]:
    """Run other greenlets until a condition is true."""
    return wait_until


@pytest.fixture
def spawn() -> Iterator[Callable[..., gevent.Greenlet[..., Any]]]:
    """Spawn greenlets that are killed after the test, before its clients are closed."""
    started: list[gevent.Greenlet[..., Any]] = []

    def spawn(function: Callable[..., Any], *args: Any, **options: Any) -> gevent.Greenlet[..., Any]:
        started.append(gevent.spawn(function, *args, **options))
        return started[-1]

    yield spawn
    gevent.killall(started)
