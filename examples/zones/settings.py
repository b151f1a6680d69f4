"""What operators set while everything runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

import getc

__all__ = ['Settings']

log = logging.getLogger('zones')

STEP: Final = 1.0
SEATS: Final = 4

_Number = TypeVar('_Number', int, float)


class Settings:
    """The configuration in ``/cfg``, as it is now: read it whenever you need it, and keep no copy.

    What is deleted is back at its default.  What makes no sense is logged, and the last good value stays in force: a
    slip of the pen must not end a game.

    Args:
        etcd: The client.
        then: Called after each change.

    Attributes:
        step: Seconds from one step of a shard to the next.
        seats: Players in a shard at most.
        drained: Zones that are to give their shards away.
    """

    def __init__(self, etcd: getc.Client, then: Callable[[], object] = lambda: None) -> None:
        self.step = STEP
        self.seats = SEATS
        self.drained: set[str] = set()
        self._then = then
        etcd.on_change('/cfg', self._take, initial=True, timeout=None)

    def _take(self, result: getc.EtcdResult) -> None:
        try:
            self._set(result.key.split('/')[2:], result.value)
        except ValueError as error:
            log.error('%s: %s; what was set before stays in force', result.key, error)
        self._then()

    def _set(self, path: list[str], text: str | None) -> None:
        """Take one in; None if it was deleted, perhaps with all that is below it."""
        match path:
            case ['step']:
                self.step = STEP if text is None else checked(float(text), most=10.0)
            case ['seats']:
                self.seats = SEATS if text is None else checked(int(text), most=1000)
            case ['drain', zone] if text is not None:
                self.drained.add(zone)
            case ['drain', zone]:
                self.drained.discard(zone)
            case ['drain'] if text is None:
                self.drained.clear()
            case [] if text is None:
                self.step, self.seats = STEP, SEATS
                self.drained.clear()


def checked(number: _Number, *, most: _Number) -> _Number:
    """The number.

    Raises:
        ValueError: It is not more than 0, or more than the most.
    """
    if not 0 < number <= most:
        raise ValueError(f'{number} is not more than 0 and at most {most}')
    return number
