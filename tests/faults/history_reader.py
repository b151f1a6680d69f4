"""The archivist: reads etcd's own history, from revision 1 on and before it is compacted or wiped.

It does not use the code under test: it asks the members themselves, past all proxies, by their JSON gateway.  That it
missed nothing does not rest on any watch either, but is proven from what came:

- each revision of etcd changes something, so there is none from 2 on without a change;
- each key's version counts its writes, so no write of a key is missing within a revision or between two;
- what the history leads to is what a range shows at its last revision, so no deletion is missing either.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gevent
from gevent.lock import RLock

from tests.faults.cluster import Ground
from tests.faults.gateway import EVERYTHING, Gateway, Refused, text_of
from tests.faults.history import Change, History

__all__ = ['Archivist', 'Bookmark', 'IncompleteArchive']

PAUSE: Final = 0.5
"""Seconds between two looks at what is new."""

PATIENCE: Final = 1.0
"""Seconds for a member to say something, before another is asked."""

COMPACTED: Final = 'compact_revision'


class IncompleteArchive(Exception):
    """Something of etcd's history is missing here.  It is no fault of getc's, and nothing can be said about it then."""


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Up to where an archivist had read, to go on from there after a restore.

    Attributes:
        revision, there, compactable: As the archivist's.
        has_deletion: Something was deleted at that revision.
    """

    revision: int
    there: dict[str, Change]
    compactable: int
    has_deletion: bool


BEGINNING: Final = Bookmark(1, {}, 1, False)


class Archivist:
    """Notes each change in a history.

    Args:
        ground: Whose etcd it is.
        history: Where it is noted.

    Attributes:
        revision: Every change up to it was noted.
        there: The keys of the current era at that revision, with their latest change.
        compactable: The latest revision before that at which nothing was deleted.
        bookmark: Where this was when the last backup of the era was made; None if there is none.
        former: The last revision of the era before.
    """

    def __init__(self, ground: Ground, history: History) -> None:
        self.revision = 1  # that of an empty store
        self.there: dict[str, Change] = {}
        self.compactable = 1
        self.bookmark: Bookmark | None = None
        self.former = 1
        self._has_deletion = False
        self._ground = ground
        self._history = history
        self._gateways = deque(ground.gateway(url, timeout=PATIENCE) for url in ground.urls)
        self._lock = RLock()
        self._reading: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Read on in the background."""
        self._reading = gevent.spawn(self._go_on)
        self._reading.name = 'archivist'

    def stop(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.kill()
        for gateway in self._gateways:
            gateway.close()

    def catch_up(self, timeout: float) -> int:
        """Note all that has happened up to now, and return the revision of that.

        Raises:
            TimeoutError: No member could be asked, or be read from, in time.
            IncompleteArchive: Something is missing.
        """
        end = time.monotonic() + timeout
        with self._lock:
            target = self._until(end, self._current_revision)
            while self.revision < target:
                self._until(end, lambda gateway: self._read(gateway, target))
        return self.revision

    def check(self, timeout: float) -> None:
        """Catch up, and compare what is noted with what is there.

        Raises:
            TimeoutError: It was not possible in time.
            IncompleteArchive: It is not the same.
        """
        with self._lock:
            revision = self.catch_up(timeout)
            request = {**EVERYTHING, 'revision': str(revision)}
            answer = self._until(time.monotonic() + timeout, lambda gateway: gateway.ask('/v3/kv/range', request))
            shown = {text_of(kv['key']): int(kv['mod_revision']) for kv in answer.get('kvs', ())}
            noted = {key: change.revision for key, change in self.there.items()}
            if shown != noted:
                raise IncompleteArchive(f'at revision {revision}: {_difference(shown, noted)}')

    def keep_bookmark(self, timeout: float) -> None:
        """Catch up, and note where this is: a backup is made now.

        Raises:
            TimeoutError, IncompleteArchive: As :meth:`catch_up`.
        """
        with self._lock:
            self.catch_up(timeout)
            self.bookmark = Bookmark(self.revision, dict(self.there), self.compactable, self._has_deletion)

    def end_era(self, timeout: float, end: Callable[[], None], bookmark: Bookmark = BEGINNING) -> None:
        """Note and compare all there is, have the era ended, and begin the next one.  Nobody may write meanwhile.

        Args:
            timeout: Seconds.
            end: Wipes the data, or puts those of a backup back.
            bookmark: From before the backup was made.

        Raises:
            TimeoutError, IncompleteArchive: As :meth:`check`; the era goes on then.
        """
        with self._lock:
            self.check(timeout)
            self.former, self.bookmark = self.revision, None
            self.revision, self.there = bookmark.revision, dict(bookmark.there)
            self.compactable, self._has_deletion = bookmark.compactable, bookmark.has_deletion
            end()

    def _go_on(self) -> None:
        while True:
            try:
                self.catch_up(10 * PATIENCE)
            except (TimeoutError, IncompleteArchive):
                pass  # an outage; and what is missing is still missing when it is checked
            gevent.sleep(PAUSE)

    def _until(self, end: float, ask: Callable[[Gateway], Any]) -> Any:
        """Ask one member after the other until one answers, beginning with the one that did so last."""
        while True:
            try:
                return ask(self._gateways[0])
            except (OSError, Refused) as error:
                if time.monotonic() > end:
                    raise TimeoutError(f'no member could be read from: {error}') from error
            self._gateways.rotate(-1)
            gevent.sleep(0.02)

    def _current_revision(self, gateway: Gateway) -> int:
        answer = gateway.ask('/v3/kv/range', {'key': 'AA==', 'limit': '1', 'keys_only': True})
        return int(answer['header']['revision'])

    def _read(self, gateway: Gateway, target: int) -> None:
        """Note the changes up to a revision.  A response has whole revisions, as no pieces were asked for."""
        for response in gateway.watch(self.revision + 1):
            if response.get(COMPACTED):
                raise IncompleteArchive(f'{response[COMPACTED]} was compacted before {self.revision} was noted')
            self._note(response.get('events', ()))
            if self.revision >= target:
                return

    def _note(self, events: list[dict[str, Any]]) -> None:
        order = 0
        last = self.revision  # etcd 3.4 may tell an event twice
        told: set[tuple[int, str]] = set()
        for event in events:
            kv = event['kv']
            revision, key = int(kv['mod_revision']), text_of(kv['key'])
            if revision <= last or (revision, key) in told:
                continue
            told.add((revision, key))
            if revision > self.revision + 1 or revision < self.revision:
                raise IncompleteArchive(f'revision {revision} of {key} came after {self.revision}')
            order = order + 1 if revision == self.revision else 0
            self.revision = revision
            self._take(_change(self._ground.era, revision, order, key, event))

    def _take(self, change: Change) -> None:
        if change.order == 0:
            if not self._has_deletion:
                self.compactable = change.revision - 1
            self._has_deletion = False
        self._has_deletion |= change.value is None
        before = self.there.pop(change.key, None)
        if change.value is not None:
            if change.version != (1 if before is None else before.version + 1):
                raise IncompleteArchive(f'{change} came after {before}')
            self.there[change.key] = change
        elif before is None:
            raise IncompleteArchive(f'{change} of what was not there')
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


def _difference(shown: dict[str, int], noted: dict[str, int]) -> str:
    keys = sorted(key for key in {*shown, *noted} if shown.get(key) != noted.get(key))
    return ', '.join(f'{key} is shown at {shown.get(key)}, noted at {noted.get(key)}' for key in keys[:5])
