"""Whoever holds the hub is named.

Nothing here depends on how fast the machine is: what blocks goes on until the watch has seen it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import gevent
import greenlet
import pytest
from gevent.hub import get_hub

from getc.testing import HubBlocked, hub_watch

LIMIT = 0.02

FOR_EVER = 3600.0


def block_until_seen(watch: hub_watch) -> None:
    """Hold the hub until the watch has seen it; a busy machine may have held up what ran before."""
    before = len(watch.blockages)
    while len(watch.blockages) == before:
        time.sleep(LIMIT * 2)  # the line that is named


LINE = block_until_seen.__code__.co_firstlineno + 4


def assert_named(caught: pytest.ExceptionInfo[HubBlocked]) -> None:
    named = [blockage for blockage in caught.value.blockages if f'{__file__}:{LINE}' in str(blockage)]
    assert named
    assert all(blockage.seconds > LIMIT for blockage in named)
    assert 'the hub was blocked for longer than 0.02 s' in str(caught.value)
    assert 'in block_until_seen\n        time.sleep(LIMIT * 2)' in str(caught.value)


class SetClock:
    """The time of the watch, for the test to set.

    Attributes:
        time: Seconds.
    """

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """It goes on only where the test says so."""
    clock = SetClock()
    monkeypatch.setattr('getc.testing.hub_watchdog.time', clock)
    return clock


def test_greenlet_that_blocks_is_named() -> None:
    """By the line that it was at."""
    with pytest.raises(HubBlocked) as caught, hub_watch(LIMIT) as watch:
        gevent.spawn(block_until_seen, watch).join()
    assert_named(caught)


def test_main_greenlet_is_named_when_it_blocks() -> None:
    """Also where nobody switches until the end."""
    with pytest.raises(HubBlocked) as caught, hub_watch(LIMIT) as watch:
        block_until_seen(watch)
    assert_named(caught)


def test_callback_of_the_hub_is_named_when_it_blocks() -> None:
    """The hub itself mostly waits: a callback in it is what blocks."""
    with pytest.raises(HubBlocked) as caught, hub_watch(LIMIT) as watch:
        get_hub().loop.run_callback(block_until_seen, watch)
        gevent.sleep(0.001)
    assert_named(caught)


def test_blockage_is_found_when_the_watching_thread_was_too_late(
    clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length is known from the switches alone; the place is the one where it let go."""
    monkeypatch.setattr(hub_watch, '_look', lambda self: None)

    def block() -> None:
        clock.time += 5
        gevent.sleep(0)

    with pytest.raises(HubBlocked) as caught, hub_watch(LIMIT):
        gevent.spawn(block).join()
    assert [blockage.seconds for blockage in caught.value.blockages] == [5]
    assert f'{__file__}:{block.__code__.co_firstlineno + 2}, in block' in str(caught.value)


def test_greenlet_of_a_c_function_is_named_by_the_line_that_spawned_it(
    clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no line of Python that it could be at."""
    monkeypatch.setattr(hub_watch, '_look', lambda self: None)
    line = sys._getframe().f_lineno + 2
    with pytest.raises(HubBlocked) as caught, hub_watch(LIMIT):
        gevent.spawn(setattr, clock, 'time', 5.0).join()
    assert f'for 5.000 s at\n    {__file__}:{line}, in ' in str(caught.value)


def test_waiting_is_no_blocking(clock: SetClock) -> None:
    """A hub that waits holds nobody up, however long; nor does a greenlet that lets others run."""
    hub = get_hub()
    with hub_watch(LIMIT) as watch:
        hub.loop.run_callback(setattr, clock, 'time', 5.0)  # in the hub's own time
        gevent.sleep(0.001)
        for _ in range(100):
            clock.time += LIMIT / 2
            gevent.sleep(0)
        assert watch.blockages == ()


def test_error_inside_is_not_hidden() -> None:
    """It says more."""
    with pytest.raises(KeyError), hub_watch(LIMIT) as watch:
        block_until_seen(watch)
        raise KeyError


def test_other_traces_are_kept() -> None:
    """Who traces switches goes on doing so, within and afterwards."""
    events: list[Any] = []

    def trace(event: str, args: Any) -> None:
        events.append(event)

    previous = greenlet.settrace(trace)
    try:
        with hub_watch(FOR_EVER):
            gevent.sleep(0)
        assert events
        assert greenlet.gettrace() is trace
    finally:
        greenlet.settrace(previous)


@pytest.mark.parametrize('limit', [0, -1, float('nan')])
def test_limit_is_refused_when_it_makes_no_sense(limit: float) -> None:
    """There would be nothing but blockages, or none ever."""
    with pytest.raises(ValueError, match='more than 0'):
        hub_watch(limit)


PATCHED = """
from gevent import monkey
monkey.patch_all()
import time
sleep = monkey.get_original('time', 'sleep')
from getc.testing import HubBlocked, hub_watch
try:
    with hub_watch(0.02) as watch:
        while not watch.blockages:
            sleep(0.002)
except HubBlocked as error:
    print(error)
"""


def test_watch_works_where_the_program_is_patched() -> None:
    """Its thread is a real one: a patched one would be held up with the hub."""
    done = subprocess.run([sys.executable, '-c', PATCHED], capture_output=True, text=True, timeout=60, check=True)
    assert '<string>:10, in <module>' in done.stdout
