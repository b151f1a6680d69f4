"""Changes of the TTL of a directory as transactions, and their results."""

from __future__ import annotations

import pytest

from getc.backends.tree.codec import directory_ttl
from getc.backends.tree.codec.directory_lease import NO_LEASE, DirectoryLease
from getc.backends.tree.codec.directory_ttl import (
    DirectoryState,
    batches_of,
    nodes_to_move,
    parse_change,
    parse_state,
    result_of_renewal,
    txn_of_change,
    txn_of_move,
    txn_of_state,
)
from getc.backends.tree.codec.keyspace import TTL
from getc.errors import KeyNotFound, NotDir, ProtocolError
from getc.results import Directory, Updated
from getc.v3.schema.kv import ResponseOp
from getc.v3.schema.mvccpb import KeyValue
from tests.backends.tree.codec.messages import INDEX, compares, does, found, put, response

KEY = '/a/d'


def on_lease(key: str, lease: int, index: int = 5) -> KeyValue:
    return KeyValue(key=key.encode(), lease=lease, mod_revision=index, create_revision=3)


MARKER, CHILD = on_lease('/a/d/', 7), on_lease('/a/d/x', 7)


def state_of(*kvs: KeyValue, above: int = 0) -> DirectoryState:
    """Return the state of ``KEY`` with these keys in it, where ``/a`` has a lease or none."""
    markers = found(on_lease('/a/', above))
    state = parse_state(KEY, response(found(), found(), markers, found(*kvs), succeeded=True), is_strict=True)
    assert state is not None
    return state


# -- reads


def test_state_is_read_with_the_markers_above() -> None:
    txn = txn_of_state(KEY, 100, is_strict=True)
    above = [('range', b'/a'), ('range', b'/a/d'), ('range', b'/a/')]
    assert does(txn.success) == [*above, ('range', b'/a/d/', b'/a/d0')]
    assert txn.success[-1].request_range.limit == 100
    assert [each.request_range.keys_only for each in txn.success] == [True, True, False, False]  # leases are read
    assert does(txn_of_state(KEY, 100, is_strict=False).success) == [('range', b'/a/d'), ('range', b'/a/d/', b'/a/d0')]


def test_state_has_the_lease_of_the_directory_and_of_the_one_above() -> None:
    state = state_of(MARKER, CHILD, above=9)
    assert (state.marker, state.lease, state.outer, state.has_own_ttl) == (MARKER, 7, DirectoryLease('/a', 9), True)
    implicit = state_of(CHILD, above=9)
    assert (implicit.marker, implicit.lease, implicit.has_own_ttl) == (None, 9, False)
    assert not state_of(MARKER, above=7).has_own_ttl
    assert not state_of(on_lease('/a/d/', 0)).has_own_ttl
    assert state_of(MARKER).outer == NO_LEASE


def test_state_of_something_else_is_none_or_an_error() -> None:
    def read(*results: ResponseOp) -> DirectoryState | None:
        return parse_state(KEY, response(*results, succeeded=True), is_strict=True)

    assert read(found(), found(on_lease(KEY, 0)), found(), found()) is None
    with pytest.raises(NotDir) as not_dir:
        read(found(on_lease('/a', 0)), found(), found(), found())
    assert (not_dir.value.cause, not_dir.value.index) == ('/a', INDEX)
    with pytest.raises(KeyNotFound) as missing:
        read(found(), found(), found(), found())
    assert (missing.value.cause, missing.value.index) == (KEY, INDEX)
    with pytest.raises(ProtocolError):
        read(found(), found(), found())


def test_nodes_without_a_ttl_of_their_own_are_moved() -> None:
    """Those on the lease of the directory, and those of other programs, which have none."""
    kvs = [MARKER, CHILD, on_lease('/a/d/own', 8), on_lease('/a/d/foreign', 0)]

    def moved(old: int, new: int) -> list[bytes]:
        return [kv.key for kv in nodes_to_move(KEY, kvs, [old], new)]

    assert moved(7, 20) == [b'/a/d/x', b'/a/d/foreign']
    assert moved(7, 0) == [b'/a/d/x']
    assert moved(0, 20) == moved(7, 7) == [b'/a/d/foreign']


# -- writes


def test_change_moves_the_marker_and_the_nodes_if_nothing_has_changed() -> None:
    txn = txn_of_change(KEY, state_of(MARKER, CHILD, above=9), 20, [CHILD], is_strict=True)
    assert compares(txn) == [
        ('none', b'/a'),
        ('none', b'/a/d'),
        ('mod_revision', b'/a/d/', 5),
        ('lease', b'/a/', 9),
        ('mod_revision', b'/a/d/x', 5),
    ]
    assert [(each.request_put.key, each.request_put.lease) for each in txn.success] == [(b'/a/d/', 20), (b'/a/d/x', 20)]
    assert all(each.request_put.ignore_value for each in txn.success)


def test_change_creates_the_marker_of_an_implicit_directory() -> None:
    txn = txn_of_change(KEY, state_of(CHILD), 20, [], is_strict=False)
    assert compares(txn) == [('none', b'/a/d'), ('none', b'/a/d/')]
    assert does(txn.success) == [('put', b'/a/d/', b'')]
    assert not txn.success[0].request_put.ignore_value


def test_change_has_as_many_nodes_as_fit() -> None:
    nodes = [on_lease(f'/a/d/{number:03}', 7) for number in range(200)]
    txn = txn_of_change(KEY, state_of(MARKER), 20, nodes, is_strict=True)
    assert (len(txn.compare), len(txn.success)) == (128, 1 + 124)
    deep = '/s' * 126
    marker = on_lease(f'{deep}/', 7)
    above = found(on_lease(f'{"/s" * 125}/', 9))
    read = response(*[found()] * 126, above, found(marker), succeeded=True)
    assert len(txn_of_state(deep, 10, is_strict=True).success) == len(read.responses) == 128
    state = parse_state(deep, read, is_strict=True)
    assert state is not None and state.outer.lease == 9
    txn = txn_of_change(deep, state, 20, nodes, is_strict=True)
    assert (len(txn.compare), len(txn.success)) == (128, 1)


def test_move_compares_the_lease_of_the_marker() -> None:
    txn = txn_of_move(KEY, [CHILD], 0)
    assert compares(txn) == [('there', b'/a/d/'), ('lease', b'/a/d/', 0), ('mod_revision', b'/a/d/x', 5)]
    assert [(each.request_put.key, each.request_put.lease) for each in txn.success] == [(b'/a/d/x', 0)]
    assert does(txn.failure) == [('range', b'/a/d/')]


def test_batches_are_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [on_lease(f'/a/d/{number}', 7) for number in range(7)]
    assert [len(batch) for batch in batches_of(nodes, 3)] == [3, 3, 1]
    assert [kv for batch in batches_of(nodes, 3) for kv in batch] == nodes
    monkeypatch.setattr(directory_ttl, 'MAX_BATCH_BYTES', 2 * len('/a/d/0'))
    assert [len(batch) for batch in batches_of(nodes, 3)] == [2, 2, 2, 1]
    monkeypatch.setattr(directory_ttl, 'MAX_BATCH_BYTES', 1)
    assert [len(batch) for batch in batches_of(nodes, 3)] == [1] * 7
    assert list(batches_of(nodes, 0)) == list(batches_of([], 3)) == []


# -- results


def test_result_has_the_indices_of_the_marker() -> None:
    ttl = TTL.of(60, 0.0)
    result = parse_change(KEY, state_of(MARKER), response(put(), put(), succeeded=True), ttl)
    assert result == Updated(Directory(KEY, INDEX, 3, 60, ttl.expiration), Directory(KEY, 5, 3), INDEX, 0, 2)
    result = parse_change(KEY, state_of(CHILD), response(put(), succeeded=True), ttl)
    assert (result.node, result.prev_node) == (Directory(KEY, INDEX, INDEX, 60, ttl.expiration), Directory(KEY))
    renewed = result_of_renewal(KEY, state_of(MARKER), ttl)
    assert (renewed.node, renewed.etcd_index) == (Directory(KEY, 5, 3, 60, ttl.expiration), INDEX)


@pytest.mark.parametrize('results', [[], [found()], [put(), found()], [ResponseOp()]])
def test_malformed_result_is_a_protocol_error_of_a_write_that_may_be_applied(results: list[ResponseOp]) -> None:
    with pytest.raises(ProtocolError, match='malformed response of etcd v3') as caught:
        parse_change(KEY, state_of(MARKER), response(*results, succeeded=True), TTL.of(60, 0.0))
    assert caught.value.maybe_applied
