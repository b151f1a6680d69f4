"""Which code held the hub, so that no other greenlet could run."""

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

from getc.testing.stack_traces import Stack, stack_of, stack_of_spawning

__all__ = ['Blockage', 'HubBlocked', 'hub_watch']

LINES: Final = 6
"""Lines of a stack that are shown."""

SAMPLES: Final = 4
"""Looks at the hub within the limit."""

Trace = Callable[[Literal['switch', 'throw'], tuple[greenlet.greenlet, greenlet.greenlet]], object]


@dataclass(frozen=True, slots=True)
class Blockage:
    """A time in which no other greenlet could run.

    Attributes:
        seconds: How long it was.
        stack: Where the code was that held the hub, and where its greenlet was spawned.
    """

    seconds: float
    stack: Stack

    def __str__(self) -> str:
        return f'for {self.seconds:.3f} s at\n    {self.stack.text(LINES) or "a place that is not known"}'


class HubBlocked(AssertionError):
    """Code held the hub for longer than the limit.

    Attributes:
        blockages: Each time, and where it was.
    """

    def __init__(self, limit: float, blockages: tuple[Blockage, ...]) -> None:
        self.blockages = blockages
        times = '\n'.join(f'  {blockage}' for blockage in blockages)
        super().__init__(f'the hub was held for longer than {limit:g} s\n{times}')


@dataclass(frozen=True, slots=True)
class _Sample:
    """Where code was that held the hub for too long: in which stretch, and since when."""

    stretch: int
    since: float
    stack: Stack


class hub_watch:  # noqa: N801 - it reads as a statement
    """Raise :class:`HubBlocked` if a greenlet of this thread runs for longer than a limit.  A context manager.

    A thread of its own, a real one also where the program is patched, looks where such a greenlet is.  Real time
    counts, whatever VirtualTime says; and time in which the machine had no processor for this program, too.
    An exception on its way out is not hidden by this one.

    Args:
        limit: Seconds for which a greenlet may run without letting others run.

    Raises:
        ValueError: The limit is not more than 0.

    Example::

        try:
            with hub_watch(0.1):
                time.sleep(1)      # gevent.sleep(1) was meant
        except HubBlocked as error:
            print(error)           # it names the line above
    """

    def __init__(self, limit: float) -> None:
        if not limit > 0:
            raise ValueError(f'a limit is more than 0 s, not {limit}')
        self.limit = limit
        self._hub = get_hub()
        self._thread = monkey.get_original('_thread', 'get_ident')()
        self._previous: Trace | None = None
        self._stretch = 0  # the number of the one that runs
        self._since = 0.0  # when it began
        self._running: greenlet.greenlet | None = None  # if it is the hub itself, it may be waiting
        self._sample: _Sample | None = None
        self._over: list[Blockage] = []
        self._in_hub: tuple[Any, float] | None = None  # code that the hub was seen in, and since when
        self._stopping = monkey.get_original('_thread', 'allocate_lock')()
        self._stopped = monkey.get_original('_thread', 'allocate_lock')()

    @property
    def blockages(self) -> tuple[Blockage, ...]:
        """Those that were seen up to now; the last one may still go on."""
        sample = self._sample
        if sample is None or sample.stretch != self._stretch:
            return tuple(self._over)
        return (*self._over, Blockage(time.monotonic() - sample.since, sample.stack))

    def __enter__(self) -> hub_watch:
        self._stopping.acquire()
        self._stopped.acquire()
        self._begin(greenlet.getcurrent())
        self._previous = greenlet.settrace(self._on_switch)
        monkey.get_original('_thread', 'start_new_thread')(self._look_on, ())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(sys._getframe(1))
        greenlet.settrace(self._previous)
        self._stopping.release()
        self._stopped.acquire()
        if self._over and kind is None:
            raise HubBlocked(self.limit, self.blockages)

    # -- in the thread that is watched

    def _on_switch(self, event: Literal['switch', 'throw'], args: tuple[greenlet.greenlet, greenlet.greenlet]) -> None:
        origin, target = args
        self._end(origin.gr_frame)
        self._begin(target)
        if self._previous is not None:
            self._previous(event, args)

    def _begin(self, target: greenlet.greenlet) -> None:
        self._running = target
        self._since = time.monotonic()
        self._stretch += 1

    def _end(self, frame: Any) -> None:
        """A stretch ends, in this frame."""
        now = time.monotonic()
        sample = self._sample
        if sample is not None and sample.stretch == self._stretch:
            self._over.append(Blockage(now - sample.since, sample.stack))
        elif self._running is not self._hub and now - self._since > self.limit:  # nobody has looked in time
            self._over.append(Blockage(now - self._since, stack_of(frame) + stack_of_spawning(self._running)))
        self._sample = self._running = None

    # -- in the thread that watches

    def _look_on(self) -> None:
        try:
            while not self._stopping.acquire(True, self.limit / SAMPLES):
                self._look()
        finally:
            self._in_hub = None
            self._stopped.release()

    def _look(self) -> None:
        stretch, since, running = self._stretch, self._since, self._running
        sample = self._sample
        if running is self._hub:
            self._look_at_hub()
        elif (sample is None or sample.stretch != stretch) and time.monotonic() - since > self.limit:
            stack = stack_of(sys._current_frames().get(self._thread)) + stack_of_spawning(running)
            if stretch == self._stretch:
                self._sample = _Sample(stretch, since, stack)

    def _look_at_hub(self) -> None:
        """It waits, or is in a callback: where it is in the same one for too long, that one blocks."""
        frame = sys._current_frames().get(self._thread)
        stack = stack_of(frame)
        now = time.monotonic()
        if not stack.places or stack.places[0].is_library:
            self._in_hub = None
        elif self._in_hub is None or self._in_hub[0] is not frame:
            self._in_hub = (frame, now)  # the frame itself, not its id, which another one may get
        elif now - self._in_hub[1] > self.limit:
            self._over.append(Blockage(now - self._in_hub[1], stack))
            self._in_hub = (frame, math.inf)  # told once
