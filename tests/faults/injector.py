"""The fire: strikes at their times, each noted as a fault with when it began and when it was mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import gevent

from getc.errors import EtcException
from getc.testing import ServerFailed
from tests.faults.cluster import Ground
from tests.faults.faults import Omitted, breakage_of
from tests.faults.history import Fault, History
from tests.faults.history_reader import Archivist
from tests.faults.locks import Claims
from tests.faults.schedule import Strike

__all__ = ['Fire']

PATIENCE: Final = 90.0
"""Seconds for the last faults to be mended."""

WIDTH: Final = 80
"""Of a reason, in characters."""


class Fire:
    """Breaks the ground.

    Args:
        ground: What is broken.
        archivist: Who must have read what is going to be forgotten.
        history: Where faults are noted.

    Attributes:
        now: What is broken at the moment.
        omitted: Faults that could not be done, by kind and reason.
    """

    def __init__(self, ground: Ground, archivist: Archivist, history: History) -> None:
        self.now: list[str] = []
        self.omitted: Counter[str] = Counter()
        self._ground = ground
        self._archivist = archivist
        self._history = history
        self._claims = Claims()
        self._strikes: list[gevent.Greenlet[..., None]] = []
        self._ends_at = 0.0

    def burn(self, strikes: Sequence[Strike], seconds: float) -> None:
        """Have strikes for so many seconds, and return when the last one is mended.

        Raises:
            TimeoutError: One could not be mended long after.
        """
        self._ends_at = self._history.now() + seconds
        self._strikes = [gevent.spawn_later(strike.at, self._throw, strike) for strike in strikes]
        gevent.joinall(self._strikes, timeout=seconds + PATIENCE, raise_error=True)
        if not all(strike.ready() for strike in self._strikes):
            raise TimeoutError(f'not mended in time: {self.now}')

    def stop(self) -> None:
        """Strike no more.  What is broken stays so."""
        gevent.killall(self._strikes)

    def _throw(self, strike: Strike) -> None:
        try:
            needs = breakage_of(strike, self._ground, self._archivist).needs
            with self._claims.of(needs):
                if self._history.now() > self._ends_at:
                    raise Omitted('its turn came too late')
                self._break(strike)
        except (Omitted, TimeoutError, EtcException, ServerFailed) as error:
            self.omitted[f'{strike.kind} ({error})'[:WIDTH]] += 1
            if isinstance(error, ServerFailed) and strike.kind != 'move leader':
                raise

    def _break(self, strike: Strike) -> None:
        breakage = breakage_of(strike, self._ground, self._archivist)  # as it stands now
        label = f'{strike.kind}: {breakage.target}'
        began = self._history.now()
        was_omitted = False
        self.now.append(label)
        try:
            with breakage.done() as most:
                gevent.sleep(strike.lasts if most is None else min(strike.lasts, most))
        except Omitted:
            was_omitted = True
            raise
        finally:  # also what was not answered may have been done
            self.now.remove(label)
            if not was_omitted:
                fault = Fault(strike.kind, breakage.target, began, self._history.now(), breakage.revision)
                self._history.add(fault)
