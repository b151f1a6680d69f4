"""The log of one client: one line for an event, and a count for its repetitions."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from typing import Any, Final

import gevent

from getc import timing
from getc.net.affinity import ThreadAffinity, close_watcher

__all__ = ['PERIOD', 'ClientLog']

logger = logging.getLogger('getc')

PERIOD: Final = 60.0
"""Seconds after a line in which the same event is counted, not written again."""


class _Period:
    """The time after the first line of an event.

    Attributes:
        ends_at: When it is over.
        lines: How often the event was written, for each subject.
        text: The event as it was last.
        repeated: The subjects for which it was counted instead.
        count: How often.
        timer: Writes the count at the end; None as long as nothing was counted.
    """

    __slots__ = ('count', 'ends_at', 'lines', 'repeated', 'text', 'timer')

    def __init__(self) -> None:
        self.ends_at = timing.now() + PERIOD
        self.lines: dict[str, int] = {}
        self.text = ''
        self.repeated: dict[str, None] = {}
        self.count = 0
        self.timer: Any = None


class ClientLog:
    """Writes what happens to a client, with the client's name in front.

    An event that happens to many daemons in one turn of the hub is one line.  An event that happens to the same daemon
    again is counted, and the count is written after a minute.  Lines are written in a greenlet, because a handler of
    the program may block: nothing here blocks or switches, so it may be called in the hub.

    Args:
        label: Names the client, as ``etcd client 2``.
    """

    def __init__(self, label: str = 'etcd client') -> None:
        self.label = label
        self._pending: dict[Hashable, tuple[int, str, list[str]]] = {}
        self._periods: dict[tuple[int, Hashable], _Period] = {}
        self._sweep_at = 0.0  # not before that time are ended periods removed: there may be thousands
        self._home = ThreadAffinity()

    def note(self, level: int, text: str, *, subject: str = '', key: Hashable = None, limit: int = 1) -> None:
        """Write a line soon, or count it.

        Args:
            level: Its level, as ``logging.WARNING``.
            text: What happened.
            subject: The daemon to which it happened; ``''`` for the client as a whole.
            key: What makes it the same event as another one; None for the text.
            limit: How many lines it may have in a minute, for one subject.
        """
        event = level, text if key is None else key
        period = self._periods.get(event)
        if period is None or (not period.count and period.ends_at <= timing.now()):
            self._remove_ended()
            period = self._periods[event] = _Period()
        period.text = text
        lines = period.lines.get(subject, 0)
        if lines < limit:
            period.lines[subject] = lines + 1
            self._write_soon(event, level, text, [subject])
            return
        period.count += 1
        period.repeated[subject] = None
        if period.timer is None:
            period.timer = gevent.get_hub().loop.timer(max(0.0, period.ends_at - timing.now()), ref=False)
            period.timer.start(self._end_period, event)

    def close(self) -> None:
        """Write the counts, and stop the timers."""
        for event, period in list(self._periods.items()):
            if period.timer is not None:
                self._end_period(event)
        self._periods.clear()

    def _end_period(self, event: tuple[int, Hashable]) -> None:
        period = self._periods.pop(event)
        close_watcher(period.timer)
        if self._home.in_forked_child:
            return  # in a forked child: the parent writes it
        times = 'once more' if period.count == 1 else f'{period.count} times more'
        self._periods[event] = following = _Period()
        following.lines = dict.fromkeys(period.lines, 1)
        text = f'{period.text} ({times} in the last {PERIOD:g} s)'
        self._write_soon(('count', event), event[0], text, period.repeated)

    def _remove_ended(self) -> None:
        now = timing.now()
        if now < self._sweep_at:
            return
        self._sweep_at = now + PERIOD
        for event in [event for event, period in self._periods.items() if not period.count and period.ends_at <= now]:
            del self._periods[event]

    def _write_soon(self, line: Hashable, level: int, text: str, subjects: Iterable[str]) -> None:
        if not self._pending:
            gevent.spawn(self._write).name = 'getc log'
        self._pending.setdefault(line, (level, text, []))[2].extend(subjects)

    def _write(self) -> None:
        pending, self._pending = self._pending, {}
        for level, text, subjects in pending.values():
            logger.log(level, '%s: %s%s', self.label, _named(subjects), text)


def _named(subjects: list[str]) -> str:
    first, others = subjects[0], len(subjects) - 1
    if not others:
        return f'{first}: ' if first else ''
    return f'{first} and {others} other{"s" if others > 1 else ""}: '
