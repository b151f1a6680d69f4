"""The loop that is put before gevent's own when time is virtual: its timers are a heap, all else is the real one's."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.hub import get_hub

__all__ = ['DATE', 'NANO', 'VirtualLoop', 'VirtualTimer', 'nanoseconds', 'real_loop', 'real_sleep']

NANO: Final = 1_000_000_000
"""Time is counted in whole nanoseconds, so that ten times 0.1 s is one second."""

DATE: Final = 1_767_225_600 * NANO
"""Where ``wall_time`` starts: 2026-01-01 00:00 UTC."""

MAX_ROUNDS: Final = 1_000_000
"""Turns of the hub at one point in time after which its greenlets are taken to spin."""


class VirtualLoop:
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
        """A timer as gevent asks for it, in virtual time."""
        if self.is_over:  # asked by something that was made in virtual time and outlived it
            return self.real.timer(after, repeat, ref, priority)
        return VirtualTimer(self, after, repeat, ref, priority or 0)

    def now(self) -> float:
        """The virtual date, in seconds."""
        return float(self.real.now()) if self.is_over else (DATE + self.elapsed) / NANO

    def update_now(self) -> None:
        """Look at the real clock, which is behind this one."""
        self.real.update_now()  # virtual time moves only when it is told to

    update = update_now

    def run_callback(self, func: Callable[..., object], *args: Any) -> Any:
        """Have it called on the next turn of the hub."""
        self.scheduled += 1
        return self.real.run_callback(func, *args)

    def run_callback_threadsafe(self, func: Callable[..., object], *args: Any) -> Any:
        """The same, from whatever thread."""
        self.scheduled += 1
        return self.real.run_callback_threadsafe(func, *args)

    # -- virtual time

    def start_virtual(self) -> None:
        """Move on by itself, from now on, where nothing else can happen."""
        self._watcher.start(self._jump_if_nothing_else)
        # Where a timer has woken us the loop is in the middle of a turn, and this watcher is not among those that it
        # will run in it.  Have it make another one, or it may take this for its last.
        self.real.run_callback(lambda: None)

    def end(self) -> None:
        """Drop every timer and be nothing but the real loop."""
        self.is_over = True
        self._watcher.stop()
        self._watcher.close()
        self._heap.clear()

    def push(self, timer: VirtualTimer, due: int) -> list[Any]:
        """Put a timer into the heap, and return its entry there."""
        if self.is_over:
            raise RuntimeError('this timer was made in virtual time, which is over')
        self._sequence += 1
        entry = [due, -timer.priority, self._sequence, timer]
        heapq.heappush(self._heap, entry)
        self._refs += timer.ref
        return entry

    def discard(self, entry: list[Any]) -> None:
        """Take a timer out."""
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
        """When the next timer is due; None if there is none."""
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

    def __init__(self, loop: VirtualLoop, after: float, repeat: float, ref: bool, priority: int) -> None:
        self.loop = loop
        self.ref = ref
        self.priority = priority
        self.callback: Callable[..., object] | None = None
        self.args: tuple[Any, ...] | None = None
        self._after = nanoseconds(after)
        self._repeat = nanoseconds(repeat)
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


def nanoseconds(seconds: float) -> int:
    """Whole nanoseconds, at least one if it is more than none: a wait for any time ends later."""
    return max(round(seconds * NANO), 1) if seconds > 0 else 0


def real_loop() -> Any:
    """The loop that drives this thread's hub, whether time is virtual or not."""
    loop: Any = get_hub().loop
    return loop.real if isinstance(loop, VirtualLoop) else loop


def real_sleep(seconds: float) -> None:
    """Sleep in real time, whether time is virtual or not.  Blocks the greenlet only."""
    loop = real_loop()
    with loop.timer(seconds) as timer:
        loop.update_now()
        get_hub().wait(timer)
