"""Queues of keys ordered by creation, on every backend: the parts of the backend's contract on which recipes stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

import getc
from getc.backends.base import AcquiringWrite, Backend, KeepListener, KeptNode, WatchListener
from getc.errors import EtcException, NodeLost
from getc.operations import Contenders, Get, Predecessor, Put, WatchSpec
from getc.results import Deleted, Directory, EtcdResult, PredecessorResult
from getc.testing import wait_until
from getc.timing import Deadline
from tests.contract.conftest import BackendUnderTest


class Listener(KeepListener):
    has_liveness_check = False
    unanswered: Collection[AcquiringWrite] = ()

    def __init__(self) -> None:
        self.lost: list[NodeLost] = []

    def on_writing(self, write: AcquiringWrite) -> None:
        self.unanswered = (write,)

    def check_liveness(self) -> bool:
        return True

    def on_renewed(self) -> None:
        pass

    def on_renewal_missed(self, error: EtcException) -> None:
        pass

    def on_lost(self, error: NodeLost) -> None:
        self.lost.append(error)


class Events(WatchListener):
    def __init__(self) -> None:
        self.results: list[EtcdResult] = []
        self.is_live = False

    def on_live(self, index: int) -> None:
        self.is_live = True

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        self.results += results

    def on_caught_up(self) -> None:
        pass

    def on_ended(self, error: EtcException) -> None:
        raise AssertionError(f'the watch has ended: {error}')


def deadline() -> Deadline:
    return Deadline(10)


def backend_of(client: getc.Client) -> Backend:
    return client._backend.detect_api(deadline())


def contend(client: getc.Client, key: str, value: str = 'x', *, scope: str = '', limit: int = 1) -> KeptNode:
    return contend_with(client, Listener(), key, value, scope=scope, limit=limit)[0]


def contend_with(
    client: getc.Client, listener: Listener, key: str, value: str = 'x', *, scope: str = '', limit: int = 1
) -> tuple[KeptNode, PredecessorResult]:
    backend = backend_of(client)
    query = Predecessor(key, 0, scope, limit)
    node, found = backend.keep_group(10).contend(Put(key, value, prev_exist=False), listener, query, deadline())
    if found is None:
        found = backend.execute(Predecessor(key, node.token, scope, limit), deadline())
    return node, found


def predecessor(client: getc.Client, key: str, token: int, *, scope: str = '', limit: int = 1) -> PredecessorResult:
    return backend_of(client).execute(Predecessor(key, token, scope, limit), deadline())


def test_contend_creates_the_key_whose_creation_is_the_token(client: getc.Client, other: getc.Client) -> None:
    node, found = contend_with(client, Listener(), '/q/1', 'owner')
    stored = other.get('/q/1')
    assert (stored.value, stored.created_index) == ('owner', node.token)
    assert stored.ttl is not None and found.index >= node.token
    assert (found.earlier, found.nearest, found.first) == ((), None, None)


def test_contend_finds_the_keys_that_were_created_before(client: getc.Client, other: getc.Client) -> None:
    first = contend(other, '/q/z', 'the first')
    second = contend(client, '/q/y')
    third, found = contend_with(client, Listener(), '/q/x', limit=2)
    assert [node.key for node in found.earlier] == ['/q/y', '/q/z']
    assert [node.created_index for node in found.earlier] == [second.token, first.token]
    assert found.nearest is not None and found.nearest.key == '/q/y'
    assert found.first is not None and (found.first.key, found.first.value) == ('/q/z', 'the first')
    assert not found.is_first_permanent and third.token > second.token


def test_predecessor_ignores_later_keys_and_returns_as_many_as_requested(client: getc.Client) -> None:
    tokens = [contend(client, f'/q/{name}').token for name in ('c', 'a', 'd', 'b')]
    found = predecessor(client, '/q/d', tokens[2])
    assert [node.key for node in found.earlier] == ['/q/a']
    assert found.first is not None and found.first.key == '/q/c'
    assert len(predecessor(client, '/q/b', tokens[3], limit=3).earlier) == 3
    assert predecessor(client, '/q/c', tokens[0]).nearest is None


def test_predecessor_tells_that_the_first_key_has_no_ttl(client: getc.Client, other: getc.Client) -> None:
    other.set('/q/forever', 'x')
    _, found = contend_with(client, Listener(), '/q/1')
    assert found.first is not None and found.first.key == '/q/forever' and found.is_first_permanent


def test_predecessor_counts_nested_keys(client: getc.Client, other: getc.Client) -> None:
    other.set('/q/sub/deep', 'x')
    _, found = contend_with(client, Listener(), '/q/1')
    assert found.nearest is not None and found.nearest.key == '/q/sub/deep'


def test_predecessor_looks_only_at_its_scope(client: getc.Client) -> None:
    contend(client, '/q/read/1', scope='/q/write')
    writer, before_writer = contend_with(client, Listener(), '/q/write/1', scope='/q')
    reader, before_reader = contend_with(client, Listener(), '/q/read/2', scope='/q/write')
    assert before_writer.nearest is not None and before_writer.nearest.key == '/q/read/1'
    assert before_reader.nearest is not None and before_reader.nearest.key == '/q/write/1'
    writer.release(deadline())
    assert predecessor(client, '/q/read/2', reader.token, scope='/q/write').nearest is None


def test_predecessor_raises_node_lost_when_the_own_key_is_gone(client: getc.Client, other: getc.Client) -> None:
    token = contend(client, '/q/1').token
    other.delete('/q/1')
    with pytest.raises(NodeLost, match=r'^/q/1 was deleted, or has expired$') as caught:
        predecessor(client, '/q/1', token)
    assert caught.value.key == '/q/1'


def test_predecessor_raises_node_lost_when_the_own_key_was_created_again(
    client: getc.Client, other: getc.Client
) -> None:
    token = contend(client, '/q/1').token
    other.delete('/q/1')
    other.set('/q/1', 'x')
    with pytest.raises(NodeLost):
        predecessor(client, '/q/1', token)


def test_contend_keeps_a_key_that_a_call_without_an_answer_has_created(client: getc.Client) -> None:
    listener = Listener()
    node, _ = contend_with(client, listener, '/q/1')
    node.abandon()
    again, found = contend_with(client, listener, '/q/1')
    assert again.token == node.token and found.nearest is None


def test_contend_raises_not_dir_when_the_queue_is_a_value(client: getc.Client) -> None:
    client.set('/q', 'a value')
    with pytest.raises(getc.NotDir):
        contend(client, '/q/1')


def test_release_of_a_contender_deletes_its_key(client: getc.Client, other: getc.Client) -> None:
    node = contend(client, '/q/1')
    node.release(deadline())
    with pytest.raises(getc.KeyNotFound):
        other.get('/q/1')
    node.release(deadline())  # again: nothing is left to delete


def test_release_of_a_contender_leaves_a_later_key_of_the_same_name(client: getc.Client, other: getc.Client) -> None:
    node = contend(client, '/q/1')
    other.delete('/q/1')
    other.set('/q/1', 'another')
    node.release(deadline())
    assert other.get('/q/1').value == 'another'


def test_contender_is_lost_soon_when_it_is_watched_and_deleted(
    backend_under_test: BackendUnderTest, client: getc.Client, other: getc.Client
) -> None:
    listener = Listener()
    node, _ = contend_with(client, listener, '/q/1')
    node.watch()
    other.delete('/q/1')
    wait_until(lambda: listener.lost)
    assert '/q/1 was deleted' in str(listener.lost[0])


def test_contenders_are_read_in_the_order_of_creation(client: getc.Client, other: getc.Client) -> None:
    for name in ('b', 'c', 'a'):
        contend(client, f'/q/{name}', name)
    found = backend_of(other).execute(Contenders('/q'), deadline())
    assert [(value.key, value.value) for value in found.values] == [('/q/b', 'b'), ('/q/c', 'c'), ('/q/a', 'a')]
    assert found.index >= found.values[-1].created_index


def test_contenders_of_a_missing_queue_are_none(client: getc.Client) -> None:
    assert backend_of(client).execute(Contenders('/q'), deadline()).values == ()


def test_hidden_keys_count_where_the_api_shows_them(client: getc.Client, other: getc.Client) -> None:
    other.set('/q/_hidden', 'x')
    contend(client, '/q/1')
    keys = [value.key for value in backend_of(client).execute(Contenders('/q'), deadline()).values]
    assert keys == (['/q/1'] if client.api == 'v2' else ['/q/_hidden', '/q/1'])


def test_get_shows_hidden_nodes_on_request(client: getc.Client) -> None:
    client.set('/q/_hidden/1', 'x')
    client.set('/q/shown', 'y')
    found = backend_of(client).execute(Get('/q', recursive=True, hidden=True), deadline()).node
    assert isinstance(found, Directory)
    values = sorted(value.value for value in found.leaves())
    assert values == (['y'] if client.api == 'v2' else ['x', 'y'])


def test_watch_reports_hidden_nodes_on_request(client: getc.Client, other: getc.Client) -> None:
    backend = backend_of(client)
    plain, hidden = Events(), Events()
    watches = [backend.watch(WatchSpec('/q', recursive=True), plain)]
    watches.append(backend.watch(WatchSpec('/q', recursive=True, hidden=True), hidden))
    wait_until(lambda: plain.is_live and hidden.is_live)
    other.set('/q/_hidden', 'x')
    other.set('/q/shown', 'y')
    wait_until(lambda: plain.results and hidden.results[-1:] and hidden.results[-1].key == '/q/shown')
    assert [result.key for result in plain.results] == ['/q/shown']
    if client.api != 'v2':
        assert [result.key for result in hidden.results] == ['/q/_hidden', '/q/shown']
    for watch in watches:
        watch.close()


def put_raw(client: getc.Client, key: str) -> None:
    client.v3.kv.put(key.encode(), b'x')


def delete_raw(client: getc.Client, key: str) -> None:
    client.v3.kv.delete_range(key.encode())


@pytest.mark.parametrize('name', ['/q/', '/q/_hidden', '/q//', '/q//x', '/q/../x', '/q/sub/', '/q/sub/x', '/q/a\0b'])
def test_every_key_of_another_program_counts_and_is_watched(
    backend_under_test: BackendUnderTest, client: getc.Client, name: str
) -> None:
    if backend_under_test.name != 'v3':
        pytest.skip('only etcd v3 has keys that are no paths')
    put_raw(client, name)
    node, found = contend_with(client, Listener(), '/q/1')
    assert found.nearest is not None and found.nearest.key == name
    assert found.first is not None and found.first.key == name and found.is_first_permanent
    events = Events()
    spec = WatchSpec(found.nearest.key, found.index + 1, is_exact=True)
    watch = backend_of(client).watch(spec, events)
    delete_raw(client, name)
    wait_until(lambda: events.results)
    assert isinstance(events.results[0], Deleted) and events.results[0].key == name
    assert predecessor(client, '/q/1', node.token).nearest is None
    watch.close()


def test_contender_of_v3_is_deleted_although_another_program_has_overwritten_it(
    backend_under_test: BackendUnderTest, client: getc.Client, other: getc.Client
) -> None:
    if backend_under_test.name != 'v3':
        pytest.skip('a v2 store gives an overwritten node another created_index')
    listener = Listener()
    node, _ = contend_with(client, listener, '/q/1')
    node.watch()
    other.set('/q/1', 'overwritten')
    wait_until(lambda: listener.lost)
    assert isinstance(listener.lost[0], getc.Overtaken)
    node.release(deadline())
    with pytest.raises(getc.KeyNotFound):
        other.get('/q/1')


def test_update_of_a_contender_keeps_its_place_and_token(client: getc.Client, other: getc.Client) -> None:
    """An election proclaims in this way."""
    first = contend(other, '/q/a', 'first')
    node = contend(client, '/q/b', 'old')
    assert node.update('new', deadline()).created_index == node.token
    node.update('newest', deadline())
    assert other.get('/q/b').value == 'newest'
    found = predecessor(client, '/q/b', node.token)
    assert found.nearest is not None and found.nearest.created_index == first.token
    assert node.guard.created_index == node.token
    node.release(deadline())
    with pytest.raises(getc.KeyNotFound):
        other.get('/q/b')
