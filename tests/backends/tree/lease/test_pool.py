"""Keeping nodes alive by leases that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from getc import timing
from getc.backends.base import AcquiringWrite
from getc.backends.tree.lease import pool, shared_lease
from getc.backends.tree.lease.key_watches import KeyWatches
from getc.backends.tree.lease.pool import LeasePool
from getc.errors import (
    ConnectionError,
    ConnectionRefused,
    EtcException,
    NodeExist,
    NodeLost,
    Overtaken,
    PermissionDenied,
    ProtocolError,
    TimedOut,
)
from getc.operations import Predecessor, Put
from getc.results import PredecessorResult
from getc.testing import VirtualTime
from getc.timing import Deadline
from getc.transactions import Guard
from getc.v3.lease import Lease
from tests.support.fake_etcd import FakeEtcd
from tests.support.fake_faults import delay, drop, hang, late, lose_reply, slow
from tests.support.fake_rpc import FakeRpc
from tests.support.faulty import stall
from tests.support.leftovers import check_greenlets, greenlets_of_getc

TTL = 10


class Listener:
    """Records its callbacks."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.times: list[float] = []
        self.unanswered: tuple[AcquiringWrite, ...] = ()
        self.has_liveness_check = False
        self.answer: Callable[[], bool] = lambda: True

    def on_writing(self, write: AcquiringWrite) -> None:
        pass

    def check_liveness(self) -> bool:
        return self.answer()

    def on_renewed(self) -> None:
        self._record('renewed')

    def on_renewal_missed(self, error: EtcException) -> None:
        self._record('suspect')

    def on_lost(self, error: NodeLost) -> None:
        self._record(f'lost: {type(error).__name__}')

    def _record(self, what: str) -> None:
        self.events.append(what)
        self.times.append(timing.now())


class Bench:
    """A pool on a fake etcd."""

    def __init__(self) -> None:
        self.server = FakeEtcd()
        self.rpc: Any = FakeRpc(self.server)
        self.watches = KeyWatches(self.rpc)
        self.pool = LeasePool(self.rpc, Lease(self.rpc), self.watches, TTL, is_strict=True)
        self.listener = Listener()

    def keep(
        self, key: str = '/a', value: str = 'x', *, timeout: float = 5, listener: Listener | None = None, **options: Any
    ) -> Any:
        options.setdefault('prev_exist', False)
        return self.pool.keep(Put(key, value, **options), listener or self.listener, Deadline(timeout))

    def lease_of(self, key: str = '/a') -> int:
        """Return the lease that the node is on, in etcd."""
        return self.server.keys[key.encode()].lease

    def value_of(self, key: str = '/a') -> str:
        return self.server.keys[key.encode()].value.decode()

    def keys(self) -> set[str]:
        """Return the keys in etcd."""
        return {key.decode() for key in self.server.keys}

    def close(self) -> None:
        """Stop all renewals and watches."""
        self.watches.close()
        self.pool.close()

    @property
    def leases(self) -> list[Any]:
        """The leases that the pool renews."""
        return list(self.pool._leases.values())


@pytest.fixture
def bench(request: pytest.FixtureRequest, etcd_clock: VirtualTime) -> Iterator[Bench]:
    """The bench; checks that no greenlet is left in the end."""
    bench = Bench()
    yield bench
    bench.close()
    bench.rpc.close()
    etcd_clock.advance(0)
    check_greenlets(request)


# -- sharing


def test_nodes_of_one_ttl_share_a_lease_and_two_streams(bench: Bench, etcd_clock: VirtualTime) -> None:
    """A renewal is one keep-alive and one TimeToLive for all of them; their watches are on one stream."""
    keepers = [gevent.spawn(bench.keep, f'/{number}') for number in range(100)]
    gevent.joinall(keepers, raise_error=True)
    assert len(bench.server.leases) == 1
    bench.server.calls.clear()
    etcd_clock.advance(TTL)
    assert len(bench.server.times('LeaseKeepAlive')) == len(bench.server.times('LeaseTimeToLive')) == 3
    assert len(bench.server.streams) == 2
    assert bench.listener.events == ['renewed'] * 300
    assert len(bench.keys()) == 100


def test_lease_has_a_maximum_of_nodes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that are being written count."""
    monkeypatch.setattr(shared_lease, 'MAX_NODES', 10)
    keepers = [gevent.spawn(bench.keep, f'/{number}') for number in range(35)]
    gevent.joinall(keepers, raise_error=True)
    assert [len(lease.keys) for lease in bench.server.leases.values()] == [10, 10, 10, 5]


def test_node_is_put_on_a_lease_only_with_more_than_half_of_its_ttl_left(bench: Bench, etcd_clock: VirtualTime) -> None:
    """A missed renewal must not lose a node that was just acquired."""
    first = bench.keep('/a')
    etcd_clock.advance(TTL / 2 - 0.1)
    assert bench.keep('/b').lost_at == first.lost_at
    bench.server.go_silent()
    etcd_clock.advance(TTL / 2)  # the last renewal was 1.8 s ago
    bench.server.fault = None
    third = bench.keep('/c')
    assert bench.lease_of('/c') != bench.lease_of('/a')
    assert third.lost_at == timing.now() + TTL - 1


def test_two_kept_nodes_of_one_key_never_share_a_lease(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Otherwise the lease would not distinguish their owners."""
    first, second = Listener(), Listener()
    bench.keep(listener=first)
    mine = bench.lease_of()
    bench.keep(listener=second, prev_exist=None)
    assert bench.lease_of() != mine
    etcd_clock.advance(TTL / 3 + 0.1)
    assert (first.events, second.events) == (['lost: Overtaken'], ['renewed'])


def test_key_that_is_being_put_by_another_keeper_is_refused(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The response to the first put is on its way."""
    bench.server.next('Txn', delay(1))
    first = gevent.spawn(bench.keep, listener=Listener())
    etcd_clock.advance(0.5)
    assert bench.keys() == {'/a'}
    with pytest.raises(NodeExist):
        bench.keep()
    etcd_clock.advance(1)
    assert first.get(timeout=0).token == 2


# -- renewals


def test_lease_is_renewed_at_a_third_of_its_ttl(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The loss is postponed, counted from the sending of the renewal."""
    node = bench.keep()
    began = timing.now()
    assert node.lost_at == began + TTL - 1
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.listener.events == ['renewed']
    assert node.lost_at == pytest.approx(began + TTL / 3 + TTL - 1)


def test_failed_renewal_is_attempted_again_until_the_loss(bench: Bench, etcd_clock: VirtualTime) -> None:
    node = bench.keep()
    etcd_clock.advance(TTL / 3 + 0.1)
    end = node.lost_at
    bench.server.go_down()
    etcd_clock.advance(TTL)
    assert bench.listener.events[0] == 'renewed'
    assert bench.listener.events[-1] == 'lost: NodeLost'
    assert set(bench.listener.events[1:-1]) == {'suspect'}
    assert bench.listener.times[-1] == pytest.approx(end)
    assert bench.leases == []


def test_loss_is_reported_in_time_when_the_server_hangs(bench: Bench, etcd_clock: VirtualTime) -> None:
    """An attempt takes a sixth of the TTL at most, so there are several."""
    end = bench.keep().lost_at
    bench.server.go_silent()
    etcd_clock.advance(TTL)
    assert bench.listener.events.count('suspect') >= 3
    assert bench.listener.events[-1] == 'lost: NodeLost'
    assert bench.listener.times[-1] == pytest.approx(end)


def test_outage_that_is_shorter_than_the_ttl_loses_nothing(bench: Bench, etcd_clock: VirtualTime) -> None:
    bench.keep()
    bench.server.go_down()
    etcd_clock.advance(TTL / 3 + 2)
    bench.server.recover()
    etcd_clock.advance(1)
    assert bench.listener.events[-1] == 'renewed'
    etcd_clock.advance(3 * TTL)
    assert bench.keys() == {'/a'}
    assert 'lost: NodeLost' not in bench.listener.events


def test_answered_keep_alive_of_a_revoked_lease_proves_nothing(bench: Bench, etcd_clock: VirtualTime) -> None:
    """etcd 3.4.23 may answer it; the list of keys is the proof."""
    bench.keep()
    lease = bench.lease_of()
    bench.server.answered_expired_leases.add(lease)
    bench.server.revoke(lease)
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.listener.events == ['lost: NodeLost']


def test_answer_after_the_loss_changes_nothing(bench: Bench, etcd_clock: VirtualTime) -> None:
    node = bench.keep()
    bench.server.go_down()
    etcd_clock.advance(TTL - 2)
    bench.server.recover()
    bench.server.next('LeaseTimeToLive', *[delay(1.2)] * 5)
    etcd_clock.advance(5)
    assert bench.listener.events[-1] == 'lost: NodeLost'
    assert node.lost_at <= timing.now()


def test_stall_longer_than_the_ttl_is_seen_from_the_first_instruction(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Before any greenlet runs; then the loss is reported, and no renewal is sent."""
    node = bench.keep()
    sent = len(bench.server.times('LeaseKeepAlive'))
    stall(etcd_clock, TTL + 1)
    assert node.lost_at < timing.now()
    etcd_clock.advance(0.1)
    assert bench.listener.events == ['lost: NodeLost']
    assert len(bench.server.times('LeaseKeepAlive')) == sent


# -- deleted and overwritten nodes


def test_deleted_and_overwritten_nodes_are_lost_and_the_others_kept(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Within one renewal, by the list of keys."""
    deleted, taken, kept = Listener(), Listener(), Listener()
    bench.keep('/deleted', listener=deleted)
    bench.keep('/taken', listener=taken)
    bench.keep('/kept', listener=kept)
    bench.server.delete('/deleted')
    bench.server.put('/taken', 'other')
    etcd_clock.advance(TTL / 3 + 0.1)
    assert (deleted.events, taken.events, kept.events) == (['lost: NodeLost'], ['lost: Overtaken'], ['renewed'])
    assert bench.value_of('/taken') == 'other'


def test_missing_node_is_lost_for_an_unknown_reason_when_the_read_of_it_fails(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    errors: list[NodeLost] = []
    bench.server.refuses_watches = True
    bench.keep()
    bench.listener.on_lost = errors.append  # type: ignore[method-assign]
    bench.server.put('/a', 'other')
    bench.server.next('Range', drop)
    etcd_clock.advance(TTL / 3 + 0.1)
    (error,) = errors
    assert type(error) is NodeLost
    assert 'or was written by another client' in str(error)
    assert isinstance(error.__cause__, ConnectionError)


def test_revoked_lease_loses_all_its_nodes(bench: Bench, etcd_clock: VirtualTime) -> None:
    listeners = [Listener() for _ in range(3)]
    for number, listener in enumerate(listeners):
        bench.keep(f'/{number}', listener=listener)
    bench.server.revoke(bench.lease_of('/0'))
    etcd_clock.advance(TTL / 3 + 0.1)
    assert [listener.events for listener in listeners] == [['lost: NodeLost']] * 3
    assert bench.leases == []


def test_node_is_put_on_another_lease_when_the_server_does_not_know_the_first(bench: Bench) -> None:
    """The nodes on the first are lost at once, without waiting for a renewal."""
    bench.keep('/a')
    bench.server.revoke(bench.lease_of('/a'))
    again = Listener()
    node = bench.keep('/b', listener=again)
    assert bench.lease_of('/b') in bench.server.leases
    assert (bench.listener.events, again.events) == (['lost: NodeLost'], [])
    assert node.token == bench.server.keys[b'/b'].mod_revision


def test_lease_that_ends_during_a_put_makes_the_put_uncertain(bench: Bench, etcd_clock: VirtualTime) -> None:
    """It is not a refusal: the keeper tries again."""
    bench.keep('/a')
    lease = bench.lease_of('/a')
    bench.server.next('Txn', delay(TTL / 2))
    writing = gevent.spawn(bench.keep, '/b', timeout=TTL)
    etcd_clock.advance(0.1)
    bench.server.revoke(lease)
    etcd_clock.advance(TTL)
    with pytest.raises(ConnectionError) as caught:
        writing.get(timeout=0)
    assert caught.value.maybe_applied


def test_loss_says_that_the_process_did_not_run_when_no_renewal_has_failed(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """The error of an earlier attempt, which was followed by a renewal, is not the reason."""
    lost: list[str] = []
    bench.listener.on_lost = lambda error: lost.append(str(error))  # type: ignore[method-assign]
    bench.keep()
    bench.server.next('LeaseTimeToLive', drop)
    etcd_clock.advance(TTL / 2)
    stall(etcd_clock, TTL)
    etcd_clock.advance(0.1)
    (text,) = lost
    assert text.endswith(
        'was not renewed within its TTL of 10 s: no renewal was sent: this process, its hub or the machine did not run'
    )


# -- liveness checks


def test_failed_liveness_check_loses_only_its_node(bench: Bench, etcd_clock: VirtualTime) -> None:
    zombie = Listener()
    zombie.has_liveness_check = True
    node = bench.keep('/zombie', listener=zombie)

    def refuse() -> bool:
        node.release(Deadline(5))
        return False

    zombie.answer = refuse
    bench.keep('/well')
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.keys() == {'/well'}
    assert (zombie.events, bench.listener.events) == ([], ['renewed'])


def test_liveness_checks_that_hang_do_not_delay_the_others(bench: Bench, etcd_clock: VirtualTime) -> None:
    """All checks run at the same time."""
    for number in range(100):
        stuck = Listener()
        stuck.has_liveness_check = True
        stuck.answer = lambda: bool(gevent.sleep(TTL / 6))
        bench.keep(f'/stuck/{number}', listener=stuck)
    bench.keep('/well')
    etcd_clock.advance(5 * TTL)
    assert set(bench.listener.events) == {'renewed'}


def test_liveness_check_that_never_returns_does_not_block_the_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Its own node is renewed as well."""
    stuck, over = Listener(), Event()
    stuck.has_liveness_check = True
    stuck.answer = over.wait
    bench.keep('/stuck', listener=stuck)
    bench.keep('/well')
    etcd_clock.advance(5 * TTL)
    assert set(bench.listener.events) == set(stuck.events) == {'renewed'}
    over.set()


# -- writes without an answer


def test_put_without_an_answer_is_recovered_by_its_lease(bench: Bench) -> None:
    """The node is not a conflict, and has one owner."""
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        bench.keep(value='old')
    node = bench.keep(value='new')
    assert bench.value_of() == 'new'
    assert node.token == bench.server.revision == 3
    assert [list(lease.keys.nodes) for lease in bench.leases] == [['/a']]


def test_node_of_an_earlier_keeper_in_a_restored_store_is_acquired_with_a_new_token(bench: Bench) -> None:
    """The backup was taken while the node was on the lease, and the lease is renewed for other nodes."""
    bench.keep('/b')
    earlier = bench.keep(value='old')
    node_in_backup = bench.server.keys[b'/a']
    earlier.release(Deadline.after(1))
    bench.server.keys[b'/a'] = node_in_backup
    node = bench.keep(value='new')
    assert bench.value_of() == 'new'
    assert node.token == bench.server.revision > earlier.token


def test_node_that_could_not_be_deleted_is_not_recovered(bench: Bench) -> None:
    """It has the token of its owner before: the next owner needs a higher one, and has to write the node."""
    before = bench.keep(value='x')
    bench.server.next('Txn', drop)
    with pytest.raises(ConnectionError):
        before.release(Deadline.after(1))
    with pytest.raises(NodeExist):
        bench.keep(value='x')


@pytest.mark.parametrize('value', ['new', 'old'])
def test_recovered_node_that_is_deleted_meanwhile_is_a_conflict_that_passes(bench: Bench, value: str) -> None:
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        bench.keep(value='old')

    def vanish(do: Callable[[], Any], *_: Any) -> Any:
        bench.server.delete('/a')
        return do()

    bench.server.next('Txn', lambda do, *_: do(), vanish)
    with pytest.raises(NodeExist):
        bench.keep(value=value)
    assert bench.keep(value=value).token == bench.server.revision
    assert bench.value_of() == value


def test_recovered_node_whose_update_has_no_answer_is_recovered_again(bench: Bench) -> None:
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        bench.keep(value='old')
    bench.server.next('Txn', lambda do, *_: do(), lose_reply)
    with pytest.raises(ConnectionError):
        bench.keep(value='new')
    bench.keep(value='new')
    assert bench.value_of() == 'new'


def test_put_that_is_applied_late_is_deleted_at_the_next_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The shared lease would keep the key alive for ever."""
    bench.keep('/kept')
    bench.server.next('Txn', late(2))
    with pytest.raises(TimedOut):
        bench.keep('/stray', timeout=1)
    etcd_clock.advance(1.1)
    assert bench.keys() == {'/kept', '/stray'}
    etcd_clock.advance(TTL / 3)
    assert bench.keys() == {'/kept'}


def test_stray_key_whose_delete_fails_is_deleted_at_a_later_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    bench.keep('/kept')
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        bench.keep('/stray')
    bench.server.next('Txn', hang)
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.keys() == {'/kept', '/stray'}
    etcd_clock.advance(TTL / 3)
    assert bench.keys() == {'/kept'}


def test_update_without_an_answer_loses_nothing(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The node is ours whichever value it has."""
    node = bench.keep()
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        node.update('y', Deadline(5))
    etcd_clock.advance(TTL)
    assert set(bench.listener.events) == {'renewed'}
    assert node.update('z', Deadline(5)).value == 'z'


def test_crossed_updates_are_written_in_the_order_of_their_calls(bench: Bench, etcd_clock: VirtualTime) -> None:
    node = bench.keep()
    bench.server.next('Txn', slow(1))
    updates = [gevent.spawn(node.update, value, Deadline(5)) for value in ('earlier', 'later', 'last')]
    etcd_clock.advance(2)
    earlier, later, last = (update.get(block=False) for update in updates)
    assert earlier.index < later.index < last.index
    assert (earlier.prev_node.value, later.prev_node.value, bench.value_of()) == ('x', 'earlier', 'last')


def test_update_that_etcd_applies_late_does_not_overwrite_a_later_one(bench: Bench, etcd_clock: VirtualTime) -> None:
    node = bench.keep()
    bench.server.next('Txn', late(2))
    with pytest.raises(TimedOut):
        node.update('earlier', Deadline(1))
    assert node.update('later', Deadline(5)).prev_node.value == 'x'
    etcd_clock.advance(2)
    assert bench.value_of() == 'later'
    assert 'lost' not in ' '.join(bench.listener.events)


def test_update_waits_for_an_earlier_one_until_its_deadline(bench: Bench, etcd_clock: VirtualTime) -> None:
    """A killed one leaves the line."""
    node = bench.keep()
    bench.server.next('Txn', slow(3))
    earlier = gevent.spawn(node.update, 'earlier', Deadline(5))
    etcd_clock.advance(0)
    killed = gevent.spawn(node.update, 'killed', Deadline(5))
    etcd_clock.advance(0)
    killed.kill(block=False)
    with pytest.raises(
        TimedOut, match=r'^could not write /a within 1 s: an earlier update of it is in flight$'
    ) as caught:
        node.update('late', Deadline(1))
    assert not caught.value.maybe_applied
    etcd_clock.advance(3)
    assert earlier.get(block=False).value == bench.value_of() == 'earlier'
    assert node.update('later', Deadline(1)).value == bench.value_of() == 'later'


def test_update_whose_turn_comes_after_the_loss_raises_node_lost(bench: Bench, etcd_clock: VirtualTime) -> None:
    node = bench.keep()
    bench.server.next('Txn', slow(1))
    earlier = gevent.spawn(node.update, 'earlier', Deadline(5))
    etcd_clock.advance(0)
    later = gevent.spawn(node.update, 'later', Deadline(5))
    etcd_clock.advance(0)
    bench.server.put('/a', 'other')
    etcd_clock.advance(1)
    assert [type(update.exception) for update in (earlier, later)] == [Overtaken, NodeLost]
    assert bench.value_of() == 'other'


def test_key_whose_release_has_no_answer_is_never_put_on_that_lease_again(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """The delete may still be applied, and must not delete the next node."""
    old = bench.keep()
    bench.keep('/kept')
    bench.server.next('Txn', late(2))
    with pytest.raises(TimedOut):
        old.release(Deadline(1))
    bench.server.delete('/a')
    bench.keep(value='new')
    etcd_clock.advance(3 * TTL)
    assert bench.value_of() == 'new'
    assert set(bench.listener.events) == {'renewed'}


@pytest.mark.parametrize('error', [PermissionDenied('no'), ConnectionRefused('refused')])
def test_key_whose_release_was_not_applied_may_be_put_on_that_lease_again(bench: Bench, error: EtcException) -> None:

    def fault(*_: object) -> Any:
        raise error

    old = bench.keep()
    lease = bench.lease_of()
    bench.keep('/kept')
    bench.server.next('Txn', fault)
    with pytest.raises(type(error)):
        old.release(Deadline(1))
    bench.server.delete('/a')
    bench.keep(value='new')
    assert bench.lease_of() == lease


def test_key_whose_release_has_no_answer_stays_taken_after_a_renewal_deleted_it(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """The first delete may still be applied."""
    old = bench.keep()
    bench.keep('/kept')
    bench.server.next('Txn', late(6))
    with pytest.raises(TimedOut):
        old.release(Deadline(1))
    etcd_clock.advance(TTL / 3 - 0.9)
    assert bench.keys() == {'/kept'}
    bench.keep(value='new')
    etcd_clock.advance(TTL)
    assert bench.value_of() == 'new'
    assert set(bench.listener.events) == {'renewed'}


def test_key_is_taken_while_any_delete_of_it_is_in_flight(bench: Bench, etcd_clock: VirtualTime) -> None:
    """A renewal finds a node that is being released, and its delete takes longer."""

    def slow(seconds: float) -> Any:
        def fault(do: Callable[[], Any], deadline: Deadline, is_write: bool) -> Any:
            gevent.sleep(seconds)
            return do()

        return fault

    old = bench.keep()
    bench.keep('/kept')
    etcd_clock.advance(TTL / 3 - 0.1)
    bench.server.next('Txn', slow(0.3), slow(0.5))
    releasing = gevent.spawn(old.release, Deadline(5))
    etcd_clock.advance(0.35)
    assert releasing.ready()
    bench.keep(value='new')
    etcd_clock.advance(TTL)
    assert bench.value_of() == 'new'
    assert set(bench.listener.events) == {'renewed'}


def test_key_that_is_being_released_is_put_on_another_lease(bench: Bench, etcd_clock: VirtualTime) -> None:
    old = bench.keep()
    bench.keep('/kept')
    bench.server.next('Txn', late(1))
    releasing = gevent.spawn(old.release, Deadline(0.5))
    etcd_clock.advance(0.1)
    bench.keep(value='new', prev_exist=None)
    etcd_clock.advance(TTL)
    assert bench.value_of() == 'new'
    assert isinstance(releasing.exception, TimedOut)


# -- release and detach


def test_release_deletes_only_our_node_and_never_revokes_the_lease(bench: Bench) -> None:
    bench.keep('/kept')
    released, taken = bench.keep('/released'), bench.keep('/taken')
    bench.server.put('/taken', 'other')
    for node in (released, taken, released):
        node.release(Deadline(5))
    assert bench.keys() == {'/kept', '/taken'}
    assert not bench.server.times('LeaseRevoke')
    assert len(bench.server.leases) == 1


def test_lost_and_released_nodes_cannot_be_updated(bench: Bench) -> None:
    node = bench.keep()
    bench.server.put('/a', 'other')
    with pytest.raises(Overtaken):
        node.update('y', Deadline(5))
    bench.server.delete('/a')
    with pytest.raises(NodeLost):
        node.update('y', Deadline(5))
    node.abandon()
    with pytest.raises(NodeLost, match='not kept any more'):
        node.update('y', Deadline(5))


def test_detach_moves_the_node_to_a_lease_that_is_not_renewed(bench: Bench, etcd_clock: VirtualTime) -> None:
    """With its value."""
    node = bench.keep()
    bench.keep('/kept')
    node.detach(Deadline(5))
    assert bench.lease_of('/a') != bench.lease_of('/kept')
    assert bench.value_of('/a') == 'x'
    etcd_clock.advance(TTL + 0.1)
    assert bench.keys() == {'/kept'}


@pytest.mark.parametrize('slow', ['LeaseGrant', 'Txn'])
def test_detach_that_takes_longer_than_until_the_next_renewal_keeps_the_node(
    bench: Bench, etcd_clock: VirtualTime, slow: str
) -> None:
    """A renewal deletes keys that are not kept, but not a key that is being moved."""

    def fault(do: Callable[[], Any], *_: object) -> Any:
        gevent.sleep(1)
        return do()

    node = bench.keep()
    bench.keep('/kept')
    etcd_clock.advance(TTL / 3 - 0.5)
    bench.server.next(slow, fault)
    detaching = gevent.spawn(node.detach, Deadline(5))
    etcd_clock.advance(2)
    detaching.get(block=False)
    assert bench.keys() == {'/a', '/kept'}
    assert bench.lease_of('/a') != bench.lease_of('/kept')


def test_lease_without_nodes_is_not_renewed(bench: Bench, etcd_clock: VirtualTime) -> None:
    bench.keep().release(Deadline(5))
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.leases == []
    etcd_clock.advance(TTL)
    assert bench.server.leases == {}


def test_reclaim_keeps_only_the_same_node(bench: Bench, etcd_clock: VirtualTime) -> None:
    """With a new token, on another lease; not if another client wrote it, or if it was deleted."""
    old = bench.keep()
    bench.server.fault, bench.server.is_silent = hang, True
    etcd_clock.advance(TTL - 0.9)
    assert bench.listener.events[-1] == 'lost: NodeLost'
    bench.server.recover()
    again = bench.pool.reclaim('/a', 'y', old, bench.listener, Deadline(5))
    assert again is not None
    assert again.token > old.token
    assert (bench.value_of(), bench.lease_of()) == ('y', bench.leases[0].id)
    again.abandon()
    bench.server.put('/a', 'y')
    assert bench.pool.reclaim('/a', 'y', again, bench.listener, Deadline(5)) is None
    bench.server.delete('/a')
    assert bench.pool.reclaim('/a', 'y', again, bench.listener, Deadline(5)) is None


def test_guard_is_the_lease_and_the_creation_of_the_node(bench: Bench, etcd_clock: VirtualTime) -> None:
    """An update does not change the guard.  After a reclaim the lease is another one, the creation is the same."""
    node = bench.keep()
    guard = node.guard
    assert guard == Guard('/a', bench.server.keys[b'/a'].create_revision, bench.lease_of())
    node.update('y', Deadline(5))
    assert node.guard == guard
    bench.server.fault, bench.server.is_silent = hang, True
    etcd_clock.advance(TTL - 0.9)
    bench.server.recover()
    again = bench.pool.reclaim('/a', 'y', node, bench.listener, Deadline(5))
    assert again is not None
    assert again.guard == Guard('/a', guard.created_index, bench.lease_of())
    assert again.guard.lease_id != guard.lease_id


def test_guard_of_a_node_that_is_taken_over_has_its_creation(bench: Bench) -> None:
    """The token is the index of the takeover."""
    created = bench.server.put('/a', 'other', lease=0)
    node = bench.keep(prev_exist=True, prev_index=created)
    assert node.guard == Guard('/a', created, bench.lease_of())
    assert node.token > created


def test_guard_of_a_recovered_node_has_its_creation(bench: Bench) -> None:
    """The node was created by a put without a response."""
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        bench.keep()
    bench.listener.unanswered = (AcquiringWrite('x', is_create=True),)
    node = bench.keep()
    assert node.guard == Guard('/a', bench.server.keys[b'/a'].create_revision, bench.lease_of())


def test_node_whose_reclaim_has_no_answer_is_ours_after_its_lease_is_over(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """No node is kept on that lease, so it is not renewed; the node is recovered before it expires."""
    old = bench.keep()
    bench.server.fault, bench.server.is_silent = hang, True
    etcd_clock.advance(TTL - 0.9)
    bench.server.recover()
    bench.server.fault = lambda do, deadline, is_write: lose_reply(do, deadline, is_write) if is_write else do()
    with pytest.raises(ConnectionError):
        bench.pool.reclaim('/a', 'y', old, bench.listener, Deadline(5))
    bench.server.fault = None
    number = bench.lease_of()
    assert bench.value_of() == 'y'
    etcd_clock.advance(TTL / 3 + 0.2)
    assert bench.leases == []
    assert bench.pool.reclaim('/a', 'z', old, bench.listener, Deadline(5)) is None
    again = bench.keep(value='z')
    assert (bench.value_of(), bench.lease_of()) == ('z', bench.leases[0].id)
    assert bench.lease_of() != number
    etcd_clock.advance(2 * TTL)
    assert bench.value_of() == 'z'
    again.abandon()
    bench.server.put('/a', 'z')
    with pytest.raises(NodeExist):  # the same value, but written by another client
        bench.keep(value='z')


def test_ids_of_expired_leases_are_remembered_up_to_a_bound(bench: Bench, etcd_clock: VirtualTime, monkeypatch) -> None:
    """The oldest is forgotten first."""
    monkeypatch.setattr(pool, 'MAX_ENDED_IDS', 2)
    numbers = []
    for _ in range(4):
        bench.keep().release(Deadline(5))
        numbers.append(bench.leases[0].id)
        etcd_clock.advance(TTL)
    assert list(bench.pool._ended_ids) == numbers[-2:]


def test_close_stops_all_renewals(bench: Bench, etcd_clock: VirtualTime) -> None:
    """No callback is called."""
    bench.keep()
    etcd_clock.advance(TTL / 3 + 0.1)
    bench.close()
    called = len(bench.server.calls)
    etcd_clock.advance(3 * TTL)
    assert len(bench.server.calls) == called
    assert bench.listener.events == ['renewed']


def test_close_stops_a_renewal_in_flight(bench: Bench, etcd_clock: VirtualTime) -> None:
    bench.keep()
    bench.server.go_silent()
    etcd_clock.advance(TTL / 3 + 0.1)
    bench.pool.close()
    etcd_clock.advance(0)
    assert not [greenlet for greenlet in greenlets_of_getc() if 'lease' in greenlet.name and greenlet.started]
    etcd_clock.advance(TTL)
    assert bench.listener.events == []


# -- grants


def test_ttl_is_the_granted_ttl(bench: Bench) -> None:
    """At least the minimum of the server."""
    short = LeasePool(bench.rpc, Lease(bench.rpc), bench.watches, 1, is_strict=True)
    node = short.keep(Put('/short', 'x', prev_exist=False), bench.listener, Deadline(5))
    assert short.ttl == 2
    assert node.lost_at == timing.now() + 2 - 0.5
    short.close()


def test_keep_times_out_while_the_grant_for_another_node_hangs(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The grant is requested once for all."""
    bench.server.next('LeaseGrant', delay(3))
    patient = gevent.spawn(bench.keep, '/patient', timeout=5)
    etcd_clock.advance(0.1)
    with pytest.raises(TimedOut, match='no lease was granted for /hasty within 1 s'):
        bench.keep('/hasty', timeout=1)
    etcd_clock.advance(3)
    assert patient.get(timeout=0).token == 2
    assert len(bench.server.leases) == 1


# -- malformed responses, and bugs of getc


def test_malformed_response_to_a_put_is_a_protocol_error_of_a_write_that_may_be_applied(bench: Bench) -> None:
    def fault(do: Callable[[], Any], *_: object) -> Any:
        response = do()
        response.ClearField('responses')
        return response

    bench.server.next('Txn', fault)
    with pytest.raises(ProtocolError, match='malformed response of etcd v3') as caught:
        bench.keep()
    assert caught.value.maybe_applied
    node = bench.keep()
    bench.server.next('Txn', fault)
    with pytest.raises(ProtocolError, match='malformed response of etcd v3'):
        node.update('y', Deadline(5))


@pytest.mark.parametrize('bug', [IndexError, OverflowError, ValueError])
def test_bug_of_getc_is_not_reported_as_the_servers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, bug: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise bug('a bug')

    monkeypatch.setattr(pool, 'parse_put', fail)
    with pytest.raises(bug, match='a bug'):
        bench.keep()


# -- contenders


def contend(bench: Bench, key: str = '/q/1', *, timeout: float = 5) -> tuple[Any, PredecessorResult | None]:
    put = Put(key, 'x', prev_exist=False)
    return bench.pool.contend(put, bench.listener, Predecessor(key, 0), Deadline(timeout))


def test_contender_is_not_watched_until_it_is_requested(bench: Bench, etcd_clock: VirtualTime) -> None:
    node, _ = contend(bench)
    bench.server.put('/q/1', 'overwritten')
    etcd_clock.advance(0.1)
    assert bench.listener.events == []
    node.watch()
    etcd_clock.advance(0.1)
    assert bench.listener.events == ['lost: Overtaken']


def test_contender_that_was_deleted_is_lost_with_the_next_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    contend(bench)
    bench.server.delete('/q/1')
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.listener.events == ['lost: NodeLost']


def test_contender_whose_put_has_no_answer_is_found_by_the_same_put(bench: Bench) -> None:
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        contend(bench)
    node, found = contend(bench)
    assert (node.token, found) == (2, None)
    assert node.guard == Guard('/q/1', 2)


def test_contender_on_a_lease_that_has_ended_is_refused(bench: Bench) -> None:
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        contend(bench)
    bench.leases[0].abandon()
    with pytest.raises(NodeLost, match='its lease has ended'):
        contend(bench)
    bench.pool.delete_unanswered('/q/1', bench.listener, Deadline(1))
    assert bench.keys() == set()


def test_lease_without_nodes_is_renewed_until_a_put_without_an_answer_is_deleted(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """The key is gone after a third of the TTL, and the lease is over with the renewal after that."""
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        contend(bench)
    assert bench.keys() == {'/q/1'}
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.keys() == set()
    etcd_clock.advance(TTL)
    assert bench.leases == []


def test_lease_without_nodes_is_renewed_until_a_delete_without_an_answer_is_repeated(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    node, _ = contend(bench)
    bench.server.next('Txn', drop)
    with pytest.raises(ConnectionError):
        node.release(Deadline(1))
    assert bench.keys() == {'/q/1'}
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.keys() == set()


def test_lease_whose_keys_cannot_be_deleted_expires(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The user may create keys, and not delete them."""
    node, _ = contend(bench)

    def refuse(*_: Any) -> Any:
        raise PermissionDenied('permission denied')

    bench.server.next('Txn', drop, *[refuse] * 10)
    with pytest.raises(ConnectionError):
        node.release(Deadline(1))
    etcd_clock.advance(3 * TTL)
    assert bench.leases == []
    assert bench.keys() == set()


def test_contender_that_is_gone_after_a_delete_without_an_answer_leaves_nothing_in_memory(bench: Bench) -> None:
    """Its name is not used again, so the first delete, which etcd may still apply, cannot harm."""
    node, _ = contend(bench)
    bench.server.next('Txn', drop)
    with pytest.raises(ConnectionError):
        node.release(Deadline(1))
    (lease,) = bench.leases
    assert lease.keys.is_taken('/q/1')
    node.release(Deadline(1))
    assert bench.keys() == set()
    assert not lease.keys.is_taken('/q/1')


def test_key_whose_delete_is_in_flight_is_not_deleted_by_a_renewal(bench: Bench) -> None:
    """Its owner would take the answer to its own delete for a loss."""
    node, _ = contend(bench)
    (lease,) = bench.leases
    with lease.keys.removing('/q/1'):
        node.abandon()
        lease._delete_stray(b'/q/1')
        assert bench.keys() == {'/q/1'}
    lease._delete_stray(b'/q/1')
    assert bench.keys() == set()
