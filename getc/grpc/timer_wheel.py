"""A hashed timer wheel: one event-loop timer for the deadlines of many calls.

A ``gevent.Timeout`` for each call would cost more than the rest of the call.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Final

from gevent.hub import get_hub

from getc import timing
from getc.grpc.stalls import STALL_SECONDS, STALL_TURNS

__all__ = ['TimerWheel']

SLOTS_PER_SECOND: Final = 100
"""Resolution: deadlines are rounded up to the next hundredth of a second."""

MAX_EMPTY_SLOTS: Final = 1000
"""Approximate number of slots without a deadline that are kept before they are removed."""


class TimerWheel:
    """The deadlines of the calls of one thread, in slots of a hundredth of a second."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Callable[[], object]]] = {}
        self._order: list[int] = []  # a heap of the slot numbers
        self._sweep_at = MAX_EMPTY_SLOTS
        self._timer: Any = None
        self._timer_slot: float = math.inf
        self._stall_turns = 0

    def add(self, on_deadline: Callable[[], object], at: float) -> set[Callable[[], object]]:
        """Call ``on_deadline()`` at a time, unless it is discarded from the returned slot before.

        Args:
            on_deadline: Called in the hub; must not block.
            at: The deadline, in seconds of ``timing.now``.
        """
        number = int(at * SLOTS_PER_SECOND) + 1
        slot = self._slots.get(number)
        if slot is None:
            if len(self._slots) >= self._sweep_at:
                self._sweep()
            slot = self._slots[number] = set()
            heapq.heappush(self._order, number)
            if number < self._timer_slot:
                self._start(number, number / SLOTS_PER_SECOND - timing.now())
        slot.add(on_deadline)
        return slot

    def close(self) -> None:
        """Remove all deadlines."""
        self._slots.clear()
        self._order.clear()
        self._stop()

    def _sweep(self) -> None:
        """Remove empty slots: otherwise those of calls with a timeout of an hour would stay for an hour."""
        self._slots = {number: slot for number, slot in self._slots.items() if slot}
        self._order = sorted(self._slots)
        self._sweep_at = len(self._slots) + MAX_EMPTY_SLOTS

    def _start(self, number: float, delay: float) -> None:
        self._stop()
        self._timer_slot = number
        # ref=False: the timer does not keep the hub running; a waiting call has a socket that does.
        self._timer = get_hub().loop.timer(max(0.0, delay), ref=False)
        self._timer.start(self._on_timer)

    def _stop(self) -> None:
        self._timer_slot = math.inf
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _on_timer(self) -> None:
        number, now = self._timer_slot, timing.now()
        if not self._stall_turns and now - number / SLOTS_PER_SECOND > STALL_SECONDS:
            self._stall_turns = STALL_TURNS
        if self._stall_turns > 1:
            self._stall_turns -= 1
            self._start(number, 0.0)
            return
        self._stall_turns = 0
        self._stop()
        try:
            while self._order and self._order[0] <= now * SLOTS_PER_SECOND:
                slot = self._slots[self._order[0]]
                while slot:
                    slot.pop()()
                self._drop_empty_slots()
        finally:  # also after an exception: the other deadlines still need the timer
            self._drop_empty_slots()
            if self._order:
                self._start(self._order[0], self._order[0] / SLOTS_PER_SECOND - timing.now())

    def _drop_empty_slots(self) -> None:
        """Remove the first slots up to one with a deadline: empty slots need no timer."""
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heapq.heappop(self._order)]
