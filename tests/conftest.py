"""What holds for every test of getc: it ends in time, and what it has started ends with it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gevent
import pytest

from getc.testing import wait_until
from pytest_getc import show_failures
from tests.support.leftovers import FAILED, Leftovers, has_failed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test has failed, so that its fixtures do not report the same once more."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End what a test has left running, and fail a test that passed but left a client open or a greenlet of getc.

    The first fixture of each test, so it is torn down last.
    """
    show_failures()  # a test's timeout ends the test, whatever its greenlets wait for
    leftovers = Leftovers()
    with leftovers.recording():
        yield
        clients = [repr(client) for client in leftovers.open_clients()]
        leftovers.end_all()
    if clients and not has_failed(request):
        pytest.fail(f'the test has left open: {", ".join(clients)}', pytrace=False)


@pytest.fixture(autouse=True, scope='session')
def _interrupts_reach_programs() -> None:
    """Handle SIGINT here if it is ignored, as in a background job of a shell: programs would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(name='wait_until')
def _until() -> Callable[..., None]:
    """Let other greenlets run until a condition is true."""
    return wait_until


@pytest.fixture
def spawn() -> Iterator[Callable[..., gevent.Greenlet[..., Any]]]:
    """Start greenlets that are killed after the test, before its clients are closed."""
    started: list[gevent.Greenlet[..., Any]] = []

    def spawn(function: Callable[..., Any], *args: Any, **options: Any) -> gevent.Greenlet[..., Any]:
        started.append(gevent.spawn(function, *args, **options))
        return started[-1]

    yield spawn
    gevent.killall(started)
