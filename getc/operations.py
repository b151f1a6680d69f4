"""What can be asked of a tree: one frozen value an operation, checked when it is made.

A client method packs its options into one of these; everything below passes the operation on whole.
Nothing here needs a server: bad input is an error before any I/O.  No ``repr`` shows a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, TypeVar

from getc._dataclasses import fast_init
from getc.errors import (
    EtcdError,
    NotFile,
    NotSupported,
    PermissionDenied,
    RefreshTTLRequired,
    RefreshValue,
    Unauthorized,
)
from getc.paths import ROOT, is_below, join, normalize
from getc.results import Deleted, Directory, EtcdResult

__all__ = [
    'MAX_TTL',
    'V2_TEXT_ONLY',
    'Append',
    'Delete',
    'Get',
    'Operation',
    'Put',
    'WatchSpec',
    'check_v2_key',
    'check_v2_ttl',
    'explain',
    'in_namespace',
    'text_of',
]

MAX_TTL: Final = 9_000_000_000
"""Seconds.  etcd's own limit of a lease.  Source: etcd 3.5, ``server/lease/lessor.go``, ``maxTTL``."""

MAX_INDEX: Final = 2**63 - 1
"""etcd v3 counts revisions with a sign."""

V2_MAX_TTL: Final = 7_000_000_000
"""Seconds.  A v2 server counts nanoseconds since 1970 in 64 bits: a longer TTL overflows and is dropped silently."""

V2_TEXT_ONLY: Final = 'etcd v2 stores UTF-8 text only, in keys and in values; etcd v3 stores any bytes (api="v3")'


def text_of(raw: bytes) -> str:
    """Decode a value that is given as bytes.  Bytes that are not UTF-8 are escaped, as in values that are read."""
    return raw.decode('utf-8', 'surrogateescape')


def check_v2_key(key: str) -> None:
    """Check that the v2 API can express a key.

    Raises:
        NotSupported: The key holds bytes that are not UTF-8.
    """
    try:
        key.encode('utf-8')
    except UnicodeEncodeError:
        raise NotSupported(V2_TEXT_ONLY) from None


def check_v2_ttl(ttl: int) -> None:
    """Check that a v2 store can hold a TTL, in seconds.

    Raises:
        NotSupported: The TTL is longer than ``V2_MAX_TTL``.
    """
    if ttl > V2_MAX_TTL:
        raise NotSupported(f'etcd v2 stores TTLs up to {V2_MAX_TTL} s, not {ttl} s')


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise TypeError(f'{name} is text (str) or bytes, not {type(text).__name__}')
    if text.isascii():
        return  # most is, and it costs nothing to know
    try:
        text.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError:
        raise ValueError(f'{name} must be encodable as UTF-8') from None  # its arguments are the whole text


def _check_whole(name: str, number: Any, least: int, most: int = MAX_INDEX) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f'{name} is a whole number (int), not {type(number).__name__}')
    if number < least:
        raise ValueError(f'{name} is at least {least}, not {number}')
    if number > most:
        raise ValueError(f'{name} is at most {most}, not {number}')


def _check_ttl(ttl: int) -> None:
    _check_whole('ttl', ttl, 0, MAX_TTL)


def _check_conditions(prev_value: str | None, prev_index: int | None) -> None:
    if prev_value is not None:
        _check_text('prev_value', prev_value)
        if not prev_value:
            raise ValueError("prev_value cannot be '': etcd has no such condition; use prev_index")
    if prev_index is not None:
        _check_whole('prev_index', prev_index, 1)


def _check_content(value: str | None, dir: bool) -> None:
    if value is not None:
        _check_text('a value', value)
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
        recursive: The directories in it too, whole.
        sorted: Nodes in the order of their keys.
        quorum: True for what a majority agrees on, False for what the asked server knows, None for
            the API's default (v2: False, v3: True).
    """

    is_write: ClassVar[bool] = False

    key: str
    recursive: bool = False
    sorted: bool = False
    quorum: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))


@fast_init
@dataclass(frozen=True, slots=True)
class Put:
    """Write a node.

    Attributes:
        key: The node.
        value: Its text, or None.
        dir: It is a directory.
        ttl: Whole seconds it lives; None for ever.
        refresh: Keep the value, set the TTL, wake no watcher.
        prev_value: Only if this is its value.
        prev_index: Only if this is its ``modified_index``.
        prev_exist: Only if it exists (True), only if it does not (False), or either way (None).
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

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))
        if self.ttl is not None:
            _check_ttl(self.ttl)
        if self.prev_value is not None or self.prev_index is not None:
            _check_conditions(self.prev_value, self.prev_index)
        if not self.refresh:
            _check_content(self.value, self.dir)
            return
        if self.value is not None:
            raise RefreshValue('Value provided on refresh', self.key)
        if self.ttl is None:
            raise RefreshTTLRequired('A TTL must be provided on refresh', self.key)
        if self.prev_exist is False:
            raise ValueError('a refresh needs a node that exists')

    @property
    def is_compared(self) -> bool:
        """True if ``prev_value`` or ``prev_index`` is given."""
        return self.prev_value is not None or self.prev_index is not None


@fast_init
@dataclass(frozen=True, slots=True)
class Append:
    """Write a node with a new name, in order of creation, into a directory.

    Attributes:
        key: The directory.
        value: The node's text, or None.
        dir: The node is a directory.
        ttl: Whole seconds it lives; None for ever.
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
        dir: Also if it is a directory, when that is empty.
        recursive: Also if it is a directory, with all that is in it.
        prev_value: Only if this is its value.
        prev_index: Only if this is its ``modified_index``.
    """

    is_write: ClassVar[bool] = True

    key: str
    dir: bool = False
    recursive: bool = False
    prev_value: str | None = field(default=None, repr=False)
    prev_index: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))
        _check_conditions(self.prev_value, self.prev_index)

    @property
    def is_compared(self) -> bool:
        """True if ``prev_value`` or ``prev_index`` is given."""
        return self.prev_value is not None or self.prev_index is not None


@fast_init
@dataclass(frozen=True, slots=True)
class WatchSpec:
    """Follow a node.

    Attributes:
        key: The node.
        index: The first index of interest; None (0 is taken for it) from now on.
        recursive: Every node below it too.
        is_seen: The change at the index was delivered before: a watch that has not come to it has not caught up.
    """

    is_write: ClassVar[bool] = False

    key: str
    index: int | None = None
    recursive: bool = False
    is_seen: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))
        if self.index is not None:
            _check_whole('index', self.index, 0)
            object.__setattr__(self, 'index', self.index or None)

    def covers(self, key: str) -> bool:
        """True if the key is the watched one or, with ``recursive``, is below it and not hidden."""
        if key == self.key:
            return True
        # What `is_below` and `is_hidden` do, in one frame: this is called for every event.
        directory = '' if self.key == ROOT else self.key
        return self.recursive and key.startswith(f'{directory}/') and '/_' not in key[len(directory) :]

    def matches(self, result: EtcdResult) -> bool:
        """True if the watch reports this change: of a key that it covers, or the deletion of a directory above."""
        if self.covers(result.key):
            return True
        return isinstance(result, Deleted) and isinstance(result.node, Directory) and is_below(self.key, result.key)


Operation = Get | Put | Append | Delete

_Keyed = TypeVar('_Keyed', bound='Operation | WatchSpec')


def in_namespace(namespace: str, operation: _Keyed) -> _Keyed:
    """The same operation on the key inside a namespace."""
    return replace(operation, key=join(namespace, operation.key))


def explain(error: EtcdError, operation: Operation | WatchSpec) -> None:
    """Add to an error that refuses the operation the key, where the server leaves it out, and what to do."""
    if isinstance(error, PermissionDenied):
        if not error.cause:
            error.cause = operation.key
            error.args = (error.message, error.cause, error.index)
        error.hint = DENIED
    elif (
        isinstance(error, Unauthorized) and error.cause
    ):  # etcd v2 says the same of a wrong password and of a missing role
        error.hint = f'the password is wrong, or the user needs a role for {operation.key}'
    elif isinstance(error, NotFile) and not error.hint:
        error.hint = _about_directory(operation)


DENIED: Final = (
    'the user needs a role for this key, and on etcd v3 one that may read the keys above it as well: '
    'a client with strict=False does not read those'
)


def _about_directory(operation: Operation | WatchSpec) -> str:
    if isinstance(operation, Delete):
        if operation.is_compared:
            return 'it is a directory, and prev_value and prev_index compare values'
        return 'it is a directory: delete it with dir=True if it is empty, with recursive=True otherwise'
    if isinstance(operation, Put) and operation.refresh:
        return 'it is a directory, which cannot be refreshed'
    if isinstance(operation, Put) and operation.dir:
        return 'it is a directory already'
    return 'it is a directory: write below it, or delete it with recursive=True before'
