"""Watching over the daemons of a client, for its log."""

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

__all__ = ['Monitor']

INTERVAL: Final = 1.0

LATE: Final = 2.0
"""Seconds by which the hub may be late before it is logged."""

REMINDERS: Final = (10.0, 60.0)
"""Seconds after which a daemon that is still starting is logged."""


class Monitor:
    """Logs daemons that do not start, and times in which the hub did not run.

    It has one timer, which runs while there are daemons.

    Args:
        log: The log of the client.
        has_daemons: Whether there are any.  It is held weakly: the timer must not keep the client.
    """

    def __init__(self, log: ClientLog, has_daemons: Callable[[], bool]) -> None:
        self._log = log
        self._has_daemons = weakref.WeakMethod(has_daemons)
        self._starting: dict[Daemon, tuple[float, int]] = {}  # since when, and the number of the next reminder
        self._timer: Any = None
        self._ran_at = 0.0
        self._home = ThreadAffinity()

    def add(self, daemon: Daemon) -> None:
        """A daemon begins to start."""
        self._starting[daemon] = timing.now(), 0
        if self._timer is None:
            self._ran_at = timing.now()
            self._timer = gevent.get_hub().loop.timer(INTERVAL, INTERVAL, ref=False)
            self._timer.start(self._look)

    def discard(self, daemon: Daemon) -> None:
        """It has started, or ended."""
        self._starting.pop(daemon, None)

    def close(self) -> None:
        """Stop the timer.  The next daemon starts it again."""
        timer, self._timer = self._timer, None
        if timer is not None:
            close_watcher(timer)

    def _look(self) -> None:
        if self._home.in_forked_child:
            return self.close()  # in a forked child: the daemons are the parent's
        now = timing.now()
        late, self._ran_at = now - self._ran_at - INTERVAL, now
        if late > LATE:
            text = f'the hub did not run for {late:.1f} s: code that did not yield held it, or the process was stopped'
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
        text = f'has not started after {seconds:g} s: {"no answer came yet" if error is None else error}'
        self._log.note(logging.WARNING, text, subject=daemon.name, key=('starting', seconds, event_of(error)))
