"""Reads etcd's own log, from revision 1 on, before it is compacted or wiped.

It does not use getc, but the JSON gateway of the members, without proxies.  Its completeness does not depend on the
watch, but is verified from the changes themselves:

- Each revision of etcd has a change, so none from 2 on may be missing.
- The version of a key counts its writes, so no write of a key may be missing.
- The keys that result from the changes are those of a range at the last revision, so no deletion may be missing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gevent
from gevent.lock import RLock

from tests.faults.cluster import ProxiedCluster
from tests.faults.gateway import ALL_KEYS, Gateway, RequestRefused, text_of
from tests.faults.history import Change, History

__all__ = ['Checkpoint', 'HistoryReader', 'IncompleteHistory']

POLL_INTERVAL: Final = 0.5
"""Seconds between two reads."""

REQUEST_TIMEOUT: Final = 1.0
"""Seconds for the response of a member, before the next one is tried."""

COMPACT_REVISION: Final = 'compact_revision'


class IncompleteHistory(Exception):
    """The log that was read is incomplete.  That is no failure of getc, but the run cannot be judged."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The position of a history reader at the time of a backup, to continue from after a restore.

    Attributes:
        revision, keys, compactable_revision: As in :class:`HistoryReader`.
        has_deletion: There was a deletion at that revision.
    """

    revision: int
    keys: dict[str, Change]
    compactable_revision: int
    has_deletion: bool


EMPTY_STORE: Final = Checkpoint(1, {}, 1, False)


class HistoryReader:
    """Records each change of etcd in a history.

    Args:
        cluster: The cluster.
        history: Records the changes.

    Attributes:
        revision: All changes up to this revision are recorded.
        keys: The keys at that revision, with their latest change.
        compactable_revision: The latest revision before that without a deletion.
        checkpoint: The position at the last backup of this era; None without one.
        previous_revision: The last revision of the previous era.
    """

    def __init__(self, cluster: ProxiedCluster, history: History) -> None:
        self.revision = 1  # that of an empty store
        self.keys: dict[str, Change] = {}
        self.compactable_revision = 1
        self.checkpoint: Checkpoint | None = None
        self.previous_revision = 1
        self._has_deletion = False
        self._cluster = cluster
        self._history = history
        self._gateways = deque(cluster.gateway(url, timeout=REQUEST_TIMEOUT) for url in cluster.urls)
        self._lock = RLock()
        self._reading: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Start reading in the background."""
        self._reading = gevent.spawn(self._run)
        self._reading.name = 'archivist'

    def stop(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.kill()
        for gateway in self._gateways:
            gateway.close()

    def catch_up(self, timeout: float) -> int:
        """Record all changes up to now, and return the current revision.

        Raises:
            TimeoutError: No member answered in time.
            IncompleteHistory: A change is missing.
        """
        end = time.monotonic() + timeout
        with self._lock:
            target = self._retry(end, self._current_revision)
            while self.revision < target:
                self._retry(end, lambda gateway: self._read(gateway, target))
        return self.revision

    def check(self, timeout: float) -> None:
        """Catch up, and compare the recorded keys with those in etcd.

        Raises:
            TimeoutError: It was not possible in time.
            IncompleteHistory: They are different.
        """
        with self._lock:
            revision = self.catch_up(timeout)
            body = {**ALL_KEYS, 'revision': str(revision)}
            answer = self._retry(time.monotonic() + timeout, lambda gateway: gateway.request('/v3/kv/range', body))
            actual = {text_of(kv['key']): int(kv['mod_revision']) for kv in answer.get('kvs', ())}
            recorded = {key: change.revision for key, change in self.keys.items()}
            if actual != recorded:
                raise IncompleteHistory(f'at revision {revision}: {_difference(actual, recorded)}')

    def save_checkpoint(self, timeout: float) -> None:
        """Catch up, and keep the position for a backup that is made now.

        Raises:
            TimeoutError, IncompleteHistory: As :meth:`catch_up`.
        """
        with self._lock:
            self.catch_up(timeout)
            self.checkpoint = Checkpoint(self.revision, dict(self.keys), self.compactable_revision, self._has_deletion)

    def end_era(self, timeout: float, end: Callable[[], None], checkpoint: Checkpoint = EMPTY_STORE) -> None:
        """Catch up, check, end the era and begin the next one.  No client may write meanwhile.

        Args:
            timeout: Seconds.
            end: Wipes the data, or restores a backup.
            checkpoint: The position at the time of the backup.

        Raises:
            TimeoutError, IncompleteHistory: As :meth:`check`; the era continues then.
        """
        with self._lock:
            self.check(timeout)
            self.previous_revision, self.checkpoint = self.revision, None
            self.revision, self.keys = checkpoint.revision, dict(checkpoint.keys)
            self.compactable_revision, self._has_deletion = checkpoint.compactable_revision, checkpoint.has_deletion
            end()

    def _run(self) -> None:
        while True:
            try:
                self.catch_up(10 * REQUEST_TIMEOUT)
            except (TimeoutError, IncompleteHistory):
                pass  # an outage; a missing change is found by the final check
            gevent.sleep(POLL_INTERVAL)

    def _retry(self, end: float, request: Callable[[Gateway], Any]) -> Any:
        """Try one member after another until one answers, beginning with the last one that did."""
        while True:
            try:
                return request(self._gateways[0])
            except (OSError, RequestRefused) as error:
                if time.monotonic() > end:
                    raise TimeoutError(f'no member answered: {error}') from error
            self._gateways.rotate(-1)
            gevent.sleep(0.02)

    def _current_revision(self, gateway: Gateway) -> int:
        answer = gateway.request('/v3/kv/range', {'key': 'AA==', 'limit': '1', 'keys_only': True})
        return int(answer['header']['revision'])

    def _read(self, gateway: Gateway, target: int) -> None:
        """Record the changes up to a revision.  A response has whole revisions without fragments."""
        for response in gateway.watch(self.revision + 1):
            if response.get(COMPACT_REVISION):
                raise IncompleteHistory(
                    f'{response[COMPACT_REVISION]} was compacted before revision {self.revision} was recorded'
                )
            self._record(response.get('events', ()))
            if self.revision >= target:
                return

    def _record(self, events: list[dict[str, Any]]) -> None:
        order = 0
        last = self.revision  # etcd 3.4 may send an event twice
        seen: set[tuple[int, str]] = set()
        for event in events:
            kv = event['kv']
            revision, key = int(kv['mod_revision']), text_of(kv['key'])
            if revision <= last or (revision, key) in seen:
                continue
            seen.add((revision, key))
            if revision > self.revision + 1 or revision < self.revision:
                raise IncompleteHistory(f'revision {revision} of {key} came after {self.revision}')
            order = order + 1 if revision == self.revision else 0
            self.revision = revision
            self._apply(_change(self._cluster.era, revision, order, key, event))

    def _apply(self, change: Change) -> None:
        if change.order == 0:
            if not self._has_deletion:
                self.compactable_revision = change.revision - 1
            self._has_deletion = False
        self._has_deletion |= change.value is None
        before = self.keys.pop(change.key, None)
        if change.value is not None:
            if change.version != (1 if before is None else before.version + 1):
                raise IncompleteHistory(f'{change} came after {before}')
            self.keys[change.key] = change
        elif before is None:
            raise IncompleteHistory(f'{change} of a key that did not exist')
        self._history.add(change)


def _change(era: int, revision: int, order: int, key: str, event: dict[str, Any]) -> Change:
    if event.get('type') == 'DELETE':
        return Change(era, revision, order, key, None, created=0, version=0, lease=0)
    kv = event['kv']
    return Change(
        era,
        revision,
        order,
        key,
        text_of(kv.get('value', '')),
        created=int(kv['create_revision']),
        version=int(kv['version']),
        lease=int(kv.get('lease', 0)),
    )


def _difference(actual: dict[str, int], recorded: dict[str, int]) -> str:
    keys = sorted(key for key in {*actual, *recorded} if actual.get(key) != recorded.get(key))
    return ', '.join(f'{key} is at revision {actual.get(key)}, recorded at {recorded.get(key)}' for key in keys[:5])
