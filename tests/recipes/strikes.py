"""Strike a greenlet, by a kill or a gevent.Timeout, at the n-th point at which it switches to another greenlet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import greenlet
from gevent.hub import get_hub

import getc

__all__ = ['TTL', 'Struck', 'run_struck', 'time_for_removal']

TTL = 30
"""Seconds, so long that no key expires while a test waits: what is gone was deleted."""


def time_for_removal(client: getc.Client) -> float:
    """Return the seconds after a strike in which no key may be left.

    A third of the TTL on v3.  Elsewhere a create that was cut off may arrive late, and expires.
    """
    return TTL / 3 if client.api == 'v3' else TTL + 5


class Struck:
    """The outcome of a run.

    Attributes:
        switches: How often the greenlet has switched to another one.
        was_struck: The greenlet was struck before its end.
        error: What it has raised, or None.
    """

    def __init__(self) -> None:
        self.switches = 0
        self.was_struck = False
        self.error: BaseException | None = None


def run_struck(
    work: Callable[[], object],
    at: int,
    *,
    by: str,
    then: Callable[[], object] = lambda: None,
    also_at: int = 0,
    also: Callable[[], object] = lambda: None,
) -> Struck:
    """Run a function in a greenlet, and strike it where it switches for the ``at``-th time.

    Args:
        work: The function.
        at: The number of the switch, from 1 on; 0 for no strike.
        by: ``'kill'`` or ``'timeout'``.
        then: Called while the function runs, in the calling greenlet.
        also_at: The number of another switch, from 1 on; 0 for none.
        also: Called in the hub at that switch.
    """
    outcome = Struck()
    strike: BaseException = gevent.GreenletExit() if by == 'kill' else gevent.Timeout()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            outcome.error = error

    worker = gevent.Greenlet(run)

    def throw() -> None:
        if not worker.dead:
            outcome.was_struck = True
            worker.throw(strike)

    def trace(event: str, args: Any) -> None:
        if event in ('switch', 'throw') and args[0] is worker and not worker.dead:
            outcome.switches += 1
            if outcome.switches == at:
                get_hub().loop.run_callback(throw)
            if outcome.switches == also_at:
                get_hub().loop.run_callback(also)

    previous = greenlet.settrace(trace)
    try:
        worker.start()
        then()
        worker.join(timeout=60)
    finally:
        greenlet.settrace(previous)
    assert worker.dead, f'the greenlet hangs after a strike at switch {at}'
    if outcome.error is not None and outcome.error is not strike:
        raise outcome.error
    return outcome
