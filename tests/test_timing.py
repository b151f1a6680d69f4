"""Deadlines, back-off, and the clock that all of getc reads."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator

import pytest

from getc import timing
from getc.timing import DEFAULT_TIMEOUT, Backoff, Deadline, SystemClock, set_clock


class StillClock:
    """A clock that stands still until it is set."""

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
    """The clock of getc, for the test to set."""
    still = StillClock()
    previous = set_clock(still)
    yield still
    assert set_clock(previous) is still


def test_clock_is_the_machines_when_none_was_set() -> None:
    """Time goes on, and wall time is that of the machine."""
    before = SystemClock.now()
    assert before <= timing.now() <= SystemClock.now()
    before = SystemClock.now_with_suspend()
    assert before <= timing.now_with_suspend() <= SystemClock.now_with_suspend()
    before = SystemClock.wall_time()
    assert before <= timing.wall_time() <= SystemClock.wall_time()


@pytest.mark.skipif(not hasattr(time, 'CLOCK_BOOTTIME'), reason='this system has no CLOCK_BOOTTIME')
def test_clock_that_counts_suspend_is_that_of_the_time_since_the_boot() -> None:
    """The monotonic clock, which timers follow, stands still meanwhile on Linux."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= timing.now_with_suspend() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_clock_can_be_replaced(clock: StillClock) -> None:
    """Everything reads the clock that was set last."""
    assert (timing.now(), timing.now_with_suspend(), timing.wall_time()) == (1000.0, 1000.25, 1000.5)
    clock.time = 2000.0
    assert timing.now() == 2000.0


def test_deadline_counts_down_to_nothing(clock: StillClock) -> None:
    """What remains grows less and is never negative."""
    deadline = Deadline.after(10)
    assert (deadline.at, deadline.timeout) == (1010.0, 10)
    assert (deadline.remaining(), deadline.timeout_left(), deadline.has_passed()) == (10, 10, False)
    clock.time += 9
    assert (deadline.remaining(), deadline.has_passed()) == (1, False)
    clock.time += 1
    assert (deadline.remaining(), deadline.timeout_left(), deadline.has_passed()) == (0, 0, True)
    clock.time += 100
    assert (deadline.remaining(), deadline.timeout_left(), deadline.has_passed()) == (0, 0, True)


def test_deadline_of_none_never_passes(clock: StillClock) -> None:
    """No timeout is an infinite one, and None in the form that gevent takes."""
    deadline = Deadline.after(None)
    clock.time += 1e12
    assert (deadline.remaining(), deadline.timeout_left(), deadline.has_passed()) == (math.inf, None, False)
    assert Deadline.after(math.inf).timeout_left() is None


def test_deadline_of_zero_has_passed(clock: StillClock) -> None:
    """A timeout of 0 leaves no time at all."""
    assert Deadline.after(0).has_passed()


def test_share_leaves_the_rest_to_others(clock: StillClock) -> None:
    """A share is a part of what remains now, and of at most so many seconds."""
    deadline = Deadline.after(10)
    clock.time += 2
    assert deadline.share(0.5).at == 1006.0
    assert deadline.share(0.5, at_most=3).at == 1005.0
    assert deadline.share(1.0).at == deadline.at
    assert str(deadline.share(0.123456789).timeout) == '0.988'  # a message shows it
    assert [str(Deadline.after(seconds).timeout) for seconds in (2 / 6, 0.0001, 10, 0)] == [
        '0.333',
        '0.0001',
        '10',
        '0',
    ]
    assert Deadline.after(None).share(0.5).timeout_left() is None
    assert Deadline.after(None).share(0.5, at_most=3).at == 1005.0


def test_deadline_shows_what_is_left(clock: StillClock) -> None:
    """The repr tells the timeout and the rest."""
    deadline = Deadline.after(10)
    clock.time += 2.5
    assert repr(deadline) == '<Deadline of 10 s, 7.500 s left>'
    assert repr(Deadline.after(None)) == 'Deadline(None)'


def test_default_timeout_reads_well_in_a_signature() -> None:
    """It is neither None, which is no limit, nor a number."""
    assert repr(DEFAULT_TIMEOUT) == '<the default of the client>'


class HighestDraw(random.Random):
    """Always draws the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_backoff_doubles_up_to_its_cap() -> None:
    """The bounds of the waits are base, twice that, and so on, but never more than the cap."""
    backoff = Backoff(base=0.1, cap=1.0, rng=HighestDraw())
    assert [backoff.next_delay() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    for _ in range(2000):
        assert backoff.next_delay() == 1.0


def test_backoff_starts_small_again_after_reset() -> None:
    """After a success the next failure is the first."""
    backoff = Backoff(base=0.1, cap=1.0, rng=HighestDraw())
    for _ in range(5):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == pytest.approx(0.1)


def test_backoff_draws_from_the_whole_span() -> None:
    """Full jitter: many who failed together do not come back together."""
    rng = random.Random(1)
    delays = [Backoff(base=1.0, cap=1.0, rng=rng).next_delay() for _ in range(1000)]
    assert 0 <= min(delays) < 0.05
    assert 0.95 < max(delays) <= 1
