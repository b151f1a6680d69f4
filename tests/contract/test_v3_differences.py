"""Behaviour of etcd v3 that differs from v2.

``docs/differences.rst`` has a line for each, with the test of v2, which is marked ``v3_differs``, and the test here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import getc
from getc.testing import EtcdServer, wait_until
from tests.support.server_probe import metric

CHANGE_TIMEOUT = 30.0
RENEWALS = 'etcd_debugging_lease_renewed_total'


@pytest.fixture
def client(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    """A client of an empty store on v3."""
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


def changes(client: getc.Client, key: str, index: int, count: int) -> list[getc.EtcdResult]:
    """Return a number of changes at and below a key, from an index on."""
    with gevent.Timeout(CHANGE_TIMEOUT), client.changes(key, index=index) as following:
        return [next(following) for _ in range(count)]


# -- nodes and indices


def test_set_keeps_the_created_index(client: getc.Client) -> None:
    """A put keeps the ``created_index`` of the first write since the key was absent."""
    first, second = client.set('/a', '1'), client.set('/a', '2')
    assert second.created_index == first.created_index == first.modified_index
    assert second.modified_index == second.etcd_index == first.modified_index + 1
    assert (second.prev_node, second.is_new) == (first.node, False)
    client.delete('/a')
    assert client.set('/a', '3').created_index > second.modified_index


def test_implicit_directory_has_no_indices(client: getc.Client) -> None:
    """It has no key in etcd."""
    client.set('/a/b/c', '1')
    for key in ('/a', '/a/b'):
        directory = client.get(key)
        assert (directory.created_index, directory.modified_index) == (0, 0)


def test_explicit_directory_has_indices(client: getc.Client) -> None:
    """Those of its marker key, whatever is written below it."""
    made = client.set('/d', dir=True)
    client.set('/d/a', '1')
    directory = client.get('/d')
    assert directory.created_index == directory.modified_index == made.modified_index


def test_implicit_directory_is_deleted_with_its_last_node(client: getc.Client) -> None:
    """An explicit one remains."""
    client.set('/d/a', '1')
    client.delete('/d/a')
    with pytest.raises(getc.KeyNotFound):
        client.get('/d')
    client.set('/e', dir=True)
    client.set('/e/a', '1')
    client.delete('/e/a')
    assert client.get('/e').nodes == ()


def test_raft_index_is_none(client: getc.Client) -> None:
    """v3 returns the revision of the store and the term only."""
    result = client.set('/a', '1')
    assert result.raft_index == 0
    assert result.raft_term > 0


def test_ttl_is_shown_by_get_of_one_node_and_not_in_listings(client: getc.Client) -> None:
    """The TTL belongs to the lease, which would have to be read for each node."""
    client.set('/d/a', '1', ttl=60)
    assert client.get('/d/a').ttl in (59, 60)
    (listed,) = client.get('/d').nodes
    assert (listed.ttl, listed.expiration) == (None, None)
    again = client.set('/d/a', '2', ttl=60)
    assert again.prev_node is not None and again.prev_node.ttl is None
    assert client.wait('/d/a', again.modified_index, timeout=CHANGE_TIMEOUT).ttl is None


def test_expiration_is_computed_from_whole_seconds(client: getc.Client) -> None:
    """By the clock of this machine, so it may vary between reads, by at most a second."""
    written = client.set('/a', '1', ttl=50).expiration
    read = client.get('/a').expiration
    assert written is not None and read is not None
    assert abs((read - written).total_seconds()) < 5


# -- writes


def test_append_uses_the_next_revision_as_name(client: getc.Client, etcd_server: EtcdServer) -> None:
    """Another client may be faster, so it may be less than the node's index; names are in the order of creation."""
    with getc.etcd(etcd_server.url, api='v3') as other:
        seen = client.set('/other', 'x').etcd_index
        other.set('/other', 'y')
        first = client.append('/q', '1')
        assert first.key == f'/q/{seen + 1:020}'
        assert first.created_index == seen + 2
        assert client.append('/q', '2').key > first.key


def test_update_of_a_directory_changes_its_modified_index(client: getc.Client) -> None:
    """Its key is written again."""
    made = client.set('/d', dir=True, ttl=60)
    updated = client.update('/d', dir=True, ttl=100)
    assert client.get('/d').modified_index == updated.modified_index == made.modified_index + 1


def test_update_of_a_directory_with_an_empty_value_is_refused(client: getc.Client) -> None:
    """As with any other value."""
    client.set('/d', dir=True, ttl=60)
    with pytest.raises(getc.NotFile):
        client.update('/d', '')
    assert client.get('/d').ttl in (59, 60)


def test_refresh_of_a_directory_with_another_ttl_is_a_set_event_of_each_node(client: getc.Client) -> None:
    """The directory and the nodes that expire with it are moved to another lease; others are not."""
    client.set('/d', dir=True, ttl=60)
    client.set('/d/a', '1')
    client.set('/d/sub/b', '2')
    start = client.set('/d/own', '3', ttl=60).etcd_index
    refreshed = client.refresh('/d', ttl=100)
    received = changes(client, '/d', start + 1, 3)
    assert [(type(result), result.key, result.value) for result in received] == [
        (getc.Set, '/d', None),
        (getc.Set, '/d/a', '1'),
        (getc.Set, '/d/sub/b', '2'),
    ]
    assert {result.modified_index for result in received} == {refreshed.modified_index}
    assert {result.is_new for result in received} == {False}
    assert refreshed.etcd_index == start + 1


def test_node_with_a_ttl_of_its_own_outlives_its_directory(client: getc.Client) -> None:
    """So do a directory in the directory that has one, and the nodes in that."""
    client.set('/d', dir=True, ttl=2)
    client.set('/d/in', dir=True, ttl=60)
    client.set('/d/in/a', '1')
    last = client.set('/d/own', '1', ttl=60)
    assert type(client.wait('/d', last.etcd_index + 1, timeout=CHANGE_TIMEOUT)) is getc.Expired
    assert [node.key for node in client.get('/d').nodes] == ['/d/in', '/d/own']
    assert client.get('/d/in').values == ('1',)
    assert client.get('/d').ttl is None


def test_expired_directory_is_one_event_for_each_node(client: getc.Client) -> None:
    """The directory first, then the nodes in the order of the keys, all at one index."""
    client.set('/d', dir=True, ttl=2)
    client.set('/d/b', '1')
    client.set('/d/a/x', '2')
    start = client.set('/d/e', dir=True).etcd_index
    received = changes(client, '/d', start + 1, 4)
    assert [(type(result), type(result.node), result.key) for result in received] == [
        (getc.Expired, getc.Directory, '/d'),
        (getc.Expired, getc.Node, '/d/a/x'),
        (getc.Expired, getc.Node, '/d/b'),
        (getc.Expired, getc.Directory, '/d/e'),
    ]
    assert {result.modified_index for result in received} == {start + 1}


def test_kept_node_outlives_its_directory(client: getc.Client) -> None:
    """It has a lease of its own."""
    client.set('/d', dir=True, ttl=2)
    last = client.set('/d/a', '1')
    keeper = client.keep_node('/d/kept', 'mine', ttl=60)
    token = keeper.ensure()
    assert type(client.wait('/d/a', last.etcd_index + 1, timeout=CHANGE_TIMEOUT)) is getc.Expired
    assert (keeper.ensure(), client.get('/d').values) == (token, ('mine',))


def test_refresh_with_the_same_ttl_changes_no_index(client: getc.Client) -> None:
    """The lease is kept alive, without a write."""
    first = client.set('/a', '1', ttl=60)
    result = client.refresh('/a', ttl=60)
    assert type(result) is getc.Updated
    assert (result.value, result.ttl) == ('1', 60)
    assert result.modified_index == result.etcd_index == first.modified_index
    assert client.refresh('/a', ttl=60, prev_index=first.modified_index).modified_index == first.modified_index
    last = client.set('/a', '2')
    assert client.wait('/a', first.modified_index + 1, timeout=CHANGE_TIMEOUT).modified_index == last.modified_index


def test_refresh_with_another_ttl_is_a_set_event(client: getc.Client) -> None:
    """The node is moved to another lease."""
    first = client.set('/a', '1', ttl=60)
    result = client.refresh('/a', ttl=100)
    assert (result.value, result.ttl, result.created_index) == ('1', 100, first.created_index)
    assert result.modified_index == first.modified_index + 1
    seen = client.wait('/a', first.modified_index + 1, timeout=CHANGE_TIMEOUT)
    assert (type(seen), seen.value, seen.is_new) == (getc.Set, '1', False)


@pytest.mark.parametrize('conditions', [{'prev_value': '1'}, {'prev_index': 0}])
def test_refresh_with_a_condition_is_compared_then_swapped(client: getc.Client, conditions: Any) -> None:
    """Although it is derived from a read without a write."""
    made = client.set('/a', '1', ttl=60)
    if 'prev_index' in conditions:
        conditions = {'prev_index': made.modified_index}
    result = client.refresh('/a', ttl=60, **conditions)
    assert type(result) is getc.ComparedThenSwapped
    assert (result.value, result.modified_index) == ('1', made.modified_index)


def test_ttl_may_be_as_long_as_a_lease_and_no_longer(client: getc.Client) -> None:
    """Some 285 years."""
    assert client.set('/a', '1', ttl=9_000_000_000).ttl == 9_000_000_000
    with pytest.raises(ValueError, match='at most'):
        client.set('/a', '1', ttl=9_000_000_001)


def test_ttl_has_a_minimum_which_is_reported(client: getc.Client) -> None:
    """One and a half times the election timeout of the server."""
    assert client.set('/a', '1', ttl=1).ttl == 2


def test_key_has_126_segments_at_most(client: getc.Client) -> None:
    """A transaction cannot check more."""
    assert client.set('/s' * 126, '1').is_new
    with pytest.raises(getc.NotSupported, match='126 segments at most'):
        client.set('/s' * 127, '1')


@pytest.mark.parametrize('text', ['\udcff', 'a\udc80b'])
def test_bytes_that_are_not_utf8_are_kept(client: getc.Client, text: str) -> None:
    """In values and in keys, with surrogate escapes."""
    client.set('/a', text)
    assert client.get('/a').value == text
    assert client.delete('/a', prev_value=text).prev_node is not None
    client.set(f'/{text}', '1')
    assert client.get('/').nodes[0].key == f'/{text}'
    assert client.append(f'/d/{text}', text).value == text


# -- reads and errors


def test_key_not_found_names_the_requested_key(client: getc.Client) -> None:
    """Not the outermost missing directory."""
    client.set('/a/b', '1')
    with pytest.raises(getc.KeyNotFound) as caught:
        client.get('/a/x/y/z')
    assert caught.value.cause == '/a/x/y/z'


@pytest.mark.parametrize('conditions', [{'prev_index': 1}, {'prev_value': '1'}])
def test_root_is_read_only_in_every_delete(client: getc.Client, conditions: Any) -> None:
    """With and without a condition; the server is not asked."""
    with pytest.raises(getc.RootROnly) as caught:
        client.delete('/', recursive=True, **conditions)
    assert caught.value.index is None


def test_read_is_linearizable_by_default(client: getc.Client) -> None:
    """A read returns the latest write, via any server."""
    serializable: list[bool] = []
    rpc: Any = client.v3._rpc
    call = rpc.call

    def listen(method: Any, request: Any, *args: Any, **options: Any) -> Any:
        packed = request if isinstance(request, bytes) else request.SerializeToString()
        serializable.append(method.request.FromString(packed).serializable)
        return call(method, request, *args, **options)

    client.set('/a', '1')
    rpc.call = listen
    for quorum in (None, True, False):
        client.get('/a', quorum=quorum)
    assert serializable == [False, False, True]


# -- events


def test_every_write_is_a_set_event(client: getc.Client) -> None:
    """v3 events do not have the operation; ``is_new`` says whether the key existed."""
    start = client.set('/d/a', '1').etcd_index
    client.update('/d/a', '2')
    client.set('/d/a', '3', prev_value='2')
    client.delete('/d/a', prev_value='3')
    client.create('/d/a', '4')
    client.append('/d', '5')
    client.set('/d/e', dir=True)
    received = changes(client, '/d', start + 1, 6)
    assert [type(result) for result in received] == [getc.Set, getc.Set, getc.Deleted, getc.Set, getc.Set, getc.Set]
    assert [result.is_new for result in received] == [False, False, False, True, True, True]


def test_append_is_a_set_event(client: getc.Client) -> None:
    """Of a new node."""
    start = client.set('/q', dir=True).etcd_index
    made = client.append('/q', '1')
    seen = client.wait('/q', start + 1, recursive=True, timeout=CHANGE_TIMEOUT)
    assert (type(seen), seen.node, seen.is_new) == (getc.Set, made.node, True)


def test_deleted_directory_is_one_event_for_each_node(client: getc.Client) -> None:
    """In the order of the keys, all at one index; the directory itself only if it is explicit."""
    start = client.set('/d/b', '1').etcd_index
    client.set('/d/a/x', '2')
    client.set('/d/e', dir=True)
    gone = client.delete('/d', recursive=True)
    received = changes(client, '/d', start + 3, 3)
    assert [(type(result), result.key) for result in received] == [
        (getc.Deleted, '/d/a/x'),
        (getc.Deleted, '/d/b'),
        (getc.Deleted, '/d/e'),
    ]
    assert {result.modified_index for result in received} == {gone.modified_index}


@pytest.mark.parametrize('recursive', [True, False])
def test_wait_returns_its_own_key_when_a_directory_above_is_deleted(
    client: getc.Client, spawn: Callable[..., Any], recursive: bool
) -> None:
    """v2 returns the key of the directory."""
    start = client.set('/d/sub/a', '1').etcd_index
    waiting = spawn(client.wait, '/d/sub/a', start + 1, recursive=recursive)
    gevent.sleep(0)
    gone = client.delete('/d', recursive=True)
    seen = waiting.get(timeout=CHANGE_TIMEOUT)
    assert type(seen) is getc.Deleted
    assert (seen.key, seen.modified_index) == ('/d/sub/a', gone.modified_index)


def test_wait_in_a_namespace_returns_its_own_key_when_that_is_deleted(
    client: getc.Client, etcd_server: EtcdServer, spawn: Callable[..., Any]
) -> None:
    """Relative to the namespace."""
    with getc.etcd(etcd_server.url, api='v3', namespace='/ns') as namespaced:
        start = namespaced.set('/d/a', '1').etcd_index
        waiting = spawn(namespaced.wait, '/d/a', start + 1)
        gevent.sleep(0)
        client.delete('/ns', recursive=True)
        seen = waiting.get(timeout=CHANGE_TIMEOUT)
        assert (type(seen), seen.key) == (getc.Deleted, '/d/a')


def test_replacing_a_value_by_a_directory_is_two_events(client: getc.Client) -> None:
    """The value is deleted and the directory is set: two keys, one index."""
    start = client.set('/a', '1').etcd_index
    made = client.set('/a', dir=True)
    assert isinstance(made.prev_node, getc.Value)
    gone, received = changes(client, '/a', start + 1, 2)
    assert (type(gone), type(gone.node), gone.key) == (getc.Deleted, getc.Node, '/a')
    assert (type(received), received.node) == (getc.Set, made.node)
    assert gone.modified_index == received.modified_index == made.modified_index


def test_expired_and_deleted_are_distinguished_by_the_lease(client: getc.Client) -> None:
    """v3 sends DELETE for both.  A node that is deleted while its lease exists was deleted."""
    start = client.set('/a', '1', ttl=60).etcd_index
    client.delete('/a')
    client.set('/b', '1', ttl=1)
    assert type(client.wait('/a', start + 1, timeout=CHANGE_TIMEOUT)) is getc.Deleted
    seen = client.wait('/b', start + 3, timeout=CHANGE_TIMEOUT)
    assert type(seen) is getc.Expired
    assert seen.prev_node is not None and seen.prev_node.value == '1'  # type: ignore[attr-defined]


def test_history_is_complete_until_it_is_compacted(client: getc.Client) -> None:
    """Not limited to 1000 changes; the error has the index of the store, from which watching can continue."""
    start = client.set('/a', 'first').etcd_index
    for number in range(1001):
        last = client.set('/busy', str(number))
    assert client.wait('/a', start, timeout=CHANGE_TIMEOUT).value == 'first'
    client.v3.kv.compact(last.modified_index)
    with pytest.raises(getc.EventIndexCleared) as caught:
        client.wait('/a', start, timeout=CHANGE_TIMEOUT)
    assert caught.value.errno == 401
    assert client.wait('/busy', last.modified_index, timeout=CHANGE_TIMEOUT).modified_index == last.modified_index


def test_renewals_change_no_index(client: getc.Client, etcd_server: EtcdServer) -> None:
    """Seven or more renewals in twice the TTL, without a write."""
    keeper = client.keep_node('/servers/a', 'one', ttl=2)
    index = keeper.ensure()
    renewed = metric(etcd_server.url, RENEWALS)
    wait_until(lambda: metric(etcd_server.url, RENEWALS) >= renewed + 7)
    (kv,) = client.v3.kv.range(b'/servers/a').kvs
    assert (kv.version, kv.mod_revision, kv.value) == (1, index, b'one')
    assert client.get('/servers/a').etcd_index == index
    assert keeper.ensure() == index
