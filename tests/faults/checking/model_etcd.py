"""A toy etcd that is always right, and whoever uses it: they write histories that break no rule.

Its time goes on only when it is told to.  A test makes a history with it, and breaks that by hand.
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
    Claim,
    Fault,
    History,
    Outcome,
    Presence,
    Probe,
    Record,
    Resources,
    Resync,
    Seen,
    Watched,
)

__all__ = ['ToyEtcd', 'ToyWatcher', 'rewritten']

TTL = 5.0
WAYS = 3


@dataclass
class ToyWatcher:
    """A watcher that is told what it should be, when it is told to be."""

    name: str
    key: str
    era: int
    revision: int
    known: dict[str, Change] = field(default_factory=dict)


class ToyEtcd:
    """The store, its clock, and the history.

    Attributes:
        history: What has happened.
        now: Seconds.
        era: As the history's.
        revision: As the history's.
        there: The keys, with the change that made them what they are.
    """

    def __init__(self) -> None:
        self.history = History(0)
        self.now = 0.0
        self.era = 0
        self.revision = 1
        self.there: dict[str, Change] = {}
        self._changes: list[Change] = []
        self._compacted = 0
        self._backup: tuple[int, int, dict[str, Change], list[Change]] = (1, 0, {}, [])
        self.history.add(Resources('before', 1, 2, 0, 1000))

    # -- the store

    def commit(self, values: dict[str, str | None], lease: int = 0) -> int:
        """Write and delete several keys at one revision; what is not there is not deleted.  Return the revision."""
        changes = [(key, value) for key, value in values.items() if value is not None or key in self.there]
        if changes:
            self.revision += 1
        for order, (key, value) in enumerate(changes):
            before = self.there.pop(key, None)
            if value is None:
                change = Change(self.era, self.revision, order, key, None, 0, 0, 0)
            else:
                created, version = (self.revision, 1) if before is None else (before.created, before.version + 1)
                change = Change(self.era, self.revision, order, key, value, created, version, lease)
                self.there[key] = change
            self._changes.append(change)
            self.history.add(change)
        return self.revision

    def compact(self, revision: int) -> None:
        """Forget what was before a revision."""
        self._compacted = revision
        self.history.add(Fault(COMPACTION, f'up to {revision}', self.now, self.now + 0.1, revision))
        self.pass_time(0.2)

    def wipe(self) -> None:
        """Forget everything."""
        began = self.now
        self.pass_time(1.0)
        self.era, self.revision, self._compacted = self.era + 1, 1, 0
        self.there, self._changes = {}, []
        self.history.add(Fault(WIPE, 'all data', began, self.now))
        self.pass_time(0.1)

    def back_up(self) -> None:
        """Remember all there is."""
        self._backup = self.revision, self._compacted, dict(self.there), list(self._changes)

    def restore(self, certain: int | None = None) -> None:
        """Put back what was there at the last backup.

        Args:
            certain: The revision that is noted: the changes after it are read again.  None for that of the backup.
        """
        began = self.now
        self.pass_time(1.0)
        self.era, (self.revision, self._compacted, there, changes) = self.era + 1, self._backup
        self.there = {key: replace(change, era=self.era) for key, change in there.items()}
        self._changes = [replace(change, era=self.era) for change in changes]
        certain = self.revision if certain is None else certain
        self.history.add(Fault(RESTORE, 'all data', began, self.now, certain))
        for change in self._changes:
            if change.revision > certain:
                self.history.add(change)
        self.pass_time(0.1)

    def pass_time(self, seconds: float) -> None:
        """Let the time go on."""
        self.now += seconds

    def finish(self) -> History:
        """The history is at its end: nothing is held any more."""
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
        takes: float = 0.1,
    ) -> Call:
        """Make a call that nothing else happens beside.

        Args:
            kind, key, value, expected, process, client: As the record's.
            outcome: What the caller is told instead of what happened, such as that there was no answer.
            is_applied: Whether it has an effect.
            takes: Seconds.
        """
        began = self.now
        self.pass_time(takes)
        current = self.there.get(key)
        read = None if current is None else current.value
        error = _refusal(kind, read, expected)
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

    def watch(self, name: str, key: str, *, client: str = '') -> ToyWatcher:
        """Begin to watch."""
        self.history.add(Watched(name, self.now, key, self.era, self.revision, client))
        return ToyWatcher(name, key, self.era, self.revision, self._listing(key))

    def deliver(self, watcher: ToyWatcher) -> None:
        """Tell a watcher all that it does not know."""
        if watcher.era != self.era or self._compacted > watcher.revision + 1:
            self.deliver_difference(watcher)
        told = bisect_right(self._changes, watcher.revision, key=lambda change: change.revision)
        for change in self._changes[told:]:
            if _is_told(change.key, watcher.key):
                action = 'Deleted' if change.value is None else 'Set'
                self._tell(watcher, change.key, change.value, change.revision, action, resync=False)
        watcher.revision = self.revision
        watcher.known = self._listing(watcher.key)

    def deliver_difference(self, watcher: ToyWatcher) -> None:
        """Tell a watcher that history was lost, and what is different."""
        there = self._listing(watcher.key)
        for key in sorted({*there, *watcher.known}):
            before, now = watcher.known.get(key), there.get(key)
            if now is None:
                self._tell(watcher, key, None, self.revision, 'Deleted', resync=True)
            elif before is None or (before.created, before.value) != (now.created, now.value):
                self._tell(watcher, key, now.value, now.revision, 'Set', resync=True)
        self.history.add(Resync(watcher.name, self.now, self.revision))
        watcher.era, watcher.revision = self.era, self.revision

    def _tell(
        self, watcher: ToyWatcher, key: str, value: str | None, revision: int, action: str, *, resync: bool
    ) -> None:
        index = self.revision if resync else None
        self.history.add(Seen(watcher.name, self.now, key, value, revision, action, resync, index))

    def _listing(self, key: str) -> dict[str, Change]:
        return {path: change for path, change in self.there.items() if _is_told(path, key)}

    # -- keepers

    def say(
        self,
        keeper: str,
        what: str,
        *,
        client: str = 'a',
        key: str = '/s/a',
        on_conflict: str = 'wait',
        value: str | None = None,
    ) -> None:
        """A keeper says something; its value is its name, or another one."""
        self.history.add(Presence(keeper, client, key, value or keeper, TTL, self.now, what, on_conflict))

    def claim(self, keeper: str, token: int | None, *, key: str = '/s/a') -> None:
        """A keeper is asked for its token."""
        self.history.add(Claim(keeper, key, self.now, token))

    def serve(
        self, seconds: float, *, clients: Iterable[str] = ('a', 'b'), but: dict[str, set[int]] | None = None
    ) -> None:
        """Let the time go on, with probes on all ways of the clients, each answered but for those of some clients.

        Args:
            seconds: How long.
            clients: Who is probed.
            but: The ways of clients that are broken.
        """
        end = self.now + seconds
        while self.now < end:
            for client in clients:
                for way in range(WAYS):
                    is_broken = way in (but or {}).get(client, set())
                    revision = None if is_broken else self.revision
                    self.history.add(Probe(client, self.now, self.now + 0.02, self.era, revision, way))
            self.pass_time(0.1)


def rewritten(history: History, rewrite: Callable[[Record], Iterable[Record]]) -> History:
    """The same history with each record replaced by those that ``rewrite`` makes of it."""
    changed = History(history.seed)
    for record in history:
        for other in rewrite(record):
            changed.add(other)
    return changed


def _refusal(kind: str, current: str | None, expected: str | None) -> str | None:
    if kind == 'create':
        return None if current is None else 'NodeExist'
    if kind in ('swap', 'delete') and current is None:
        return 'KeyNotFound'
    return 'TestFailed' if kind == 'swap' and current != expected else None


def _is_told(key: str, watched: str) -> bool:
    return key == watched or (is_below(key, watched) and not is_hidden(key, watched))
