"""Holding nodes by leases that they share."""

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
from getc.operations import Put
from getc.testing import VirtualTime
from getc.timing import Deadline
from getc.v3.lease import Lease
from tests.support.fake_etcd import FakeEtcd, FakeRpc, delay, drop, hang, late, lose_reply
from tests.support.faulty import stall
from tests.support.leftovers import check_greenlets, greenlets_of_getc

TTL = 10


class Member:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.told_at: list[float] = []
        self.unanswered: tuple[AcquiringWrite, ...] = ()
        self.has_liveness_check = False
        self.answer: Callable[[], bool] = lambda: True

    def on_writing(self, write: AcquiringWrite) -> None:
        pass

    def check_liveness(self) -> bool:
        return self.answer()

    def on_renewed(self) -> None:
        self._note('renewed')

    def on_renewal_missed(self, error: EtcException) -> None:
        self._note('suspect')

    def on_lost(self, error: NodeLost) -> None:
        self._note(f'lost: {type(error).__name__}')

    def _note(self, what: str) -> None:
        self.story.append(what)
        self.told_at.append(timing.now())


class Bench:
    """A group on a fake etcd."""

    def __init__(self) -> None:
        self.server = FakeEtcd()
        self.rpc: Any = FakeRpc(self.server)
        self.watches = KeyWatches(self.rpc)
        self.group = LeasePool(self.rpc, Lease(self.rpc), self.watches, TTL, is_strict=True)
        self.member = Member()

    def hold(
        self, key: str = '/a', value: str = 'x', *, timeout: float = 5, member: Member | None = None, **options: Any
    ) -> Any:
        options.setdefault('prev_exist', False)
        return self.group.keep(Put(key, value, **options), member or self.member, Deadline(timeout))

    def lease_of(self, key: str = '/a') -> int:
        """The lease that the node hangs on, as the server knows it."""
        return self.server.keys[key.encode()].lease

    def value_of(self, key: str = '/a') -> str:
        return self.server.keys[key.encode()].value.decode()

    def keys(self) -> set[str]:
        """What is there."""
        return {key.decode() for key in self.server.keys}

    def close(self) -> None:
        """End all that the client keeps."""
        self.watches.close()
        self.group.close()

    @property
    def leases(self) -> list[Any]:
        """Those that the group renews."""
        return list(self.group._leases.values())


@pytest.fixture
def bench(request: pytest.FixtureRequest, etcd_clock: VirtualTime) -> Iterator[Bench]:
    """The bench; when all has ended, no greenlet may be left."""
    bench = Bench()
    yield bench
    bench.close()
    bench.rpc.close()
    etcd_clock.advance(0)
    check_greenlets(request)


# -- sharing


def test_nodes_of_one_ttl_share_a_lease_and_two_streams(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Whatever their number, a renewal is one message and one question; their watches are on one stream."""
    holders = [gevent.spawn(bench.hold, f'/{number}') for number in range(100)]
    gevent.joinall(holders, raise_error=True)
    assert len(bench.server.leases) == 1
    bench.server.calls.clear()
    etcd_clock.advance(TTL)
    assert len(bench.server.times('LeaseKeepAlive')) == len(bench.server.times('LeaseTimeToLive')) == 3
    assert len(bench.server.streams) == 2
    assert bench.member.story == ['renewed'] * 300
    assert len(bench.keys()) == 100


def test_lease_has_so_many_nodes_at_most(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of those that are being written at the same time."""
    monkeypatch.setattr(shared_lease, 'MAX_NODES', 10)
    holders = [gevent.spawn(bench.hold, f'/{number}') for number in range(35)]
    gevent.joinall(holders, raise_error=True)
    assert [len(lease.keys) for lease in bench.server.leases.values()] == [10, 10, 10, 5]


def test_node_is_put_on_a_lease_only_with_over_half_its_time_left(bench: Bench, etcd_clock: VirtualTime) -> None:
    """A renewal that is missed must not cost a node that has only just been taken."""
    first = bench.hold('/a')
    etcd_clock.advance(TTL / 2 - 0.1)
    assert bench.hold('/b').lost_at == first.lost_at
    bench.server.fall_silent()
    etcd_clock.advance(TTL / 2)  # renewed last 1.8 s ago, and not any more
    bench.server.fault = None
    third = bench.hold('/c')
    assert bench.lease_of('/c') != bench.lease_of('/a')
    assert third.lost_at == timing.now() + TTL - 1


def test_two_holds_of_one_key_never_share_a_lease(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Or a lease would not say whose a node is: here the first takes note of the second."""
    first, second = Member(), Member()
    bench.hold(member=first)
    mine = bench.lease_of()
    bench.hold(member=second, prev_exist=None)
    assert bench.lease_of() != mine
    etcd_clock.advance(TTL / 3 + 0.1)
    assert (first.story, second.story) == (['lost: Overtaken'], ['renewed'])


def test_hold_of_a_key_that_another_hold_is_just_writing_is_refused(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Its answer is on the way: the node is not for whoever finds it on our lease."""
    bench.server.next('Txn', delay(1))
    first = gevent.spawn(bench.hold, member=Member())
    etcd_clock.advance(0.5)
    assert bench.keys() == {'/a'}
    with pytest.raises(NodeExist):
        bench.hold()
    etcd_clock.advance(1)
    assert first.get(timeout=0).token == 2


# -- renewing


def test_renewal_is_at_a_third_and_tells_every_member(bench: Bench, etcd_clock: VirtualTime) -> None:
    """And moves the end, which counts from the sending."""
    hold = bench.hold()
    began = timing.now()
    assert hold.lost_at == began + TTL - 1
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.member.story == ['renewed']
    assert hold.lost_at == pytest.approx(began + TTL / 3 + TTL - 1)


def test_renewal_that_is_refused_is_tried_again_until_the_end(bench: Bench, etcd_clock: VirtualTime) -> None:
    """SUSPECT at each; LOST at (the last that was acknowledged was sent) + TTL - margin, not later."""
    hold = bench.hold()
    etcd_clock.advance(TTL / 3 + 0.1)
    end = hold.lost_at
    bench.server.go_down()
    etcd_clock.advance(TTL)
    assert bench.member.story[0] == 'renewed'
    assert bench.member.story[-1] == 'lost: NodeLost'
    assert set(bench.member.story[1:-1]) == {'suspect'}
    assert bench.member.told_at[-1] == pytest.approx(end)
    assert bench.leases == []


def test_server_that_hangs_is_told_of_in_time(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Attempts take a sixth of the TTL at most, so there are several; the end waits for none."""
    end = bench.hold().lost_at
    bench.server.fall_silent()
    etcd_clock.advance(TTL)
    assert bench.member.story.count('suspect') >= 3
    assert bench.member.story[-1] == 'lost: NodeLost'
    assert bench.member.told_at[-1] == pytest.approx(end)


def test_renewal_that_works_again_is_told(bench: Bench, etcd_clock: VirtualTime) -> None:
    """An outage that is shorter than the TTL loses nothing."""
    bench.hold()
    bench.server.go_down()
    etcd_clock.advance(TTL / 3 + 2)
    bench.server.come_back()
    etcd_clock.advance(1)
    assert bench.member.story[-1] == 'renewed'
    etcd_clock.advance(3 * TTL)
    assert bench.keys() == {'/a'}
    assert 'lost: NodeLost' not in bench.member.story


def test_keep_alive_of_a_revoked_lease_is_not_believed(bench: Bench, etcd_clock: VirtualTime) -> None:
    """etcd 3.4.23 may answer it; the list of keys is the proof."""
    bench.hold()
    lease = bench.lease_of()
    bench.server.believes.add(lease)
    bench.server.revoke(lease)
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.member.story == ['lost: NodeLost']


def test_answer_that_comes_after_the_end_changes_nothing(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The loss was told, and stays."""
    hold = bench.hold()
    bench.server.go_down()
    etcd_clock.advance(TTL - 2)
    bench.server.come_back()
    bench.server.next('LeaseTimeToLive', *[delay(1.2)] * 5)
    etcd_clock.advance(5)
    assert bench.member.story[-1] == 'lost: NodeLost'
    assert hold.lost_at <= timing.now()


def test_stall_longer_than_the_ttl_is_seen_from_the_first_instruction(bench: Bench, etcd_clock: VirtualTime) -> None:
    """No greenlet has run yet; then the loss is told, and no renewal is sent for it."""
    hold = bench.hold()
    sent = len(bench.server.times('LeaseKeepAlive'))
    stall(etcd_clock, TTL + 1)
    assert hold.lost_at < timing.now()
    etcd_clock.advance(0.1)
    assert bench.member.story == ['lost: NodeLost']
    assert len(bench.server.times('LeaseKeepAlive')) == sent


# -- whether the node is there


def test_deleted_and_overwritten_nodes_are_noticed_and_the_others_stay(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Within a renewal, by the list of keys."""
    deleted, taken, kept = Member(), Member(), Member()
    bench.hold('/deleted', member=deleted)
    bench.hold('/taken', member=taken)
    bench.hold('/kept', member=kept)
    bench.server.delete('/deleted')
    bench.server.put('/taken', 'theirs')
    etcd_clock.advance(TTL / 3 + 0.1)
    assert (deleted.story, taken.story, kept.story) == (['lost: NodeLost'], ['lost: Overtaken'], ['renewed'])
    assert bench.value_of('/taken') == 'theirs'


def test_revoked_lease_loses_all_its_nodes_at_once(bench: Bench, etcd_clock: VirtualTime) -> None:
    """And only its own."""
    members = [Member() for _ in range(3)]
    for number, member in enumerate(members):
        bench.hold(f'/{number}', member=member)
    bench.server.revoke(bench.lease_of('/0'))
    etcd_clock.advance(TTL / 3 + 0.1)
    assert [member.story for member in members] == [['lost: NodeLost']] * 3
    assert bench.leases == []


def test_hold_on_a_lease_that_the_server_does_not_know_any_more_gets_another(bench: Bench) -> None:
    """The nodes on the old one are lost at once: no renewal needs to tell."""
    bench.hold('/a')
    bench.server.revoke(bench.lease_of('/a'))
    again = Member()
    hold = bench.hold('/b', member=again)
    assert bench.lease_of('/b') in bench.server.leases
    assert (bench.member.story, again.story) == (['lost: NodeLost'], [])
    assert hold.token == bench.server.keys[b'/b'].mod_revision


def test_lease_that_ends_during_a_write_makes_it_uncertain(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Not lost, which would be a refusal: whoever keeps the node tries again."""
    bench.hold('/a')
    lease = bench.lease_of('/a')
    bench.server.next('Txn', delay(TTL / 2))
    writing = gevent.spawn(bench.hold, '/b', timeout=TTL)
    etcd_clock.advance(0.1)
    bench.server.revoke(lease)
    etcd_clock.advance(TTL)
    with pytest.raises(ConnectionError) as caught:
        writing.get(timeout=0)
    assert caught.value.maybe_applied


def test_loss_says_that_the_process_did_not_run_where_no_renewal_has_failed(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """What an earlier one met, which was missed and made up for, is no reason."""
    lost: list[str] = []
    bench.member.on_lost = lambda error: lost.append(str(error))  # type: ignore[method-assign]
    bench.hold()
    bench.server.next('LeaseTimeToLive', drop)
    etcd_clock.advance(TTL / 2)
    stall(etcd_clock, TTL)
    etcd_clock.advance(0.1)
    (text,) = lost
    assert text.endswith(
        'was not renewed within its TTL of 10 s: no renewal was sent: this process, its hub or the machine did not run'
    )


# -- members


def test_member_that_says_no_lets_go_of_its_node_alone(bench: Bench, etcd_clock: VirtualTime) -> None:
    """alive() of one of many; whoever says no takes it away."""
    zombie = Member()
    zombie.has_liveness_check = True
    hold = bench.hold('/zombie', member=zombie)

    def say_no() -> bool:
        hold.release(Deadline(5))
        return False

    zombie.answer = say_no
    bench.hold('/well')
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.keys() == {'/well'}
    assert (zombie.story, bench.member.story) == ([], ['renewed'])


def test_members_that_do_not_answer_cost_the_others_nothing(bench: Bench, etcd_clock: VirtualTime) -> None:
    """However many they are: they are asked at the same time."""
    for number in range(100):
        stuck = Member()
        stuck.has_liveness_check = True
        stuck.answer = lambda: bool(gevent.sleep(TTL / 6))
        bench.hold(f'/stuck/{number}', member=stuck)
    bench.hold('/well')
    etcd_clock.advance(5 * TTL)
    assert set(bench.member.story) == {'renewed'}


def test_member_that_never_answers_does_not_hold_up_the_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Whatever it waits for: the others are renewed, and so is its own node until it says no."""
    stuck, over = Member(), Event()
    stuck.has_liveness_check = True
    stuck.answer = over.wait
    bench.hold('/stuck', member=stuck)
    bench.hold('/well')
    etcd_clock.advance(5 * TTL)
    assert set(bench.member.story) == set(stuck.story) == {'renewed'}
    over.set()


# -- lost answers


def test_write_whose_answer_was_lost_is_found_on_our_lease(bench: Bench) -> None:
    """The node is ours by its lease: it is no conflict, and it has one owner."""
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        bench.hold(value='old')
    hold = bench.hold(value='new')
    assert bench.value_of() == 'new'
    assert hold.token == 2
    assert [list(lease.keys.nodes) for lease in bench.leases] == [['/a']]


def test_node_that_could_not_be_deleted_is_not_found_by_its_next_owner(bench: Bench) -> None:
    """Its token is the owner's before: whoever comes next needs a higher one, and so writes the node anew."""
    before = bench.hold(value='x')
    bench.server.next('Txn', drop)
    with pytest.raises(ConnectionError):
        before.release(Deadline.after(1))
    with pytest.raises(NodeExist):
        bench.hold(value='x')


@pytest.mark.parametrize('value', ['new', 'old'])
def test_write_that_was_found_and_vanishes_is_a_conflict_that_passes(bench: Bench, value: str) -> None:
    """It was found with another value or the same one, and is deleted before it is held."""
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        bench.hold(value='old')

    def vanish(do: Callable[[], Any], *_: Any) -> Any:
        bench.server.delete('/a')
        return do()

    bench.server.next('Txn', lambda do, *_: do(), vanish)
    with pytest.raises(NodeExist):
        bench.hold(value=value)
    assert bench.hold(value=value).token == bench.server.revision
    assert bench.value_of() == value


def test_found_write_whose_update_is_not_answered_is_found_again(bench: Bench) -> None:
    """It must not count as held by somebody meanwhile."""
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        bench.hold(value='old')
    bench.server.next('Txn', lambda do, *_: do(), lose_reply)
    with pytest.raises(ConnectionError):
        bench.hold(value='new')
    bench.hold(value='new')
    assert bench.value_of() == 'new'


def test_write_that_comes_late_and_that_nobody_holds_is_deleted_at_the_next_renewal(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """A shared lease would keep it alive for ever."""
    bench.hold('/kept')
    bench.server.next('Txn', late(2))
    with pytest.raises(TimedOut):
        bench.hold('/stray', timeout=1)
    etcd_clock.advance(1.1)
    assert bench.keys() == {'/kept', '/stray'}
    etcd_clock.advance(TTL / 3)
    assert bench.keys() == {'/kept'}


def test_stray_whose_deletion_fails_is_deleted_later(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Each renewal finds it again."""
    bench.hold('/kept')
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        bench.hold('/stray')
    bench.server.next('Txn', hang)
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.keys() == {'/kept', '/stray'}
    etcd_clock.advance(TTL / 3)
    assert bench.keys() == {'/kept'}


def test_update_whose_answer_was_lost_is_no_loss(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The node is ours whichever value it has."""
    hold = bench.hold()
    bench.server.next('Txn', lose_reply)
    with pytest.raises(ConnectionError):
        hold.update('y', Deadline(5))
    etcd_clock.advance(TTL)
    assert set(bench.member.story) == {'renewed'}
    assert hold.update('z', Deadline(5)).value == 'z'


def test_key_whose_release_was_not_answered_is_never_put_on_that_lease_again(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """The deletion may still come, and must not hit the next one."""
    old = bench.hold()
    bench.hold('/kept')
    bench.server.next('Txn', late(2))
    with pytest.raises(TimedOut):
        old.release(Deadline(1))
    bench.server.delete('/a')
    bench.hold(value='new')
    etcd_clock.advance(3 * TTL)
    assert bench.value_of() == 'new'
    assert set(bench.member.story) == {'renewed'}


@pytest.mark.parametrize('error', [PermissionDenied('no'), ConnectionRefused('nobody listens')])
def test_key_whose_release_was_certainly_not_done_may_be_put_on_that_lease_again(
    bench: Bench, error: EtcException
) -> None:
    """Nothing of it can come late."""

    def fault(*_: object) -> Any:
        raise error

    old = bench.hold()
    lease = bench.lease_of()
    bench.hold('/kept')
    bench.server.next('Txn', fault)
    with pytest.raises(type(error)):
        old.release(Deadline(1))
    bench.server.delete('/a')
    bench.hold(value='new')
    assert bench.lease_of() == lease


def test_key_whose_release_was_not_answered_stays_taken_though_a_renewal_deleted_it(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """A renewal finds the node and deletes it; the first deletion may still come."""
    old = bench.hold()
    bench.hold('/kept')
    bench.server.next('Txn', late(6))
    with pytest.raises(TimedOut):
        old.release(Deadline(1))
    etcd_clock.advance(TTL / 3 - 0.9)
    assert bench.keys() == {'/kept'}
    bench.hold(value='new')
    etcd_clock.advance(TTL)
    assert bench.value_of() == 'new'
    assert set(bench.member.story) == {'renewed'}


def test_key_is_not_free_while_any_deletion_of_it_is_under_way(bench: Bench, etcd_clock: VirtualTime) -> None:
    """A renewal finds a node that is just being released, and its deletion takes longer."""

    def slow(seconds: float) -> Any:
        def fault(do: Callable[[], Any], deadline: Deadline, is_write: bool) -> Any:
            gevent.sleep(seconds)
            return do()

        return fault

    old = bench.hold()
    bench.hold('/kept')
    etcd_clock.advance(TTL / 3 - 0.1)
    bench.server.next('Txn', slow(0.3), slow(0.5))
    releasing = gevent.spawn(old.release, Deadline(5))
    etcd_clock.advance(0.35)
    assert releasing.ready()
    bench.hold(value='new')
    etcd_clock.advance(TTL)
    assert bench.value_of() == 'new'
    assert set(bench.member.story) == {'renewed'}


def test_key_that_is_being_released_is_put_on_another_lease(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Its deletion is on the way."""
    old = bench.hold()
    bench.hold('/kept')
    bench.server.next('Txn', late(1))
    releasing = gevent.spawn(old.release, Deadline(0.5))
    etcd_clock.advance(0.1)
    bench.hold(value='new', prev_exist=None)
    etcd_clock.advance(TTL)
    assert bench.value_of() == 'new'
    assert isinstance(releasing.exception, TimedOut)


# -- letting go


def test_release_deletes_only_what_is_ours_and_never_the_lease(bench: Bench) -> None:
    """It is content with what is gone."""
    bench.hold('/kept')
    released, taken = bench.hold('/released'), bench.hold('/taken')
    bench.server.put('/taken', 'theirs')
    for hold in (released, taken, released):
        hold.release(Deadline(5))
    assert bench.keys() == {'/kept', '/taken'}
    assert not bench.server.times('LeaseRevoke')
    assert len(bench.server.leases) == 1


def test_released_hold_cannot_be_updated(bench: Bench) -> None:
    """Nor the node of another."""
    hold = bench.hold()
    bench.server.put('/a', 'theirs')
    with pytest.raises(Overtaken):
        hold.update('y', Deadline(5))
    bench.server.delete('/a')
    with pytest.raises(NodeLost):
        hold.update('y', Deadline(5))
    hold.abandon()
    with pytest.raises(NodeLost, match='not kept any more'):
        hold.update('y', Deadline(5))


def test_orphan_moves_the_node_to_a_lease_that_nobody_renews(bench: Bench, etcd_clock: VirtualTime) -> None:
    """With its value; the others stay."""
    hold = bench.hold()
    bench.hold('/kept')
    hold.detach(Deadline(5))
    assert bench.lease_of('/a') != bench.lease_of('/kept')
    assert bench.value_of('/a') == 'x'
    etcd_clock.advance(TTL + 0.1)
    assert bench.keys() == {'/kept'}


@pytest.mark.parametrize('slow', ['LeaseGrant', 'Txn'])
def test_orphan_that_takes_longer_than_until_the_next_renewal_keeps_its_node(
    bench: Bench, etcd_clock: VirtualTime, slow: str
) -> None:
    """A renewal deletes what nobody holds, but not what is being moved."""

    def fault(do: Callable[[], Any], *_: object) -> Any:
        gevent.sleep(1)
        return do()

    hold = bench.hold()
    bench.hold('/kept')
    etcd_clock.advance(TTL / 3 - 0.5)
    bench.server.next(slow, fault)
    orphaning = gevent.spawn(hold.detach, Deadline(5))
    etcd_clock.advance(2)
    orphaning.get(block=False)
    assert bench.keys() == {'/a', '/kept'}
    assert bench.lease_of('/a') != bench.lease_of('/kept')


def test_lease_without_nodes_ends_by_itself(bench: Bench, etcd_clock: VirtualTime) -> None:
    """It is not renewed any more, and nothing of it is left here."""
    bench.hold().release(Deadline(5))
    etcd_clock.advance(TTL / 3 + 0.1)
    assert bench.leases == []
    etcd_clock.advance(TTL)
    assert bench.server.leases == {}


def test_adopt_goes_on_with_the_very_node_only(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Under a new token, on a lease that lives; not if another has it, or nobody."""
    old = bench.hold()
    bench.server.fault, bench.server.is_silent = hang, True
    etcd_clock.advance(TTL - 0.9)
    assert bench.member.story[-1] == 'lost: NodeLost'
    bench.server.come_back()
    again = bench.group.reclaim('/a', 'y', old, bench.member, Deadline(5))
    assert again is not None
    assert again.token > old.token
    assert (bench.value_of(), bench.lease_of()) == ('y', bench.leases[0].id)
    again.abandon()
    bench.server.put('/a', 'y')
    assert bench.group.reclaim('/a', 'y', again, bench.member, Deadline(5)) is None
    bench.server.delete('/a')
    assert bench.group.reclaim('/a', 'y', again, bench.member, Deadline(5)) is None


def test_node_whose_adoption_was_not_answered_is_known_as_ours_when_its_lease_is_over(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """Nothing is held on that lease, so it is renewed no more; the node need not go before it is taken up again."""
    old = bench.hold()
    bench.server.fault, bench.server.is_silent = hang, True
    etcd_clock.advance(TTL - 0.9)
    bench.server.come_back()
    bench.server.fault = lambda do, deadline, is_write: lose_reply(do, deadline, is_write) if is_write else do()
    with pytest.raises(ConnectionError):
        bench.group.reclaim('/a', 'y', old, bench.member, Deadline(5))
    bench.server.fault = None
    number = bench.lease_of()
    assert bench.value_of() == 'y'
    etcd_clock.advance(TTL / 3 + 0.2)
    assert bench.leases == []
    assert bench.group.reclaim('/a', 'z', old, bench.member, Deadline(5)) is None
    again = bench.hold(value='z')
    assert (bench.value_of(), bench.lease_of()) == ('z', bench.leases[0].id)
    assert bench.lease_of() != number
    etcd_clock.advance(2 * TTL)
    assert bench.value_of() == 'z'
    again.abandon()
    bench.server.put('/a', 'z')
    with pytest.raises(NodeExist):  # the same value, and another's
        bench.hold(value='z')


def test_former_leases_are_remembered_up_to_a_bound(bench: Bench, etcd_clock: VirtualTime, monkeypatch) -> None:
    """The oldest is forgotten first."""
    monkeypatch.setattr(pool, 'MAX_EXPIRED_IDS', 2)
    numbers = []
    for _ in range(4):
        bench.hold().release(Deadline(5))
        numbers.append(bench.leases[0].id)
        etcd_clock.advance(TTL)
    assert list(bench.group._expired_ids) == numbers[-2:]


def test_close_leaves_no_renewal_and_no_timer(bench: Bench, etcd_clock: VirtualTime) -> None:
    """And tells nobody."""
    bench.hold()
    etcd_clock.advance(TTL / 3 + 0.1)
    bench.close()
    called = len(bench.server.calls)
    etcd_clock.advance(3 * TTL)
    assert len(bench.server.calls) == called
    assert bench.member.story == ['renewed']


def test_close_during_a_renewal_ends_it(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Whatever it waits for."""
    bench.hold()
    bench.server.fall_silent()
    etcd_clock.advance(TTL / 3 + 0.1)
    bench.group.close()
    etcd_clock.advance(0)
    assert not [greenlet for greenlet in greenlets_of_getc() if 'lease' in greenlet.name and greenlet.started]
    etcd_clock.advance(TTL)
    assert bench.member.story == []


# -- what the server grants


def test_ttl_is_what_the_server_grants(bench: Bench) -> None:
    """At least its own minimum."""
    group = LeasePool(bench.rpc, Lease(bench.rpc), bench.watches, 1, is_strict=True)
    hold = group.keep(Put('/short', 'x', prev_exist=False), bench.member, Deadline(5))
    assert group.ttl == 2
    assert hold.lost_at == timing.now() + 2 - 0.5
    group.close()


def test_grant_that_takes_too_long_is_waited_for_by_nobody_else_beyond_their_time(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """One asks for all; who has no time left gives up alone."""
    bench.server.next('LeaseGrant', delay(3))
    patient = gevent.spawn(bench.hold, '/patient', timeout=5)
    etcd_clock.advance(0.1)
    with pytest.raises(TimedOut, match='no lease was granted for /hasty within 1 s'):
        bench.hold('/hasty', timeout=1)
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
        bench.hold()
    assert caught.value.maybe_applied
    hold = bench.hold()
    bench.server.next('Txn', fault)
    with pytest.raises(ProtocolError, match='malformed response of etcd v3'):
        hold.update('y', Deadline(5))


@pytest.mark.parametrize('bug', [IndexError, OverflowError, ValueError])
def test_bug_of_getc_is_not_reported_as_the_servers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, bug: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise bug('a bug')

    monkeypatch.setattr(pool, 'parse_put', fail)
    with pytest.raises(bug, match='a bug'):
        bench.hold()
