"""The clock of getc, deadlines and back-off."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator

import pytest

from getc import timing
from getc.timing import DEFAULT_TIMEOUT, Backoff, Deadline, SystemClock, set_clock


class StillClock:
    """A clock that shows the time to which the test has set it."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def now_with_suspend(self) -> float:
        return self.time + 0.25

    def wall_time(self) -> float:
        return self.time + 0.5


@pytest.fixture
def clock() -> Iterator[StillClock]:
    """Replace the clock of getc with a StillClock."""
    still = StillClock()
    previous = set_clock(still)
    yield still
    assert set_clock(previous) is still


def test_now_reads_the_system_clock_by_default() -> None:
    before = SystemClock.now()
    assert before <= timing.now() <= SystemClock.now()
    before = SystemClock.now_with_suspend()
    assert before <= timing.now_with_suspend() <= SystemClock.now_with_suspend()
    before = SystemClock.wall_time()
    assert before <= timing.wall_time() <= SystemClock.wall_time()


@pytest.mark.skipif(not hasattr(time, 'CLOCK_BOOTTIME'), reason='this system has no CLOCK_BOOTTIME')
def test_now_with_suspend_reads_clock_boottime_on_linux() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= timing.now_with_suspend() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_set_clock_replaces_the_clock(clock: StillClock) -> None:
    assert (timing.now(), timing.now_with_suspend(), timing.wall_time()) == (1000.0, 1000.25, 1000.5)
    clock.time = 2000.0
    assert timing.now() == 2000.0


def test_deadline_counts_down_to_zero(clock: StillClock) -> None:
    deadline = Deadline.after(10)
    assert (deadline.at, deadline.timeout) == (1010.0, 10)
    assert (deadline.remaining(), deadline.timeout_left(), deadline.has_passed()) == (10, 10, False)
    clock.time += 9
    assert (deadline.remaining(), deadline.has_passed()) == (1, False)
    clock.time += 1
    assert (deadline.remaining(), deadline.timeout_left(), deadline.has_passed()) == (0, 0, True)
    clock.time += 100
    assert (deadline.remaining(), deadline.timeout_left(), deadline.has_passed()) == (0, 0, True)


def test_deadline_never_passes_when_the_timeout_is_none(clock: StillClock) -> None:
    deadline = Deadline.after(None)
    clock.time += 1e12
    assert (deadline.remaining(), deadline.timeout_left(), deadline.has_passed()) == (math.inf, None, False)
    assert Deadline.after(math.inf).timeout_left() is None


def test_deadline_has_passed_at_once_when_the_timeout_is_zero(clock: StillClock) -> None:
    assert Deadline.after(0).has_passed()


def test_fraction_is_a_part_of_the_time_left(clock: StillClock) -> None:
    deadline = Deadline.after(10)
    clock.time += 2
    assert deadline.fraction(0.5).at == 1006.0
    assert deadline.fraction(0.5, at_most=3).at == 1005.0
    assert deadline.fraction(1.0).at == deadline.at
    assert str(deadline.fraction(0.123456789).timeout) == '0.988'  # a message shows it
    assert [str(Deadline.after(seconds).timeout) for seconds in (2 / 6, 0.0001, 10, 0)] == [
        '0.333',
        '0.0001',
        '10',
        '0',
    ]
    assert Deadline.after(None).fraction(0.5).timeout_left() is None
    assert Deadline.after(None).fraction(0.5, at_most=3).at == 1005.0


def test_repr_of_a_deadline_shows_the_timeout_and_the_time_left(clock: StillClock) -> None:
    deadline = Deadline.after(10)
    clock.time += 2.5
    assert repr(deadline) == '<Deadline of 10 s, 7.500 s left>'
    assert repr(Deadline.after(None)) == 'Deadline(None)'


def test_default_timeout_has_a_readable_repr() -> None:
    """It is shown in signatures."""
    assert repr(DEFAULT_TIMEOUT) == '<the default of the client>'


class HighestDraw(random.Random):
    """Draws the upper bound each time."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_backoff_doubles_the_bound_of_each_delay_up_to_the_cap() -> None:
    backoff = Backoff(base=0.1, cap=1.0, rng=HighestDraw())
    assert [backoff.next_delay() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    for _ in range(2000):
        assert backoff.next_delay() == 1.0


def test_backoff_starts_with_the_smallest_delay_after_reset() -> None:
    backoff = Backoff(base=0.1, cap=1.0, rng=HighestDraw())
    for _ in range(5):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == pytest.approx(0.1)


def test_backoff_draws_from_zero_to_the_bound() -> None:
    """Full jitter: clients that failed at the same time do not retry at the same time."""
    rng = random.Random(1)
    delays = [Backoff(base=1.0, cap=1.0, rng=rng).next_delay() for _ in range(1000)]
    assert 0 <= min(delays) < 0.05
    assert 0.95 < max(delays) <= 1
