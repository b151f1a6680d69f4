"""Virtual time for gevent: ten minutes of sleeping, waiting and timing out take milliseconds.

Everything in gevent that has to do with time asks the hub's loop for a timer: ``gevent.sleep``,
``Event.wait(timeout)``, ``gevent.Timeout``, ``Queue.get(timeout=...)``, ``spawn_later``.
:class:`VirtualTime` puts a loop in front of that one whose timers are a heap, and leaves all else to
the real loop.  Nothing is patched, and a program under test cannot tell the difference.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import gevent
from gevent.hub import get_hub

from getc.timing import Clock, set_chance, set_clock

__all__ = ['VirtualTime', 'VirtualTimer', 'real_loop', 'real_sleep']

NANO: Final = 1_000_000_000
"""Time is counted in whole nanoseconds, so that ten times 0.1 s is one second."""

EPOCH: Final = 1_000 * NANO
"""Where ``now`` starts: not at 0, which hides the mistakes of code that takes 0 for "never"."""

DATE: Final = 1_767_225_600 * NANO
"""Where ``wall_time`` starts: 2026-01-01 00:00 UTC."""

SEED: Final = 0
"""What getc's random delays are drawn from, the same each time."""

MAX_ROUNDS: Final = 1_000_000
"""Turns of the hub at one point in time after which its greenlets are taken to spin."""


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
        self._loop: _VirtualLoop | None = None
        self._previous_clock: Clock | None = None
        self._previous_chance: random.Random | None = None
        self._is_advancing = False

    @property
    def elapsed(self) -> float:
        """Seconds that have gone by since the start."""
        return self._elapsed() / NANO

    def now(self) -> float:
        """Seconds of a clock that never goes back, as ``getc.timing.now``."""
        return (EPOCH + self._elapsed()) / NANO

    def wall_time(self) -> float:
        """Seconds since 1970, as ``getc.timing.wall_time``; the first is 2026-01-01 00:00 UTC."""
        return (DATE + self._elapsed()) / NANO

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
            target = loop.elapsed + _nanoseconds(seconds)
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
        self._running_loop().stall(_nanoseconds(seconds))

    def seconds_to_next(self) -> float | None:
        """Seconds until something is due; None if nothing ever is."""
        loop = self._running_loop()
        due = loop.next_due()
        return None if due is None else (due - loop.elapsed) / NANO

    def __enter__(self) -> VirtualTime:
        hub: Any = get_hub()
        if isinstance(hub.loop, _VirtualLoop):
            raise RuntimeError('time is virtual already')
        if self._loop is not None:
            raise RuntimeError('a VirtualTime is used once')
        self._loop = hub.loop = _VirtualLoop(hub.loop)
        self._loop.start_virtual()
        self._previous_clock = set_clock(self)
        self._previous_chance = set_chance(random.Random(SEED))
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
            set_chance(self._previous_chance)

    def _running_loop(self) -> _VirtualLoop:
        hub: Any = get_hub()
        if self._loop is None or hub.loop is not self._loop:
            raise RuntimeError('time is not virtual here: enter the VirtualTime, in the thread that uses it')
        return self._loop

    def _elapsed(self) -> int:
        return 0 if self._loop is None else self._loop.elapsed


class _VirtualLoop:
    """A gevent loop whose timers are a heap; all else is the real loop's.

    Attributes:
        real: The loop behind it.
        elapsed: Nanoseconds since the start.
        scheduled: How many callbacks it was ever given: what has settled gives it none.
        is_over: True once timers are the real loop's again.

    The heap holds lists ``[due, -priority, sequence, timer]``; the timer of a stopped one is None.
    """

    _OWN: Final = frozenset(
        {'real', 'elapsed', 'scheduled', 'is_over', '_heap', '_sequence', '_stopped', '_refs', '_watcher'}
    )

    def __init__(self, real: Any) -> None:
        self.real = real
        self.elapsed = 0
        self.scheduled = 0
        self.is_over = False
        self._heap: list[list[Any]] = []
        self._sequence = 0
        self._stopped = 0
        self._refs = 0
        # The loop runs this after it has looked for I/O and handled all of it.  It does not count
        # as something to wait for.
        self._watcher = real.check(ref=False, priority=real.MINPRI)

    # -- what gevent asks a loop for

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # The hub puts its error handler here.
        if name in self._OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.real, name, value)

    def timer(self, after: float, repeat: float = 0.0, ref: bool = True, priority: int | None = None) -> Any:
        if self.is_over:  # asked by something that was made in virtual time and outlived it
            return self.real.timer(after, repeat, ref, priority)
        return VirtualTimer(self, after, repeat, ref, priority or 0)

    def now(self) -> float:
        return float(self.real.now()) if self.is_over else (DATE + self.elapsed) / NANO

    def update_now(self) -> None:
        self.real.update_now()  # virtual time moves only when it is told to

    update = update_now

    def run_callback(self, func: Callable[..., object], *args: Any) -> Any:
        self.scheduled += 1
        return self.real.run_callback(func, *args)

    def run_callback_threadsafe(self, func: Callable[..., object], *args: Any) -> Any:
        self.scheduled += 1
        return self.real.run_callback_threadsafe(func, *args)

    # -- virtual time

    def start_virtual(self) -> None:
        self._watcher.start(self._jump_if_nothing_else)

    def end(self) -> None:
        """Drop every timer and be nothing but the real loop."""
        self.is_over = True
        self._watcher.stop()
        self._watcher.close()
        self._heap.clear()

    def push(self, timer: VirtualTimer, due: int) -> list[Any]:
        if self.is_over:
            raise RuntimeError('this timer was made in virtual time, which is over')
        self._sequence += 1
        entry = [due, -timer.priority, self._sequence, timer]
        heapq.heappush(self._heap, entry)
        self._refs += timer.ref
        return entry

    def discard(self, entry: list[Any]) -> None:
        if entry[3] is None:
            return
        self._refs -= entry[3].ref
        entry[3] = None
        self._stopped += 1
        # Most timeouts are cancelled long before they are due: do not keep them until then.
        if self._stopped > 64 and self._stopped > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[3] is not None]
            heapq.heapify(self._heap)
            self._stopped = 0

    def next_due(self) -> int | None:
        while self._heap and self._heap[0][3] is None:
            heapq.heappop(self._heap)
            self._stopped -= 1
        return self._heap[0][0] if self._heap else None

    def fire_next(self) -> None:
        """Move on to what is due next and have the hub run it: all of one time and priority, as started."""
        due = self.next_due()
        if due is None:
            return
        self.elapsed = due
        rank = self._heap[0][:2]
        while self.next_due() is not None and self._heap[0][:2] == rank:
            timer = heapq.heappop(self._heap)[3]
            self._refs -= timer.ref
            timer.queue()

    def stall(self, nanoseconds: int) -> None:
        """Move on without running anything: what was due on the way is due at the end, in the same order."""
        self.elapsed += nanoseconds
        overdue = [entry for entry in self._heap if entry[0] < self.elapsed and entry[3] is not None]
        for entry in sorted(overdue, key=lambda entry: entry[:3]):
            self._sequence += 1
            entry[0], entry[2] = self.elapsed, self._sequence
        heapq.heapify(self._heap)

    def settle(self) -> None:
        """Let the other greenlets run until none is ready."""
        while True:
            self._run_ready()
            if not self.real.activecnt:
                return  # nobody waits for I/O
            before = self.scheduled
            gevent.idle(self.real.MINPRI)  # returns when the loop has handled all I/O there is
            if self.scheduled == before:
                return

    def _run_ready(self) -> None:
        for _ in range(MAX_ROUNDS):
            before = self.scheduled
            # Puts us at the end of the queue: whatever was in it has run when this returns, and has
            # put behind us what it made ready.
            gevent.sleep(0)
            if self.scheduled == before + 1:
                return
        raise RuntimeError('greenlets do not come to rest: one calls sleep(0) in a loop without end')

    def _jump_if_nothing_else(self) -> None:
        # The loop would end here with LoopExit: no callback is ready and no watcher is active.
        if self._refs and not self.real.activecnt:
            self.fire_next()


class VirtualTimer:
    """What ``loop.timer`` returns: a watcher as gevent knows it."""

    def __init__(self, loop: _VirtualLoop, after: float, repeat: float, ref: bool, priority: int) -> None:
        self.loop = loop
        self.ref = ref
        self.priority = priority
        self.callback: Callable[..., object] | None = None
        self.args: tuple[Any, ...] | None = None
        self._after = _nanoseconds(after)
        self._repeat = _nanoseconds(repeat)
        self._entry: list[Any] | None = None
        self._queued: Any = None

    @property
    def active(self) -> bool:
        """True if it waits for its time."""
        return self._entry is not None

    @property
    def pending(self) -> bool:
        """True if its time has come, and the hub is about to call back."""
        return self._queued is not None

    def start(self, callback: Callable[..., object], *args: Any, update: bool | None = None) -> None:
        """Call back after the time; ``update`` is for loops whose time may be stale."""
        if callback is None:
            raise TypeError('callback must be callable, not None')
        self.stop()
        self._wait(self._after, callback, args)

    def again(self, callback: Callable[..., object], *args: Any, update: bool | None = None) -> None:
        """Start over with the repeat time; stop if there is none."""
        self.stop()
        if self._repeat:
            self._wait(self._repeat, callback, args)

    def stop(self) -> None:
        """Never call back, even if the time has come."""
        if self._entry is not None:
            self.loop.discard(self._entry)
            self._entry = None
        if self._queued is not None:
            self._queued.stop()
            self._queued = None
        self.callback = self.args = None

    def close(self) -> None:
        """The same: there is nothing else to free."""
        self.stop()

    def __enter__(self) -> VirtualTimer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, after: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._entry = self.loop.push(self, self.loop.elapsed + after)
        self.callback = callback
        self.args = args

    def queue(self) -> None:
        """For the loop: the time has come."""
        self._entry = self.loop.push(self, self.loop.elapsed + self._repeat) if self._repeat else None
        if self._queued is None:  # as a real one, which is pending once, however late the hub is
            self._queued = self.loop.run_callback(self._call_back)

    def _call_back(self) -> None:
        callback, args = self.callback, self.args
        self._queued = None
        if self._entry is None:
            self.callback = self.args = None
        if callback is not None and args is not None:
            callback(*args)

    def __repr__(self) -> str:
        state = 'active' if self.active else 'pending' if self.pending else 'stopped'
        return f'<virtual timer of {self._after / NANO:g} s, {state}>'


def _check_seconds(seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f'time advances by seconds of at least 0, not {seconds}')


def _nanoseconds(seconds: float) -> int:
    """Whole nanoseconds, at least one if it is more than none: a wait for any time ends later."""
    return max(round(seconds * NANO), 1) if seconds > 0 else 0


def real_loop() -> Any:
    """The loop that drives this thread's hub, whether time is virtual or not."""
    loop: Any = get_hub().loop
    return loop.real if isinstance(loop, _VirtualLoop) else loop


def real_sleep(seconds: float) -> None:
    """Sleep in real time, whether time is virtual or not.  Blocks the greenlet only."""
    loop = real_loop()
    with loop.timer(seconds) as timer:
        loop.update_now()
        get_hub().wait(timer)
