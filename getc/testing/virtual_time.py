"""Virtual time for gevent: ten minutes of sleeps and timeouts take milliseconds.

All timing in gevent uses timers of the hub's loop: ``gevent.sleep``, ``Event.wait(timeout)``, ``gevent.Timeout``,
``Queue.get(timeout=...)``, ``spawn_later``.  :class:`VirtualTime` wraps the loop: timers are kept in a heap, and
everything else is delegated to the real loop.  Nothing is monkey-patched.
"""

from __future__ import annotations

import math
import random
from typing import Any, Final

from gevent.hub import get_hub

from getc.testing.virtual_loop import DATE, NANO, VirtualLoop, nanoseconds, real_loop
from getc.timing import Clock, set_clock, set_rng

__all__ = ['VirtualTime']

EPOCH: Final = 1_000 * NANO
"""The initial value of ``now``.  Not 0, which would hide errors of code that uses 0 for "never"."""

SEED: Final = 0
"""The seed of getc's random delays, so that they are the same in each run."""


class VirtualTime:
    """A clock that stands still until it is advanced.  A context manager.

    In the block, gevent's timers and ``getc.timing``, which all of getc uses, follow this clock.  It starts at a fixed
    date, and getc's random delays are the same in each run.  The outcome does not depend on the speed of the machine:
    timers run in the order of their due time, those of the same time in the order of their start, and timeouts after
    everything else.  Before time advances, every greenlet that is ready has run.

    When only time can cause progress (every greenlet waits, and none for a socket, a process or a thread), time
    advances by itself to the next timer.  So ``gevent.sleep(60)`` in the test itself returns at once.  While a greenlet
    waits for a socket, time does not advance by itself: I/O takes real time, and its timeouts follow :meth:`advance`.

    The standard library (``time.time``, ``time.sleep``) is not affected.  A greenlet that still sleeps at the end of
    the block never wakes; end such greenlets in the block.

    Example::

        with VirtualTime() as clock:
            ticks = []

            def tick():
                while True:
                    gevent.sleep(1)
                    ticks.append(clock.elapsed)

            gevent.spawn(tick)
            clock.advance(600)
            assert len(ticks) == 600
    """

    def __init__(self) -> None:
        self._loop: VirtualLoop | None = None
        self._previous_clock: Clock | None = None
        self._previous_rng: random.Random | None = None
        self._is_advancing = False
        self._suspended = 0

    @property
    def elapsed(self) -> float:
        """Virtual seconds since the start."""
        return self._elapsed() / NANO

    def now(self) -> float:
        """Return the seconds of the monotonic clock, as ``getc.timing.now`` does."""
        return (EPOCH + self._elapsed()) / NANO

    def now_with_suspend(self) -> float:
        """Return the same including time added by :meth:`suspend`, as ``getc.timing.now_with_suspend`` does."""
        return (EPOCH + self._elapsed() + self._suspended) / NANO

    def wall_time(self) -> float:
        """Return the seconds since 1970, as ``getc.timing.wall_time`` does.  Starts at 2026-01-01 00:00 UTC."""
        return (DATE + self._elapsed() + self._suspended) / NANO

    def advance(self, seconds: float) -> None:
        """Advance time, and run every timer that becomes due.

        When this returns, every greenlet that was ready, or became ready meanwhile, has run until it waits again.

        Args:
            seconds: At least 0; 0 runs the other greenlets until none is ready.

        Raises:
            ValueError: ``seconds`` is negative or not finite.
            RuntimeError: Time is not virtual here, another greenlet is advancing it, or a greenlet calls ``sleep(0)``
                in an endless loop.
        """
        _check_seconds(seconds)
        loop = self._running_loop()
        if self._is_advancing:
            raise RuntimeError('another greenlet is already advancing time')
        self._is_advancing = True
        try:
            target = loop.elapsed + nanoseconds(seconds)
            loop.settle()
            while (due := loop.next_due()) is not None and due <= max(target, loop.elapsed):
                loop.fire_next()
                loop.settle()
            loop.elapsed = max(target, loop.elapsed)  # a greenlet may have called `stall`
        finally:
            self._is_advancing = False

    def stall(self, seconds: float) -> None:
        """Advance time without running anything, as if the process was stopped or its hub was blocked.

        When this returns, no other greenlet has run.  All timers that became due are due now, in the usual order.  May
        be called from any greenlet, also from one that :meth:`advance` runs, which simulates a blocking callback.

        Args:
            seconds: At least 0.

        Raises:
            ValueError: ``seconds`` is negative or not finite.
            RuntimeError: Time is not virtual here.
        """
        _check_seconds(seconds)
        self._running_loop().stall(nanoseconds(seconds))

    def suspend(self, seconds: float) -> None:
        """Simulate a suspended machine: ``wall_time`` and ``now_with_suspend`` advance, and nothing else.

        Timers are delayed by that time, as those of gevent are on Linux.  A store in memory is suspended as well,
        which a remote etcd would not be.

        Args:
            seconds: At least 0.

        Raises:
            ValueError: ``seconds`` is negative or not finite.
            RuntimeError: Time is not virtual here.
        """
        _check_seconds(seconds)
        self._running_loop()
        self._suspended += nanoseconds(seconds)

    def seconds_to_next(self) -> float | None:
        """Return the seconds until the next timer is due; None if there is no timer."""
        loop = self._running_loop()
        due = loop.next_due()
        return None if due is None else (due - loop.elapsed) / NANO

    def __enter__(self) -> VirtualTime:
        hub: Any = get_hub()
        if isinstance(hub.loop, VirtualLoop):
            raise RuntimeError('time is already virtual in this thread')
        if self._loop is not None:
            raise RuntimeError('a VirtualTime can be entered only once; create a new one')
        self._loop = hub.loop = VirtualLoop(hub.loop)
        self._loop.start_virtual()
        self._previous_clock = set_clock(self)
        self._previous_rng = set_rng(random.Random(SEED))
        return self

    def __exit__(self, *_: object) -> None:
        loop = self._running_loop()
        hub: Any = get_hub()
        hub.loop = real_loop()
        loop.end()
        if self._previous_clock is not None:
            set_clock(self._previous_clock)
        if self._previous_rng is not None:
            set_rng(self._previous_rng)

    def _running_loop(self) -> VirtualLoop:
        hub: Any = get_hub()
        if self._loop is None or hub.loop is not self._loop:
            raise RuntimeError('time is not virtual here: enter the VirtualTime, in the same thread')
        return self._loop

    def _elapsed(self) -> int:
        return 0 if self._loop is None else self._loop.elapsed


def _check_seconds(seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f'seconds must be finite and at least 0, not {seconds}')
