"""Detects code that blocks the gevent hub, so that no other greenlet can run."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal

import greenlet
from gevent import monkey
from gevent.hub import get_hub

from getc.testing.stack_traces import Stack, spawning_stack, stack_of

__all__ = ['Blockage', 'HubBlocked', 'hub_watch']

MAX_LINES: Final = 6
"""Lines of a stack that are shown."""

SAMPLES_PER_LIMIT: Final = 4
"""Samples that are taken within the limit."""

TraceFunction = Callable[[Literal['switch', 'throw'], tuple[greenlet.greenlet, greenlet.greenlet]], object]


@dataclass(frozen=True, slots=True)
class Blockage:
    """A period in which no other greenlet could run.

    Attributes:
        seconds: Its duration.
        stack: The stack of the code that blocked the hub, and the stack at which its greenlet was spawned.
    """

    seconds: float
    stack: Stack

    def __str__(self) -> str:
        return f'for {self.seconds:.3f} s at\n    {self.stack.text(MAX_LINES) or "an unknown line"}'


class HubBlocked(AssertionError):
    """Code blocked the hub for longer than the limit.

    Attributes:
        blockages: The periods, with their stacks.
    """

    def __init__(self, limit: float, blockages: tuple[Blockage, ...]) -> None:
        self.blockages = blockages
        periods = '\n'.join(f'  {blockage}' for blockage in blockages)
        super().__init__(f'the hub was blocked for longer than {limit:g} s\n{periods}')


@dataclass(frozen=True, slots=True)
class _Sample:
    """The stack of code that has run for longer than the limit, with the number and the start of its run."""

    run: int
    since: float
    stack: Stack


class hub_watch:  # noqa: N801 - used like a statement
    """Raise :class:`HubBlocked` if a greenlet of this thread runs for longer than a limit.  A context manager.

    A native thread, also in monkey-patched programs, samples the stack of such a greenlet.  The time is real time,
    also under :class:`VirtualTime`, and includes time in which the program had no CPU.  An exception that leaves the
    block is not replaced.

    Args:
        limit: Seconds for which a greenlet may run without switching to the hub.

    Raises:
        ValueError: The limit is not more than 0.

    Example::

        try:
            with hub_watch(0.1):
                time.sleep(1)      # should be gevent.sleep(1)
        except HubBlocked as error:
            print(error)           # names the line above
    """

    def __init__(self, limit: float) -> None:
        if not limit > 0:
            raise ValueError(f'the limit must be more than 0 s, not {limit}')
        self.limit = limit
        self._hub = get_hub()
        self._thread = monkey.get_original('_thread', 'get_ident')()
        self._previous_trace: TraceFunction | None = None
        self._run = 0  # number of the current run of a greenlet, from one switch to the next
        self._since = 0.0  # when the run started
        self._running: greenlet.greenlet | None = None  # the hub itself may be waiting for I/O
        self._sample: _Sample | None = None
        self._finished: list[Blockage] = []
        self._hub_callback: tuple[Any, float] | None = None  # frame that the hub was seen in, and since when
        self._stop_lock = monkey.get_original('_thread', 'allocate_lock')()
        self._stopped_lock = monkey.get_original('_thread', 'allocate_lock')()

    @property
    def blockages(self) -> tuple[Blockage, ...]:
        """The blockages up to now; the last one may still continue."""
        sample = self._sample
        if sample is None or sample.run != self._run:
            return tuple(self._finished)
        return (*self._finished, Blockage(time.monotonic() - sample.since, sample.stack))

    def __enter__(self) -> hub_watch:
        self._stop_lock.acquire()
        self._stopped_lock.acquire()
        self._start_run(greenlet.getcurrent())
        self._previous_trace = greenlet.settrace(self._on_switch)
        monkey.get_original('_thread', 'start_new_thread')(self._watch, ())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_run(sys._getframe(1))
        greenlet.settrace(self._previous_trace)
        self._stop_lock.release()
        self._stopped_lock.acquire()
        if self._finished and kind is None:
            raise HubBlocked(self.limit, self.blockages)

    # -- in the watched thread

    def _on_switch(self, event: Literal['switch', 'throw'], args: tuple[greenlet.greenlet, greenlet.greenlet]) -> None:
        origin, target = args
        self._end_run(origin.gr_frame)
        self._start_run(target)
        if self._previous_trace is not None:
            self._previous_trace(event, args)

    def _start_run(self, target: greenlet.greenlet) -> None:
        self._running = target
        self._since = time.monotonic()
        self._run += 1

    def _end_run(self, frame: Any) -> None:
        now = time.monotonic()
        sample = self._sample
        if sample is not None and sample.run == self._run:
            self._finished.append(Blockage(now - sample.since, sample.stack))
        elif self._running is not self._hub and now - self._since > self.limit:  # no sample was taken in time
            self._finished.append(Blockage(now - self._since, stack_of(frame) + spawning_stack(self._running)))
        self._sample = self._running = None

    # -- in the watching thread

    def _watch(self) -> None:
        try:
            while not self._stop_lock.acquire(True, self.limit / SAMPLES_PER_LIMIT):
                self._take_sample()
        finally:
            self._hub_callback = None
            self._stopped_lock.release()

    def _take_sample(self) -> None:
        run, since, running = self._run, self._since, self._running
        sample = self._sample
        if running is self._hub:
            self._check_hub_callback()
        elif (sample is None or sample.run != run) and time.monotonic() - since > self.limit:
            stack = stack_of(sys._current_frames().get(self._thread)) + spawning_stack(running)
            if run == self._run:
                self._sample = _Sample(run, since, stack)

    def _check_hub_callback(self) -> None:
        """Record a blockage if the hub has been in the same callback for too long.  Waiting for I/O is none."""
        frame = sys._current_frames().get(self._thread)
        stack = stack_of(frame)
        now = time.monotonic()
        if not stack.lines or stack.lines[0].is_library:
            self._hub_callback = None
        elif self._hub_callback is None or self._hub_callback[0] is not frame:
            self._hub_callback = (frame, now)  # the frame itself: its id may be reused
        elif now - self._hub_callback[1] > self.limit:
            self._finished.append(Blockage(now - self._hub_callback[1], stack))
            self._hub_callback = (frame, math.inf)  # do not record it again
