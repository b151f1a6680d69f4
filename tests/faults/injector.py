"""Injects the faults of a schedule, and records each with its times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import gevent

from getc.errors import EtcException
from getc.testing import ServerFailed
from tests.faults.cluster import ProxiedCluster
from tests.faults.faults import Skipped, action_for
from tests.faults.history import Fault, History
from tests.faults.history_reader import HistoryReader
from tests.faults.locks import Locks
from tests.faults.schedule import PlannedFault

__all__ = ['Injector']

RECOVERY_TIMEOUT: Final = 90.0
"""Seconds until the last faults are healed."""

MAX_REASON_LENGTH: Final = 80
"""Maximal characters of a reason in the report."""


class Injector:
    """Injects faults.

    Args:
        cluster: The cluster.
        history_reader: Has to read history before a fault removes it.
        history: Records the faults.

    Attributes:
        active: The current faults.
        skipped: The number of faults that could not be injected, by kind and reason.
    """

    def __init__(self, cluster: ProxiedCluster, history_reader: HistoryReader, history: History) -> None:
        self.active: list[str] = []
        self.skipped: Counter[str] = Counter()
        self._cluster = cluster
        self._history_reader = history_reader
        self._history = history
        self._locks = Locks()
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._ends_at = 0.0

    def run(self, faults: Sequence[PlannedFault], seconds: float) -> None:
        """Inject the faults for a number of seconds, and return when the last one is healed.

        Raises:
            TimeoutError: A fault was not healed in time.
        """
        self._ends_at = self._history.now() + seconds
        self._greenlets = [gevent.spawn_later(fault.at, self._inject_when_free, fault) for fault in faults]
        gevent.joinall(self._greenlets, timeout=seconds + RECOVERY_TIMEOUT, raise_error=True)
        if not all(fault.ready() for fault in self._greenlets):
            raise TimeoutError(f'not healed in time: {self.active}')

    def stop(self) -> None:
        """Stop injecting.  Current faults are not healed."""
        gevent.killall(self._greenlets)

    def _inject_when_free(self, fault: PlannedFault) -> None:
        try:
            locks = action_for(fault, self._cluster, self._history_reader).locks
            with self._locks.acquire(locks):
                if self._history.now() > self._ends_at:
                    raise Skipped('its locks were released too late')
                self._inject(fault)
        except (Skipped, TimeoutError, EtcException, ServerFailed) as error:
            self.skipped[f'{fault.kind} ({error})'[:MAX_REASON_LENGTH]] += 1
            if isinstance(error, ServerFailed) and fault.kind != 'move leader':
                raise

    def _inject(self, fault: PlannedFault) -> None:
        action = action_for(fault, self._cluster, self._history_reader)  # in the current state of the cluster
        label = f'{fault.kind}: {action.target}'
        began = self._history.now()
        was_skipped = False
        self.active.append(label)
        try:
            with action.inject() as limit:
                gevent.sleep(fault.duration if limit is None else min(fault.duration, limit))
        except Skipped:
            was_skipped = True
            raise
        finally:  # a command without a response may have been executed
            self.active.remove(label)
            if not was_skipped:
                injected = Fault(fault.kind, action.target, began, self._history.now(), action.revision)
                self._history.add(injected)
