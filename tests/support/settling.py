"""Waits until all pending work that needs no timer is done."""

from __future__ import annotations

import gevent
from gevent.hub import get_hub

__all__ = ['settle']

ROUNDS = 50
"""More than the greenlet switches that a message, its response and the reaction to that need."""


def settle() -> None:
    """Run other greenlets until none is ready and no socket of this process is readable.

    If the peers are greenlets of this process, the result does not depend on the speed of the machine.
    """
    for _ in range(ROUNDS):
        gevent.idle(get_hub().loop.MINPRI)  # returns when the loop has handled all pending I/O
