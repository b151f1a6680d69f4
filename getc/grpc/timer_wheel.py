"""One timer for many deadlines: a gevent.Timeout for each call would cost more than the call's own work."""

from __future__ import annotations

import heapq
import math
from typing import Any, Final, Protocol

from gevent.hub import get_hub

from getc import timing

__all__ = ['TimerTarget', 'TimerWheel']

SLOTS_PER_SECOND: Final = 100
"""Deadlines are met to the next hundredth of a second, never early."""

LATE: Final = 0.02
"""Seconds by which a timer that is later than that shows that this process did not run."""

MOST_EMPTY: Final = 1000
"""Slots whose deadlines were all discarded, about; then they are swept out."""

PATIENCE: Final = 3
"""Turns of the hub after such a stall in which an answer that lies in a socket is read first."""


class TimerTarget(Protocol):
    """What has a deadline."""

    def on_deadline(self) -> None:
        """The deadline has passed.  Does not block."""


class TimerWheel:
    """Deadlines of one thread's calls, in slots of a hundredth of a second."""

    def __init__(self) -> None:
        self._slots: dict[int, set[TimerTarget]] = {}
        self._order: list[int] = []  # a heap of the slots' numbers
        self._sweep_at = MOST_EMPTY
        self._timer: Any = None
        self._timer_slot: float = math.inf
        self._patience = 0

    def add(self, due: TimerTarget, at: float) -> set[TimerTarget]:
        """Call ``due.on_deadline()`` once it is that time (of ``timing.now``), unless it was discarded from the set."""
        slot = int(at * SLOTS_PER_SECOND) + 1
        found = self._slots.get(slot)
        if found is None:
            if len(self._slots) >= self._sweep_at:
                self._sweep()
            found = self._slots[slot] = set()
            heapq.heappush(self._order, slot)
            if slot < self._timer_slot:
                self._start(slot, slot / SLOTS_PER_SECOND - timing.now())
        found.add(due)
        return found

    def close(self) -> None:
        """Forget all."""
        self._slots.clear()
        self._order.clear()
        self._stop()

    def _sweep(self) -> None:
        """Drop slots that were emptied: timeouts of an hour would leave them for an hour."""
        self._slots = {slot: dues for slot, dues in self._slots.items() if dues}
        self._order = sorted(self._slots)
        self._sweep_at = len(self._slots) + MOST_EMPTY

    def _start(self, slot: float, delay: float) -> None:
        self._stop()
        self._timer_slot = slot
        # It keeps nobody's hub alive: whoever waits does so for a socket, too.
        self._timer = get_hub().loop.timer(max(0.0, delay), ref=False)
        self._timer.start(self._on_timer)

    def _stop(self) -> None:
        self._timer_slot = math.inf
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _on_timer(self) -> None:
        slot, now = self._timer_slot, timing.now()
        if not self._patience and now - slot / SLOTS_PER_SECOND > LATE:
            self._patience = PATIENCE
        if self._patience > 1:
            self._patience -= 1
            self._start(slot, 0.0)
            return
        self._patience = 0
        self._stop()
        while self._order and self._order[0] <= now * SLOTS_PER_SECOND:
            for due in tuple(self._slots.pop(heapq.heappop(self._order))):
                due.on_deadline()
        while self._order and not self._slots[self._order[0]]:  # empty ones need no timer
            del self._slots[heapq.heappop(self._order)]
        if self._order:
            self._start(self._order[0], self._order[0] / SLOTS_PER_SECOND - timing.now())
