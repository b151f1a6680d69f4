"""Keeping nodes alive by refreshes, each with a compare on the index of the write before."""

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


class Listener:
    """Records its callbacks."""

    def __init__(self) -> None:
        self.unanswered: tuple[AcquiringWrite, ...] = ()
        self.events: list[str] = []
        self.is_alive = True

    def on_writing(self, write: AcquiringWrite) -> None:
        pass

    def check_liveness(self) -> bool:
        return self.is_alive

    def on_renewed(self) -> None:
        self.events.append('renewed')

    def on_renewal_missed(self, error: EtcException) -> None:
        self.events.append('suspect')

    def on_lost(self, error: NodeLost) -> None:
        self.events.append(f'lost: {type(error).__name__}')


class Bench:
    """A group on a store in memory; ``before`` and ``after`` are called before and after each operation."""

    def __init__(self) -> None:
        self.backend = MemoryBackend(SharedStore())
        self.group = RefreshGroup(self.execute, self.backend.watch, TTL, max_watched=2)
        self.listener = Listener()
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
        """Execute an operation as another client."""
        return self.backend.execute(operation, Deadline(None))

    def keep(self, value: str = 'x', key: str = '/a') -> object:
        return self.group.keep(Put(key, value, prev_exist=False), self.listener, Deadline(5))

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


def test_keep_writes_with_the_ttl_and_its_token_is_the_index(bench: Bench) -> None:
    """The TTL counts from the sending of the write."""
    kept = bench.keep()
    node = bench.do(Get('/a')).node
    assert (node.ttl, kept.token) == (TTL, node.modified_index)
    assert kept.lost_at == timing.now() + TTL - 1
    with pytest.raises(NodeExist):
        bench.keep()


def test_guard_holds_until_another_client_writes_the_node(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Refreshes and updates of the owner change the index of the node, and not the guard."""
    kept = bench.keep()
    guard = kept.guard
    assert guard.is_ours is not None
    assert (guard.key, guard.created_index, guard.lease_id) == ('/a', 1, 0)
    etcd_clock.advance(TTL)
    kept.update('y', Deadline(5))
    node = bench.do(Get('/a')).node
    assert node.created_index == 1 < node.modified_index
    assert guard.is_ours(node)
    bench.do(Put('/a', 'y', ttl=TTL, prev_exist=True))
    assert not guard.is_ours(bench.do(Get('/a')).node)


def test_guard_does_not_hold_after_the_node_was_given_up(bench: Bench) -> None:
    kept = bench.keep()
    guard = kept.guard
    kept.abandon()
    assert guard.is_ours is not None
    assert not guard.is_ours(bench.do(Get('/a')).node)


def test_each_refresh_compares_the_index_of_the_write_before(bench: Bench, etcd_clock: VirtualTime) -> None:
    """No change of another client can be overwritten."""
    bench.keep()
    etcd_clock.advance(TTL - 1)
    refreshes = [operation for operation in bench.sent[1:] if isinstance(operation, Put)]
    assert [put.prev_index for put in refreshes] == [1, 2]
    assert all(put.refresh and put.prev_exist and put.value is None for put in refreshes)
    assert bench.listener.events == ['renewed', 'renewed']


def test_change_of_another_client_is_detected_with_equal_value_and_created_index(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    kept = bench.keep()
    node = bench.do(Put('/a', 'x', ttl=TTL, prev_exist=True)).node
    assert node.created_index == kept.created_index
    etcd_clock.advance(TTL / 3)
    assert bench.listener.events == ['lost: Overtaken']
    with pytest.raises(NodeLost):
        kept.update('y', Deadline(5))


def test_node_that_lost_its_ttl_is_not_ours_any_more(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Also after a write without an answer."""
    bench.keep()
    bench.lose_replies(1)
    bench.do(Get('/a'))
    etcd_clock.advance(TTL / 3)
    bench.do(Put('/a', 'x', prev_exist=True))
    etcd_clock.advance(1)
    assert bench.listener.events[-1] == 'lost: Overtaken'


@pytest.mark.parametrize('moment', ['before the read', 'after the read'])
def test_change_of_another_client_is_detected_after_a_write_without_an_answer(
    bench: Bench, etcd_clock: VirtualTime, moment: str
) -> None:
    """By its value."""
    bench.keep()
    bench.lose_replies(1)
    etcd_clock.advance(TTL / 3)

    def overtake(operation: Operation) -> None:
        if isinstance(operation, Get):
            bench.before = bench.after = lambda _: None
            bench.do(Put('/a', 'other', ttl=TTL, prev_exist=True))

    if moment == 'before the read':
        bench.before = overtake
    else:
        bench.after = overtake
    etcd_clock.advance(1)
    assert bench.listener.events[-1] == 'lost: Overtaken'
    assert bench.do(Get('/a')).value == 'other'


def test_late_write_of_ours_between_read_and_write_is_not_another_clients(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """A request without an answer may be applied at any time."""
    late: list[Operation] = []

    def delay(operation: Operation) -> None:
        late.append(operation)
        bench.before = lambda _: None
        raise TimedOut('no answer', maybe_applied=True)

    def arrive(operation: Operation) -> None:
        if isinstance(operation, Get) and late:
            bench.do(late.pop())

    node = bench.keep()
    bench.before = delay
    etcd_clock.advance(TTL / 3)
    node.abandon()
    assert isinstance(late[0], Put)
    assert late[0].refresh
    bench.after = arrive
    again = bench.group.reclaim('/a', 'x', node, bench.listener, Deadline(5))
    assert late == []
    assert again is not None
    assert again.token == bench.do(Get('/a')).modified_index


def test_update_is_a_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    """It changes neither token nor created index."""
    node = bench.keep()
    token = node.token
    etcd_clock.advance(1)
    result = node.update('y', Deadline(5))
    assert (result.value, result.created_index) == ('y', node.created_index)
    assert node.token == token
    assert node.lost_at == timing.now() + TTL - 1
    etcd_clock.advance(3 * TTL)
    assert bench.do(Get('/a')).value == 'y'


def test_release_deletes_only_our_node(bench: Bench, etcd_clock: VirtualTime) -> None:
    """It accepts that the node is gone."""
    bench.keep().release(Deadline(5))
    with pytest.raises(KeyNotFound):
        bench.do(Get('/a'))
    node = bench.keep()
    bench.do(Put('/a', 'other'))
    node.release(Deadline(5))
    assert bench.do(Get('/a')).value == 'other'
    bench.do(Delete('/a'))
    node.release(Deadline(5))


def test_write_waits_for_the_write_in_flight_until_its_deadline(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Two at a time would compare with the same index."""
    node = bench.keep()
    with node._locked(Deadline(5)), pytest.raises(TimedOut, match='could not write /a within 2 s'):
        node.update('y', Deadline(2))
    assert etcd_clock.elapsed == 2
    node.update('z', Deadline(2))


def test_failed_liveness_check_stops_the_renewals(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The node expires unless the listener deletes it."""
    bench.keep()
    bench.listener.is_alive = False
    etcd_clock.advance(TTL - 0.01)
    assert bench.listener.events == []
    assert bench.do(Get('/a'))
    etcd_clock.advance(0.01)
    with pytest.raises(KeyNotFound):
        bench.do(Get('/a'))


def test_abandoned_and_closed_nodes_are_not_renewed(bench: Bench, etcd_clock: VirtualTime) -> None:
    node = bench.keep()
    node.abandon()
    node.abandon()
    bench.do(Delete('/a'))
    bench.keep()
    bench.group.close()
    sent = len(bench.sent)
    etcd_clock.advance(3 * TTL)
    assert len(bench.sent) == sent
    assert bench.listener.events == []
    assert not bench.group._context.nodes


def test_reclaim_keeps_only_the_same_node(bench: Bench, etcd_clock: VirtualTime) -> None:
    """With a new token; not if it was changed, replaced or deleted."""
    node = bench.keep()
    node.abandon()
    again = bench.group.reclaim('/a', 'y', node, bench.listener, Deadline(5))
    assert again is not None
    assert again.token > node.token
    assert bench.do(Get('/a')).value == 'y'
    again.abandon()
    bench.do(Put('/a', 'y', ttl=TTL, prev_exist=True))
    assert bench.group.reclaim('/a', 'y', again, bench.listener, Deadline(5)) is None
    bench.do(Put('/a', 'y', ttl=TTL))
    assert bench.group.reclaim('/a', 'y', again, bench.listener, Deadline(5)) is None
    bench.do(Delete('/a'))
    assert bench.group.reclaim('/a', 'y', again, bench.listener, Deadline(5)) is None


def test_reclaim_without_an_answer_can_be_repeated(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The node may have either value."""
    node = bench.keep()
    node.abandon()
    bench.lose_replies(1)
    with pytest.raises(ConnectionError):
        bench.group.reclaim('/a', 'y', node, bench.listener, Deadline(5))
    again = bench.group.reclaim('/a', 'y', node, bench.listener, Deadline(5))
    assert again is not None
    assert again.token == bench.do(Get('/a')).modified_index


def test_node_whose_write_took_long_is_renewed_in_time(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The interval counts from the sending, as the loss does."""

    def wait(_operation: Operation) -> None:
        bench.after = lambda _: None
        etcd_clock.advance(4)

    bench.after = wait
    began = timing.now()
    node = bench.keep()
    assert node.lost_at == began + TTL - 1
    etcd_clock.advance(0.01)
    assert bench.listener.events == ['renewed']


# -- watches


@pytest.mark.parametrize('change', [Put('/a', 'x', ttl=60), Put('/a', 'x', prev_exist=True), Delete('/a')], ids=str)
def test_change_of_another_client_is_detected_at_once_when_the_node_is_watched(
    bench: Bench, etcd_clock: VirtualTime, change: Operation
) -> None:
    """The event makes the next renewal come at once."""
    bench.keep()
    bench.do(change)
    etcd_clock.advance(0)
    assert bench.listener.events == [f'lost: {"NodeLost" if isinstance(change, Delete) else "Overtaken"}']
    assert not bench.backend._watches


def test_change_of_another_client_during_a_renewal_is_detected_by_another_renewal(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """The answer of the renewal in flight is from before the change."""
    bench.keep()

    def after(operation: Operation) -> None:
        bench.after = lambda _: None
        bench.do(Put('/a', 'x', ttl=60))
        gevent.sleep(1)

    bench.after = after
    etcd_clock.advance(TTL / 3 + 1.1)
    assert bench.listener.events == ['renewed', 'lost: Overtaken']


def test_update_of_ours_causes_no_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    node = bench.keep()
    node.update('y', Deadline(5))
    sent = len(bench.sent)
    etcd_clock.advance(1)
    assert len(bench.sent) == sent


def test_maximum_of_nodes_is_watched_and_another_one_after_a_release(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Where a watch takes a connection."""
    first = bench.keep(key='/0')
    for number in range(1, 4):
        bench.keep(key=f'/{number}')
    assert [watch.spec.key for watch in bench.backend._watches] in (['/0', '/1'], ['/1', '/0'])
    first.release(Deadline(5))
    etcd_clock.advance(TTL / 3)
    assert {watch.spec.key for watch in bench.backend._watches} == {'/1', '/2'}


def test_watch_that_has_ended_is_started_again_with_the_next_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    bench.keep()
    bench.backend.end_watches(ConnectionError('the connection broke'))
    etcd_clock.advance(1)
    assert not bench.backend._watches
    etcd_clock.advance(TTL / 3)
    bench.do(Put('/a', 'x', ttl=60))
    etcd_clock.advance(0)
    assert bench.listener.events == ['renewed', 'lost: Overtaken']


def test_loss_during_the_wait_for_another_write_names_that_write(bench: Bench, etcd_clock: VirtualTime) -> None:
    kept = bench.keep()
    lost: list[NodeLost] = []
    bench.listener.on_lost = lost.append  # type: ignore[method-assign]
    kept._write_lock.acquire()  # type: ignore[attr-defined]
    etcd_clock.advance(TTL)
    reason = 'no renewal was sent: another write to it is in flight'
    assert [str(error) for error in lost] == [f'/a was not renewed within its TTL of 10 s: {reason}']
