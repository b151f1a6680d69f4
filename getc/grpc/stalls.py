"""Waiting with allowance for stalls of the process.

After a stall, the event loop runs the timer of a deadline before it reads the sockets, in which the awaited data may be
unread since before the deadline.
"""

from __future__ import annotations

from typing import Any, Final

from gevent.event import AsyncResult, Event
from gevent.hub import get_hub

from getc import timing
from getc.timing import Deadline

__all__ = ['STALL_SECONDS', 'STALL_TURNS', 'process_received', 'wait_ready']

STALL_SECONDS: Final = 0.02
"""Delay of a timer from which on the process is taken to have been stalled."""

STALL_TURNS: Final = 3
"""Iterations of the event loop after a stall in which data that are already in a socket are processed first."""


def wait_ready(waitable: Event | AsyncResult[Any], deadline: Deadline) -> bool:
    """Wait until an Event or AsyncResult is ready; return False if it is not ready by the deadline.

    If the process was stalled at the deadline, data that were received before are processed first.
    """
    due_at = max(deadline.at, timing.now())
    waitable.wait(deadline.timeout_left())
    if not waitable.ready():
        process_received(due_at)
    return waitable.ready()


def process_received(due_at: float) -> None:
    """Process data that are already in a socket, if a timer that was due at this time has fired late.

    Blocks for ``STALL_TURNS`` iterations of the event loop at most.
    """
    if timing.now() - due_at > STALL_SECONDS:
        hub = get_hub()
        for _ in range(STALL_TURNS):
            timer = hub.loop.timer(0.0)
            try:
                hub.wait(timer)
            finally:
                timer.close()
