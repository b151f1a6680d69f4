"""Settings that operators change while everything runs."""

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
    """The current configuration in ``/cfg``.  Read an attribute whenever it is needed, and keep no copy of it.

    A deleted setting has its default.  An invalid value is logged, and the last valid one stays in force, so that a
    typing error does not end a game.

    Args:
        etcd: The client.
        on_change: Called after each change.

    Attributes:
        step: Seconds between two steps of a shard.
        seats: The maximum number of players in a shard.
        drained: Zones that have to release their shards.
    """

    def __init__(self, etcd: getc.Client, on_change: Callable[[], object] = lambda: None) -> None:
        self.step = STEP
        self.seats = SEATS
        self.drained: set[str] = set()
        self._on_change = on_change
        etcd.on_change('/cfg', self._apply, initial=True, timeout=None)

    def _apply(self, result: getc.EtcdResult) -> None:
        try:
            self._set(result.key.split('/')[2:], result.value)
        except ValueError as error:
            log.error('%s: %s; the previous value stays in force', result.key, error)
        self._on_change()

    def _set(self, path: list[str], text: str | None) -> None:
        """Apply a setting; the text is None if it, or a directory of settings, was deleted."""
        match path:
            case ['step']:
                self.step = STEP if text is None else check(float(text), maximum=10.0)
            case ['seats']:
                self.seats = SEATS if text is None else check(int(text), maximum=1000)
            case ['drain', zone] if text is not None:
                self.drained.add(zone)
            case ['drain', zone]:
                self.drained.discard(zone)
            case ['drain'] if text is None:
                self.drained.clear()
            case [] if text is None:
                self.step, self.seats = STEP, SEATS
                self.drained.clear()


def check(number: _Number, *, maximum: _Number) -> _Number:
    """Return the number.

    Raises:
        ValueError: The number is not more than 0, or more than the maximum.
    """
    if not 0 < number <= maximum:
        raise ValueError(f'{number} must be more than 0 and at most {maximum}')
    return number
