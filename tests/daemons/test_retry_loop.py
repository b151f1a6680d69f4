"""Tests of the retry loop in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable

import gevent
import pytest

from getc import timing
from getc.daemons.greenlets import DaemonGreenlets
from getc.daemons.retry_loop import RetryLoop
from getc.errors import EtcException, TimedOut, Unauthorized
from getc.testing import VirtualTime
from getc.timing import Backoff
from tests.support.leftovers import greenlets_of_getc

Step = Callable[[], float | None]


class Attempts:
    """A retry loop that runs the given steps one after the other, and records the times and errors.

    Attributes:
        at: The time of each attempt.
        errors: The errors that the loop reported.
    """

    def __init__(self, *steps: Step) -> None:
        self.at: list[float] = []
        self.errors: list[EtcException] = []
        self.loop = RetryLoop(self._step, DaemonGreenlets('test'), self.errors.append)
        self._steps = list(steps)

    def _step(self) -> float | None:
        self.at.append(timing.now())
        return self._steps.pop(0)() if self._steps else None


class LongestDelays(random.Random):
    """Draws the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


def raising(error: BaseException) -> Step:
    def step() -> float | None:
        raise error

    return step


def test_loop_runs_the_next_attempt_after_the_returned_delay(etcd_clock: VirtualTime) -> None:
    attempts = Attempts(lambda: 5, lambda: None)
    began = timing.now()
    attempts.loop.schedule(0)
    etcd_clock.advance(600)
    assert attempts.at == [began, began + 5]


def test_schedule_replaces_an_earlier_schedule(etcd_clock: VirtualTime) -> None:
    attempts = Attempts()
    began = timing.now()
    attempts.loop.schedule(1)
    attempts.loop.schedule(3)
    etcd_clock.advance(600)
    assert attempts.at == [began + 3]


def test_schedule_during_an_attempt_starts_the_next_one_after_it(etcd_clock: VirtualTime) -> None:
    """Attempts do not overlap, and the delay that the step returns does not override the schedule."""

    def step() -> float | None:
        gevent.sleep(2)
        return 3600

    attempts = Attempts(step)
    began = timing.now()
    attempts.loop.schedule(0)
    etcd_clock.advance(1)
    assert attempts.loop.is_attempting
    attempts.loop.schedule(0)
    etcd_clock.advance(10)
    assert attempts.at == [began, began + 2]
    assert not attempts.loop.is_attempting


def test_time_of_a_failed_attempt_counts_towards_its_backoff(etcd_clock: VirtualTime) -> None:
    """A silent server has delayed the next attempt already; a fast failure is followed by the whole backoff."""

    def silent() -> float | None:
        gevent.sleep(5)
        raise TimedOut('no answer')

    attempts = Attempts(*[silent] * 9, *[raising(TimedOut('no time'))] * 100)
    began = timing.now()
    attempts.loop.schedule(0)
    etcd_clock.advance(60)
    assert attempts.at[:10] == [began + 5 * number for number in range(10)]
    assert len(attempts.at) < 70
    attempts.loop.close()


def test_permanent_errors_are_retried_at_longer_intervals_than_transient_ones(etcd_clock: VirtualTime) -> None:
    counts = []
    for error in (TimedOut('no answer'), Unauthorized('no')):
        attempts = Attempts(*[raising(error)] * 10_000)
        attempts.loop.schedule(0)
        etcd_clock.advance(600)
        attempts.loop.close()
        assert attempts.errors[0] is error
        counts.append(len(attempts.at))
    assert counts[0] > 4 * counts[1] > 0


@pytest.mark.parametrize('error', [TimedOut('no answer'), Unauthorized('no')])
def test_backoff_counts_each_failure_once_and_no_success(etcd_clock: VirtualTime, error: EtcException) -> None:
    attempts = Attempts(lambda: 1, lambda: 1, *[raising(error)] * 4)
    attempts.loop.backoff = Backoff(rng=LongestDelays())
    began = timing.now()
    attempts.loop.schedule(0)
    etcd_clock.advance(10)
    assert [at - began for at in attempts.at] == pytest.approx([0, 1, 2, 2.05, 2.15, 2.35, 2.75])


def test_killed_attempt_is_repeated(etcd_clock: VirtualTime) -> None:
    attempts = Attempts(lambda: gevent.sleep(3600))
    attempts.loop.schedule(0)
    etcd_clock.advance(1)
    greenlets_of_getc()[0].kill()
    etcd_clock.advance(1)
    assert len(attempts.at) == 2


def test_closed_loop_starts_no_attempt(etcd_clock: VirtualTime) -> None:
    attempts = Attempts(lambda: 5)
    attempts.loop.schedule(0)
    etcd_clock.advance(1)
    attempts.loop.close()
    attempts.loop.schedule(0)
    etcd_clock.advance(600)
    assert len(attempts.at) == 1
    assert etcd_clock.seconds_to_next() is None


def test_error_handler_may_close_the_loop(etcd_clock: VirtualTime) -> None:
    attempts = Attempts(raising(Unauthorized('no')))
    loop = RetryLoop(attempts._step, DaemonGreenlets('test'), lambda _: loop.close())
    loop.schedule(0)
    etcd_clock.advance(600)
    assert len(attempts.at) == 1


def test_kill_attempt_spares_the_caller(etcd_clock: VirtualTime) -> None:
    ends: list[str] = []

    def step() -> float | None:
        attempts.loop.close()
        attempts.loop.kill_attempt()
        gevent.sleep(1)
        ends.append('returned')
        return None

    attempts = Attempts(step)
    attempts.loop.schedule(0)
    etcd_clock.advance(2)
    assert ends == ['returned']


def test_forked_child_makes_no_attempt(etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timers of the parent are copied into the child."""
    attempts = Attempts(lambda: 5)
    attempts.loop.schedule(0)
    etcd_clock.advance(1)
    monkeypatch.setattr('os.getpid', lambda: -1)
    etcd_clock.advance(600)
    attempts.loop.schedule(0)
    etcd_clock.advance(600)
    assert len(attempts.at) == 1
