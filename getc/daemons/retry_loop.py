"""Repeats a step until it succeeds, without a greenlet between the attempts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import gevent

from getc import timing
from getc.daemons.greenlets import DaemonGreenlets
from getc.errors import EtcException
from getc.retry import is_transient
from getc.timing import Backoff

__all__ = ['MAX_REFUSED_DELAY', 'RetryLoop']

MAX_REFUSED_DELAY: Final = 10.0
"""Maximum seconds between two attempts while the server refuses or an attempt fails for another permanent reason."""


class RetryLoop:
    """Runs attempts of one step, one at a time, each in a greenlet of its own; between them there is only a timer.

    The step returns the seconds until the next attempt, or None if there is none until :meth:`schedule` is called.  An
    attempt that raises an EtcException or is killed is repeated after a backoff with full jitter.  The time that a
    failed attempt took counts towards its backoff.

    Args:
        step: A function that makes one attempt, and may block.
        greenlets: Runs the greenlets.
        on_error: A function that must not block, called with the error of each failed attempt.  It may close the loop.

    Attributes:
        backoff: The delays after failures.
    """

    __slots__ = ('_greenlets', '_is_closed', '_next_delay', '_on_error', '_running', '_step', '_timer', 'backoff')

    def __init__(
        self, step: Callable[[], float | None], greenlets: DaemonGreenlets, on_error: Callable[[EtcException], object]
    ) -> None:
        self.backoff = Backoff()
        self._step = step
        self._greenlets = greenlets
        self._on_error = on_error
        self._timer: Any = None
        self._running: gevent.Greenlet[..., None] | None = None  # of the attempt in flight
        self._next_delay: float | None = None  # as scheduled during an attempt
        self._is_closed = False

    @property
    def is_attempting(self) -> bool:
        """True while an attempt is in flight."""
        return self._running is not None

    def schedule(self, delay: float) -> None:
        """Run an attempt after ``delay`` seconds, and not before the attempt in flight has ended.

        Does not block.  Replaces an attempt that was scheduled before; does nothing once the loop is closed.
        """
        if self._timer is not None:
            self._cancel_timer()
        if self._is_closed or self._greenlets.affinity.in_forked_child:
            return
        if self._running is not None:
            self._next_delay = delay
        elif delay <= 0:
            self._begin()
        else:
            self._timer = gevent.get_hub().loop.timer(delay)
            self._timer.start(self._begin)

    def close(self) -> None:
        """Begin no further attempt.  The attempt in flight continues."""
        self._is_closed = True
        self._cancel_timer()

    def kill_attempt(self) -> None:
        """Kill the attempt in flight, unless it is the caller.  Does not block."""
        if self._running is not None and self._running is not gevent.getcurrent():
            self._running.kill(block=False)

    def _begin(self) -> None:
        if self._timer is not None:
            self._cancel_timer()
        self._next_delay = None
        self._running = self._greenlets.spawn(self._attempt)

    def _attempt(self) -> None:
        if self._greenlets.affinity.in_forked_child:
            return
        began = timing.now()
        delay: float | None = None
        try:
            delay = self._step()
        except EtcException as error:
            if is_transient(error):
                delay = max(0.0, began + self.backoff.next_delay() - timing.now())
            else:
                delay = self.backoff.next_delay(MAX_REFUSED_DELAY)
            self._running = None  # the attempt is over: on_error may stop the daemon
            self._on_error(error)
        except BaseException:  # this greenlet was killed
            delay = self.backoff.next_delay()
            raise
        finally:
            self._running = None
            if self._next_delay is not None and (delay is None or self._next_delay < delay):
                delay = self._next_delay
            if delay is not None:
                self.schedule(delay)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None
