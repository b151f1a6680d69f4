"""Logs daemons that do not start, and a hub that does not run."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any, Final

import gevent

from getc import timing
from getc.daemons.base import Daemon, event_of
from getc.net.affinity import ThreadAffinity, close_watcher
from getc.net.client_log import ClientLog

__all__ = ['DaemonMonitor']

INTERVAL: Final = 1.0
"""Seconds between two checks."""

MAX_HUB_DELAY: Final = 2.0
"""Seconds by which the hub may be late before that is logged."""

REMINDERS: Final = (10.0, 60.0)
"""Seconds after which a daemon that is still starting is logged."""


class DaemonMonitor:
    """Logs daemons that do not start, and times in which the hub did not run.

    One timer runs while there are daemons.

    Args:
        log: The log of the client.
        has_daemons: A method that returns True if the client has daemons, referenced weakly, so that the timer does not
            keep the client alive.
    """

    def __init__(self, log: ClientLog, has_daemons: Callable[[], bool]) -> None:
        self._log = log
        self._has_daemons = weakref.WeakMethod(has_daemons)
        self._starting: dict[Daemon, tuple[float, int]] = {}  # time of the start, and number of the next reminder
        self._timer: Any = None
        self._ran_at = 0.0
        self._affinity = ThreadAffinity()

    def add(self, daemon: Daemon) -> None:
        """Log the daemon if it does not start in time."""
        self._starting[daemon] = timing.now(), 0
        if self._timer is None:
            self._ran_at = timing.now()
            self._timer = gevent.get_hub().loop.timer(INTERVAL, INTERVAL, ref=False)
            self._timer.start(self._check)

    def discard(self, daemon: Daemon) -> None:
        """Do not log the daemon: it has started or stopped."""
        self._starting.pop(daemon, None)

    def close(self) -> None:
        """Stop the timer.  :meth:`add` starts it again."""
        timer, self._timer = self._timer, None
        if timer is not None:
            close_watcher(timer)

    def _check(self) -> None:
        if self._affinity.in_forked_child:
            return self.close()  # the daemons are the parent's
        now = timing.now()
        late, self._ran_at = now - self._ran_at - INTERVAL, now
        if late > MAX_HUB_DELAY:
            text = f'the hub did not run for {late:.1f} s: code blocked it without yielding, or the process was stopped'
            self._log.note(logging.WARNING, text, key='late')
        for daemon, (since, number) in list(self._starting.items()):
            if not daemon.is_starting:
                del self._starting[daemon]
            elif now - since >= REMINDERS[number]:
                self._remind(daemon, REMINDERS[number])
                if number + 1 < len(REMINDERS):
                    self._starting[daemon] = since, number + 1
                else:
                    del self._starting[daemon]
        has_daemons = self._has_daemons()
        if has_daemons is None or not has_daemons():
            self.close()

    def _remind(self, daemon: Daemon, seconds: float) -> None:
        error = daemon.last_error
        text = f'has not started after {seconds:g} s: {"no response yet" if error is None else error}'
        self._log.note(logging.WARNING, text, subject=daemon.name, key=('starting', seconds, event_of(error)))
