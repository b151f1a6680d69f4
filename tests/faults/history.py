"""The history of a run: plain records in the order in which they were made.

Workers and faults write a history (``History.add``), and checkers read it.  A file of JSON lines keeps it (``save``,
``load``), so that a failed run can be checked again.

Times are seconds of the monotonic clock since the start of the history.  Each value is written once in a run, so a
value identifies its write.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

__all__ = [
    'COMPACTION',
    'REMOVAL',
    'RESTORE',
    'REVOCATION',
    'WIPE',
    'Call',
    'Change',
    'Fault',
    'History',
    'KeeperEvent',
    'Outcome',
    'PhaseStarted',
    'Probe',
    'Resources',
    'Resync',
    'TokenCheck',
    'WatchEvent',
    'WatchStarted',
    'WatchStopped',
    'WatcherState',
]

WIPE: Final = 'wipe'
RESTORE: Final = 'restore'
COMPACTION: Final = 'compaction'
REVOCATION: Final = 'revocation'
REMOVAL: Final = 'removal'


class Outcome(Enum):
    """The outcome of a call, as its caller knows it."""

    DONE = 'answered'
    REFUSED = 'etcd responded with an error'
    NOT_APPLIED = 'no response, certainly not applied'
    AMBIGUOUS = 'no response, maybe applied'


@dataclass(frozen=True, slots=True)
class Call:
    """A call on a register: a key that is written by such calls only.

    Attributes:
        process: The worker, which makes one call at a time.
        client: The name of its client.
        key: The register.
        kind: ``'get'``, ``'serializable get'``, ``'set'``, ``'create'``, ``'swap'`` or ``'delete'``.  For other keys
            ``'append'`` (``key`` is the directory) or another name of a write.
        began: When it was made.
        ended: When it returned or raised.
        outcome: The outcome.
        value: The value to write; for an answered ``get`` the value that was read (None: the key does not exist).
        expected: The value that a ``'swap'`` compares with.
        revision: The ``etcd_index`` of the response or error; None without one.
        modified: The ``modified_index`` of the node in the response, or None.
        error: The class of the error, or None.
    """

    process: str
    client: str
    key: str
    kind: str
    began: float
    ended: float
    outcome: Outcome
    value: str | None = None
    expected: str | None = None
    revision: int | None = None
    modified: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A change in etcd's own log, which is read over the JSON gateway from revision 1 before it is compacted.

    Attributes:
        era: Counts from 0; incremented by each wipe and restore.
        revision: The revision of the store.
        order: Counts from 0 within a revision, in etcd's order.
        key: The key.
        value: The value; None for a deletion.
        created: The create revision; 0 for a deletion.
        version: Counts from 1; 0 for a deletion.
        lease: The lease of the key; 0 for none.
    """

    era: int
    revision: int
    order: int
    key: str
    value: str | None
    created: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class WatchStarted:
    """A watcher of a key and its descendants was started: ``on_change`` returned.

    Attributes:
        revision: Every change after this one must be delivered.
        client: The name of its client; empty if unknown.
    """

    watcher: str
    at: float
    key: str
    era: int
    revision: int
    client: str = ''


@dataclass(frozen=True, slots=True)
class WatchStopped:
    """A watcher was stopped: later changes need not be delivered.  Other watchers run to the end."""

    watcher: str
    at: float


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """The callback of a watcher was called.

    Attributes:
        value: The value; None for a deletion.
        resync: It is the result of a comparison after lost history.
        index: The index of that comparison; None for a change.
    """

    watcher: str
    at: float
    key: str
    value: str | None
    revision: int
    action: str
    resync: bool
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Resync:
    """A watcher reported lost history (``on_resync``)."""

    watcher: str
    at: float
    revision: int


@dataclass(frozen=True, slots=True)
class WatcherState:
    """A sample of the state of a watcher or mirror.

    Attributes:
        is_live: False for every state but LIVE: there may be changes that were not received.
        index: The revision up to which it reports to have received all changes; 0 before the start.
    """

    watcher: str
    at: float
    is_live: bool
    index: int


@dataclass(frozen=True, slots=True)
class KeeperEvent:
    """A callback or return value of a keeper.

    Attributes:
        keeper: Its name, unique in the run.
        client: The name of its client.
        key: The node.
        value: The value of the node: unique in the run, or the same for all keepers of the node.
        ttl: Seconds.
        at: The time.
        kind: ``'started'``, ``'kept'`` (keep_node returned), ``'lost'`` (on_lost), ``'overtaken'`` (on_lost, with
            Overtaken), ``'restored'`` (on_restored), ``'stopped'`` (recorded before stop is called).
        on_conflict: The argument of keep_node.  Only ``'replace'`` may overwrite the node of another keeper.
    """

    keeper: str
    client: str
    key: str
    value: str
    ttl: float
    at: float
    kind: str
    on_conflict: str = 'wait'


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """A call of a keeper's ``ensure()``.

    Attributes:
        token: The fencing token; None if it raised NodeLost.
    """

    keeper: str
    key: str
    at: float
    token: int | None


@dataclass(frozen=True, slots=True)
class Probe:
    """A write without effect through a link of a client: shows whether a quorum answered, and the current revision.

    Attributes:
        revision: The revision of the store; None without a response.
        link: The index of the link, which is that of the member; each link is probed separately.
    """

    client: str
    began: float
    ended: float
    era: int
    revision: int | None
    link: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """An injected fault.

    The checkers know five names, because these faults excuse what would be a failure otherwise: ``WIPE`` (of all data;
    begins the next era), ``RESTORE`` (of a backup; begins the next era, too), ``COMPACTION``, ``REVOCATION`` (the
    target is the lease) and ``REMOVAL`` (the target is the key, which was deleted by the harness).

    Attributes:
        name: The kind, such as ``'kill'``.
        target: A member, a link or a client.
        began: When the command was given.
        ended: When it was healed.
        revision: For ``COMPACTION`` the revision of the compaction; for ``RESTORE`` a revision up to which the backup
            certainly has the changes of the era before (it may have later ones).
    """

    name: str
    target: str
    began: float
    ended: float
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """The start of a phase of the run, for reports."""

    at: float
    kind: str


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources in use: ``when`` is ``'before'``, or ``'after'`` everything was closed."""

    when: str
    sockets: int
    greenlets: int
    leases: int
    memory: int


Record = (
    Call
    | Change
    | WatchStarted
    | WatchStopped
    | WatchEvent
    | Resync
    | WatcherState
    | KeeperEvent
    | TokenCheck
    | Probe
    | Fault
    | PhaseStarted
    | Resources
)
RECORD_CLASSES = {kind.__name__: kind for kind in Record.__args__}

RecordType = TypeVar('RecordType', bound=Record)


class History:
    """Records in the order in which they were made.

    Args:
        seed: The seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._began = time.monotonic()
        self._records: list[Record] = []

    def now(self) -> float:
        """Return the seconds since the history was started."""
        return time.monotonic() - self._began

    def add(self, record: Record) -> None:
        """Add a record."""
        self._records.append(record)

    def of(self, kind: type[RecordType]) -> list[RecordType]:
        """Return the records of a class."""
        return [record for record in self._records if isinstance(record, kind)]

    def save(self, path: Path) -> None:
        """Write the history as JSON lines."""
        with path.open('w', encoding='utf-8') as file:
            print(json.dumps({'seed': self.seed}), file=file)
            for record in self._records:
                print(json.dumps({'is': type(record).__name__, **asdict(record)}, default=_plain), file=file)

    @classmethod
    def load(cls, path: Path) -> History:
        """Read a history that ``save`` has written."""
        with path.open(encoding='utf-8') as file:
            history = cls(json.loads(file.readline())['seed'])
            for line in file:
                fields = json.loads(line)
                kind = RECORD_CLASSES[fields.pop('is')]
                if kind is Call:
                    fields['outcome'] = Outcome[fields['outcome']]
                history.add(kind(**fields))
        return history

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


def _plain(value: object) -> str:
    assert isinstance(value, Outcome)
    return value.name
