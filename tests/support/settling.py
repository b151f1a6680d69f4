"""Letting everything happen that needs no time: the condition to wait for is that nothing is under way."""

from __future__ import annotations

import gevent
from gevent.hub import get_hub

__all__ = ['settle']

ROUNDS = 50
"""More than one greenlet after another needs for a message, its answer, and what follows from it."""


def settle() -> None:
    """Let other greenlets run until none is ready and no socket of this process has anything to read.

    It does not depend on how fast the machine is, if the peers are greenlets of this process.
    """
    for _ in range(ROUNDS):
        gevent.idle(get_hub().loop.MINPRI)  # returns when the loop has handled all I/O there is
