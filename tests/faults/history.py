"""What happened while the cluster was under fire: plain records, in the order in which they were made.

Nothing here judges.  The load and the faults write a history (``History.add``), the checkers read it, and a file of
JSON lines keeps it (``save``, ``load``), so that a failure can be looked at again without the run.

Times are seconds of the monotonic clock since the history began.  A value is written once in a run, so a value says
which write it came from.
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
    'Claim',
    'Fault',
    'History',
    'Moment',
    'Outcome',
    'Presence',
    'Probe',
    'Resources',
    'Resync',
    'Seen',
    'State',
    'Unwatched',
    'Watched',
]

WIPE: Final = 'wipe'
RESTORE: Final = 'restore'
COMPACTION: Final = 'compaction'
REVOCATION: Final = 'revocation'
REMOVAL: Final = 'removal'


class Outcome(Enum):
    """What a caller was told."""

    DONE = 'answered'
    REFUSED = 'etcd said no'
    NOT_APPLIED = 'no answer, and surely not applied'
    AMBIGUOUS = 'no answer, and perhaps applied'


@dataclass(frozen=True, slots=True)
class Call:
    """One operation on one register: a key that nothing but such calls touches.

    Attributes:
        process: Who called; a process makes one call at a time.
        client: Its client.
        key: The register.
        kind: ``'get'``, ``'serializable get'``, ``'set'``, ``'create'``, ``'swap'`` or ``'delete'``.  Of keys that are
            no registers, ``'append'`` (its key is the directory) or any other name of a write.
        began: When it was made.
        ended: When it returned or raised.
        outcome: What came of it.
        value: What was to be written; for a ``get`` that was answered, what was read (None: no such key).
        expected: What a ``'swap'`` compared with.
        revision: The ``etcd_index`` of the answer, or of the refusal; None without one.
        modified: The ``modified_index`` of the node in the answer, or None.
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
    """One change, as etcd's own history has it: read over the raw v3 API from revision 1, before it was compacted.

    Attributes:
        era: Counts from 0; one more with each time that the data was wiped, or put back as it was in a backup.
        revision: Of the store.
        order: Counts from 0 among the changes of one revision, in the order in which etcd tells them.
        key: The key.
        value: None if it was deleted.
        created: The revision at which the key came into being; 0 if it was deleted.
        version: Counts from 1; 0 if it was deleted.
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
class Watched:
    """A watcher was started (``on_change`` returned), on everything below a key.

    Attributes:
        revision: Every change after this one must be delivered.
        client: Its client; empty if nobody knows.
    """

    watcher: str
    at: float
    key: str
    era: int
    revision: int
    client: str = ''


@dataclass(frozen=True, slots=True)
class Unwatched:
    """A watcher is stopped from now on: it need not be told of anything any more.  Others watch to the end."""

    watcher: str
    at: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A watcher's callback was called.

    Attributes:
        value: None if the node is gone.
        resync: It was made up from a comparison, after history was lost.
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
    """A watcher said that history was lost (``on_resync``)."""

    watcher: str
    at: float
    revision: int


@dataclass(frozen=True, slots=True)
class State:
    """The state of a watcher or mirror, sampled at regular intervals.

    Attributes:
        is_live: False for every state but LIVE: then there may be changes that were not received yet.
        index: The revision up to which it says that it has received every change; 0 before the start.
    """

    watcher: str
    at: float
    is_live: bool
    index: int


@dataclass(frozen=True, slots=True)
class Presence:
    """What a keeper said.

    Attributes:
        keeper: Its name, unique in the run.
        client: Its client.
        key: The node.
        value: What it puts there: unique in the run, or the same for all keepers of that node.
        ttl: Seconds.
        at: When.
        what: ``'started'``, ``'kept'`` (keep_node returned), ``'lost'`` (on_lost), ``'overtaken'`` (on_lost, with
            Overtaken), ``'restored'`` (on_restored), ``'stopped'`` (noted before stop is called).
        on_conflict: As it was started with.  Only one that replaces may write over another keeper's node.
    """

    keeper: str
    client: str
    key: str
    value: str
    ttl: float
    at: float
    what: str
    on_conflict: str = 'wait'


@dataclass(frozen=True, slots=True)
class Claim:
    """A keeper was asked for its fencing token (``ensure()``).

    Attributes:
        token: What it gave; None if it raised NodeLost.
    """

    keeper: str
    key: str
    at: float
    token: int | None


@dataclass(frozen=True, slots=True)
class Probe:
    """A write of nothing over a client's own paths: whether a quorum served it, and how far etcd was.

    Attributes:
        revision: Of the store; None if it was not answered.
        way: By which of the client's ways, such as the index of the member: each is probed for itself.
    """

    client: str
    began: float
    ended: float
    era: int
    revision: int | None
    way: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something was broken on purpose, or mended.

    The checkers know five by name, for they allow what would be a failure without them: ``WIPE`` (all data; it begins
    the next era), ``RESTORE`` (the data of a backup are put back; it begins the next era, too), ``COMPACTION``,
    ``REVOCATION`` (its target is the number of the lease) and ``REMOVAL`` (its target is the key, which somebody else
    deleted).

    Attributes:
        name: Such as ``'kill'``.
        target: A member, a proxy or a client.
        began: When the command was given.
        ended: When it was mended.
        revision: Up to which the history was compacted, of a ``COMPACTION``; of a ``RESTORE`` one up to which the data
            of the backup are those of the era before (later changes may be in it, too).
    """

    name: str
    target: str
    began: float
    ended: float
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """A line for the reader of a report: a phase of the run, the start of an era."""

    at: float
    what: str


@dataclass(frozen=True, slots=True)
class Resources:
    """What was held: ``when`` is ``'before'`` or ``'after'`` (everything was closed)."""

    when: str
    sockets: int
    greenlets: int
    leases: int
    memory: int


Record = (
    Call | Change | Watched | Unwatched | Seen | Resync | State | Presence | Claim | Probe | Fault | Moment | Resources
)
KINDS = {kind.__name__: kind for kind in Record.__args__}

Kind = TypeVar('Kind', bound=Record)


class History:
    """What happened, in the order in which it was noted.

    Args:
        seed: What the run was made from.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._began = time.monotonic()
        self._records: list[Record] = []

    def now(self) -> float:
        """Seconds since the history began."""
        return time.monotonic() - self._began

    def add(self, record: Record) -> None:
        """Note it."""
        self._records.append(record)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The records of one kind."""
        return [record for record in self._records if isinstance(record, kind)]

    def save(self, path: Path) -> None:
        """Write it as JSON lines."""
        with path.open('w', encoding='utf-8') as file:
            print(json.dumps({'seed': self.seed}), file=file)
            for record in self._records:
                print(json.dumps({'is': type(record).__name__, **asdict(record)}, default=_plain), file=file)

    @classmethod
    def load(cls, path: Path) -> History:
        """Read what ``save`` wrote."""
        with path.open(encoding='utf-8') as file:
            history = cls(json.loads(file.readline())['seed'])
            for line in file:
                fields = json.loads(line)
                kind = KINDS[fields.pop('is')]
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
