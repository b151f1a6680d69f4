"""Keys, transactions, watches and leases between getc and Go's client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import getc
from tests.support.interop import Go, compare, operation
from tests.support.interop_events import Changed, GoError, Renewed

VALUES = ['', 'plain', 'naïve ☃', '\udcff\udcfe', 'line\nline', 'x' * 100_000]


# -- reads and writes


@pytest.mark.parametrize('value', VALUES, ids=['empty', 'text', 'unicode', 'bytes', 'lines', 'long'])
def test_values_are_the_same_on_both_sides(go: Go, etcd: getc.Client, value: str) -> None:
    raw = value.encode('utf-8', 'surrogateescape')
    written = etcd.set('/from/getc', value)
    (found,) = go.get(b'/from/getc').result().kvs
    assert (found.value, found.mod_revision, found.lease) == (raw, written.modified_index, 0)
    revision = go.put(b'/from/go', raw).result().revision
    read = etcd.get('/from/go')
    assert (read.value, read.modified_index, read.created_index) == (value, revision, revision)
    assert etcd.v3.kv.range(b'/from/go').kvs[0].value == raw


def test_go_sees_the_nodes_of_a_directory(go: Go, etcd: getc.Client) -> None:
    etcd.set('/dir/b', '2')
    etcd.set('/dir/a', '1')
    etcd.create('/dir/deep/c', '3')
    found = go.get(b'/dir/', prefix=True).result().kvs
    assert [(one.key, one.value) for one in found] == [(b'/dir/a', b'1'), (b'/dir/b', b'2'), (b'/dir/deep/c', b'3')]
    assert [one.version for one in found] == [1, 1, 1]


def test_getc_lists_what_go_wrote(go: Go, etcd: getc.Client) -> None:
    for name in (b'b', b'a', b'deep/c', b'_hidden'):
        go.put(b'/dir/' + name, name).result()
    listing = etcd.get('/dir', recursive=True)
    assert [(node.key, node.value) for node in listing.node.leaves()] == [
        ('/dir/a', 'a'),
        ('/dir/b', 'b'),
        ('/dir/deep/c', 'deep/c'),
    ]
    go.delete(b'/dir/', prefix=True).result()
    with pytest.raises(getc.KeyNotFound):
        etcd.get('/dir')


def test_compare_and_swap_sees_the_writes_of_the_other_side(go: Go, etcd: getc.Client) -> None:
    first = go.put(b'/a', b'1').result().revision
    assert etcd.update('/a', '2', prev_index=first).prev_node.value == '1'
    with pytest.raises(getc.TestFailed):
        etcd.update('/a', '3', prev_index=first)
    with pytest.raises(getc.NodeExist):
        etcd.create('/a', '4')
    go.delete(b'/a').result()
    assert etcd.create('/a', '5').value == '5'


def test_transaction_of_go_is_guarded_by_what_getc_wrote(go: Go, etcd: getc.Client) -> None:
    index = etcd.set('/a', '1').modified_index
    writes = [operation('put', b'/a', b'2'), operation('put', b'/b', b'2'), operation('get', b'/a')]
    done = go.txn([compare(b'/a', 'mod', '=', index), compare(b'/b', 'create', '=', 0)], writes).result()
    assert done.succeeded and done.reads[0][0].value == b'2'
    assert etcd.get('/a').modified_index == etcd.get('/b').modified_index == done.revision
    refused = go.txn([compare(b'/a', 'mod', '=', index)], writes, [operation('get', b'/a')]).result()
    assert not refused.succeeded and refused.reads[0][0].value == b'2'
    assert go.txn([compare(b'/a', 'value', '=', b'2')], [operation('delete', b'/a')]).result().succeeded
    with pytest.raises(getc.KeyNotFound):
        etcd.get('/a')


def test_transaction_with_an_unknown_part_is_an_error(go: Go) -> None:
    for compares, writes in (
        ([compare(b'/a', 'colour', '=', 1)], []),
        ([compare(b'/a', 'mod', '~', 1)], []),
        ([], [operation('touch', b'/a')]),
    ):
        with pytest.raises(GoError, match='InvalidArgument'):
            go.txn(compares, writes).result()


# -- watches


def test_watcher_of_getc_delivers_the_writes_of_go(go: Go, etcd: getc.Client, wait_until: Any) -> None:
    seen: list[getc.EtcdResult] = []
    etcd.on_change('/dir', seen.append)
    lease = go.grant(600).result().lease
    first = go.put(b'/dir/a', b'1').result().revision
    second = go.put(b'/dir/a', b'2', lease=lease).result().revision
    third = go.txn([], [operation('put', b'/dir/b', b'3'), operation('delete', b'/dir/a')]).result().revision
    wait_until(lambda: len(seen) == 4)
    other_lease = go.grant(600).result().lease
    fourth = go.put(b'/dir/c', b'\xff', lease=other_lease).result().revision
    go.revoke(other_lease).result()
    wait_until(lambda: len(seen) == 6)
    assert [(type(one).__name__, one.key, one.value, one.modified_index) for one in seen[:5]] == [
        ('Set', '/dir/a', '1', first),
        ('Set', '/dir/a', '2', second),
        ('Set', '/dir/b', '3', third),
        ('Deleted', '/dir/a', None, third),
        ('Set', '/dir/c', '\udcff', fourth),
    ]
    assert seen[4].raw_value == b'\xff'
    assert (type(seen[5]).__name__, seen[5].key) == ('Expired', '/dir/c')


def test_watch_of_go_delivers_the_writes_of_getc(go: Go, etcd: getc.Client) -> None:
    watching = go.watch(b'/dir/', prefix=True, previous=True)
    created = etcd.create('/dir/a', '1').modified_index
    changed = etcd.set('/dir/a', '2', ttl=600).modified_index
    etcd.delete('/dir/a')
    watching.wait(Changed, lambda changed: changed.changes[-1].type == 'DELETE')
    changes = [change for event in watching.events if isinstance(event, Changed) for change in event.changes]
    assert [(one.type, one.kv.value, one.kv.mod_revision) for one in changes[:2]] == [
        ('PUT', b'1', created),
        ('PUT', b'2', changed),
    ]
    assert (changes[0].previous, changes[0].kv.lease) == (None, 0)
    assert changes[1].previous == changes[0].kv and changes[1].kv.lease
    assert changes[2].previous == changes[1].kv and len(changes) == 3


def test_mirror_of_getc_follows_go(go: Go, etcd: getc.Client, wait_until: Any) -> None:
    go.put(b'/cfg/a', b'1').result()
    mirror = etcd.mirror('/cfg')
    go.txn([], [operation('put', b'/cfg/a', b'2'), operation('put', b'/cfg/deep/b', b'3')]).result()
    wait_until(lambda: '/cfg/deep/b' in mirror)
    assert dict(mirror) == {'/cfg/a': '2', '/cfg/deep/b': '3'}
    go.delete(b'/cfg/', prefix=True).result()
    wait_until(lambda: '/cfg/a' not in mirror)
    assert len(mirror) == 0


# -- leases


def test_lease_of_go_is_the_ttl_of_the_node(go: Go, etcd: getc.Client) -> None:
    lease = go.grant(600).result().lease
    go.put(b'/a', b'1', lease=lease).result()
    assert 590 <= etcd.get('/a').ttl <= 600
    etcd.set('/a', '2', ttl=None)
    assert etcd.get('/a').ttl is None
    assert go.time_to_live(lease).result().keys == ()
    assert go.get(b'/a').result().kvs[0].lease == 0


def test_expired_key_is_distinguished_from_a_deleted_key_of_the_same_lease(
    go: Go, etcd: getc.Client, wait_until: Any
) -> None:
    lease = go.grant(3).result().lease
    renewing = go.keep_alive(lease)
    for key in (b'/dir/a', b'/dir/b'):
        go.put(key, b'', lease=lease).result()
    seen: list[getc.EtcdResult] = []
    etcd.on_change('/dir', seen.append)
    go.delete(b'/dir/a').result()
    wait_until(lambda: len(seen) == 1)
    renewing.cancel()
    wait_until(lambda: len(seen) == 2)
    assert [(type(one).__name__, one.key) for one in seen] == [('Deleted', '/dir/a'), ('Expired', '/dir/b')]


def test_ttl_of_getc_is_a_lease_for_go(go: Go, etcd: getc.Client) -> None:
    etcd.set('/a', '1', ttl=500)
    lease = go.get(b'/a').result().kvs[0].lease
    found = go.time_to_live(lease).result()
    assert (found.granted, found.keys) == (500, (b'/a',))
    assert 490 <= found.ttl <= 500
    go.revoke(lease).result()
    with pytest.raises(getc.KeyNotFound):
        etcd.get('/a')


def test_kept_node_of_getc_has_a_lease_that_is_renewed(go: Go, etcd: getc.Client) -> None:
    keeper = etcd.keep_node('/node', 'mine', ttl=60)
    (found,) = go.get(b'/node').result().kvs
    assert (found.value, found.mod_revision) == (b'mine', keeper.ensure())
    assert go.time_to_live(found.lease).result().granted == 60


def test_keeper_of_getc_notices_that_go_took_the_node(go: Go, etcd: getc.Client, wait_until: Any) -> None:
    lost: list[Any] = []
    etcd.keep_node('/node', 'mine', ttl=60, on_lost=lost.append)
    go.put(b'/node', b"go's").result()
    wait_until(lambda: bool(lost))
    assert etcd.get('/node').value == "go's"


def test_renewed_lease_of_go_ends_when_getc_revokes_it(go: Go, etcd: getc.Client) -> None:
    lease = go.grant(6).result().lease
    renewing = go.keep_alive(lease)
    assert renewing.wait(Renewed).lease.ttl == 6
    etcd.v3.lease.revoke(lease)
    with pytest.raises(GoError, match=f'lease {lease} ended'):
        renewing.result()


def test_keeper_of_getc_takes_the_node_when_the_lease_of_go_ends(
    go: Go, etcd: getc.Client, spawn: Callable[..., Any]
) -> None:
    lease = go.grant(600).result().lease
    go.put(b'/node', b"go's", lease=lease).result()
    waiting = spawn(etcd.keep_node, '/node', 'mine', ttl=60, on_conflict='wait')
    assert etcd.get('/node').value == "go's" and not waiting.ready()
    go.revoke(lease).result()
    waiting.get(timeout=30)
    assert go.get(b'/node').result().kvs[0].value == b'mine'
