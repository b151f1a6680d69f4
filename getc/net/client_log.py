"""The log of one client: writes an event once, counts its repetitions, and writes the count after a minute."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from typing import Any, Final

import gevent

from getc import timing
from getc.net.affinity import ThreadAffinity, close_watcher

__all__ = ['REPEAT_INTERVAL', 'ClientLog']

log = logging.getLogger(__name__)

REPEAT_INTERVAL: Final = 60.0
"""Seconds after an event in which its repetitions are counted instead of written."""


class _Repetitions:
    """The repetitions of one event within ``REPEAT_INTERVAL``.

    Attributes:
        ends_at: End of the interval, in seconds of ``timing.now``.
        lines: Number of lines that were written, by subject.
        text: Text of the latest repetition.
        subjects: Subjects of the repetitions that were counted, in order.
        count: Number of repetitions that were counted.
        timer: Writes the count at the end of the interval; None while the count is 0.
    """

    __slots__ = ('count', 'ends_at', 'lines', 'subjects', 'text', 'timer')

    def __init__(self) -> None:
        self.ends_at = timing.now() + REPEAT_INTERVAL
        self.lines: dict[str, int] = {}
        self.text = ''
        self.subjects: dict[str, None] = {}
        self.count = 0
        self.timer: Any = None


class ClientLog:
    """Logs the events of one client, with the label of the client in front.

    The same event of many daemons within one iteration of the event loop is one line.  A repetition for the same daemon
    is counted, and the count is written after ``REPEAT_INTERVAL``.  Lines are written in a greenlet, because logging
    handlers of the program may block: the methods do not block or switch and can be called from the hub.

    Args:
        label: Name of the client, for example ``etcd client 2``.
    """

    def __init__(self, label: str = 'etcd client') -> None:
        self.label = label
        self._pending: dict[Hashable, tuple[int, str, list[str]]] = {}
        self._events: dict[tuple[int, Hashable], _Repetitions] = {}
        self._sweep_at = 0.0  # ended intervals are removed once an interval only: there may be thousands
        self._affinity = ThreadAffinity()

    def note(self, level: int, text: str, *, subject: str = '', key: Hashable = None, limit: int = 1) -> None:
        """Log an event, or count it as a repetition.

        Args:
            level: Log level, for example ``logging.WARNING``.
            text: Description of the event.
            subject: Name of the daemon concerned; ``''`` for the whole client.
            key: Events with equal level and key are repetitions of each other; None uses the text as the key.
            limit: Lines for one subject within ``REPEAT_INTERVAL`` at most.
        """
        event = level, text if key is None else key
        repetitions = self._events.get(event)
        if repetitions is None or (not repetitions.count and repetitions.ends_at <= timing.now()):
            self._remove_ended()
            repetitions = self._events[event] = _Repetitions()
        repetitions.text = text
        lines = repetitions.lines.get(subject, 0)
        if lines < limit:
            repetitions.lines[subject] = lines + 1
            self._write_soon(event, level, text, [subject])
            return
        repetitions.count += 1
        repetitions.subjects[subject] = None
        if repetitions.timer is None:
            delay = max(0.0, repetitions.ends_at - timing.now())
            repetitions.timer = gevent.get_hub().loop.timer(delay, ref=False)
            repetitions.timer.start(self._write_count, event)

    def close(self) -> None:
        """Write the pending counts and stop the timers."""
        for event, repetitions in list(self._events.items()):
            if repetitions.timer is not None:
                self._write_count(event)
        self._events.clear()

    def _write_count(self, event: tuple[int, Hashable]) -> None:
        repetitions = self._events.pop(event)
        close_watcher(repetitions.timer)
        if self._affinity.in_forked_child:
            return  # the parent process writes the count
        times = 'once more' if repetitions.count == 1 else f'{repetitions.count} more times'
        self._events[event] = following = _Repetitions()
        following.lines = dict.fromkeys(repetitions.lines, 1)
        text = f'{repetitions.text} ({times} in the last {REPEAT_INTERVAL:g} s)'
        self._write_soon(('count', event), event[0], text, repetitions.subjects)

    def _remove_ended(self) -> None:
        now = timing.now()
        if now < self._sweep_at:
            return
        self._sweep_at = now + REPEAT_INTERVAL
        for event in [event for event, each in self._events.items() if not each.count and each.ends_at <= now]:
            del self._events[event]

    def _write_soon(self, line: Hashable, level: int, text: str, subjects: Iterable[str]) -> None:
        if not self._pending:
            gevent.spawn(self._write).name = 'getc log'
        self._pending.setdefault(line, (level, text, []))[2].extend(subjects)

    def _write(self) -> None:
        pending, self._pending = self._pending, {}
        if self._affinity.in_forked_child:
            return  # the parent process writes the lines
        for level, text, subjects in pending.values():
            log.log(level, '%s: %s%s', self.label, _prefix_of(subjects), text)


def _prefix_of(subjects: list[str]) -> str:
    first, others = subjects[0], len(subjects) - 1
    if not others:
        return f'{first}: ' if first else ''
    return f'{first} and {others} other{"s" if others > 1 else ""}: '
