"""Tests of many daemons on a fake etcd v3, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import gevent
import pytest

import getc
from getc import Keeper, KeeperState, WatcherState
from getc.errors import ConnectionError, NodeExist, NodeLost, Overtaken
from getc.testing import VirtualTime
from tests.support.fake_etcd import FakeEtcd
from tests.support.fake_faults import Fault, delay, drop, hang, late, lose_reply
from tests.support.faulty import stall
from tests.support.leftovers import check_greenlets, greenlets_of_getc
from tests.support.memory_probe import printed_by

TTL = 10


@pytest.fixture
def server(etcd_clock: VirtualTime) -> FakeEtcd:
    return FakeEtcd()


@pytest.fixture
def client(request: pytest.FixtureRequest, server: FakeEtcd, etcd_clock: VirtualTime) -> Iterator[getc.Client]:
    """Yield a client, and check that it leaves no greenlet after its close."""
    with server.open() as client:
        yield client
    etcd_clock.advance(0)
    check_greenlets(request)


@pytest.fixture
def other(server: FakeEtcd) -> Iterator[getc.Client]:
    with server.open() as client:
        yield client


class Recorder:
    """Callbacks of keepers that record their calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def keep(self, client: getc.Client, key: str = '/a', value: str = 'x', **options: object) -> Keeper:
        return client.keep_node(  # type: ignore[no-any-return,call-overload]
            key, value, ttl=TTL, on_lost=self._on_lost, on_restored=self._on_restored, **options
        )

    def _on_lost(self, keeper: Keeper) -> None:
        with pytest.raises(NodeLost):
            keeper.ensure()
        self.calls.append(f'lost {keeper.key}: {type(keeper.last_error).__name__}')

    def _on_restored(self, keeper: Keeper) -> None:
        assert keeper.ensure()
        self.calls.append(f'restored {keeper.key}')


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


# -- keepers


def test_idle_keepers_have_no_greenlets_and_no_timers_of_their_own(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime
) -> None:
    """A thousand keepers share those of their lease and its stream."""
    client.keep_node('/first', ttl=TTL)
    etcd_clock.advance(TTL)
    before, timers = len(greenlets_of_getc()), len(_timers(etcd_clock))
    for number in range(500):
        client.keep_node(f'/{number}', ttl=TTL)
    etcd_clock.advance(TTL)
    assert len(greenlets_of_getc()) == before
    assert len(_timers(etcd_clock)) == timers
    server.calls.clear()
    etcd_clock.advance(10 * TTL)
    assert len(server.calls) == 60  # two per renewal


def _timers(clock: VirtualTime) -> list[object]:
    return [entry for entry in clock._running_loop()._heap if entry[3] is not None]


MEMORY_EACH = """
    import gc
    import sys
    import tracemalloc

    from getc.testing import VirtualTime
    from tests.support.fake_etcd import FakeEtcd

    with VirtualTime() as clock, FakeEtcd().open() as client:
        def begin(key):
            client.keep_node(key, '10.0.0.7:7000') if sys.argv[1] == 'keepers' else client.on_change(key, print)

        begin('/first')
        clock.advance(1)
        tracemalloc.start()
        for number in range(300):
            begin(f'/servers/{number}')
        clock.advance(1)
        gc.collect()
        ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, '*/getc/*')])
        print(sum(trace.size for trace in ours.traces) / 300)
"""


@pytest.mark.parametrize('what', ['keepers', 'watchers'])
def test_daemon_uses_four_kilobytes_at_most(what: str) -> None:
    """As Python counts; each watcher has a range of its own."""
    assert 100 < printed_by(MEMORY_EACH, what) < 4096


def test_alive_that_returns_false_removes_one_node_of_a_lease_and_true_restores_it(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime, recorder: Recorder
) -> None:
    is_alive = [True]
    for number in range(10):
        recorder.keep(client, f'/healthy/{number}', alive=lambda: True)
    keeper = recorder.keep(client, '/unhealthy', alive=lambda: is_alive[0])
    is_alive[0] = False
    etcd_clock.advance(TTL / 3 + 0.1)
    assert b'/unhealthy' not in server.keys
    assert keeper.state is KeeperState.LOST
    is_alive[0] = True
    etcd_clock.advance(TTL)
    assert keeper.state is KeeperState.KEPT
    assert recorder.calls == ['lost /unhealthy: NodeLost', 'restored /unhealthy']


def test_nodes_of_a_revoked_lease_are_written_again(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime, recorder: Recorder
) -> None:
    """With new tokens."""
    keepers = [recorder.keep(client, f'/{number}') for number in range(20)]
    tokens = [keeper.ensure() for keeper in keepers]
    server.revoke(server.keys[b'/0'].lease)
    etcd_clock.advance(TTL)
    assert all(keeper.ensure() > token for keeper, token in zip(keepers, tokens, strict=True))
    assert len(server.keys) == 20
    assert sorted(recorder.calls[:20]) == sorted(f'lost /{number}: NodeLost' for number in range(20))
    assert len(recorder.calls) == 40


def test_nodes_are_written_again_after_a_wipe(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime, recorder: Recorder
) -> None:
    keepers = [recorder.keep(client, f'/{number}') for number in range(5)]
    server.wipe()
    etcd_clock.advance(TTL)
    assert {keeper.state for keeper in keepers} == {KeeperState.KEPT}
    assert len(server.keys) == 5


def test_keep_node_succeeds_just_after_its_lease_was_revoked(
    client: getc.Client, server: FakeEtcd, recorder: Recorder
) -> None:
    """The other keepers of the lease are notified."""
    first = recorder.keep(client, '/a')
    server.revoke(server.keys[b'/a'].lease)
    second = recorder.keep(client, '/b')
    assert second.ensure()
    assert first.state is KeeperState.LOST


def test_node_has_one_owner_although_every_reply_is_lost(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime, recorder: Recorder
) -> None:
    """The node is ours by its lease."""
    server.next('Txn', lose_reply, lose_reply)
    keeper = recorder.keep(client)
    assert server.keys[b'/a'].version == 1
    server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        keeper.update('y')
    assert server.keys[b'/a'].value == b'y'
    etcd_clock.advance(3 * TTL)
    assert (keeper.ensure(), recorder.calls) == (2, [])
    server.next('Txn', lose_reply)
    keeper.stop()
    assert server.keys == {}


@pytest.mark.parametrize('fault', [drop, lose_reply, hang, late(2)])
@pytest.mark.parametrize('on_conflict', ['raise', 'wait'])
def test_unanswered_write_of_the_same_value_does_not_take_another_owners_node(
    client: getc.Client,
    other: getc.Client,
    server: FakeEtcd,
    etcd_clock: VirtualTime,
    fault: Fault,
    on_conflict: Literal['raise', 'wait'],
) -> None:
    """Ownership is proven by the lease, not by the value."""
    owner = client.keep_node('/a', 'x', ttl=TTL)
    token = owner.ensure()
    server.next('Txn', fault)
    contender = other.keep_node('/a', 'x', ttl=TTL, on_conflict=on_conflict, wait=False)
    etcd_clock.advance(3 * TTL)
    assert (owner.ensure(), server.keys[b'/a'].version) == (token, 1)
    assert contender.state is (KeeperState.STOPPED if on_conflict == 'raise' else KeeperState.STARTING)
    assert isinstance(contender.last_error, NodeExist)
    contender.stop()
    owner.stop()


@pytest.mark.parametrize('fault', [drop, lose_reply, hang, late(2)])
@pytest.mark.parametrize('on_conflict', ['raise', 'wait', 'replace'])
def test_kill_after_an_unanswered_write_of_the_same_value_does_not_delete_another_owners_node(
    client: getc.Client,
    other: getc.Client,
    server: FakeEtcd,
    etcd_clock: VirtualTime,
    fault: Fault,
    on_conflict: Literal['raise', 'wait', 'replace'],
) -> None:
    owner = client.keep_node('/a', 'x', ttl=TTL)
    token = owner.ensure()
    server.next('Txn', fault)
    caller = gevent.spawn(other.keep_node, '/a', 'x', ttl=TTL, on_conflict=on_conflict)
    etcd_clock.advance(0)
    caller.kill()
    etcd_clock.advance(3 * TTL)
    assert (owner.ensure(), server.keys[b'/a'].version) == (token, 1)


@pytest.mark.parametrize('fault', [lose_reply, delay(3)])
def test_kill_before_the_reply_to_the_write_leaves_no_node(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime, fault: Fault
) -> None:
    """The node is ours by its lease, which other nodes keep alive."""
    client.keep_node('/kept', ttl=TTL)
    server.next('Txn', fault)
    caller = gevent.spawn(client.keep_node, '/a', 'x', ttl=TTL)
    etcd_clock.advance(0)
    assert b'/a' in server.keys
    caller.kill()
    etcd_clock.advance(TTL / 3 - 0.5)
    assert list(server.keys) == [b'/kept']


def test_stop_deletes_a_node_after_an_unanswered_reclaim(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime, recorder: Recorder
) -> None:
    """It is attached to another lease of ours than before."""
    keeper = recorder.keep(client)
    before = server.keys[b'/a'].lease
    server.go_down()
    etcd_clock.advance(TTL - 0.9)
    server.recover()
    server.fault = lambda do, deadline, is_write: (lose_reply if is_write else _do)(do, deadline, is_write)
    etcd_clock.advance(0.5)
    assert keeper.state is KeeperState.LOST
    assert server.keys[b'/a'].lease != before
    server.fault = None
    keeper.stop()
    assert server.keys == {}


def _do(do: Callable[[], object], *_: object) -> object:
    return do()


def test_keep_node_that_times_out_before_its_write_does_not_have_maybe_applied(
    client: getc.Client, server: FakeEtcd
) -> None:
    """There was no lease yet."""
    server.go_down()
    server.next('LeaseGrant', hang)
    for timeout in (0.5, 5):
        with pytest.raises(getc.TimedOut) as caught:
            client.keep_node('/a', 'x', ttl=TTL, timeout=timeout)
        assert not caught.value.maybe_applied
    server.recover()


def test_write_that_is_applied_after_the_stop_is_deleted(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime
) -> None:
    """The keeper was given up before it had its node, while other nodes keep the lease alive."""
    client.keep_node('/kept', ttl=TTL)
    server.next('Txn', late(3))
    with gevent.Timeout(1, False):
        client.keep_node('/late', ttl=TTL)
    server.fault = None
    etcd_clock.advance(3 * TTL)
    assert list(server.keys) == [b'/kept']


def test_two_keepers_of_one_key_in_one_client_never_own_it_together(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime, recorder: Recorder
) -> None:
    """The second takes it over, as another process would."""
    first = recorder.keep(client, value='first')
    token = first.ensure()
    second = recorder.keep(client, value='second')
    assert second.ensure() > token
    etcd_clock.advance(TTL / 3 + 0.1)
    assert first.state is KeeperState.LOST
    assert isinstance(first.last_error, Overtaken)
    assert server.keys[b'/a'].value == b'second'
    second.stop()
    etcd_clock.advance(0.1)
    assert first.state is KeeperState.KEPT
    assert server.keys[b'/a'].value == b'first'


def test_stall_longer_than_the_ttl_is_detected_at_once_and_recovered_from(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime, recorder: Recorder
) -> None:
    keeper = recorder.keep(client)
    stall(etcd_clock, TTL + 1)
    assert keeper.remaining() == 0
    with pytest.raises(NodeLost):
        keeper.ensure()
    etcd_clock.advance(1)
    assert recorder.calls == ['lost /a: NodeLost', 'restored /a']


def test_nodes_are_lost_when_a_suspended_machine_resumes(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime, recorder: Recorder
) -> None:
    """Whether etcd has deleted them meanwhile or not."""
    taken, left = recorder.keep(client, '/taken'), recorder.keep(client, '/left')
    tokens = taken.ensure(), left.ensure()
    etcd_clock.suspend(TTL - 1)
    server.put('/taken', 'theirs')
    for keeper in (taken, left):
        assert (keeper.remaining(), keeper.state) == (0, KeeperState.LOST)
        with pytest.raises(NodeLost):
            keeper.ensure()
    etcd_clock.advance(TTL / 3 + 1)
    assert (taken.state, server.keys[b'/taken'].value) == (KeeperState.LOST, b'theirs')
    assert left.ensure() > tokens[1]
    assert sorted(recorder.calls) == ['lost /left: NodeLost', 'lost /taken: Overtaken', 'restored /left']


def test_close_deletes_all_nodes_and_revokes_no_lease(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime, other: getc.Client
) -> None:
    """Followers receive Deleted, not Expired."""
    seen: list[str] = []
    other.on_change('/', lambda result: seen.append(f'{type(result).__name__} {result.key}'))
    for number in range(30):
        client.keep_node(f'/{number}', ttl=TTL)
    client.close()
    assert server.keys == {}
    etcd_clock.advance(1)
    assert sorted(seen[30:]) == sorted(f'Deleted /{number}' for number in range(30))
    assert not server.times('LeaseRevoke')


# -- watchers


def test_no_watcher_loses_a_change_in_an_outage(client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime) -> None:
    """They resume where they stopped, and share a watch again."""
    delivered: list[list[str]] = [[] for _ in range(50)]
    server.put('/cfg/stays', 'x')
    watchers = [client.on_change('/cfg', _append_to(values)) for values in delivered]
    for number in range(5):
        server.put('/cfg/a', str(number))
    etcd_clock.advance(0)
    server.go_down()
    for number in range(5, 10):
        server.put('/cfg/a', str(number))
    etcd_clock.advance(5)
    assert {watcher.state for watcher in watchers} == {WatcherState.STALE}
    server.recover()
    etcd_clock.advance(5)
    for number in range(10, 15):
        server.put('/cfg/a', str(number))
    etcd_clock.advance(1)
    assert delivered == [[str(number) for number in range(15)]] * 50
    assert sum(len(getattr(stream, 'watches', ())) for stream in server.streams) == 1


def _append_to(values: list[str]) -> Callable[[getc.EtcdResult], None]:
    return lambda result: values.append(str(result.value))


def test_backlog_of_a_slow_callback_is_bounded(client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime) -> None:
    """The watcher leaves its shared watch, continues from its cursor, and delays no other watcher."""
    seen: dict[str, list[int]] = {'slow': [], 'quick': []}

    def slow(result: getc.EtcdResult) -> None:
        gevent.sleep(0.01)
        seen['slow'].append(int(result.value or 0))

    server.put('/cfg/stays', 'x')
    watcher = client.on_change('/cfg', slow)
    client.on_change('/cfg', lambda result: seen['quick'].append(int(result.value or 0)))
    longest = 0
    for number in range(1, 5001):
        server.put('/cfg/a', str(number))
        if number % 100 == 0:
            etcd_clock.advance(0)
            longest = max(longest, len(watcher._daemon.callbacks))
    assert len(seen['quick']) == 5000
    assert longest <= 1100
    assert watcher.state is WatcherState.STALE
    etcd_clock.advance(100)
    assert seen['slow'] == seen['quick'] == list(range(1, 5001))
    assert watcher.state is WatcherState.LIVE


def test_compacted_history_is_delivered_as_one_difference(
    client: getc.Client, server: FakeEtcd, etcd_clock: VirtualTime
) -> None:
    seen: list[str] = []
    server.put_all({'/cfg/gone': '1', '/cfg/stays': '1'})
    client.on_change(
        '/cfg',
        lambda result: seen.append(f'{type(result).__name__} {result.key} {result.resync}'),
        on_resync=lambda _: seen.append('resync'),
    )
    server.go_down()
    server.delete('/cfg/gone')
    server.put('/cfg/new', '1')
    server.compact()
    server.put('/elsewhere', '1')
    server.recover()
    etcd_clock.advance(5)
    assert seen == ['Deleted /cfg/gone True', 'Set /cfg/new True', 'resync']
