"""The node tree of etcd v2 in memory: nodes, their TTLs, and recent events.  No I/O, no greenlets.

Behaviour, order of checks and error texts are those of etcd's ``v2store``; the contract tests and a property test
compare both.  A directory can be updated as in etcd 3.4; etcd 3.5 refuses that with an internal error.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from itertools import count
from typing import Final

from getc import timing
from getc.backends.conditions import first_error
from getc.backends.history import ANOTHER_STORE, HISTORY_CLEARED, V2_HISTORY_EVENTS
from getc.errors import (
    DirNotEmpty,
    EtcdError,
    EtcException,
    EventIndexCleared,
    KeyNotFound,
    NodeExist,
    NotDir,
    NotFile,
    RootROnly,
    TestFailed,
)
from getc.operations import Append, Delete, Get, Operation, Put, WatchSpec
from getc.paths import ROOT, ancestors, basename, is_below, join, parent_of
from getc.results import ACTIONS, Directory, EtcdResult, Got, Node, Value
from getc.transactions import (
    Conflict,
    Guard,
    Snapshot,
    SnapshotRead,
    Transaction,
    TransactionResult,
    Version,
)

__all__ = ['Store']

MIN_HEAP_LIMIT: Final = 64
"""Planned expirations that are stored before obsolete ones are removed."""


class _Entry:
    """A node in the tree: a directory if ``children`` is not None, else a value."""

    __slots__ = ('children', 'created', 'expiration', 'expires_at', 'key', 'modified', 'value')

    def __init__(self, key: str, index: int, value: str | None) -> None:
        self.key = key
        self.value = value or ''
        self.children: dict[str, _Entry] | None = {} if value is None else None
        self.created = self.modified = index
        self.expires_at: float | None = None
        self.expiration: datetime | None = None

    def set_ttl(self, ttl: int | None) -> None:
        """Set the TTL in seconds, or remove it."""
        self.expires_at = self.expiration = None
        if ttl is not None:
            self.expires_at = timing.now() + ttl
            self.expiration = datetime.fromtimestamp(timing.wall_time() + ttl, timezone.utc)

    def ttl(self) -> int | None:
        """Return the seconds left, rounded up as etcd does, but without the rounding error of the clock's float."""
        if self.expires_at is None:
            return None
        return max(math.ceil(round(self.expires_at - timing.now(), 6)), 0)

    def deleted_node(self, index: int) -> Node:
        """Return the node of the event that reports the deletion."""
        kind = Node if self.children is None else Directory
        return kind(self.key, index, self.created)

    def node(self, depth: int = 0, is_sorted: bool = False, with_hidden: bool = False) -> Node:
        """Return the node for a result; a directory with ``depth`` levels below it, -1 for all."""
        if self.children is None:
            return Value(self.key, self.modified, self.created, self.ttl(), self.expiration, self.value)
        nodes: list[Node] = []
        if depth:
            names = sorted(self.children) if is_sorted else self.children
            nodes = [
                self.children[name].node(depth - 1, is_sorted, with_hidden)
                for name in names
                if with_hidden or not name.startswith('_')
            ]
        return Directory(self.key, self.modified, self.created, self.ttl(), self.expiration, tuple(nodes))


class Store:
    """A tree of nodes, its index, and the results of recent changes.

    Attributes:
        index: The index of the last change; each change increments it.
        events: The changes of recent indices, several of a transaction; none of a refresh, which notifies no watch.
        pending: The changes of each index of which watches are still to be notified; the notifier empties it.
    """

    def __init__(self) -> None:
        self.index = 0
        self.events: deque[tuple[int, tuple[EtcdResult, ...]]] = deque(maxlen=V2_HISTORY_EVENTS)
        self.pending: list[tuple[EtcdResult, ...]] = []
        self._root = _Entry(ROOT, 0, None)
        self._expirations: list[tuple[float, int, _Entry]] = []  # a heap, with those of TTLs that were changed since
        self._heap_limit = MIN_HEAP_LIMIT
        self._numbers = count()

    def execute(self, operation: Operation) -> EtcdResult:
        """Perform the operation.  Call ``expire`` before, so that no expired node is left.

        Raises:
            EtcdError: The error that etcd would return.
        """
        if isinstance(operation, Get):
            depth = -1 if operation.recursive else 1
            node = self._find(operation.key).node(depth, operation.sorted, operation.hidden)
            return Got(node, etcd_index=self.index)
        if isinstance(operation, Append):
            key = join(operation.key, f'/{self.index + 1:020d}')
            operation = Put(key, operation.value, dir=operation.dir, ttl=operation.ttl, prev_exist=False)
        result = self._write(operation)
        self._record((result,), is_silent=isinstance(operation, Put) and operation.refresh)
        return result

    def transact(self, transaction: Transaction) -> TransactionResult:
        """Perform all operations of a transaction at the next index.  Call ``expire`` before.

        Raises:
            NodeLost: The guard does not hold.
            EtcdError: Another condition does not hold.
        """
        state = _State(self.index, self._lookup)
        failed = first_error(transaction, state, is_strict=True)
        if failed is not None:
            error, is_check = failed
            raise self._conflict(transaction, error) if is_check and transaction.refetch else error
        index = self.index + transaction.is_write
        results: list[EtcdResult] = []
        for operation in transaction.operations:
            if isinstance(operation, Get):
                results.append(Got(self._find(operation.key).node(), etcd_index=index))
            else:
                results.append(self._write(operation))
        if transaction.is_write:
            self._record(tuple(result for result in results if not isinstance(result, Got)))
        return TransactionResult(index, tuple(results))

    def read(self, read: SnapshotRead) -> Snapshot:
        """Read a value at an index.  Call ``expire`` before.

        Raises:
            EventIndexCleared: The node has changed since, or may have: only the current values are stored.
        """
        entry = self._lookup(read.key)
        index = self.index if read.index is None else read.index
        if index < self.index and self._may_have_changed(read.key, entry, index):
            raise self._error(EventIndexCleared, HISTORY_CLEARED, f'{read.key} has changed since index {index}')
        is_directory = entry is not None and entry.children is not None
        return Snapshot(index, _version_of(entry), is_directory)

    def _may_have_changed(self, key: str, entry: _Entry | None, index: int) -> bool:
        if entry is not None:
            return entry.modified > index
        if self.events[0][0] > index + 1:
            return True  # it may have been deleted at an index that is not stored any more
        return any(
            result.key == key or is_below(key, result.key)
            for changed_at, results in self.events
            if changed_at > index
            for result in results
        )

    def _conflict(self, transaction: Transaction, error: EtcException) -> Conflict:
        conflict = Conflict(*error.args)
        conflict.key = error.key
        conflict.versions = tuple(_version_of(self._lookup(key)) for key in transaction.refetch)
        return conflict

    def _write(self, operation: Put | Delete) -> EtcdResult:
        """Change the tree at the next index, and return the result, which is still to be recorded."""
        if isinstance(operation, Delete):
            return self._delete(operation)
        if operation.prev_exist is False:
            return self._create(operation, 'create')
        if operation.is_compared or operation.prev_exist:
            return self._change(operation)
        return self._create(operation, 'set')

    def expire(self) -> None:
        """Delete every node whose TTL has run out, in the order of expiration."""
        while self._expirations and self._expirations[0][0] <= timing.now():
            at, _, entry = heapq.heappop(self._expirations)
            if self._expires_at(entry, at):
                before = entry.node()
                self._remove(entry)
                index = self.index + 1
                self._record((ACTIONS['expire'](entry.deleted_node(index), before, index),))

    def expire_now(self, key: str) -> None:
        """Let the TTL of a node run out: the next ``expire`` deletes the node.

        Raises:
            EtcdError: The node does not exist.
            ValueError: The node has no TTL.
        """
        entry = self._find(key)
        if entry.expires_at is None:
            raise ValueError(f'{key} has no TTL: it never expires')
        self._set_ttl(entry, 0)

    def next_expiration(self) -> float | None:
        """Return when the next node expires, in seconds of ``timing.now``; None if no node has a TTL."""
        while self._expirations:
            at, _, entry = self._expirations[0]
            if self._expires_at(entry, at):
                return at
            heapq.heappop(self._expirations)
        return None

    def since(self, spec: WatchSpec) -> Iterator[tuple[EtcdResult, ...]]:
        """Return the changes at and after the index of the spec that match it, those of one index together.

        Raises:
            EventIndexCleared: The history does not reach back to that index, or the store has not reached it.
        """
        assert spec.index is not None
        first = self.events[0][0] if self.events else self.index + 1
        cause = ''
        if spec.index < first:
            cause = f'the requested history has been cleared [{first}/{spec.index}]'
        elif spec.index > self.index + 1:
            cause = ANOTHER_STORE
        if cause:
            raise EventIndexCleared(HISTORY_CLEARED, cause, self.index)
        changes = [results for index, results in self.events if index >= spec.index]
        matching = (tuple(result for result in results if spec.matches(result)) for results in changes)
        return (results for results in matching if results)

    def _error(self, kind: type[EtcdError], message: str, cause: str) -> EtcdError:
        return kind(message, cause, self.index)

    def _find(self, key: str) -> _Entry:
        entry = self._root
        for path in (*ancestors(key), key) if key != ROOT else ():
            if entry.children is None:
                raise self._error(NotDir, 'Not a directory', entry.key)
            child = entry.children.get(basename(path))
            if child is None:
                raise self._error(KeyNotFound, 'Key not found', path)
            entry = child
        return entry

    def _lookup(self, key: str) -> _Entry | None:
        """Return the node, or None if it does not exist."""
        try:
            return self._find(key)
        except EtcdError:
            return None

    def _expires_at(self, entry: _Entry, at: float) -> bool:
        """True if the node is still in the tree and expires at that time."""
        if entry.expires_at != at:
            return False
        try:
            return self._find(entry.key) is entry
        except EtcdError:
            return False

    def _check_not_root(self, key: str) -> None:
        if key == ROOT:
            raise self._error(RootROnly, 'Root is read only', ROOT)

    def _parent(self, key: str) -> dict[str, _Entry]:
        """Return the children of the parent directory of the key; create missing directories."""
        entry = self._root
        for path in ancestors(key):
            if entry.children is None:
                break
            child = entry.children.get(basename(path))
            if child is None:
                child = entry.children[basename(path)] = _Entry(path, self.index + 1, None)
            entry = child
        if entry.children is None:
            raise self._error(NotDir, 'Not a directory', entry.key)
        return entry.children

    def _create(self, put: Put, action: str) -> EtcdResult:
        self._check_not_root(put.key)
        siblings = self._parent(put.key)
        old = siblings.get(basename(put.key))
        before = None
        if old is not None:
            if action == 'create':
                raise self._error(NodeExist, 'Key already exists', put.key)
            if old.children is not None:
                raise self._error(NotFile, 'Not a file', put.key)
            before = old.node()
            del siblings[basename(put.key)]
        entry = siblings[basename(put.key)] = _Entry(put.key, self.index + 1, None if put.dir else put.value)
        self._set_ttl(entry, put.ttl)
        return self._written(action, entry, before)

    def _change(self, put: Put) -> EtcdResult:
        """Update, or compare and swap."""
        self._check_not_root(put.key)
        entry = self._find(put.key)
        value = entry.value if put.refresh else put.value or ''
        if entry.children is not None and (put.is_compared or value):
            raise self._error(NotFile, 'Not a file', put.key)
        if put.is_compared:
            self._check_conditions(entry, put)
        before = entry.node()
        if entry.children is None:
            entry.value = value
            entry.modified = self.index + 1
        self._set_ttl(entry, put.ttl)
        action = 'compareAndSwap' if put.is_compared else 'update'
        return self._written(action, entry, before)

    def _check_conditions(self, entry: _Entry, operation: Put | Delete) -> None:
        causes = []
        if operation.prev_value is not None and operation.prev_value != entry.value:
            causes.append('prev_value differs')
        if operation.prev_index is not None and operation.prev_index != entry.modified:
            causes.append(f'prev_index differs: {operation.prev_index} != {entry.modified}')
        if causes:
            raise self._error(TestFailed, 'Compare failed', ', '.join(causes))

    def _delete(self, delete: Delete) -> EtcdResult:
        if not delete.is_compared:
            self._check_not_root(delete.key)
        entry = self._find(delete.key)
        if entry.children is not None:
            if delete.is_compared or not (delete.dir or delete.recursive):
                raise self._error(NotFile, 'Not a file', delete.key.rstrip(ROOT))  # etcd leaves the root out
            if entry.children and not delete.recursive:
                raise self._error(DirNotEmpty, 'Directory not empty', delete.key)
        if delete.is_compared:
            self._check_conditions(entry, delete)
        before = entry.node()
        self._remove(entry)
        index = self.index + 1
        action = 'compareAndDelete' if delete.is_compared else 'delete'
        return ACTIONS[action](entry.deleted_node(index), before, index)

    def _remove(self, entry: _Entry) -> None:
        siblings = self._find(parent_of(entry.key)).children
        assert siblings is not None
        del siblings[basename(entry.key)]

    def _set_ttl(self, entry: _Entry, ttl: int | None) -> None:
        entry.set_ttl(ttl)
        if entry.expires_at is not None:
            heapq.heappush(self._expirations, (entry.expires_at, next(self._numbers), entry))
            if len(self._expirations) > self._heap_limit:
                self._remove_obsolete_expirations()

    def _remove_obsolete_expirations(self) -> None:
        """Remove the expirations of TTLs that were changed: a node that is often written has one, not thousands."""
        self._expirations = [item for item in self._expirations if self._expires_at(item[2], item[0])]
        heapq.heapify(self._expirations)
        self._heap_limit = 2 * len(self._expirations) + MIN_HEAP_LIMIT

    def _written(self, action: str, entry: _Entry, before: Node | None) -> EtcdResult:
        index = self.index + 1
        node = entry.node()
        if node.modified_index != index:  # the update of a directory, which keeps its modified_index
            node = replace(node, modified_index=index)
        return ACTIONS[action](node, before, index, is_new=before is None)

    def _record(self, results: tuple[EtcdResult, ...], *, is_silent: bool = False) -> None:
        """Complete the changes of an index: add them to the history, and leave them to the notifier unless silent."""
        self.index += 1
        self.events.append((self.index, () if is_silent else results))
        if not is_silent:
            self.pending.append(results)


class _State:
    """The store as a transaction finds it: see ``FoundState``."""

    def __init__(self, index: int, lookup: Callable[[str], _Entry | None]) -> None:
        self.index = index
        self._lookup = lookup

    def modified_index(self, key: str) -> int:
        version = _version_of(self._lookup(key))
        return 0 if version is None else version.modified_index

    def is_directory(self, key: str) -> bool:
        entry = self._lookup(key)
        return entry is not None and entry.children is not None

    def has_value(self, key: str, value: str) -> bool:
        version = _version_of(self._lookup(key))
        return version is not None and version.value == value

    def holds(self, guard: Guard) -> bool:
        entry = self._lookup(guard.key)
        if entry is None or entry.created != guard.created_index:
            return False
        return guard.is_ours is None or guard.is_ours(entry.node())


def _version_of(entry: _Entry | None) -> Version | None:
    if entry is None or entry.children is not None:
        return None
    return Version(entry.value, entry.modified, entry.created)
