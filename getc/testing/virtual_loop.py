"""A wrapper around gevent's loop for virtual time: timers are kept in a heap, everything else is delegated."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.hub import get_hub

__all__ = ['DATE', 'NANO', 'VirtualLoop', 'VirtualTimer', 'nanoseconds', 'real_loop', 'real_sleep']

NANO: Final = 1_000_000_000
"""Nanoseconds in a second.  Time is counted in integers, so that ten times 0.1 s is exactly one second."""

DATE: Final = 1_767_225_600 * NANO
"""The initial value of ``wall_time``: 2026-01-01 00:00 UTC."""

MAX_TURNS: Final = 1_000_000
"""Turns of the hub without progress of time after which a greenlet is assumed to loop endlessly."""


class VirtualLoop:
    """A gevent loop with virtual timers, which delegates everything else to the real loop.

    Attributes:
        real: The real loop.
        elapsed: Virtual nanoseconds since the start.
        scheduled: The number of callbacks scheduled so far; it stays the same when no greenlet is ready.
        is_ended: True once timers are those of the real loop again.

    The heap holds lists ``[due, -priority, sequence, timer]``; the timer is None if it was stopped.
    """

    _OWN: Final = frozenset(
        {'real', 'elapsed', 'scheduled', 'is_ended', '_heap', '_sequence', '_stopped', '_refs', '_watcher'}
    )

    def __init__(self, real: Any) -> None:
        self.real = real
        self.elapsed = 0
        self.scheduled = 0
        self.is_ended = False
        self._heap: list[list[Any]] = []
        self._sequence = 0
        self._stopped = 0
        self._refs = 0
        # A check watcher runs after the loop has polled for I/O and run all I/O callbacks.  `ref=False`: this watcher
        # itself does not keep the loop alive.
        self._watcher = real.check(ref=False, priority=real.MINPRI)

    # -- the interface of a gevent loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # The hub sets its error handler on the loop.
        if name in self._OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.real, name, value)

    def timer(self, after: float, repeat: float = 0.0, ref: bool = True, priority: int | None = None) -> Any:
        """Return a timer in virtual time."""
        if self.is_ended:  # called by an object that was created in virtual time and outlived it
            return self.real.timer(after, repeat, ref, priority)
        return VirtualTimer(self, after, repeat, ref, priority or 0)

    def now(self) -> float:
        """Return the virtual date, in seconds since 1970."""
        return float(self.real.now()) if self.is_ended else (DATE + self.elapsed) / NANO

    def update_now(self) -> None:
        """Update the time of the real loop; virtual time does not change."""
        self.real.update_now()

    update = update_now

    def run_callback(self, func: Callable[..., object], *args: Any) -> Any:
        """Schedule a call for the next turn of the hub."""
        self.scheduled += 1
        return self.real.run_callback(func, *args)

    def run_callback_threadsafe(self, func: Callable[..., object], *args: Any) -> Any:
        """Schedule a call from any thread."""
        self.scheduled += 1
        return self.real.run_callback_threadsafe(func, *args)

    # -- virtual time

    def start_virtual(self) -> None:
        """From now on advance time whenever nothing else can cause progress."""
        self._watcher.start(self._advance_if_idle)
        # If a timer has resumed the calling greenlet, the loop is in the middle of a turn, which does not run this
        # watcher.  Force another turn, since the loop may consider this one its last.
        self.real.run_callback(lambda: None)

    def end(self) -> None:
        """Drop every timer and delegate everything to the real loop."""
        self.is_ended = True
        self._watcher.stop()
        self._watcher.close()
        self._heap.clear()

    def push(self, timer: VirtualTimer, due: int) -> list[Any]:
        """Add a timer to the heap and return its entry."""
        if self.is_ended:
            raise RuntimeError('this timer was created in virtual time, which has ended')
        self._sequence += 1
        entry = [due, -timer.priority, self._sequence, timer]
        heapq.heappush(self._heap, entry)
        self._refs += timer.ref
        return entry

    def discard(self, entry: list[Any]) -> None:
        """Remove a timer from the heap."""
        if entry[3] is None:
            return
        self._refs -= entry[3].ref
        entry[3] = None
        self._stopped += 1
        # Most timeouts are cancelled long before they are due: compact the heap once half of it is stopped timers.
        if self._stopped > 64 and self._stopped > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[3] is not None]
            heapq.heapify(self._heap)
            self._stopped = 0

    def next_due(self) -> int | None:
        """Return when the next timer is due, in nanoseconds since the start; None if there is no timer."""
        while self._heap and self._heap[0][3] is None:
            heapq.heappop(self._heap)
            self._stopped -= 1
        return self._heap[0][0] if self._heap else None

    def fire_next(self) -> None:
        """Advance to the next timer; schedule all timers of that time and priority in the order of their start."""
        due = self.next_due()
        if due is None:
            return
        self.elapsed = due
        rank = self._heap[0][:2]
        while self.next_due() is not None and self._heap[0][:2] == rank:
            timer = heapq.heappop(self._heap)[3]
            self._refs -= timer.ref
            timer.schedule()

    def stall(self, nanoseconds: int) -> None:
        """Advance without running anything: timers due meanwhile become due at the end, in the same order."""
        self.elapsed += nanoseconds
        overdue = [entry for entry in self._heap if entry[0] < self.elapsed and entry[3] is not None]
        for entry in sorted(overdue, key=lambda entry: entry[:3]):
            self._sequence += 1
            entry[0], entry[2] = self.elapsed, self._sequence
        heapq.heapify(self._heap)

    def settle(self) -> None:
        """Run the other greenlets until none is ready."""
        while True:
            self._run_ready()
            if not self.real.activecnt:
                return  # no greenlet waits for I/O
            before = self.scheduled
            gevent.idle(self.real.MINPRI)  # returns when the loop has handled all pending I/O
            if self.scheduled == before:
                return

    def _run_ready(self) -> None:
        for _ in range(MAX_TURNS):
            before = self.scheduled
            # Puts the calling greenlet at the end of the queue.  When this returns, everything that was in the queue
            # has run, and what became ready thereby is behind this greenlet.
            gevent.sleep(0)
            if self.scheduled == before + 1:
                return
        raise RuntimeError('cannot advance time: a greenlet calls sleep(0) in an endless loop')

    def _advance_if_idle(self) -> None:
        # Otherwise the loop would end here with LoopExit: no callback is ready and no watcher is active.
        if self._refs and not self.real.activecnt:
            self.fire_next()


class VirtualTimer:
    """A timer watcher with the interface of gevent's ``loop.timer``."""

    def __init__(self, loop: VirtualLoop, after: float, repeat: float, ref: bool, priority: int) -> None:
        self.loop = loop
        self.ref = ref
        self.priority = priority
        self.callback: Callable[..., object] | None = None
        self.args: tuple[Any, ...] | None = None
        self._after = nanoseconds(after)
        self._repeat = nanoseconds(repeat)
        self._entry: list[Any] | None = None
        self._scheduled: Any = None

    @property
    def active(self) -> bool:
        """True if the timer waits for its due time."""
        return self._entry is not None

    @property
    def pending(self) -> bool:
        """True if the timer was due, and the hub has yet to run the callback."""
        return self._scheduled is not None

    def start(self, callback: Callable[..., object], *args: Any, update: bool | None = None) -> None:
        """Start the timer; ``update`` has no effect, since virtual time is never stale."""
        if callback is None:
            raise TypeError('callback must be callable, not None')
        self.stop()
        self._push(self._after, callback, args)

    def again(self, callback: Callable[..., object], *args: Any, update: bool | None = None) -> None:
        """Restart the timer with its repeat time; stop it if there is none."""
        self.stop()
        if self._repeat:
            self._push(self._repeat, callback, args)

    def stop(self) -> None:
        """Stop the timer; a pending callback is cancelled."""
        if self._entry is not None:
            self.loop.discard(self._entry)
            self._entry = None
        if self._scheduled is not None:
            self._scheduled.stop()
            self._scheduled = None
        self.callback = self.args = None

    def close(self) -> None:
        """Stop the timer.  There are no other resources to free."""
        self.stop()

    def __enter__(self) -> VirtualTimer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _push(self, after: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._entry = self.loop.push(self, self.loop.elapsed + after)
        self.callback = callback
        self.args = args

    def schedule(self) -> None:
        """Schedule the callback.  Called by the loop when the timer is due."""
        self._entry = self.loop.push(self, self.loop.elapsed + self._repeat) if self._repeat else None
        if self._scheduled is None:  # a real timer is pending at most once as well, however late the hub is
            self._scheduled = self.loop.run_callback(self._run_callback)

    def _run_callback(self) -> None:
        callback, args = self.callback, self.args
        self._scheduled = None
        if self._entry is None:
            self.callback = self.args = None
        if callback is not None and args is not None:
            callback(*args)

    def __repr__(self) -> str:
        state = 'active' if self.active else 'pending' if self.pending else 'stopped'
        return f'<virtual timer of {self._after / NANO:g} s, {state}>'


def nanoseconds(seconds: float) -> int:
    """Convert seconds to whole nanoseconds; at least 1 for every positive time, so that waiting takes time."""
    return max(round(seconds * NANO), 1) if seconds > 0 else 0


def real_loop() -> Any:
    """Return the real loop of this thread's hub, whether time is virtual or not."""
    loop: Any = get_hub().loop
    return loop.real if isinstance(loop, VirtualLoop) else loop


def real_sleep(seconds: float) -> None:
    """Sleep in real time, whether time is virtual or not.  Blocks the greenlet only."""
    loop = real_loop()
    with loop.timer(seconds) as timer:
        loop.update_now()
        get_hub().wait(timer)
