"""The tree of etcd v2 in this process: nodes, their TTLs, and the last events.  No I/O, no greenlets.

Behaviour, order of checks and texts are those of etcd 3.5's ``v2store``; the contract suite and a property
test hold both side by side.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Final

from getc import timing
from getc.errors import (
    DirNotEmpty,
    EtcdError,
    EventIndexCleared,
    KeyNotFound,
    NodeExist,
    NotDir,
    NotFile,
    RootROnly,
    TestFailed,
)
from getc.operations import Append, Delete, Get, Operation, Put, WatchSpec
from getc.paths import ROOT, ancestors, basename, is_below, is_hidden, join, parent_of
from getc.results import ACTIONS, Deleted, Directory, EtcdResult, Got, Node, Value

__all__ = ['HISTORY', 'Store', 'matches']

HISTORY: Final = 1000
"""Events that are remembered.  Source: etcd 3.5, ``v2store/store.go``."""

FEW_ENDS: Final = 64
"""So many planned ends are kept without looking whether they still hold."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class _Entry:
    """A node in the tree: a value, or a directory if it has children, even none."""

    __slots__ = ('children', 'created', 'ends_at', 'expiration', 'key', 'modified', 'value')

    def __init__(self, key: str, index: int, value: str | None) -> None:
        self.key = key
        self.value = value or ''
        self.children: dict[str, _Entry] | None = {} if value is None else None
        self.created = self.modified = index
        self.ends_at: float | None = None
        self.expiration: datetime | None = None

    def end_after(self, ttl: int | None) -> None:
        """Give it a TTL, or take the one it has."""
        self.ends_at = self.expiration = None
        if ttl is not None:
            self.ends_at = timing.now() + ttl
            self.expiration = EPOCH + timedelta(seconds=timing.wall_time() + ttl)

    def ttl(self) -> int | None:
        """Seconds left, rounded up as etcd does; but not by what is lost in adding to the clock."""
        if self.ends_at is None:
            return None
        return max(math.ceil(round(self.ends_at - timing.now(), 6)), 0)

    def gone(self, index: int) -> Node:
        """What is told of it when it is deleted."""
        kind = Node if self.children is None else Directory
        return kind(self.key, index, self.created)

    def node(self, depth: int = 0, is_sorted: bool = False) -> Node:
        """It as a result shows it; a directory with so many levels below it, -1 for all."""
        if self.children is None:
            return Value(self.key, self.modified, self.created, self.ttl(), self.expiration, self.value)
        nodes: list[Node] = []
        if depth:
            names = sorted(self.children) if is_sorted else self.children
            nodes = [self.children[name].node(depth - 1, is_sorted) for name in names if not name.startswith('_')]
        return Directory(self.key, self.modified, self.created, self.ttl(), self.expiration, tuple(nodes))


class Store:
    """A tree, its index, and the results of the last changes.

    Attributes:
        index: It grows by one with each change.
        events: The last changes; a refresh takes a place, as None in the second part.
        news: Changes that nobody was told of yet; whoever tells them takes them out.
    """

    def __init__(self) -> None:
        self.index = 0
        self.events: deque[tuple[int, EtcdResult | None]] = deque(maxlen=HISTORY)
        self.news: list[EtcdResult] = []
        self._root = _Entry(ROOT, 0, None)
        self._ending: list[tuple[float, int, _Entry]] = []  # a heap; an end that was changed stays until its time
        self._many_ends = FEW_ENDS
        self._numbers = count()

    # -- what can be asked

    def execute(self, operation: Operation) -> EtcdResult:
        """Do it.  What has expired by now must have been taken away before (``expire``).

        Raises:
            EtcdError: As etcd would say.
        """
        if isinstance(operation, Get):
            node = self._find(operation.key).node(-1 if operation.recursive else 1, operation.sorted)
            return Got(node, etcd_index=self.index)
        if isinstance(operation, Append):
            key = join(operation.key, f'/{self.index + 1:020d}')
            return self._create(Put(key, operation.value, dir=operation.dir, ttl=operation.ttl), 'create')
        if isinstance(operation, Delete):
            return self._delete(operation)
        is_compared = operation.prev_value is not None or operation.prev_index is not None
        if operation.prev_exist is False:
            return self._create(operation, 'create')
        if is_compared or operation.prev_exist:
            return self._change(operation, is_compared)
        return self._create(operation, 'set')

    def expire(self) -> None:
        """Take away every node whose time is up, in the order of their ends."""
        while self._ending and self._ending[0][0] <= timing.now():
            ends_at, _, entry = heapq.heappop(self._ending)
            if self._ends(entry, ends_at):
                before = entry.node()
                self._remove(entry)
                self.index += 1
                self._note(ACTIONS['expire'](entry.gone(self.index), before, self.index))

    def expire_now(self, key: str) -> None:
        """Have the time of a node with a TTL be up: it goes with the next ``expire``.

        Raises:
            EtcdError: There is no such node.
            ValueError: It has no TTL.
        """
        entry = self._find(key)
        if entry.ends_at is None:
            raise ValueError(f'{key} has no TTL: it never expires')
        self._give_ttl(entry, 0)

    def next_end(self) -> float | None:
        """When the next node expires, in seconds of ``timing.now``; None if none does."""
        while self._ending:
            ends_at, _, entry = self._ending[0]
            if self._ends(entry, ends_at):
                return ends_at
            heapq.heappop(self._ending)
        return None

    def since(self, spec: WatchSpec) -> Iterator[EtcdResult]:
        """The remembered changes from the index of the spec on that it asks for.

        Raises:
            EventIndexCleared: The memory does not reach back to it, or the store has not come so far.
        """
        assert spec.index is not None
        first = self.events[0][0] if self.events else self.index + 1
        cause = ''
        if spec.index < first:
            cause = f'the requested history has been cleared [{first}/{spec.index}]'
        elif spec.index > self.index + 1:
            cause = 'the store is another one, or went back'
        if cause:
            raise EventIndexCleared('The event in requested index is outdated and cleared', cause, self.index)
        events = list(self.events)
        return (result for index, result in events if index >= spec.index and result and matches(spec, result))

    # -- how it is done

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

    def _ends(self, entry: _Entry, at: float) -> bool:
        """True if the node still is to end then."""
        if entry.ends_at != at:
            return False
        try:
            return self._find(entry.key) is entry
        except EtcdError:
            return False

    def _check_not_root(self, key: str) -> None:
        if key == ROOT:
            raise self._error(RootROnly, 'Root is read only', ROOT)

    def _parent(self, key: str) -> dict[str, _Entry]:
        """The children of the directory that holds the key; directories that are missing are made."""
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
        self._give_ttl(entry, put.ttl)
        return self._changed(action, entry, before)

    def _change(self, put: Put, is_compared: bool) -> EtcdResult:
        """Update, or compare and swap."""
        self._check_not_root(put.key)
        entry = self._find(put.key)
        value = entry.value if put.refresh else put.value or ''
        if entry.children is not None:
            if is_compared or value:
                raise self._error(NotFile, 'Not a file', put.key)
            raise NotFile('Not a file', put.key)  # etcd runs into an error of its own here, which has no index
        if is_compared:
            self._check_conditions(entry, put)
        before = entry.node()
        entry.value = value
        entry.modified = self.index + 1
        self._give_ttl(entry, put.ttl)
        return self._changed('compareAndSwap' if is_compared else 'update', entry, before, is_silent=put.refresh)

    def _check_conditions(self, entry: _Entry, operation: Put | Delete) -> None:
        causes = []
        if operation.prev_value is not None and operation.prev_value != entry.value:
            causes.append('prev_value differs')
        if operation.prev_index is not None and operation.prev_index != entry.modified:
            causes.append(f'prev_index differs: {operation.prev_index} != {entry.modified}')
        if causes:
            raise self._error(TestFailed, 'Compare failed', ', '.join(causes))

    def _delete(self, delete: Delete) -> EtcdResult:
        is_compared = delete.prev_value is not None or delete.prev_index is not None
        if not is_compared:
            self._check_not_root(delete.key)
        entry = self._find(delete.key)
        if entry.children is not None:
            if is_compared or not (delete.dir or delete.recursive):
                raise self._error(NotFile, 'Not a file', delete.key.rstrip(ROOT))  # of the root etcd says nothing
            if entry.children and not delete.recursive:
                raise self._error(DirNotEmpty, 'Directory not empty', delete.key)
        if is_compared:
            self._check_conditions(entry, delete)
        before = entry.node()
        self._remove(entry)
        self.index += 1
        action = 'compareAndDelete' if is_compared else 'delete'
        return self._note(ACTIONS[action](entry.gone(self.index), before, self.index))

    def _remove(self, entry: _Entry) -> None:
        siblings = self._find(parent_of(entry.key)).children
        assert siblings is not None
        del siblings[basename(entry.key)]

    def _give_ttl(self, entry: _Entry, ttl: int | None) -> None:
        entry.end_after(ttl)
        if entry.ends_at is not None:
            heapq.heappush(self._ending, (entry.ends_at, next(self._numbers), entry))
            if len(self._ending) > self._many_ends:
                self._forget_ends()

    def _forget_ends(self) -> None:
        """Drop the ends that do not hold any more: a node written again and again has one, not thousands."""
        self._ending = [(at, number, entry) for at, number, entry in self._ending if self._ends(entry, at)]
        heapq.heapify(self._ending)
        self._many_ends = 2 * len(self._ending) + FEW_ENDS

    def _changed(self, action: str, entry: _Entry, before: Node | None, is_silent: bool = False) -> EtcdResult:
        self.index += 1
        return self._note(ACTIONS[action](entry.node(), before, self.index, is_new=before is None), is_silent)

    def _note(self, result: EtcdResult, is_silent: bool = False) -> EtcdResult:
        self.events.append((self.index, None if is_silent else result))
        if not is_silent:
            self.news.append(result)
        return result


def matches(spec: WatchSpec, result: EtcdResult) -> bool:
    """True if whoever follows that is told of this change."""
    key = result.key
    if key == spec.key:
        return True
    if isinstance(result, Deleted) and isinstance(result.node, Directory) and is_below(spec.key, key):
        return True  # the directory around it is gone
    return spec.recursive and is_below(key, spec.key) and not is_hidden(key, spec.key)
