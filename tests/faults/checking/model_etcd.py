"""A model of etcd and its clients that writes histories without violations.

Its clock is advanced explicitly.  A test creates a history with it, and then modifies records to break a rule.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from getc.paths import is_below, is_hidden
from tests.faults.history import (
    COMPACTION,
    RESTORE,
    WIPE,
    Call,
    Change,
    Fault,
    History,
    KeeperEvent,
    Outcome,
    Probe,
    Record,
    Resources,
    Resync,
    TokenCheck,
    WatchEvent,
    WatchStarted,
)

__all__ = ['ModelEtcd', 'ModelWatcher', 'rewrite_records']

TTL = 5.0
LINKS = 3


@dataclass
class ModelWatcher:
    """A watcher that receives the correct events on request."""

    name: str
    key: str
    era: int
    revision: int
    known: dict[str, Change] = field(default_factory=dict)


class ModelEtcd:
    """The store, its clock, and the history.

    Attributes:
        history: The history.
        now: Seconds.
        era: As in the history.
        revision: As in the history.
        keys: The keys with their latest changes.
    """

    def __init__(self) -> None:
        self.history = History(0)
        self.now = 0.0
        self.era = 0
        self.revision = 1
        self.keys: dict[str, Change] = {}
        self._changes: list[Change] = []
        self._compacted = 0
        self._backup: tuple[int, int, dict[str, Change], list[Change]] = (1, 0, {}, [])
        self.history.add(Resources('before', 1, 2, 0, 1000))

    # -- the store

    def commit(self, values: dict[str, str | None], lease: int = 0) -> int:
        """Write and delete several keys in one revision, which is returned.  Missing keys are not deleted."""
        changes = [(key, value) for key, value in values.items() if value is not None or key in self.keys]
        if changes:
            self.revision += 1
        for order, (key, value) in enumerate(changes):
            before = self.keys.pop(key, None)
            if value is None:
                change = Change(self.era, self.revision, order, key, None, 0, 0, 0)
            else:
                created, version = (self.revision, 1) if before is None else (before.created, before.version + 1)
                change = Change(self.era, self.revision, order, key, value, created, version, lease)
                self.keys[key] = change
            self._changes.append(change)
            self.history.add(change)
        return self.revision

    def compact(self, revision: int) -> None:
        """Compact the history up to a revision."""
        self._compacted = revision
        self.history.add(Fault(COMPACTION, f'up to {revision}', self.now, self.now + 0.1, revision))
        self.pass_time(0.2)

    def wipe(self) -> None:
        """Lose all data."""
        began = self.now
        self.pass_time(1.0)
        self.era, self.revision, self._compacted = self.era + 1, 1, 0
        self.keys, self._changes = {}, []
        self.history.add(Fault(WIPE, 'all data', began, self.now))
        self.pass_time(0.1)

    def back_up(self) -> None:
        """Make a backup."""
        self._backup = self.revision, self._compacted, dict(self.keys), list(self._changes)

    def restore(self, certain: int | None = None) -> None:
        """Restore the latest backup.

        Args:
            certain: The revision of the fault's record: later changes are recorded again.  None for the backup's
                revision.
        """
        began = self.now
        self.pass_time(1.0)
        self.era, (self.revision, self._compacted, keys, changes) = self.era + 1, self._backup
        self.keys = {key: replace(change, era=self.era) for key, change in keys.items()}
        self._changes = [replace(change, era=self.era) for change in changes]
        certain = self.revision if certain is None else certain
        self.history.add(Fault(RESTORE, 'all data', began, self.now, certain))
        for change in self._changes:
            if change.revision > certain:
                self.history.add(change)
        self.pass_time(0.1)

    def pass_time(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds

    def finish(self) -> History:
        """Record the resources after the end, and return the history."""
        self.history.add(Resources('after', 1, 2, 0, 1000))
        return self.history

    # -- calls

    def call(
        self,
        kind: str,
        key: str,
        value: str | None = None,
        *,
        expected: str | None = None,
        process: str = 'p',
        client: str = 'a',
        outcome: Outcome | None = None,
        is_applied: bool = True,
        duration: float = 0.1,
    ) -> Call:
        """Make a call while no other one is in flight.

        Args:
            kind, key, value, expected, process, client: As in the record.
            outcome: Replaces the real outcome, for example for a lost response.
            is_applied: Whether it has an effect.
            duration: Seconds.
        """
        began = self.now
        self.pass_time(duration)
        current = self.keys.get(key)
        read = None if current is None else current.value
        error = _error(kind, read, expected)
        modified = None
        if error is None and kind in ('set', 'create', 'swap', 'delete') and is_applied:
            modified = self.commit({key: None if kind == 'delete' else value})
        elif kind.endswith('get'):
            value, modified, error = read, None if current is None else current.revision, None
        if outcome is None:
            outcome = Outcome.DONE if error is None else Outcome.REFUSED
        if outcome in (Outcome.AMBIGUOUS, Outcome.NOT_APPLIED):
            modified, error = None, 'TimedOut'
        revision = None if error == 'TimedOut' else self.revision
        call = Call(
            process, client, key, kind, began, self.now, outcome, value, expected, revision, modified, error
        )  # fmt: skip
        self.history.add(call)
        self.pass_time(0.01)
        return call

    # -- watchers

    def watch(self, name: str, key: str, *, client: str = '') -> ModelWatcher:
        """Start a watcher."""
        self.history.add(WatchStarted(name, self.now, key, self.era, self.revision, client))
        return ModelWatcher(name, key, self.era, self.revision, self._listing(key))

    def deliver(self, watcher: ModelWatcher) -> None:
        """Deliver all changes that the watcher has not received."""
        if watcher.era != self.era or self._compacted > watcher.revision + 1:
            self.deliver_resync(watcher)
        delivered = bisect_right(self._changes, watcher.revision, key=lambda change: change.revision)
        for change in self._changes[delivered:]:
            if _is_delivered(change.key, watcher.key):
                action = 'Deleted' if change.value is None else 'Set'
                self._record_event(watcher, change.key, change.value, change.revision, action, resync=False)
        watcher.revision = self.revision
        watcher.known = self._listing(watcher.key)

    def deliver_resync(self, watcher: ModelWatcher) -> None:
        """Deliver a resync: the comparison with what the watcher had received."""
        keys = self._listing(watcher.key)
        for key in sorted({*keys, *watcher.known}):
            before, now = watcher.known.get(key), keys.get(key)
            if now is None:
                self._record_event(watcher, key, None, self.revision, 'Deleted', resync=True)
            elif before is None or (before.created, before.value) != (now.created, now.value):
                self._record_event(watcher, key, now.value, now.revision, 'Set', resync=True)
        self.history.add(Resync(watcher.name, self.now, self.revision))
        watcher.era, watcher.revision, watcher.known = self.era, self.revision, keys

    def _record_event(
        self, watcher: ModelWatcher, key: str, value: str | None, revision: int, action: str, *, resync: bool
    ) -> None:
        index = self.revision if resync else None
        self.history.add(WatchEvent(watcher.name, self.now, key, value, revision, action, resync, index))

    def _listing(self, key: str) -> dict[str, Change]:
        return {path: change for path, change in self.keys.items() if _is_delivered(path, key)}

    # -- keepers

    def keeper_event(
        self,
        keeper: str,
        kind: str,
        *,
        client: str = 'a',
        key: str = '/s/a',
        on_conflict: str = 'wait',
        value: str | None = None,
    ) -> None:
        """Record an event of a keeper, whose value is its name by default."""
        self.history.add(KeeperEvent(keeper, client, key, value or keeper, TTL, self.now, kind, on_conflict))

    def check_token(self, keeper: str, token: int | None, *, key: str = '/s/a') -> None:
        """Record a token check of a keeper."""
        self.history.add(TokenCheck(keeper, key, self.now, token))

    def pass_time_with_probes(
        self, seconds: float, *, clients: Iterable[str] = ('a', 'b'), unserved: dict[str, set[int]] | None = None
    ) -> None:
        """Advance the clock, and record probes on all links of the clients, which succeed except on broken links.

        Args:
            seconds: The time.
            clients: The clients to probe.
            unserved: The broken links of each client.
        """
        end = self.now + seconds
        while self.now < end:
            for client in clients:
                for link in range(LINKS):
                    is_broken = link in (unserved or {}).get(client, set())
                    revision = None if is_broken else self.revision
                    self.history.add(Probe(client, self.now, self.now + 0.02, self.era, revision, link))
            self.pass_time(0.1)


def rewrite_records(history: History, rewrite: Callable[[Record], Iterable[Record]]) -> History:
    """Return a history with each record replaced by the records that ``rewrite`` returns for it."""
    changed = History(history.seed)
    for record in history:
        for other in rewrite(record):
            changed.add(other)
    return changed


def _error(kind: str, current: str | None, expected: str | None) -> str | None:
    if kind == 'create':
        return None if current is None else 'NodeExist'
    if kind in ('swap', 'delete') and current is None:
        return 'KeyNotFound'
    return 'TestFailed' if kind == 'swap' and current != expected else None


def _is_delivered(key: str, watched: str) -> bool:
    return key == watched or (is_below(key, watched) and not is_hidden(key, watched))
