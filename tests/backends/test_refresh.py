"""Holding a node by a chain of writes, each under the condition of the one before."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

from getc import timing
from getc.backends.base import AcquiringWrite
from getc.backends.memory.backend import MemoryBackend
from getc.backends.memory.notifier import SharedStore
from getc.backends.refresh import RefreshGroup
from getc.errors import ConnectionError, EtcException, KeyNotFound, NodeExist, NodeLost, TimedOut
from getc.operations import Delete, Get, Operation, Put
from getc.results import EtcdResult
from getc.testing import VirtualTime
from getc.timing import Deadline

TTL = 10


class Member:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.unanswered: tuple[AcquiringWrite, ...] = ()
        self.story: list[str] = []
        self.answer = True

    def on_writing(self, write: AcquiringWrite) -> None:
        pass

    def check_liveness(self) -> bool:
        return self.answer

    def on_renewed(self) -> None:
        self.story.append('renewed')

    def on_renewal_missed(self, error: EtcException) -> None:
        self.story.append('suspect')

    def on_lost(self, error: NodeLost) -> None:
        self.story.append(f'lost: {type(error).__name__}')


class Bench:
    """A group over a store in memory; what ``before`` and ``after`` do comes before and after each operation."""

    def __init__(self) -> None:
        self.backend = MemoryBackend(SharedStore())
        self.group = RefreshGroup(self.execute, self.backend.watch, TTL, max_watched=2)
        self.member = Member()
        self.sent: list[Operation] = []
        self.before: Callable[[Operation], None] = lambda _: None
        self.after: Callable[[Operation], None] = lambda _: None

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        self.sent.append(operation)
        self.before(operation)
        result = self.backend.execute(operation, deadline)
        self.after(operation)
        return result

    def do(self, operation: Operation) -> EtcdResult:
        """As somebody else."""
        return self.backend.execute(operation, Deadline(None))

    def hold(self, value: str = 'x', key: str = '/a') -> object:
        return self.group.keep(Put(key, value, prev_exist=False), self.member, Deadline(5))

    def lose_replies(self, count: int, kind: type[Operation] = Put) -> None:
        left = [count]

        def after(operation: Operation) -> None:
            if left[0] and isinstance(operation, kind):
                left[0] -= 1
                raise ConnectionError('the connection broke', maybe_applied=True)

        self.after = after


@pytest.fixture
def bench(etcd_clock: VirtualTime) -> Bench:
    return Bench()


def test_hold_writes_with_the_ttl_and_its_token_is_the_index(bench: Bench) -> None:
    """Its end counts from when the write was sent."""
    hold = bench.hold()
    node = bench.do(Get('/a')).node
    assert (node.ttl, hold.token) == (TTL, node.modified_index)
    assert hold.lost_at == timing.now() + TTL - 1
    with pytest.raises(NodeExist):
        bench.hold()


def test_each_refresh_is_under_the_condition_of_the_write_before(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Nobody else's change can be overwritten."""
    bench.hold()
    etcd_clock.advance(TTL - 1)
    refreshes = [operation for operation in bench.sent[1:] if isinstance(operation, Put)]
    assert [put.prev_index for put in refreshes] == [1, 2]
    assert all(put.refresh and put.prev_exist and put.value is None for put in refreshes)
    assert bench.member.story == ['renewed', 'renewed']


def test_change_of_another_is_noticed_whatever_it_left(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The same value and the same creation index: the chain is broken all the same."""
    hold = bench.hold()
    node = bench.do(Put('/a', 'x', ttl=TTL, prev_exist=True)).node
    assert node.created_index == hold.created_index
    etcd_clock.advance(TTL / 3)
    assert bench.member.story == ['lost: Overtaken']
    with pytest.raises(NodeLost):
        hold.update('y', Deadline(5))


def test_node_that_was_made_permanent_is_not_ours_any_more(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Also over a gap."""
    bench.hold()
    bench.lose_replies(1)
    bench.do(Get('/a'))
    etcd_clock.advance(TTL / 3)
    bench.do(Put('/a', 'x', prev_exist=True))
    etcd_clock.advance(1)
    assert bench.member.story[-1] == 'lost: Overtaken'


@pytest.mark.parametrize('moment', ['before the look', 'after the look'])
def test_another_who_comes_over_a_gap_is_noticed(bench: Bench, etcd_clock: VirtualTime, moment: str) -> None:
    """He has written another value."""
    bench.hold()
    bench.lose_replies(1)
    etcd_clock.advance(TTL / 3)

    def overtake(operation: Operation) -> None:
        if isinstance(operation, Get):
            bench.before = bench.after = lambda _: None
            bench.do(Put('/a', 'theirs', ttl=TTL, prev_exist=True))

    if moment == 'before the look':
        bench.before = overtake
    else:
        bench.after = overtake
    etcd_clock.advance(1)
    assert bench.member.story[-1] == 'lost: Overtaken'
    assert bench.do(Get('/a')).value == 'theirs'


def test_late_write_of_our_own_between_look_and_write_is_nobody_elses(bench: Bench, etcd_clock: VirtualTime) -> None:
    """A request that was not answered may be done at any time after."""
    late: list[Operation] = []

    def keep_back(operation: Operation) -> None:
        late.append(operation)
        bench.before = lambda _: None
        raise TimedOut('no answer', maybe_applied=True)

    def arrive(operation: Operation) -> None:
        if isinstance(operation, Get) and late:
            bench.do(late.pop())

    hold = bench.hold()
    bench.before = keep_back
    etcd_clock.advance(TTL / 3)
    hold.abandon()
    assert isinstance(late[0], Put)
    assert late[0].refresh
    bench.after = arrive
    again = bench.group.reclaim('/a', 'x', hold, bench.member, Deadline(5))
    assert late == []
    assert again is not None
    assert again.token == bench.do(Get('/a')).modified_index


def test_update_is_a_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    """And keeps token and creation."""
    hold = bench.hold()
    token = hold.token
    etcd_clock.advance(1)
    result = hold.update('y', Deadline(5))
    assert (result.value, result.created_index) == ('y', hold.created_index)
    assert hold.token == token
    assert hold.lost_at == timing.now() + TTL - 1
    etcd_clock.advance(3 * TTL)
    assert bench.do(Get('/a')).value == 'y'


def test_release_deletes_only_what_is_ours(bench: Bench, etcd_clock: VirtualTime) -> None:
    """And is content with what is gone."""
    bench.hold().release(Deadline(5))
    with pytest.raises(KeyNotFound):
        bench.do(Get('/a'))
    hold = bench.hold()
    bench.do(Put('/a', 'theirs'))
    hold.release(Deadline(5))
    assert bench.do(Get('/a')).value == 'theirs'
    bench.do(Delete('/a'))
    hold.release(Deadline(5))


def test_write_waits_for_the_one_under_way_until_its_deadline(bench: Bench, etcd_clock: VirtualTime) -> None:
    """One at a time, or the chain would break itself."""
    hold = bench.hold()
    with hold._locked(Deadline(5)), pytest.raises(TimedOut, match='could not write /a within 2 s'):
        hold.update('y', Deadline(2))
    assert etcd_clock.elapsed == 2
    hold.update('z', Deadline(2))


def test_member_that_says_no_is_not_held_any_more(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The node goes with its TTL unless the member deletes it."""
    bench.hold()
    bench.member.answer = False
    etcd_clock.advance(TTL - 0.01)
    assert bench.member.story == []
    assert bench.do(Get('/a'))
    etcd_clock.advance(0.01)
    with pytest.raises(KeyNotFound):
        bench.do(Get('/a'))


def test_abandoned_and_closed_nodes_renew_no_more(bench: Bench, etcd_clock: VirtualTime) -> None:
    """No timer is left."""
    hold = bench.hold()
    hold.abandon()
    hold.abandon()
    bench.do(Delete('/a'))
    bench.hold()
    bench.group.close()
    sent = len(bench.sent)
    etcd_clock.advance(3 * TTL)
    assert len(bench.sent) == sent
    assert bench.member.story == []
    assert not bench.group._nodes


def test_adopt_goes_on_with_the_very_node_only(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Under a new token; not if it was changed, made anew, or is gone."""
    hold = bench.hold()
    hold.abandon()
    again = bench.group.reclaim('/a', 'y', hold, bench.member, Deadline(5))
    assert again is not None
    assert again.token > hold.token
    assert bench.do(Get('/a')).value == 'y'
    again.abandon()
    bench.do(Put('/a', 'y', ttl=TTL, prev_exist=True))
    assert bench.group.reclaim('/a', 'y', again, bench.member, Deadline(5)) is None
    bench.do(Put('/a', 'y', ttl=TTL))
    assert bench.group.reclaim('/a', 'y', again, bench.member, Deadline(5)) is None
    bench.do(Delete('/a'))
    assert bench.group.reclaim('/a', 'y', again, bench.member, Deadline(5)) is None


def test_adopt_whose_reply_is_lost_can_be_made_again(bench: Bench, etcd_clock: VirtualTime) -> None:
    """It knows the node by either value."""
    hold = bench.hold()
    hold.abandon()
    bench.lose_replies(1)
    with pytest.raises(ConnectionError):
        bench.group.reclaim('/a', 'y', hold, bench.member, Deadline(5))
    again = bench.group.reclaim('/a', 'y', hold, bench.member, Deadline(5))
    assert again is not None
    assert again.token == bench.do(Get('/a')).modified_index


def test_hold_that_was_long_on_its_way_is_renewed_in_time(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The schedule counts from the sending, as the end does."""

    def wait(_operation: Operation) -> None:
        bench.after = lambda _: None
        etcd_clock.advance(4)

    bench.after = wait
    began = timing.now()
    hold = bench.hold()
    assert hold.lost_at == began + TTL - 1
    etcd_clock.advance(0.01)
    assert bench.member.story == ['renewed']


# -- watches


@pytest.mark.parametrize('change', [Put('/a', 'x', ttl=60), Put('/a', 'x', prev_exist=True), Delete('/a')], ids=str)
def test_change_of_another_is_noticed_at_once_where_the_node_is_watched(
    bench: Bench, etcd_clock: VirtualTime, change: Operation
) -> None:
    """Its watch brings the next renewal forward."""
    bench.hold()
    bench.do(change)
    etcd_clock.advance(0)
    assert bench.member.story == [f'lost: {"NodeLost" if isinstance(change, Delete) else "Overtaken"}']
    assert not bench.backend._watches


def test_change_of_another_during_a_renewal_is_noticed_by_one_more(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The answer of the one under way is from before."""
    bench.hold()

    def after(operation: Operation) -> None:
        bench.after = lambda _: None
        bench.do(Put('/a', 'x', ttl=60))
        gevent.sleep(1)

    bench.after = after
    etcd_clock.advance(TTL / 3 + 1.1)
    assert bench.member.story == ['renewed', 'lost: Overtaken']


def test_update_of_ours_brings_no_renewal_forward(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Its event tells nothing new."""
    hold = bench.hold()
    hold.update('y', Deadline(5))
    sent = len(bench.sent)
    etcd_clock.advance(1)
    assert len(bench.sent) == sent


def test_so_many_nodes_are_watched_and_others_when_one_of_them_ends(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Where a watch takes a connection."""
    first = bench.hold(key='/0')
    for number in range(1, 4):
        bench.hold(key=f'/{number}')
    assert [watch.spec.key for watch in bench.backend._watches] in (['/0', '/1'], ['/1', '/0'])
    first.release(Deadline(5))
    etcd_clock.advance(TTL / 3)
    assert {watch.spec.key for watch in bench.backend._watches} == {'/1', '/2'}


def test_watch_that_has_ended_begins_again_with_the_next_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    """From where that one was."""
    bench.hold()
    bench.backend.end_watches(ConnectionError('the connection broke'))
    etcd_clock.advance(1)
    assert not bench.backend._watches
    etcd_clock.advance(TTL / 3)
    bench.do(Put('/a', 'x', ttl=60))
    etcd_clock.advance(0)
    assert bench.member.story == ['renewed', 'lost: Overtaken']
