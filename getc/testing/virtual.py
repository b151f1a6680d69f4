"""Virtual time for gevent: ten minutes of sleeping, waiting and timing out take milliseconds.

Everything in gevent that has to do with time asks the hub's loop for a timer: ``gevent.sleep``,
``Event.wait(timeout)``, ``gevent.Timeout``, ``Queue.get(timeout=...)``, ``spawn_later``.
:class:`VirtualTime` puts a loop in front of that one whose timers are a heap, and leaves all else to
the real loop.  Nothing is patched, and a program under test cannot tell the difference.
"""

from __future__ import annotations

import math
import random
from types import TracebackType
from typing import Any, Final

from gevent.hub import get_hub

from getc.testing.virtual_loop import DATE, NANO, VirtualLoop, nanoseconds, real_loop
from getc.timing import Clock, set_clock, set_rng

__all__ = ['VirtualTime']

EPOCH: Final = 1_000 * NANO
"""Where ``now`` starts: not at 0, which hides the mistakes of code that takes 0 for "never"."""

SEED: Final = 0
"""What getc's random delays are drawn from, the same each time."""


class VirtualTime:
    """Time that stands still until it is told to advance.  A context manager.

    Inside, gevent's timers, ``getc.timing`` and so all of getc follow this clock; it starts at a
    fixed date, and getc's random delays are the same each time.  The outcome does not depend on how fast
    the machine is: what is due first runs first, of what is due at the same time what was started first,
    and timeouts after everything else.
    Before time moves on, every greenlet that is ready has run.

    Where nothing can happen any more but by time (every greenlet waits, and none for a socket, a
    process or a thread), time moves on by itself to what is due next.  So ``gevent.sleep(60)`` in
    the test itself returns at once.  While a socket is waited for, it does not: I/O goes on in real
    time, and its timeouts only follow :meth:`advance`.

    The time of the standard library (``time.time``, ``time.sleep``) is not touched.  What still
    sleeps at the end never wakes: end it inside.

    Example::

        with VirtualTime() as clock:
            pulses = []

            def beat():
                while True:
                    gevent.sleep(1)
                    pulses.append(clock.elapsed)

            gevent.spawn(beat)
            clock.advance(600)
            assert len(pulses) == 600
    """

    def __init__(self) -> None:
        self._loop: VirtualLoop | None = None
        self._previous_clock: Clock | None = None
        self._previous_chance: random.Random | None = None
        self._is_advancing = False
        self._suspended = 0

    @property
    def elapsed(self) -> float:
        """Seconds that have gone by since the start."""
        return self._elapsed() / NANO

    def now(self) -> float:
        """Seconds of a clock that never goes back, as ``getc.timing.now``."""
        return (EPOCH + self._elapsed()) / NANO

    def now_with_suspend(self) -> float:
        """The same, and what :meth:`suspend` has let go by, as ``getc.timing.now_with_suspend``."""
        return (EPOCH + self._elapsed() + self._suspended) / NANO

    def wall_time(self) -> float:
        """Seconds since 1970, as ``getc.timing.wall_time``; the first is 2026-01-01 00:00 UTC."""
        return (DATE + self._elapsed() + self._suspended) / NANO

    def advance(self, seconds: float) -> None:
        """Let so much time go by, from one due point to the next.

        Every greenlet that was ready before, or becomes ready on the way or at the end, has run
        when it returns, and waits for something else.

        Args:
            seconds: At least 0; 0 lets the others run until none is ready.

        Raises:
            ValueError: It is negative or not finite.
            RuntimeError: Time is not virtual now, or is advanced by another greenlet, or greenlets
                call ``sleep(0)`` without end.
        """
        _check_seconds(seconds)
        loop = self._running_loop()
        if self._is_advancing:
            raise RuntimeError('another greenlet advances time already')
        self._is_advancing = True
        try:
            target = loop.elapsed + nanoseconds(seconds)
            loop.settle()
            while (due := loop.next_due()) is not None and due <= max(target, loop.elapsed):
                loop.fire_next()
                loop.settle()
            loop.elapsed = max(target, loop.elapsed)  # later than asked for where somebody stalled on the way
        finally:
            self._is_advancing = False

    def stall(self, seconds: float) -> None:
        """Let so much time go by in which nothing runs: the process was stopped, or its hub blocked.

        No greenlet has run when it returns.  Whatever was due meanwhile is due now, all at once, and runs as
        soon as it can: what was due first runs first, and timeouts after everything else.  May be called from
        any greenlet, one that :meth:`advance` runs too: that is a callback that blocks.

        Args:
            seconds: At least 0.

        Raises:
            ValueError: It is negative or not finite.
            RuntimeError: Time is not virtual now.
        """
        _check_seconds(seconds)
        self._running_loop().stall(nanoseconds(seconds))

    def suspend(self, seconds: float) -> None:
        """Let the machine be suspended for so long: the date moves on, and nothing else does.

        Timers are as far from their time as before, as those of gevent are on Linux.  A store in memory sleeps as well;
        an etcd elsewhere would not.

        Args:
            seconds: At least 0.

        Raises:
            ValueError: It is negative or not finite.
            RuntimeError: Time is not virtual now.
        """
        _check_seconds(seconds)
        self._running_loop()
        self._suspended += nanoseconds(seconds)

    def seconds_to_next(self) -> float | None:
        """Seconds until something is due; None if nothing ever is."""
        loop = self._running_loop()
        due = loop.next_due()
        return None if due is None else (due - loop.elapsed) / NANO

    def __enter__(self) -> VirtualTime:
        hub: Any = get_hub()
        if isinstance(hub.loop, VirtualLoop):
            raise RuntimeError('time is virtual already')
        if self._loop is not None:
            raise RuntimeError('a VirtualTime is used once')
        self._loop = hub.loop = VirtualLoop(hub.loop)
        self._loop.start_virtual()
        self._previous_clock = set_clock(self)
        self._previous_chance = set_rng(random.Random(SEED))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = self._running_loop()
        hub: Any = get_hub()
        hub.loop = real_loop()
        loop.end()
        if self._previous_clock is not None:
            set_clock(self._previous_clock)
        if self._previous_chance is not None:
            set_rng(self._previous_chance)

    def _running_loop(self) -> VirtualLoop:
        hub: Any = get_hub()
        if self._loop is None or hub.loop is not self._loop:
            raise RuntimeError('time is not virtual here: enter the VirtualTime, in the thread that uses it')
        return self._loop

    def _elapsed(self) -> int:
        return 0 if self._loop is None else self._loop.elapsed


def _check_seconds(seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f'time advances by seconds of at least 0, not {seconds}')
