"""Time: the clock, deadlines and back-off, without gevent.

Public methods take timeouts, everything below takes deadlines: a method converts its timeout to a :class:`Deadline`
once and passes the deadline down, so that no layer adds to the time that a call takes.

All of getc reads one clock, :func:`now`.  Decisions about ownership of a node read :func:`now_with_suspend` instead,
because TTLs run out in etcd while this machine is suspended.  The test harness replaces the clock (:func:`set_clock`)
together with the timers of the event loop, so that programs are tested in virtual time.
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
    'uniform',
    'wall_time',
]


class Clock(Protocol):
    """A source of time."""

    def now(self) -> float:
        """Return the seconds of a monotonic clock, which also runs while the process is stopped."""

    def now_with_suspend(self) -> float:
        """Return the seconds of a monotonic clock that also runs while the machine is suspended."""

    def wall_time(self) -> float:
        """Return the seconds since 1970, UTC."""


def _clock_with_suspend() -> Callable[[], float]:
    # CLOCK_BOOTTIME exists on Linux.  On other systems the monotonic clock itself counts suspend.
    if not hasattr(time, 'clock_gettime'):
        return time.monotonic
    return partial(time.clock_gettime, getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))


class SystemClock:
    """The clock of the machine."""

    now = staticmethod(time.monotonic)
    now_with_suspend = staticmethod(_clock_with_suspend())
    wall_time = staticmethod(time.time)


# The functions of the clock in use, which `set_clock` replaces.  They are attributes, because the time is read several
# times in each call and a function of ours would add a frame.  Read them as `timing.now()`, not by
# `from getc.timing import now`.

_clock: Clock = SystemClock()

now: Callable[[], float] = _clock.now
"""Return the monotonic time in seconds; only differences have a meaning."""

now_with_suspend: Callable[[], float] = _clock.now_with_suspend
"""Return the monotonic time in seconds, counting suspend: for decisions about ownership of a node.

Timers of the event loop do not count suspend, so a timer set by this clock may fire late.
"""

wall_time: Callable[[], float] = _clock.wall_time
"""Return the seconds since 1970, UTC."""


def set_clock(clock: Clock) -> Clock:
    """Replace the clock of getc in this process, and return the previous one.  For test harnesses."""
    global _clock, now, now_with_suspend, wall_time
    previous, _clock = _clock, clock
    now, now_with_suspend, wall_time = clock.now, clock.now_with_suspend, clock.wall_time
    return previous


class _Default(Enum):
    TIMEOUT = 'the default timeout of the client'

    def __repr__(self) -> str:
        return '<the default of the client>'


DEFAULT_TIMEOUT: Final = _Default.TIMEOUT

Timeout = float | None | Literal[_Default.TIMEOUT]
"""Seconds for the whole call; None for no limit; omitted for the default of the client."""


class Deadline:
    """The time by which a call has to end.

    Args:
        timeout: Seconds from now, not checked (see :meth:`after`); None for no limit.

    Attributes:
        at: The time, in seconds of :func:`now`; ``math.inf`` for no limit.
    """

    __slots__ = ('_seconds', 'at')

    def __init__(self, timeout: float | None) -> None:
        if timeout is None:
            self._seconds = self.at = math.inf
        else:
            self._seconds = timeout
            self.at = now() + timeout

    @classmethod
    def after(cls, timeout: float | None) -> Deadline:
        """Check a timeout, and return the deadline in that many seconds; None for no limit.

        Raises:
            TypeError: The timeout is not a number.
            ValueError: The timeout is negative or NaN.
        """
        if timeout is not None:
            if not isinstance(timeout, (float, int)) or isinstance(timeout, bool):
                raise TypeError(f'timeout must be a number of seconds or None, not {type(timeout).__name__}')
            if not timeout >= 0:
                raise ValueError(f'timeout must be at least 0 s, not {timeout}')
        return cls(timeout)

    @property
    def timeout(self) -> float:
        """The timeout in seconds, rounded to milliseconds for messages; ``math.inf`` for no limit."""
        return round(self._seconds, 3) or self._seconds

    def remaining(self) -> float:
        """Return the seconds left, at least 0; ``math.inf`` for no limit."""
        left = self.at - now()
        return left if left > 0.0 else 0.0

    def has_passed(self) -> bool:
        """Return True if no time is left."""
        return now() >= self.at

    def timeout_left(self) -> float | None:
        """Return the seconds left as a ``timeout`` argument of gevent: None for no limit."""
        return None if self.at == math.inf else self.remaining()

    def fraction(self, fraction: float, at_most: float = math.inf) -> Deadline:
        """Return an earlier deadline, after a fraction of the time left.

        Args:
            fraction: Of the time left, from 0 to 1.
            at_most: Seconds from now at most.
        """
        seconds = min(self.remaining() * fraction, at_most)
        return Deadline(None if seconds == math.inf else seconds)

    def __repr__(self) -> str:
        if self.at == math.inf:
            return 'Deadline(None)'
        return f'<Deadline of {self.timeout:g} s, {self.remaining():.3f} s left>'


_rng: random.Random = random.SystemRandom()
"""A ``SystemRandom`` has no state: a ``Random`` takes 2.5 kB and draws the same numbers in all children of a fork."""


def set_rng(rng: random.Random) -> random.Random:
    """Replace the random number generator of getc in this process, and return the previous one.  For test harnesses."""
    global _rng
    previous, _rng = _rng, rng
    return previous


def uniform(low: float, high: float) -> float:
    """Return a random number between two bounds, from the generator of :func:`set_rng`."""
    return _rng.uniform(low, high)


class Backoff:
    """Exponential back-off with full jitter: the n-th delay is drawn from 0 to min(cap, base * 2**n).

    Args:
        base: Seconds, the bound of the first delay.
        cap: Seconds, the bound of all delays.
        rng: The random number generator; None for that of :func:`set_rng`.
    """

    __slots__ = ('_base', '_cap', '_failures', '_rng')

    def __init__(self, base: float = 0.05, cap: float = 1.0, rng: random.Random | None = None) -> None:
        self._base = base
        self._cap = cap
        self._rng = rng
        self._failures = 0

    def next_delay(self, cap: float | None = None) -> float:
        """Count a failure, and return the seconds to wait; ``cap`` replaces the usual bound for this delay."""
        bound = min(self._cap if cap is None else cap, self._base * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return (self._rng if self._rng is not None else _rng).uniform(0, bound)

    def reset(self) -> None:
        """Start again with the smallest delay, after a success."""
        self._failures = 0
