"""Time: the clock, deadlines and back-off, without gevent.

Timeouts are for callers, deadlines for everything below: a call takes its timeout once and passes a
:class:`Deadline` down, so that no layer adds waiting of its own.

All of getc reads one clock, :func:`now`.  What decides who owns a node reads :func:`now_with_suspend`: while this
machine is suspended, TTLs run out in etcd.  The test harness replaces both (:func:`set_clock`) together with the event
loop's, which is how programs built on getc are tested in virtual time.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final, Literal, Protocol

__all__ = [
    'DEFAULT_TIMEOUT',
    'Backoff',
    'Clock',
    'Deadline',
    'SystemClock',
    'Timeout',
    'now',
    'now_with_suspend',
    'set_clock',
    'set_rng',
    'wall_time',
]


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Seconds of a clock that never goes back; it goes on while the process does not run."""

    def now_with_suspend(self) -> float:
        """The same, of a clock that goes on while the machine is suspended, too."""

    def wall_time(self) -> float:
        """Seconds since 1970, UTC."""


def _clock_with_suspend() -> Callable[[], float]:
    """Linux has CLOCK_BOOTTIME; where that is missing the monotonic clock counts suspend itself."""
    if not hasattr(time, 'clock_gettime'):
        return time.monotonic
    return partial(time.clock_gettime, getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))


class SystemClock:
    """The machine's clock."""

    now = staticmethod(time.monotonic)
    now_with_suspend = staticmethod(_clock_with_suspend())
    wall_time = staticmethod(time.time)


_clock: Clock = SystemClock()


def now() -> float:
    """Seconds of the current clock: monotonic, of no meaning but for differences."""
    return _clock.now()


def now_with_suspend() -> float:
    """The same of a clock that goes on while the machine is suspended: for what decides who owns a node.

    Timers stand still meanwhile: what is due by this clock may be late.
    """
    return _clock.now_with_suspend()


def wall_time() -> float:
    """Seconds since 1970 of the current clock."""
    return _clock.wall_time()


def set_clock(clock: Clock) -> Clock:
    """Make this the clock of all of getc, and return the one it replaces.  For test harnesses."""
    global _clock
    previous, _clock = _clock, clock
    return previous


class _Default(Enum):
    TIMEOUT = 'the timeout of the client'

    def __repr__(self) -> str:
        return '<the default of the client>'


DEFAULT_TIMEOUT: Final = _Default.TIMEOUT

Timeout = float | None | Literal[_Default.TIMEOUT]
"""Seconds for the whole call; None for no limit; left out for the client's default."""


class Deadline:
    """A point in time by which a call is over; it may lie infinitely far away.

    Attributes:
        at: The point, in seconds of :func:`now`; ``math.inf`` for none.
    """

    __slots__ = ('_seconds', 'at')

    def __init__(self, timeout: float | None) -> None:
        if timeout is None:
            self._seconds = self.at = math.inf
        else:
            self._seconds = timeout
            self.at = _clock.now() + timeout

    @classmethod
    def after(cls, timeout: float | None) -> Deadline:
        """The deadline so many seconds from now; None is never.

        Raises:
            TypeError: It is no number.
            ValueError: It is negative or not a number.
        """
        if timeout is not None:
            if not isinstance(timeout, (float, int)) or isinstance(timeout, bool):
                raise TypeError(f'a timeout is seconds (float) or None, not {type(timeout).__name__}')
            if not timeout >= 0:
                raise ValueError(f'a timeout is at least 0 s, not {timeout}')
        return cls(timeout)

    @property
    def timeout(self) -> float:
        """The seconds it was made from, rounded to milliseconds for messages; ``math.inf`` for none."""
        return round(self._seconds, 3) or self._seconds

    def remaining(self) -> float:
        """Seconds left, at least 0; ``math.inf`` for none set."""
        left = self.at - _clock.now()
        return left if left > 0.0 else 0.0

    def has_passed(self) -> bool:
        """True if no time is left."""
        return _clock.now() >= self.at

    def timeout_left(self) -> float | None:
        """Seconds left in the form that gevent's calls take: None for no limit."""
        return None if self.at == math.inf else self.remaining()

    def share(self, fraction: float, at_most: float = math.inf) -> Deadline:
        """An earlier deadline that leaves the rest of this one to others."""
        seconds = min(self.remaining() * fraction, at_most)
        return Deadline(None if seconds == math.inf else seconds)

    def __repr__(self) -> str:
        if self.at == math.inf:
            return 'Deadline(None)'
        return f'<Deadline of {self.timeout:g} s, {self.remaining():.3f} s left>'


_rng: random.Random = random.SystemRandom()
"""One for all: it has no state, which takes 2.5 kB elsewhere, and is the same in all children of a fork."""


def set_rng(rng: random.Random) -> random.Random:
    """Make this the chance of all of getc, and return the one it replaces.  For test harnesses."""
    global _rng
    previous, _rng = _rng, rng
    return previous


class Backoff:
    """Growing, fully jittered waits: the n-th is drawn from 0 to min(cap, base * 2**n).

    Args:
        base: Seconds, the bound of the first wait.
        cap: Seconds, the bound of them all.
        rng: The source of chance; None for that of all of getc.
    """

    __slots__ = ('_base', '_cap', '_failures', '_rng')

    def __init__(self, base: float = 0.05, cap: float = 1.0, rng: random.Random | None = None) -> None:
        self._base = base
        self._cap = cap
        self._rng = rng
        self._failures = 0

    def next_delay(self, cap: float | None = None) -> float:
        """Seconds to wait after one more failure; ``cap`` replaces that of the others."""
        bound = min(self._cap if cap is None else cap, self._base * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return (self._rng if self._rng is not None else _rng).uniform(0, bound)

    def reset(self) -> None:
        """Start small again: it worked."""
        self._failures = 0
