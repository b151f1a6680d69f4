"""Results and events of the Go program in ``tools/interop``, as dataclasses."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    'RESULTS',
    'Attempted',
    'Changed',
    'Dialed',
    'Endpoint',
    'EndpointUpdate',
    'GoChange',
    'GoError',
    'GoKeyValue',
    'GoLease',
    'GoRead',
    'GoTxn',
    'GoWrite',
    'Held',
    'Led',
    'Opened',
    'Progress',
    'Renewed',
    'Resolved',
    'ServerStatus',
    'StmDone',
    'Updated',
    'Watching',
    'parse_event',
]

JSON = Mapping[str, Any]


class GoError(Exception):
    """A command of the Go program failed.

    Attributes:
        code: The gRPC code, such as ``'NotFound'``; ``'Unknown'`` for errors of the Go client itself.
        message: The text of the error.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f'{code}: {message}')
        self.code = code
        self.message = message


# -- keys and values


@dataclass(frozen=True, slots=True)
class GoKeyValue:
    """A key as Go's client has read it."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class GoRead:
    """The response to a get."""

    revision: int
    count: int
    kvs: tuple[GoKeyValue, ...]


@dataclass(frozen=True, slots=True)
class GoWrite:
    """The response to a put, a delete or a compaction."""

    revision: int
    deleted: int


@dataclass(frozen=True, slots=True)
class GoTxn:
    """The response to a transaction, with the keys that each get in it has read."""

    succeeded: bool
    revision: int
    reads: tuple[tuple[GoKeyValue, ...], ...]


@dataclass(frozen=True, slots=True)
class GoLease:
    """A lease: seconds left (-1 if it does not exist), seconds granted, and its keys."""

    lease: int
    ttl: int
    granted: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class GoChange:
    """One event of a watch; ``type`` is ``'PUT'`` or ``'DELETE'``."""

    type: str
    kv: GoKeyValue
    previous: GoKeyValue | None


# -- locks, elections, transactions, services


@dataclass(frozen=True, slots=True)
class Held:
    """A lock that is held, or an election that is won."""

    key: str
    create_revision: int
    header_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class StmDone:
    """A software transaction that was applied: its revision, how often it ran, and the values that it wrote."""

    revision: int
    attempts: int
    values: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint of a service."""

    addr: str
    metadata: Any


@dataclass(frozen=True, slots=True)
class EndpointUpdate:
    """A change of the endpoints of a service; ``operation`` is ``'add'`` or ``'delete'``."""

    operation: str
    key: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The address of the server that a gRPC client has called, and the version of the etcd there."""

    address: str
    version: str


# -- events of commands that last


@dataclass(frozen=True, slots=True)
class Opened:
    """A session was opened."""

    lease: int


@dataclass(frozen=True, slots=True)
class Watching:
    """The server has created a watch."""

    revision: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A response of a watch with events."""

    revision: int
    changes: tuple[GoChange, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """A response of a watch without events."""

    revision: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """A lease was renewed."""

    lease: GoLease


@dataclass(frozen=True, slots=True)
class Attempted:
    """A software transaction with ``hold`` has read, and would write these values."""

    revision: int
    attempts: int
    values: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Led:
    """An observed election has a leader, or its leader has another value."""

    kv: GoKeyValue


@dataclass(frozen=True, slots=True)
class Updated:
    """The endpoints of a watched service have changed."""

    updates: tuple[EndpointUpdate, ...]


@dataclass(frozen=True, slots=True)
class Dialed:
    """A gRPC client was opened; it connects in the background."""

    target: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """The gRPC resolver has found these addresses."""

    addresses: tuple[str, ...]


# -- from JSON


def _key_value(found: JSON) -> GoKeyValue:
    return GoKeyValue(**{**found, 'key': b64decode(found['key']), 'value': b64decode(found['value'])})


def _key_values(found: list[JSON]) -> tuple[GoKeyValue, ...]:
    return tuple(map(_key_value, found))


def _read(found: JSON) -> GoRead:
    return GoRead(**{**found, 'kvs': _key_values(found['kvs'])})


def _txn(found: JSON) -> GoTxn:
    return GoTxn(**{**found, 'reads': tuple(map(_key_values, found['reads']))})


def _lease(found: JSON) -> GoLease:
    return GoLease(**{**found, 'keys': tuple(sorted(map(b64decode, found['keys'])))})


def _change(found: JSON) -> GoChange:
    previous = found['previous']
    return GoChange(found['type'], _key_value(found['kv']), None if previous is None else _key_value(previous))


def _try_lock(found: JSON) -> Held | None:
    return None if found['held'] is None else Held(**found['held'])


def _endpoints(found: JSON) -> dict[str, Endpoint]:
    return {key: Endpoint(**one) for key, one in found['endpoints'].items()}


def _update(found: JSON) -> EndpointUpdate:
    return EndpointUpdate(found['operation'], found['key'], Endpoint(**found['endpoint']))


def _nothing(found: JSON) -> None:
    if found:
        raise ValueError(f'an unexpected result: {found}')


RESULTS: Final[Mapping[str, Callable[[JSON], Any]]] = {
    'get': _read,
    'put': lambda found: GoWrite(**found),
    'delete': lambda found: GoWrite(**found),
    'compact': lambda found: GoWrite(**found),
    'txn': _txn,
    'owned_put': _txn,
    'grant': _lease,
    'time_to_live': _lease,
    'open_session': lambda found: Opened(**found),
    'lock': lambda found: Held(**found),
    'try_lock': _try_lock,
    'campaign': lambda found: Held(**found),
    'proclaim': lambda found: GoWrite(**found),
    'leader': _key_value,
    'stm_add': lambda found: StmDone(**found),
    'dequeue': lambda found: found['value'],
    'dequeue_priority': lambda found: found['value'],
    'list_endpoints': _endpoints,
    'status': lambda found: ServerStatus(**found),
}
"""Makes the result of a verb; a verb that is not here has none."""

EVENTS: Final[Mapping[str, Callable[[JSON], Any]]] = {
    'opened': lambda found: Opened(**found),
    'watching': lambda found: Watching(**found),
    'progress': lambda found: Progress(**found),
    'changed': lambda found: Changed(found['revision'], tuple(map(_change, found['changes']))),
    'renewed': lambda found: Renewed(_lease(found)),
    'attempted': lambda found: Attempted(**found),
    'led': lambda found: Led(_key_value(found)),
    'updated': lambda found: Updated(tuple(map(_update, found['updates']))),
    'dialed': lambda found: Dialed(**found),
    'resolved': lambda found: Resolved(tuple(sorted(found['addresses']))),
}


def parse_event(verb: str, name: str, result: JSON) -> Any:
    """Return the event of a command, or its result if ``name`` is ``'done'``, or its error if it is ``'error'``.

    Raises:
        KeyError, TypeError, ValueError: The program sent an event of another form.
    """
    if name == 'done':
        return RESULTS.get(verb, _nothing)(result)
    if name == 'error':
        return GoError(**result)
    return EVENTS[name](result)
