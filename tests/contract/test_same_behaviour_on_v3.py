"""The tree on etcd v3 behaves like v2 except as documented: random sequences on a memory store and a real etcd.

The memory store stands for v2: ``test_same_behaviour`` compares the two.  The differences are implemented in
:class:`MirroredStores` and described in ``docs/differences.rst``; everything else has to be equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

import getc
from getc.backends.tree.codec.keyspace import directory_range, node_of
from getc.paths import ancestors, is_below, is_hidden
from getc.testing import EtcdServer
from tests.support.sequences import (
    ENDING,
    EXAMPLES,
    TOP,
    TTLS,
    Call,
    Look,
    current_index,
    example_settings,
    looks,
    sequences,
)

CHANGE_TIMEOUT = 10.0
"""Seconds after which a missing change is a failure."""

NO_INDEX = 1
"""An index that is older than each node."""


@dataclass(frozen=True)
class WatchedChange:
    """A change as v3 events show it: without the operation."""

    kind: type[getc.EtcdResult]
    key: str
    value: str | None
    is_directory: bool
    index: int
    is_new: bool = False

    @classmethod
    def by(cls, result: getc.EtcdResult) -> WatchedChange:
        is_directory = isinstance(result.node, getc.Directory)
        return cls(type(result), result.key, result.value, is_directory, result.modified_index, result.is_new)

    def matches(self, key: str, recursive: bool) -> bool:
        if self.key == key:
            return True
        return recursive and is_below(self.key, key) and not is_hidden(self.key, key)


class MirroredStores:
    """A memory store and one on v3, which get the same calls.

    Attributes:
        start: The revision of v3 before the first call.
        received: The events that watches of v3 have to receive.
    """

    def __init__(self, memory: getc.Client, v3: getc.Client) -> None:
        self._memory = memory
        self._v3 = v3
        self.start = self._revision = v3.set(TOP, 'x').etcd_index + 1
        assert v3.delete(TOP).etcd_index == self.start
        self.received: list[WatchedChange] = []
        self._indices: dict[int, int] = {}  # index on v3 by index in the memory store
        self._names: dict[str, str] = {}  # name on v3 by name in the memory store, for appends

    def do(self, call: Call) -> None:
        """Make the call on both, and compare the results."""
        options = dict(call.options)
        if call.key == '/' and call.method == 'delete' and {'prev_value', 'prev_index'} & set(options):
            return  # v2 returns error 102, v3 returns 107 as for all methods
        keys = self._keys(call.key)
        of_memory, of_v3 = options, options
        if 'prev_index' in options:
            of_memory, of_v3 = self._own_indices(options, *keys)
        is_compared = bool({'prev_value', 'prev_index'} & set(options))
        if call.method == 'update' and options.get('value') == '' and not is_compared and self._is_directory(keys[0]):
            with pytest.raises(getc.NotFile):  # etcd v2 does not distinguish '' from no value
                self._v3.update(keys[1], **of_v3)
            return
        deleted = self._subtree(keys[1]) if call.method == 'delete' else []
        result = self._outcome(self._memory, call.method, keys[0], of_memory)
        v3 = self._outcome(self._v3, call.method, keys[1], of_v3)
        assert type(result) is type(v3)
        if isinstance(v3, getc.EtcdError):
            assert isinstance(result, getc.EtcdError)
            assert self._error(v3) == self._error(result)
            assert v3.index == (None if isinstance(v3, getc.RootROnly) else self._revision)  # v3 does not check it
            if isinstance(v3, getc.KeyNotFound):
                assert v3.cause == keys[1]  # v2 names the outermost missing node
            return
        assert isinstance(v3, getc.EtcdResult) and isinstance(result, getc.EtcdResult)
        if call.method != 'get':
            self._record_write(call, result, v3, deleted)
        assert v3.etcd_index == self._revision
        is_one = not isinstance(v3.node, getc.Directory)
        assert self._seen(v3.node, with_ttl=is_one) == self._seen(self._of_v3(result.node), with_ttl=is_one)
        assert (v3.ttl is None) == (result.ttl is None)
        if v3.ttl is not None and result.ttl is not None:
            assert abs(v3.ttl - result.ttl) < 500
        assert (v3.prev_node is None) == (result.prev_node is None)
        if v3.prev_node is not None and result.prev_node is not None:
            # The TTL of the previous node is not read on v3.
            assert self._seen(v3.prev_node) == self._seen(self._of_v3(result.prev_node))
        assert v3.is_new == result.is_new

    # -- what is called differently

    def _keys(self, key: str) -> tuple[str, str]:
        """Return the key in each store.  ``#3`` stands for the name from an append."""
        names = list(self._names.items()) or [('none', 'none')]

        def named(which: int) -> str:
            return re.sub('(?<=/)#([0-9])(?=/|$)', lambda at: names[int(at[1]) % len(names)][which], key)

        return named(0), named(1)

    def _own_indices(self, options: dict[str, Any], key: str, v3_key: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options with an index of the node, or with one that never was its index.

        The index from before a refresh with the same TTL is left out: such a refresh does not change the index on v3.
        """
        own = current_index(self._memory, key)
        if options['prev_index'] in (0, own - self.start):
            return {**options, 'prev_index': own}, {**options, 'prev_index': current_index(self._v3, v3_key)}
        return {**options, 'prev_index': 10**9}, {**options, 'prev_index': NO_INDEX}

    def _of_v3(self, node: getc.Node) -> getc.Node:
        """Convert a node of the memory store to its indices on v3."""
        key = '/'.join(self._names.get(name, name) for name in node.key.split('/'))
        index = self._indices.get(node.modified_index, node.modified_index)
        if isinstance(node, getc.Directory):
            return getc.Directory(key, index, 0, None, None, tuple(self._of_v3(child) for child in node.nodes))
        if isinstance(node, getc.Value):
            return getc.Value(key, index, 0, node.ttl, node.expiration, node.value)
        return getc.Node(key, index, 0)

    def _is_directory(self, key: str) -> bool:
        found = self._outcome(self._memory, 'get', key, {})
        return key != '/' and isinstance(found, getc.Got) and isinstance(found.node, getc.Directory)

    # -- what is compared

    def _seen(self, node: getc.Node, *, with_ttl: bool = False) -> object:
        """Return a node without the differences: created_index, the indices of directories, the TTL of listed nodes."""
        if isinstance(node, getc.Directory):
            children = sorted(node.nodes, key=lambda child: child.key)
            return node.key, [self._seen(child) for child in children]
        ttl = None if node.ttl is None or not with_ttl else next(each for each in TTLS if 0 <= each - node.ttl < 500)
        return node.key, node.modified_index, getattr(node, 'value', None), ttl

    def _error(self, error: getc.EtcdError) -> object:
        cause = '' if isinstance(error, getc.KeyNotFound) else error.cause
        if isinstance(error, getc.TestFailed):
            cause = re.sub('[0-9]+', '#', cause)  # indices
        return error.errno, error.message, '/'.join(self._names.get(name, name) for name in cause.split('/'))

    def _outcome(self, store: getc.Client, method: str, key: str, options: dict[str, Any]) -> object:
        try:
            return getattr(store, method)(key, **options)
        except getc.EtcdError as error:
            return error

    # -- what was done

    def _record_write(
        self, call: Call, result: getc.EtcdResult, v3: getc.EtcdResult, deleted: list[WatchedChange]
    ) -> None:
        """Record the index of a write, its name, and the events that it causes."""
        if call.method == 'refresh' and self._is_same_ttl(call, result):
            self._indices[result.modified_index] = v3.modified_index  # a keep-alive is not a change on v3
            return
        self._revision += 1
        assert v3.modified_index == self._revision
        self._indices[result.modified_index] = self._revision
        if call.method == 'append':
            self._names[result.key.rpartition('/')[2]] = v3.key.rpartition('/')[2]
        if call.method == 'delete':
            # One event for each key, where v2 has one for the directory.
            self.received += [
                WatchedChange(getc.Deleted, each.key, None, each.is_directory, self._revision) for each in deleted
            ]
            self._prune(call.key)
            return
        if isinstance(v3.node, getc.Directory) and isinstance(v3.prev_node, getc.Value):
            self.received.append(
                WatchedChange(getc.Deleted, v3.key, None, False, self._revision)
            )  # the value; then the marker
        is_directory = isinstance(v3.node, getc.Directory)
        is_new = v3.is_new
        if is_directory and v3.prev_node is not None:
            is_new = isinstance(v3.prev_node, getc.Value) or not v3.prev_node.created_index  # the key of the directory
        self.received.append(WatchedChange(getc.Set, v3.key, v3.value, is_directory, self._revision, is_new))
        if is_directory and call.method in ('update', 'refresh'):
            self._record_moved_nodes(result.key)

    def _record_moved_nodes(self, directory: str) -> None:
        """Record the events and the indices of the nodes that were moved to another lease with their directory."""
        v3_directory = '/'.join(self._names.get(name, name) for name in directory.split('/'))
        first, end = directory_range(v3_directory)
        names = {v3_name: name for name, v3_name in self._names.items()}
        for kv in self._v3.v3.kv.range(first, range_end=end).kvs:
            node = node_of(kv.key)
            if node is None or node[0] == v3_directory or kv.mod_revision != self._revision:
                continue
            key, is_marker = node
            value = None if is_marker else kv.value.decode('utf-8', 'surrogateescape')
            self.received.append(WatchedChange(getc.Set, key, value, is_marker, self._revision))
            if not is_marker:
                memory_key = '/'.join(names.get(name, name) for name in key.split('/'))
                self._indices[self._memory.get(memory_key).modified_index] = self._revision

    def _is_same_ttl(self, call: Call, result: getc.EtcdResult) -> bool:
        assert result.prev_node is not None
        before = result.prev_node.ttl
        return before is not None and 0 <= call.options['ttl'] - before < 500

    def _subtree(self, key: str) -> list[WatchedChange]:
        """Return the keys at and below a key on v3, in order."""
        kvs = list(self._v3.v3.kv.range(key.encode()).kvs)
        first, end = directory_range(key)
        kvs += self._v3.v3.kv.range(first, range_end=end).kvs
        nodes = [node for node in (node_of(kv.key) for kv in kvs) if node is not None]
        return [WatchedChange(getc.Deleted, key, None, is_marker, 0) for key, is_marker in nodes]

    def _prune(self, key: str) -> None:
        """Delete implicit directories without nodes from the memory store: on v3 they do not exist, v2 keeps them."""
        for memory_key, v3_key in zip(*(reversed(ancestors(each)) for each in self._keys(key)), strict=True):
            with suppress(getc.KeyNotFound):
                self._v3.get(v3_key)
                continue
            with suppress(getc.KeyNotFound):
                self._memory.delete(memory_key, dir=True)


@pytest.fixture
def v3(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    """A client of an empty store on v3."""
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


@pytest.mark.timeout(0 if EXAMPLES else 120)
@example_settings(200)
@given(calls=sequences, looks=st.lists(looks, max_size=3))
def test_v3_behaves_like_memory_except_as_documented(v3: getc.Client, calls: list[Call], looks: list[Look]) -> None:
    """Every result and error of a sequence is equal, and so are the events."""
    with suppress(getc.KeyNotFound):
        v3.delete(TOP, recursive=True)
    with getc.etcd('memory://') as memory:
        stores = MirroredStores(memory, v3)
        note(f'revision at the start: {stores.start}')
        for call in [*calls, *ENDING]:
            note(repr(call))
            stores.do(call)
    received = [each for each in stores.received if each.matches(TOP, recursive=True)]
    with v3.changes(TOP, index=stores.start + 1) as changes:
        assert [WatchedChange.by(next(changes)) for _ in received] == received
    for look in looks:
        index = stores.start + look.change
        expected = [each for each in stores.received if each.index >= index and each.matches(look.key, look.recursive)]
        if expected:
            assert (
                WatchedChange.by(v3.wait(look.key, index, recursive=look.recursive, timeout=CHANGE_TIMEOUT))
                == expected[0]
            )
