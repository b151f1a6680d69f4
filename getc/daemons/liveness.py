"""Checks whether the process works, by a user callback."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

from getc import timing
from getc.daemons.failures import notify_failure

__all__ = ['LivenessProbe']

log = logging.getLogger(__name__)

Spawn = Callable[..., 'gevent.Greenlet[..., None]']


class LivenessProbe:
    """Calls the ``alive`` function of a keeper, with a timeout, and at most once at a time.

    Args:
        alive: The function, whose result counts as True or False.
        name: Names the keeper in logs.
    """

    __slots__ = ('_alive', '_call', '_deadline', '_name', '_results')

    def __init__(self, alive: Callable[[], object], name: str) -> None:
        self._alive = alive
        self._name = name
        self._call: gevent.Greenlet[..., None] | None = None  # the call in flight
        self._results: list[bool] = []  # of the latest call
        self._deadline = 0.0

    def check(self, timeout: float, spawn: Spawn) -> bool:
        """Call the function, and return True if it returns a true value in time.  Blocks.

        A timeout, an exception and a kill count as False.  While a call is in flight, other callers wait for it and
        share its result.  A call that survives its timeout, because the function catches it, is killed by the next
        check, which returns False: otherwise calls would accumulate.

        Args:
            timeout: Seconds.
            spawn: Runs the call in a greenlet that ends with the daemon.
        """
        call, results = self._call, self._results
        if call is None or call.dead:
            results = self._results = []
            call = self._call = spawn(self._run, timeout, results)
            self._deadline = timing.now() + timeout
        elif timing.now() >= self._deadline:
            call.kill(block=False)
            return False
        call.join(self._deadline - timing.now())
        if call.dead and self._call is call:
            self._call = None
        return results == [True]

    def _run(self, seconds: float, results: list[bool]) -> None:
        timeout = gevent.Timeout(seconds)
        try:
            with timeout:
                results.append(bool(self._alive()))
        except (Exception, gevent.Timeout) as error:
            what = f'did not return within {seconds:g} s' if error is timeout else 'raised'
            text = '%s: alive() %r %s; treated as False'
            # In its own greenlet, because a log handler of the program may block.
            gevent.spawn(log.warning, text, self._name, self._alive, what, exc_info=error)
            notify_failure(error)
