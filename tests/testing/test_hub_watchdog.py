"""The hub watchdog names the code that blocks the hub."""

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


def block_until_detected(watch: hub_watch) -> None:
    """Block the hub until the watchdog has detected it, however busy the machine is."""
    before = len(watch.blockages)
    while len(watch.blockages) == before:
        time.sleep(LIMIT * 2)  # the line that is named


LINE = block_until_detected.__code__.co_firstlineno + 4


def assert_named(caught: pytest.ExceptionInfo[HubBlocked]) -> None:
    named = [blockage for blockage in caught.value.blockages if f'{__file__}:{LINE}' in str(blockage)]
    assert named
    assert all(blockage.seconds > LIMIT for blockage in named)
    assert 'the hub was blocked for longer than 0.02 s' in str(caught.value)
    assert 'in block_until_detected\n        time.sleep(LIMIT * 2)' in str(caught.value)


class ManualClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """Replace the watchdog's clock by one that the test sets."""
    clock = ManualClock()
    monkeypatch.setattr('getc.testing.hub_watchdog.time', clock)
    return clock


def test_watchdog_names_the_line_when_a_greenlet_blocks() -> None:
    with pytest.raises(HubBlocked) as caught, hub_watch(LIMIT) as watch:
        gevent.spawn(block_until_detected, watch).join()
    assert_named(caught)


def test_watchdog_names_the_line_when_the_main_greenlet_blocks() -> None:
    """Also without any switch before the end of the block."""
    with pytest.raises(HubBlocked) as caught, hub_watch(LIMIT) as watch:
        block_until_detected(watch)
    assert_named(caught)


def test_watchdog_names_the_line_when_a_hub_callback_blocks() -> None:
    """Waiting for I/O in the hub is not a blockage."""
    with pytest.raises(HubBlocked) as caught, hub_watch(LIMIT) as watch:
        get_hub().loop.run_callback(block_until_detected, watch)
        gevent.sleep(0.001)
    assert_named(caught)


def test_blockage_is_detected_when_no_sample_was_taken(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The duration is known from the switches; the line is the one at which the greenlet switched."""
    monkeypatch.setattr(hub_watch, '_take_sample', lambda self: None)

    def block() -> None:
        clock.time += 5
        gevent.sleep(0)

    with pytest.raises(HubBlocked) as caught, hub_watch(LIMIT):
        gevent.spawn(block).join()
    assert [blockage.seconds for blockage in caught.value.blockages] == [5]
    assert f'{__file__}:{block.__code__.co_firstlineno + 2}, in block' in str(caught.value)


def test_watchdog_names_the_spawning_line_when_a_c_function_blocks(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A C function has no Python frame."""
    monkeypatch.setattr(hub_watch, '_take_sample', lambda self: None)
    line = sys._getframe().f_lineno + 2
    with pytest.raises(HubBlocked) as caught, hub_watch(LIMIT):
        gevent.spawn(setattr, clock, 'time', 5.0).join()
    assert f'for 5.000 s at\n    {__file__}:{line}, in ' in str(caught.value)


def test_waiting_is_not_a_blockage(clock: ManualClock) -> None:
    """Neither of the hub nor of a greenlet that yields."""
    hub = get_hub()
    with hub_watch(LIMIT) as watch:
        hub.loop.run_callback(setattr, clock, 'time', 5.0)  # in the hub's own time
        gevent.sleep(0.001)
        for _ in range(100):
            clock.time += LIMIT / 2
            gevent.sleep(0)
        assert watch.blockages == ()


def test_exception_in_the_block_is_not_replaced() -> None:
    with pytest.raises(KeyError), hub_watch(LIMIT) as watch:
        block_until_detected(watch)
        raise KeyError


def test_other_trace_functions_are_kept() -> None:
    """They are called in the block and afterwards."""
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
def test_limit_is_rejected_when_it_is_not_positive(limit: float) -> None:
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


def test_watchdog_works_in_monkey_patched_programs() -> None:
    """Its thread is a native one: a patched one would be blocked together with the hub."""
    done = subprocess.run([sys.executable, '-c', PATCHED], capture_output=True, text=True, timeout=60, check=True)
    assert '<string>:10, in <module>' in done.stdout
