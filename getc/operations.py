"""Operations on the tree: one frozen dataclass each, validated when it is created.

A method of the client packs its arguments into an operation, and all layers below pass the operation on as a whole.
Invalid arguments raise an error here, before any I/O.  No ``repr`` shows a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, TypeVar

from getc._dataclasses import fast_init
from getc.errors import NotSupported, RefreshTTLRequired, RefreshValue
from getc.paths import ROOT, is_below, join, normalize, parent_of
from getc.results import Deleted, Directory, EtcdResult

__all__ = [
    'MAX_INDEX',
    'MAX_TTL',
    'V2_TEXT_ONLY',
    'Append',
    'Contenders',
    'Delete',
    'Get',
    'Operation',
    'Predecessor',
    'Put',
    'Query',
    'WatchSpec',
    'check_int',
    'check_text',
    'check_v2_key',
    'check_v2_ttl',
    'in_namespace',
    'text_of',
]

MAX_TTL: Final = 9_000_000_000
"""Seconds.  The limit of etcd for a lease.  Source: etcd 3.5, ``server/lease/lessor.go``, ``maxTTL``."""

MAX_INDEX: Final = 2**63 - 1
"""A revision of etcd v3 is a signed 64-bit integer."""

V2_MAX_TTL: Final = 7_000_000_000
"""Seconds.  A v2 server counts nanoseconds since 1970 in 64 bits: a longer TTL overflows, and the server ignores it."""

V2_TEXT_ONLY: Final = 'etcd v2 stores UTF-8 text only, in keys and in values; etcd v3 stores any bytes (api="v3")'


def text_of(raw: bytes) -> str:
    """Return a value given as bytes as text.  Bytes that are not UTF-8 are surrogate-escaped, as in results."""
    return raw.decode('utf-8', 'surrogateescape')


def check_v2_key(key: str) -> None:
    """Raise NotSupported if a key contains bytes that are not UTF-8, which the v2 API cannot express."""
    try:
        key.encode('utf-8')
    except UnicodeEncodeError:
        raise NotSupported(V2_TEXT_ONLY) from None


def check_v2_ttl(ttl: int) -> None:
    """Raise NotSupported if a TTL in seconds is longer than a v2 store can represent."""
    if ttl > V2_MAX_TTL:
        raise NotSupported(f'etcd v2 stores TTLs up to {V2_MAX_TTL} s, not {ttl} s')


def check_text(name: str, text: Any) -> None:
    """Raise TypeError unless an argument is a str, and ValueError if it cannot be encoded."""
    if not isinstance(text, str):
        raise TypeError(f'{name} must be str or bytes, not {type(text).__name__}')
    if text.isascii():
        return
    try:
        text.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError:
        raise ValueError(f'{name} must be encodable as UTF-8') from None  # the UnicodeEncodeError contains the text


def check_int(name: str, number: Any, minimum: int, maximum: int = MAX_INDEX) -> None:
    """Raise TypeError unless an argument is an int, and ValueError if it is out of bounds."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f'{name} must be an int, not {type(number).__name__}')
    if number < minimum:
        raise ValueError(f'{name} must be at least {minimum}, not {number}')
    if number > maximum:
        raise ValueError(f'{name} must be at most {maximum}, not {number}')


def _check_ttl(ttl: int) -> None:
    check_int('ttl', ttl, 0, MAX_TTL)


def _check_conditions(prev_value: str | None, prev_index: int | None) -> None:
    if prev_value is not None:
        check_text('prev_value', prev_value)
        if not prev_value:
            raise ValueError("prev_value cannot be '': etcd has no such condition; use prev_index")
    if prev_index is not None:
        check_int('prev_index', prev_index, 1)


def _check_content(value: str | None, dir: bool) -> None:
    if value is not None:
        check_text('value', value)
        if dir:
            raise ValueError('give either a value or dir=True, not both')
    elif not dir:
        raise ValueError('give a value or dir=True')


@fast_init
@dataclass(frozen=True, slots=True)
class Get:
    """Read a node.

    Attributes:
        key: The node.
        recursive: Include the contents of directories at any depth.
        sorted: Sort the nodes of a directory by key.
        quorum: True for a linearizable read, False for a read of one member, None for the default of the API (v2:
            False, v3: True).
        hidden: Include the nodes whose names start with ``_``, and on v3 the markers of directories.  No effect on v2.
    """

    is_write: ClassVar[bool] = False

    key: str
    recursive: bool = False
    sorted: bool = False
    quorum: bool | None = None
    hidden: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))


@fast_init
@dataclass(frozen=True, slots=True)
class Put:
    """Write a node.

    Attributes:
        key: The node.
        value: The value as text, or None.
        dir: The node is a directory.
        ttl: Whole seconds until the node expires; None for no TTL.
        refresh: Keep the value and set the TTL, without notifying watchers.
        prev_value: Write only if this is the value of the node.
        prev_index: Write only if this is the ``modified_index`` of the node.
        prev_exist: Write only if the node exists (True), only if it does not (False), or in both cases (None).
        is_compared: ``prev_value`` or ``prev_index`` was given.
    """

    is_write: ClassVar[bool] = True

    key: str
    value: str | None = field(default=None, repr=False)
    dir: bool = False
    ttl: int | None = None
    refresh: bool = False
    prev_value: str | None = field(default=None, repr=False)
    prev_index: int | None = None
    prev_exist: bool | None = None
    is_compared: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))
        if self.ttl is not None:
            _check_ttl(self.ttl)
        is_compared = self.prev_value is not None or self.prev_index is not None
        object.__setattr__(self, 'is_compared', is_compared)
        if is_compared:
            _check_conditions(self.prev_value, self.prev_index)
        if not self.refresh:
            value = self.value
            if self.dir or type(value) is not str or not value.isascii():  # spares most writes the call
                _check_content(value, self.dir)
            return
        if self.value is not None:
            raise RefreshValue('Value provided on refresh', self.key)
        if self.ttl is None:
            raise RefreshTTLRequired('A TTL must be provided on refresh', self.key)
        if self.prev_exist is False:
            raise ValueError('a refresh needs a node that exists')


@fast_init
@dataclass(frozen=True, slots=True)
class Append:
    """Create a node in a directory, with a generated name that sorts in the order of creation.

    Attributes:
        key: The directory.
        value: The value of the node as text, or None.
        dir: The node is a directory.
        ttl: Whole seconds until the node expires; None for no TTL.
    """

    is_write: ClassVar[bool] = True

    key: str
    value: str | None = field(default=None, repr=False)
    dir: bool = False
    ttl: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))
        if self.ttl is not None:
            _check_ttl(self.ttl)
        _check_content(self.value, self.dir)


@fast_init
@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a node.

    Attributes:
        key: The node.
        dir: Also accept an empty directory.
        recursive: Also accept a directory, and delete its contents.
        prev_value: Delete only if this is the value of the node.
        prev_index: Delete only if this is the ``modified_index`` of the node.
        is_compared: ``prev_value`` or ``prev_index`` was given.
    """

    is_write: ClassVar[bool] = True

    key: str
    dir: bool = False
    recursive: bool = False
    prev_value: str | None = field(default=None, repr=False)
    prev_index: int | None = None
    is_compared: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))
        object.__setattr__(self, 'is_compared', self.prev_value is not None or self.prev_index is not None)
        _check_conditions(self.prev_value, self.prev_index)


@fast_init
@dataclass(frozen=True, slots=True)
class WatchSpec:
    """Watch a node.

    Attributes:
        key: The node.
        index: The index of the first change to report; None for changes from now on.  0 is replaced with None.
        recursive: Include the nodes below the node.
        is_seen: The change at the index was delivered before: until the watch has reached it, it is not caught up.
        hidden: With ``recursive``, include the nodes whose names start with ``_``.  No effect on v2.
        is_exact: On v3, watch the bytes of the key, which may be no normal path: a marker, or a key with empty
            segments.  Nothing else is reported, such as a deletion of a directory above.
    """

    is_write: ClassVar[bool] = False

    key: str
    index: int | None = None
    recursive: bool = False
    is_seen: bool = False
    hidden: bool = False
    is_exact: bool = False

    def __post_init__(self) -> None:
        if not self.is_exact:
            object.__setattr__(self, 'key', normalize(self.key))
        if self.index is not None:
            check_int('index', self.index, 0)
            object.__setattr__(self, 'index', self.index or None)

    def covers(self, key: str) -> bool:
        """Return True if the key is the watched one or, with ``recursive``, is below it and not left out as hidden."""
        if key == self.key:
            return True
        # The same as `is_below` and `is_hidden`, in one frame, because it is called for every event.
        directory = '' if self.key == ROOT else self.key
        if not (self.recursive and key.startswith(f'{directory}/')):
            return False
        return self.hidden or '/_' not in key[len(directory) :]

    def matches(self, result: EtcdResult) -> bool:
        """Return True if the watch reports the change: to a key that it covers, or a deletion of a directory above."""
        if self.covers(result.key):
            return True
        return isinstance(result, Deleted) and isinstance(result.node, Directory) and is_below(self.key, result.key)


@fast_init
@dataclass(frozen=True, slots=True)
class Predecessor:
    """Find the keys of a directory that were created before a key of this client, if that key still exists.

    Every key below the directory counts, also one that no listing shows: etcd's Go client waits for all of them.

    Attributes:
        key: The own key.
        token: The ``created_index`` of the own key.
        scope: The directory whose keys count; by default the one that contains the own key.
        limit: Maximum number of earlier keys that are returned: those that were created last.
    """

    is_write: ClassVar[bool] = False

    key: str
    token: int
    scope: str = ''
    limit: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))
        object.__setattr__(self, 'scope', normalize(self.scope) if self.scope else parent_of(self.key))
        check_int('token', self.token, 0)
        check_int('limit', self.limit, 1)


@fast_init
@dataclass(frozen=True, slots=True)
class Contenders:
    """Read every key of a directory with its value, in the order of creation.

    Attributes:
        key: The directory, which need not exist.
    """

    is_write: ClassVar[bool] = False

    key: str

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))


Operation = Get | Put | Append | Delete
"""An operation on a node, whose result is an EtcdResult."""

Query = Predecessor | Contenders
"""A read of a queue of keys, which has a result of its own."""

_Keyed = TypeVar('_Keyed', bound='Operation | Query | WatchSpec')


def in_namespace(namespace: str, operation: _Keyed) -> _Keyed:
    """Return the same operation on the key inside a namespace."""
    if isinstance(operation, Predecessor):
        return replace(operation, key=join(namespace, operation.key), scope=join(namespace, operation.scope))
    return replace(operation, key=join(namespace, operation.key))
