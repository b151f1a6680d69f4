"""A keeper and its etcd, which fails: what is told, when, and what is left."""

from __future__ import annotations

import gc
import os
import signal
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import gevent
import pytest
from gevent.os import fork_gevent

import getc
from getc import Keeper, KeeperState, timing
from getc.errors import ConnectionError, ConnectionRefused, LeaderElect, NodeLost, Overtaken, PermissionDenied, TimedOut
from getc.operations import Delete, Get, Put
from getc.renewal import safety_margin
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support import faulty
from tests.support.faulty import FaultyBackend
from tests.support.leftovers import greenlets_of_getc

TTL = 10
PATIENCE = TTL - safety_margin(TTL)
INTERVAL = TTL / 3
SLACK = 1e-6
"""Seconds: times are sums of floats."""


class Diary:
    """Callbacks that note what they are told, and when."""

    def __init__(self) -> None:
        self.pages: list[tuple[str, float]] = []

    def on_lost(self, _keeper: Keeper) -> None:
        self.pages.append(('lost', timing.now()))

    def on_restored(self, _keeper: Keeper) -> None:
        self.pages.append(('restored', timing.now()))

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.pages]

    @property
    def callbacks(self) -> dict[str, Callable[[Keeper], object]]:
        return {'on_lost': self.on_lost, 'on_restored': self.on_restored}


@pytest.fixture
def diary() -> Diary:
    return Diary()


def value_of(client: getc.Client, key: str = '/a') -> str | None:
    """What is there; None for nothing."""
    try:
        return client.get(key).value
    except getc.KeyNotFound:
        return None


def last_renewal(backend: FaultyBackend) -> float:
    """When the latest write was sent."""
    return backend.times(Put)[-1]


# -- renewing


def test_node_is_renewed_at_a_third_of_its_ttl(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """Counted from when the renewal before was sent."""
    backend.fault = faulty.delay(0.5)
    began = timing.now()
    client.keep_node('/a', 'x', ttl=TTL)
    etcd_clock.advance(40)
    assert backend.times(Put) == pytest.approx([began + INTERVAL * number for number in range(13)])


def test_renewals_of_many_nodes_are_a_few_at_a_time(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """However many there are, they do not take more connections; and none is lost."""
    keepers = [client.keep_node(f'/many/{number}', ttl=TTL) for number in range(100)]
    under_way = [0, 0]

    def count(operation: Any, deadline: Any, do: faulty.Do) -> Any:
        under_way[0] += 1
        under_way[1] = max(under_way)
        gevent.sleep(0.1)
        under_way[0] -= 1
        return do()

    backend.fault = count
    etcd_clock.advance(3 * TTL)
    assert under_way[1] == 16
    assert {keeper.state for keeper in keepers} == {KeeperState.KEPT}


def test_idle_keeper_has_no_greenlet_that_runs(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """Only timers: ten thousand would cost stacks otherwise."""
    client.keep_node('/a', ttl=TTL)
    etcd_clock.advance(1)
    ours = greenlets_of_getc()
    assert len(ours) == 2
    assert not any(greenlet.started and greenlet.gr_frame for greenlet in ours)


# -- missing renewals, and losing the node in time


def test_keeper_is_suspect_when_a_renewal_is_missed_and_kept_when_the_next_is_not(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """An outage shorter than the TTL is nobody's business."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    token = keeper.ensure()
    backend.go_down()
    etcd_clock.advance(INTERVAL + 0.1)
    assert keeper.state is KeeperState.SUSPECT
    assert isinstance(keeper.last_error, ConnectionError)
    assert keeper.ensure() == token
    etcd_clock.advance(PATIENCE - INTERVAL - 1.5)
    assert keeper.state is KeeperState.SUSPECT
    backend.come_back()
    etcd_clock.advance(1.3)
    assert keeper.state is KeeperState.KEPT
    assert keeper.remaining() > TTL / 2
    assert diary.pages == []
    assert keeper.ensure() == token


@pytest.mark.parametrize('fault', [faulty.refuse, faulty.drop, faulty.hang])
def test_loss_is_told_before_the_server_can_give_the_name_away(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    diary: Diary,
    etcd_clock: VirtualTime,
    fault: faulty.Fault,
) -> None:
    """At the time of sending of the last renewal that was acknowledged, plus the TTL less the margin: not later."""
    backend.fault = faulty.delay(1)  # the server had it a second before we knew
    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    etcd_clock.advance(2 * INTERVAL + 1.1)
    acknowledged = last_renewal(backend)
    backend.go_down(fault)
    etcd_clock.advance(acknowledged + PATIENCE - timing.now() - 0.01)
    assert diary.pages == []
    assert keeper.state is KeeperState.SUSPECT
    keeper.ensure()
    etcd_clock.advance(0.01 + SLACK)
    assert diary.words == ['lost']
    assert diary.pages[0][1] == pytest.approx(acknowledged + PATIENCE, abs=SLACK)
    assert keeper.state is KeeperState.LOST
    assert value_of(other) == 'x'  # a margin before the server's own end
    etcd_clock.advance(safety_margin(TTL))
    assert value_of(other) is None


@pytest.mark.parametrize('ttl', [1, 2, 3, 60])
def test_loss_is_told_in_time_for_every_ttl(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime, ttl: int
) -> None:
    """The margin is a tenth, and half a second at least."""
    began = timing.now()
    client.keep_node('/a', ttl=ttl, **diary.callbacks)
    backend.go_down(faulty.hang)
    etcd_clock.advance(ttl)
    assert diary.pages == [('lost', pytest.approx(began + ttl - max(0.5, ttl / 10)))]


def test_loss_is_told_in_time_when_alive_does_not_answer(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Whatever a renewal waits for, the end does not wait for it."""
    calls: list[float] = []

    def alive() -> bool:
        calls.append(timing.now())
        gevent.sleep(1.5 if timing.now() > began + 2 else 0)
        return True

    began = timing.now()
    client.keep_node('/a', ttl=TTL, alive=alive, **diary.callbacks)
    backend.go_down(faulty.hang)
    etcd_clock.advance(TTL)
    assert diary.pages[0] == ('lost', pytest.approx(began + PATIENCE))
    assert len(calls) > 1


def test_renewal_that_is_answered_after_the_end_comes_too_late(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Whoever saw that the node is lost is told so, and that it is back."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    token = keeper.ensure()
    backend.faults.append(faulty.delay(1))
    etcd_clock.advance(INTERVAL + 0.5)
    etcd_clock.stall(PATIENCE - INTERVAL)
    assert (keeper.remaining(), keeper.state) == (0, KeeperState.LOST)
    with pytest.raises(NodeLost, match='/a is not kept: LOST'):
        keeper.ensure()
    etcd_clock.advance(SLACK)
    assert diary.words == ['lost', 'restored']
    assert keeper.ensure() > token
    assert keeper.state is KeeperState.KEPT


def test_stall_longer_than_the_ttl_is_known_from_the_first_instruction(
    client: getc.Client, other: getc.Client, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Nobody could tell us in time; the clock does."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    token = keeper.ensure()
    etcd_clock.stall(100)
    assert (keeper.remaining(), keeper.state) == (0, KeeperState.LOST)
    with pytest.raises(NodeLost):
        keeper.ensure()
    with pytest.raises(NodeLost):
        keeper.update('y')
    assert diary.pages == []
    etcd_clock.advance(1)
    assert diary.words == ['lost', 'restored']
    assert keeper.ensure() > token
    assert value_of(other) == 'y'


def test_suspended_machine_knows_when_it_resumes_that_its_node_is_lost(
    client: getc.Client, other: getc.Client, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Timers have not counted it; the callbacks come with the next renewal, which is not late by the suspend."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    token = keeper.ensure()
    etcd_clock.advance(INTERVAL / 2)
    etcd_clock.suspend(3600)
    assert (keeper.remaining(), keeper.state) == (0, KeeperState.LOST)
    with pytest.raises(NodeLost, match='LOST: it was not renewed'):
        keeper.ensure()
    with pytest.raises(NodeLost):
        keeper.update('y')
    etcd_clock.advance(INTERVAL / 2 + 1)
    assert diary.words == ['lost', 'restored']
    assert keeper.ensure() > token
    assert value_of(other) == 'y'


def test_loss_by_a_stall_says_that_the_process_did_not_run(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """Not what a renewal met that was missed long before."""
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    backend.faults.append(faulty.drop)
    etcd_clock.advance(2 * INTERVAL)
    assert isinstance(keeper.last_error, ConnectionError)
    etcd_clock.stall(100)
    with pytest.raises(NodeLost, match=r'^/a is not kept: LOST: it was not renewed within its TTL of 10 s$'):
        keeper.ensure()
    etcd_clock.advance(1)
    reason = 'no renewal was sent: this process, its hub or the machine did not run'
    assert str(keeper.last_error) == f'/a was not renewed within its TTL of 10 s: {reason}'
    assert reason in caplog.text
    assert 'None' not in caplog.text


def test_node_lost_says_why(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """In each state that is not KEPT."""

    def reason() -> str:
        with pytest.raises(NodeLost) as caught:
            keeper.ensure()
        return str(caught.value)

    backend.go_down()
    keeper = client.keep_node('/a', 'x', ttl=TTL, wait=False)
    assert reason() == '/a is not kept: STARTING: it was not written yet'
    etcd_clock.advance(1)
    assert reason() == '/a is not kept: STARTING: connection refused'
    backend.come_back()
    etcd_clock.advance(2)
    keeper.ensure()
    other.set('/a', 'theirs', ttl=TTL)
    etcd_clock.advance(INTERVAL)
    assert reason() == '/a is not kept: LOST: /a was written by another client'
    keeper.stop()
    assert reason() == '/a is not kept: STOPPED: the keeper was stopped'


def test_short_stall_is_no_loss(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """The renewal that was due meanwhile is sent at once."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    token = keeper.ensure()
    etcd_clock.stall(PATIENCE - 1)
    assert keeper.remaining() == pytest.approx(1)
    etcd_clock.advance(SLACK)
    assert keeper.ensure() == token
    assert keeper.remaining() == pytest.approx(PATIENCE)
    assert diary.pages == []


# -- replies that are lost


@pytest.mark.parametrize('on_conflict', ['replace', 'wait', 'raise'])
def test_create_whose_reply_was_lost_is_known_as_ours(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, on_conflict: Any
) -> None:
    """By its value: it is neither waited for nor refused."""
    backend.faults.append(faulty.lose_reply)
    keeper = client.keep_node('/a', 'x', ttl=TTL, on_conflict=on_conflict)
    assert keeper.ensure() == other.get('/a').modified_index
    assert etcd_clock.elapsed < 1
    etcd_clock.advance(3 * TTL)
    assert keeper.state is KeeperState.KEPT


def test_create_whose_reply_was_lost_is_known_as_ours_when_the_value_changed_meanwhile(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """What may be there is what was written then."""
    backend.faults.extend([faulty.lose_reply, faulty.refuse, faulty.refuse])
    keeper = client.keep_node('/a', 'old', ttl=TTL, on_conflict='wait', wait=False)
    etcd_clock.advance(0)
    with pytest.raises(NodeLost):
        keeper.update('new')
    etcd_clock.advance(2)
    assert keeper.state is KeeperState.KEPT
    assert value_of(other) == 'new'


@pytest.mark.parametrize('fault', [faulty.lose_reply, faulty.drop, faulty.hang, faulty.late(2)])
def test_refresh_without_a_reply_is_no_loss(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime, fault: faulty.Fault
) -> None:
    """Whether it was done, was not, or is done later: the chain is mended, and goes on as a chain."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    token = keeper.ensure()
    backend.faults.append(fault)
    etcd_clock.advance(INTERVAL + 3)
    backend.faults.extend([fault, fault])
    etcd_clock.advance(5 * TTL)
    assert keeper.state is KeeperState.KEPT
    assert diary.pages == []
    assert keeper.ensure() == token


def test_refresh_that_a_member_without_a_leader_answered_is_no_loss(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Errors 300 and 301 may come of a write that was done."""

    def elect(_operation: Any, _deadline: Any, do: faulty.Do) -> Any:
        do()
        raise LeaderElect('During Leader Election')

    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    backend.faults.append(elect)
    etcd_clock.advance(3 * TTL)
    assert keeper.state is KeeperState.KEPT
    assert diary.pages == []


@pytest.mark.parametrize('fault', [faulty.lose_reply, faulty.drop, faulty.late(1)])
def test_update_without_a_reply_says_so_and_keeping_goes_on(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    diary: Diary,
    etcd_clock: VirtualTime,
    fault: faulty.Fault,
) -> None:
    """The node is ours whichever of its values it has."""
    keeper = client.keep_node('/a', 'one', ttl=TTL, **diary.callbacks)
    backend.faults.append(fault)
    with pytest.raises(ConnectionError) as caught:
        keeper.update('two', timeout=0.5)
    assert caught.value.maybe_applied
    etcd_clock.advance(3 * TTL)
    assert keeper.state is KeeperState.KEPT
    assert diary.pages == []
    assert value_of(other) in ('one', 'two')
    assert keeper.update('three').value == value_of(other) == 'three'


def test_updates_without_a_reply_one_after_the_other_are_all_remembered(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Two that were not done, between them a refresh that was: the node has the value from before."""
    keeper = client.keep_node('/a', 'one', ttl=TTL, **diary.callbacks)
    for fault, value in ((faulty.drop, 'two'), (faulty.drop, 'three')):
        backend.faults.append(fault)
        with pytest.raises(ConnectionError):
            keeper.update(value)
        backend.faults.append(faulty.lose_reply)
        etcd_clock.advance(INTERVAL + 2)
    assert diary.pages == []
    assert value_of(other) == 'one'
    keeper.ensure()


def test_update_shows_that_the_node_is_kept_when_a_renewal_was_missed(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """It is as good as a renewal."""
    keeper = client.keep_node('/a', 'one', ttl=TTL)
    backend.faults.append(faulty.hang)
    etcd_clock.advance(INTERVAL + TTL / 6 - 0.01)
    backend.go_down()
    etcd_clock.advance(0.02)
    assert keeper.state is KeeperState.SUSPECT
    backend.come_back()
    keeper.update('two')
    assert keeper.state is KeeperState.KEPT
    assert keeper.remaining() == pytest.approx(PATIENCE)


@pytest.mark.parametrize('fault', [faulty.lose_reply, faulty.drop])
def test_release_without_a_reply_ends_the_keeper(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, fault: faulty.Fault
) -> None:
    """The node is gone, or goes with its TTL."""
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    backend.faults.append(fault)
    keeper.stop()
    assert keeper.state is KeeperState.STOPPED
    assert isinstance(keeper.last_error, ConnectionError)
    etcd_clock.advance(TTL)
    assert value_of(other) is None


def test_release_deletes_the_node_when_the_reply_to_a_renewal_was_lost_before(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """It looks whether the node is ours, rather than leave it."""
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    backend.faults.append(faulty.lose_reply)
    etcd_clock.advance(INTERVAL)
    keeper.stop()
    assert value_of(other) is None


def test_stop_during_a_renewal_deletes_the_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """Also if the renewal was done and its answer is on the way."""
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    backend.faults.append(faulty.delay(1))
    etcd_clock.advance(INTERVAL + 0.5)
    keeper.stop()
    assert value_of(other) is None


# -- outages, and coming back


def test_node_is_taken_up_again_after_an_outage_longer_than_our_patience(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """It is still there: we go on with it under a new token, and no follower sees it go."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    token, created = keeper.ensure(), other.get('/a').created_index
    backend.go_down(faulty.drop)
    etcd_clock.advance(PATIENCE + 0.1)
    assert diary.words == ['lost']
    backend.come_back()
    etcd_clock.advance(1)
    assert diary.words == ['lost', 'restored']
    assert keeper.ensure() > token
    assert other.get('/a').created_index == created


@pytest.mark.parametrize('ttl', [1, 4, 9, 12])
def test_node_is_back_within_two_seconds_though_the_attempt_before_is_never_answered(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime, ttl: int
) -> None:
    """It was sent to a leader that was just gone."""
    client.keep_node('/a', 'x', ttl=ttl, **diary.callbacks)
    backend.go_down()
    etcd_clock.advance(3 * ttl)
    backend.faults.append(faulty.hang)
    while backend.faults:
        etcd_clock.advance(0.01)
    backend.come_back()
    etcd_clock.advance(2.01)
    assert diary.words == ['lost', 'restored']


def test_node_is_written_again_after_an_outage_longer_than_the_ttl(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Within about a second of the server's return, however long it was away."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    token = keeper.ensure()
    backend.go_down()
    etcd_clock.advance(3600)
    assert (diary.words, value_of(other)) == (['lost'], None)
    assert 3000 < len(backend.sent) < 20_000  # it did not ask all the time
    backend.come_back()
    etcd_clock.advance(1.01)
    assert (diary.words, value_of(other)) == (['lost', 'restored'], 'x')
    assert keeper.ensure() > token


def test_back_off_starts_small_again_after_each_success(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """A long outage does not make the next short one longer."""
    client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    for _ in range(3):
        backend.go_down()
        etcd_clock.advance(1000)
        backend.come_back()
        etcd_clock.advance(1.01)
    backend.go_down()
    etcd_clock.advance(PATIENCE + 0.02)
    lost_at = diary.pages[-1][1]
    attempts = [at for at in backend.times(Get) if at >= lost_at - SLACK]
    assert attempts[0] == pytest.approx(lost_at)
    etcd_clock.advance(0.2)
    assert len([at for at in backend.times(Get) if at >= lost_at - SLACK]) >= 3


def test_node_is_written_again_when_the_store_comes_back_empty(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """At the next renewal, by itself."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    backend.come_back(empty=True)
    etcd_clock.advance(INTERVAL + 0.1)
    assert diary.words == ['lost', 'restored']
    assert value_of(client) == 'x'
    assert keeper.state is KeeperState.KEPT


def test_attempt_whose_reply_was_lost_when_taking_the_node_up_again_is_known_as_ours(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Also with a value that was given meanwhile."""
    keeper = client.keep_node('/a', 'old', ttl=TTL, **diary.callbacks)
    backend.go_down()
    etcd_clock.advance(PATIENCE + 0.01)
    with pytest.raises(NodeLost):
        keeper.update('new')
    backend.faults.clear()
    backend.faults.extend([None, faulty.lose_reply])
    backend.come_back()
    etcd_clock.advance(0.9)
    assert diary.words == ['lost', 'restored']
    assert value_of(other) == 'new'


# -- others


def test_keeper_does_not_fight_a_successor_of_the_same_value(
    client: getc.Client, other: getc.Client, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """A restarted server has the address of its predecessor: its node looks like ours, and is not."""
    first = client.keep_node('/a', '10.0.0.7:7000', ttl=TTL, **diary.callbacks)
    second = other.keep_node('/a', '10.0.0.7:7000', ttl=TTL)
    token = second.ensure()
    etcd_clock.advance(5 * TTL)
    assert diary.words == ['lost']
    assert first.state is KeeperState.LOST
    assert isinstance(first.last_error, Overtaken)
    assert second.ensure() == token


def test_keeper_does_not_fight_a_rival_who_takes_its_value_later(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Who is known to be another stays another, also where replies were lost before."""
    client.keep_node('/a', 'x', ttl=TTL, **diary.callbacks)
    backend.faults.append(faulty.drop)
    etcd_clock.advance(INTERVAL)
    rival = other.keep_node('/a', 'y', ttl=TTL)
    token = rival.ensure()
    backend.faults.extend([None, None, faulty.refuse])  # overtaken, it looks who that is: not at once
    etcd_clock.advance(0.051)
    assert diary.words == ['lost']
    rival.update('x')
    etcd_clock.advance(3 * TTL)
    assert diary.words == ['lost']
    assert rival.ensure() == token


def test_keeper_comes_back_at_once_when_its_rival_goes(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """It watches the node, rather than ask all the time."""
    keeper = client.keep_node('/a', 'ours', ttl=TTL, **diary.callbacks)
    rival = other.keep_node('/a', 'theirs', ttl=3600)
    etcd_clock.advance(600)
    assert keeper.state is KeeperState.LOST
    asked = len(backend.sent)
    etcd_clock.advance(600)
    assert len(backend.sent) == asked
    rival.stop()
    etcd_clock.advance(0)
    assert diary.words == ['lost', 'restored']


def test_keeper_looks_again_when_the_watch_of_its_rival_breaks(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Nobody else would tell that the rival has gone meanwhile."""
    client.keep_node('/a', 'ours', ttl=TTL, **diary.callbacks)
    rival = other.keep_node('/a', 'theirs', ttl=3600)
    etcd_clock.advance(2 * TTL)
    backend.go_down()
    rival.stop()
    etcd_clock.advance(60)
    backend.come_back()
    etcd_clock.advance(1.01)
    assert diary.words == ['lost', 'restored']


@pytest.mark.parametrize('is_dir', [False, True])
def test_keeper_waits_when_its_name_was_made_permanent_meanwhile(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime, is_dir: bool
) -> None:
    """It stays LOST, and comes back when the name is free."""
    keeper = client.keep_node('/a', 'ours', ttl=TTL, **diary.callbacks)
    other.delete('/a')
    if is_dir:
        other.set('/a/b', 'theirs')
    else:
        other.set('/a', 'theirs')
    etcd_clock.advance(600)
    assert (keeper.state, diary.words) == (KeeperState.LOST, ['lost'])
    assert len(backend.sent) < 500
    other.delete('/a', recursive=True)
    etcd_clock.advance(0)
    assert diary.words == ['lost', 'restored']


def test_unanswered_create_with_an_empty_value_deletes_nobody_elses_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """Giving up after a lost request deletes what we may have made, nothing else."""
    backend.go_down(faulty.drop)
    keeper = client.keep_node('/a', '', ttl=TTL, wait=False)
    etcd_clock.advance(1)
    other.set('/a', 'theirs', ttl=TTL)
    backend.come_back()
    keeper.stop()
    assert keeper.last_error is not None
    assert value_of(other) == 'theirs'


@pytest.mark.parametrize('fault', [faulty.drop, faulty.lose_reply, faulty.late(2)])
@pytest.mark.parametrize('on_conflict', ['raise', 'wait'])
@pytest.mark.parametrize('is_killed', [False, True])
def test_create_that_is_not_answered_neither_takes_nor_deletes_a_node_that_its_owner_has_refreshed(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    etcd_clock: VirtualTime,
    on_conflict: Any,
    fault: faulty.Fault,
    is_killed: bool,
) -> None:
    """Though its value is the same: what an unanswered create has made is refreshed by nobody."""
    owner = other.keep_node('/a', 'same', ttl=TTL)
    token = owner.ensure()
    etcd_clock.advance(INTERVAL + 0.1)
    backend.faults.append(fault)
    caller = gevent.spawn(client.keep_node, '/a', 'same', ttl=TTL, on_conflict=on_conflict)
    etcd_clock.advance(0)
    if is_killed:
        caller.kill()
    etcd_clock.advance(3 * TTL)
    assert owner.ensure() == token
    assert other.get('/a').created_index == token
    assert caller.ready() == (is_killed or on_conflict == 'raise')
    caller.kill()
    assert owner.ensure() == token


# -- whether the process is well


def test_alive_is_asked_before_each_renewal_and_no_takes_the_node_away(
    client: getc.Client, other: getc.Client, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """At once, not after the TTL; True brings it back within a third of the TTL."""
    asked: list[float] = []
    answer: list[object] = [True]

    def alive() -> object:
        asked.append(timing.now())
        return answer[0]

    began = timing.now()
    keeper = client.keep_node('/a', 'x', ttl=TTL, alive=alive, **diary.callbacks)
    etcd_clock.advance(2.5 * INTERVAL)
    assert asked == pytest.approx([began, began + INTERVAL, began + 2 * INTERVAL])
    answer[0] = 0  # as good as False
    etcd_clock.advance(INTERVAL)
    assert (diary.words, value_of(other), keeper.state) == (['lost'], None, KeeperState.LOST)
    with pytest.raises(NodeLost):
        keeper.ensure()
    etcd_clock.advance(600)
    assert value_of(other) is None
    answer[0] = True
    etcd_clock.advance(INTERVAL)
    assert (diary.words, value_of(other)) == (['lost', 'restored'], 'x')


@pytest.mark.parametrize('trouble', [RuntimeError('the loop has ended'), gevent.Timeout(1), gevent.GreenletExit()])
def test_alive_that_ends_by_an_exception_has_said_no(
    client: getc.Client, other: getc.Client, diary: Diary, etcd_clock: VirtualTime, trouble: BaseException
) -> None:
    """Whichever it is, the keeper goes on and asks again."""
    troubles: list[BaseException] = []

    def alive() -> bool:
        if troubles:
            raise troubles[0]
        return True

    keeper = client.keep_node('/a', 'x', ttl=TTL, alive=alive, **diary.callbacks)
    troubles.append(trouble)
    etcd_clock.advance(INTERVAL + 0.1)
    assert (diary.words, value_of(other)) == (['lost'], None)
    troubles.clear()
    etcd_clock.advance(INTERVAL)
    assert (diary.words, value_of(other)) == (['lost', 'restored'], 'x')
    assert keeper.state is KeeperState.KEPT


def test_alive_that_blocks_takes_its_own_node_away_and_holds_up_no_other(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """After a sixth of the TTL it has said no."""
    blocks: list[bool] = []

    def alive() -> bool:
        if blocks:
            gevent.sleep(3600)
        return True

    sick = [client.keep_node(f'/sick/{number}', ttl=TTL, alive=alive) for number in range(60)]
    well = [client.keep_node(f'/well/{number}', ttl=TTL) for number in range(60)]
    blocks.append(True)
    etcd_clock.advance(INTERVAL + TTL / 6 + 0.1)
    assert other.get('/sick').nodes == ()
    etcd_clock.advance(3 * TTL)
    assert {keeper.state for keeper in sick} == {KeeperState.LOST}
    assert {keeper.state for keeper in well} == {KeeperState.KEPT}
    assert len(other.get('/well').nodes) == 60


def test_alive_that_catches_everything_takes_its_own_node_away_only(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Even its timeout: after a sixth of the TTL it has said no all the same."""
    blocks: list[bool] = []
    running: list[bool] = []

    def alive() -> bool:
        running.append(True)
        while blocks:
            try:
                gevent.sleep(0.1)
            except BaseException:
                continue
        running.pop()
        return True

    sick = client.keep_node('/sick', ttl=TTL, alive=alive)
    well = client.keep_node('/well', ttl=TTL)
    blocks.append(True)
    etcd_clock.advance(INTERVAL + TTL / 6 + 0.1)
    assert (value_of(other, '/sick'), sick.state) == (None, KeeperState.LOST)
    etcd_clock.advance(3 * TTL)
    assert well.state is KeeperState.KEPT
    assert len(running) == 1
    blocks.clear()
    etcd_clock.advance(TTL)
    assert sick.state is KeeperState.KEPT


def test_alive_that_catches_its_timeout_is_killed(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """It has been told, and the next time it is asked anew."""
    story: list[str] = []

    def alive() -> bool:
        story.append('asked')
        if len(story) == 2:
            try:
                with suppress(gevent.Timeout):
                    gevent.sleep(1000)
                gevent.sleep(1000)
            finally:
                story.append('ended')
        return True

    keeper = client.keep_node('/a', ttl=TTL, alive=alive)
    etcd_clock.advance(INTERVAL + TTL / 6 + 0.1)
    assert (story, keeper.state) == (['asked', 'asked'], KeeperState.LOST)
    etcd_clock.advance(TTL)
    assert keeper.state is KeeperState.KEPT
    assert story[:4] == ['asked', 'asked', 'ended', 'asked']


def test_alive_may_stop_its_keeper(client: getc.Client, other: getc.Client, etcd_clock: VirtualTime) -> None:
    """Re-entrant: the node goes, and alive goes on."""
    story: list[str] = []

    def alive() -> bool:
        if story:
            keeper.stop()
            story.append('went on')
        return True

    keeper = client.keep_node('/a', ttl=TTL, alive=alive)
    story.append('stop')
    etcd_clock.advance(INTERVAL + 0.1)
    assert story == ['stop', 'went on']
    assert value_of(other) is None


def test_no_alive_runs_after_stop_has_returned(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """Neither one that was on, nor a new one."""
    story: list[str] = []

    def alive() -> bool:
        story.append('asked')
        if len(story) > 1:
            try:
                gevent.sleep(1)
            finally:
                story.append('ended')
        return True

    keeper = client.keep_node('/a', ttl=TTL, alive=alive)
    etcd_clock.advance(INTERVAL + 0.1)
    assert story == ['asked', 'asked']
    keeper.stop(timeout=0.2)
    assert story == ['asked', 'asked', 'ended']
    etcd_clock.advance(3 * TTL)
    assert len(story) == 3


def test_node_stays_away_when_it_could_not_be_deleted_and_alive_says_yes_again(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """No answer to the delete: the node is taken up again if it is still there."""
    answer = [True]
    keeper = client.keep_node('/a', 'x', ttl=TTL, alive=lambda: answer[0], **diary.callbacks)
    answer[0] = False
    backend.faults.append(faulty.drop)
    etcd_clock.advance(INTERVAL + 0.1)
    assert (diary.words, value_of(other)) == (['lost'], 'x')
    answer[0] = True
    etcd_clock.advance(INTERVAL)
    assert (diary.words, value_of(other)) == (['lost', 'restored'], 'x')
    keeper.ensure()


# -- greenlets that are killed


@pytest.mark.parametrize('moment', [0.0, 0.5, 1.5])
@pytest.mark.parametrize(
    'fault',
    [faulty.delay(1), faulty.delay(60), faulty.hang, faulty.lose_reply, faulty.refuse],
    ids=['answered after', 'done and never answered', 'not answered', 'lost reply', 'refused'],
)
def test_kill_of_the_caller_before_keep_node_returned_leaves_no_node(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    etcd_clock: VirtualTime,
    fault: faulty.Fault,
    moment: float,
) -> None:
    """Whatever was on its way; and the keeper is not there any more."""
    backend.fault = fault
    backend.leaves_reads = True
    caller = gevent.spawn(client.keep_node, '/a', 'x', ttl=TTL, on_conflict='wait')
    etcd_clock.advance(min(moment, 0.99))
    assert not caller.ready()
    caller.kill()
    backend.fault = None
    etcd_clock.advance(6)
    assert value_of(other) is None
    assert not client._daemons
    etcd_clock.advance(3 * TTL)
    assert value_of(other) is None


def test_timeout_of_the_callers_own_around_keep_node_leaves_no_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """It is raised as it is."""
    backend.fault = faulty.delay(1)
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.5) as timeout:
        client.keep_node('/a', 'x', ttl=TTL)
    assert caught.value is timeout
    etcd_clock.advance(3)
    assert value_of(other) is None


def test_keep_node_times_out_and_says_why(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """With what the last attempt met."""
    backend.go_down()
    with pytest.raises(TimedOut, match='keep_node /a did not start within 3 s: connection refused') as caught:
        client.keep_node('/a', ttl=TTL, timeout=3)
    assert not caught.value.maybe_applied
    backend.come_back()
    etcd_clock.advance(TTL)
    assert value_of(other) is None


@pytest.mark.parametrize('timeout', [3, 10], ids=['the first attempt is on', 'it was given up'])
def test_keep_node_says_when_it_times_out_that_the_node_may_come_later(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, timeout: float
) -> None:
    """A server that hangs does what it was sent when it goes on."""
    backend.faults += [faulty.late(20), *[faulty.refuse] * 100]
    with pytest.raises(TimedOut) as caught:
        client.keep_node('/a', 'x', ttl=TTL, timeout=timeout)
    assert caught.value.maybe_applied
    backend.faults.clear()
    etcd_clock.advance(20.5 - timeout)
    assert value_of(other) == 'x'


def test_keep_node_says_when_it_is_refused_that_an_earlier_attempt_may_have_made_the_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """And deletes that one, if it may."""

    def forbid(*_: object) -> NoReturn:
        raise PermissionDenied('permission denied')

    backend.faults += [faulty.lose_reply, forbid]
    with pytest.raises(PermissionDenied) as caught:
        client.keep_node('/a', 'x', ttl=TTL)
    assert caught.value.maybe_applied
    etcd_clock.advance(1)
    assert value_of(other) is None


def test_keep_node_writes_nothing_after_it_timed_out_while_it_looked(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """Whose node it is came too late: nothing was sent, and nothing is."""
    theirs = other.set('/a', 'theirs', ttl=60).node.modified_index
    backend.faults += [None, faulty.delay(2)]
    with pytest.raises(TimedOut) as caught:
        client.keep_node('/a', 'ours', ttl=TTL, timeout=1)
    assert not caught.value.maybe_applied
    etcd_clock.advance(5)
    assert other.get('/a').node.modified_index == theirs
    assert len(backend.times(Put)) == 1


def test_keep_node_waits_for_an_etcd_that_is_not_there_yet(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """For ever: a server may start before its etcd."""
    backend.go_down()
    caller = gevent.spawn(client.keep_node, '/a', ttl=TTL)
    etcd_clock.advance(3600)
    assert not caller.ready()
    backend.come_back()
    etcd_clock.advance(1.01)
    assert caller.get(block=False).state is KeeperState.KEPT


def test_node_that_would_be_lost_when_it_is_taken_is_not_kept(
    client: getc.Client, backend: FaultyBackend, diary: Diary, etcd_clock: VirtualTime
) -> None:
    """Answers take longer than its TTL allows: an attempt has half of that."""
    backend.fault = faulty.delay(1.5)
    with pytest.raises(TimedOut, match='did not start within 30 s'):
        client.keep_node('/a', ttl=2, timeout=30, **diary.callbacks)
    assert diary.pages == []


@pytest.mark.parametrize('victim', ['renewal', 'attempt'])
def test_greenlet_that_alive_kills_is_no_loss(
    client: getc.Client, diary: Diary, etcd_clock: VirtualTime, victim: str
) -> None:
    """A bug of the user's that hits us does not end the keeping."""
    kills = [victim == 'attempt']

    def alive() -> bool:
        if kills[0]:
            kills[0] = False
            for greenlet in greenlets_of_getc():
                if greenlet is not gevent.getcurrent() and greenlet.gr_frame:
                    greenlet.kill(block=False)
        return True

    keeper = client.keep_node('/a', ttl=TTL, alive=alive, **diary.callbacks)
    kills[0] = victim == 'renewal'
    etcd_clock.advance(5 * TTL)
    assert kills == [False]
    assert diary.pages == []
    assert keeper.state is KeeperState.KEPT


def test_callback_that_is_killed_does_not_end_the_keeper(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """The callbacks after it are called."""
    victims: list[gevent.Greenlet] = []
    restored: list[Keeper] = []

    def on_lost(_keeper: Keeper) -> None:
        victims.append(gevent.getcurrent())
        gevent.sleep(3600)

    keeper = client.keep_node('/a', ttl=TTL, on_lost=on_lost, on_restored=restored.append)
    other.delete('/a')
    etcd_clock.advance(INTERVAL + 0.1)
    assert len(victims) == 1
    victims[0].kill()
    etcd_clock.advance(0)
    assert restored == [keeper]


def test_callbacks_that_do_not_return_do_not_hold_up_the_keeping(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """They wait for each other only."""
    keeper = client.keep_node('/a', ttl=TTL, on_lost=lambda _: gevent.sleep(10_000))
    for _ in range(3):
        other.delete('/a')
        etcd_clock.advance(INTERVAL + 0.1)
        keeper.ensure()
    etcd_clock.advance(3 * TTL)
    keeper.ensure()


# -- the end


def test_stop_is_bounded_when_the_server_is_silent(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """Its timeout, whatever is under way."""
    for moment in (0.0, INTERVAL, PATIENCE + 0.1):
        keeper = client.keep_node('/a', ttl=TTL)
        etcd_clock.advance(moment)
        backend.go_down(faulty.hang)
        etcd_clock.advance(INTERVAL)
        began = timing.now()
        keeper.stop(timeout=0.5)
        assert timing.now() - began == pytest.approx(0.5)
        assert keeper.state is KeeperState.STOPPED
        backend.come_back()
        etcd_clock.advance(2 * TTL)


def test_stop_in_each_state_leaves_no_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """STARTING, KEPT, SUSPECT, LOST."""
    for moment, state in (
        (0.0, KeeperState.KEPT),
        (INTERVAL + 0.1, KeeperState.SUSPECT),
        (PATIENCE + 0.1, KeeperState.LOST),
    ):
        keeper = client.keep_node('/a', ttl=TTL)
        backend.go_down(faulty.drop)
        etcd_clock.advance(moment)
        assert keeper.state is state
        backend.come_back()
        keeper.stop()
        etcd_clock.advance(0)
        assert value_of(other) is None
    backend.go_down(faulty.lose_reply)
    keeper = client.keep_node('/a', ttl=TTL, wait=False)
    etcd_clock.advance(0)
    assert (keeper.state, value_of(other)) == (KeeperState.STARTING, keeper.value)
    backend.come_back()
    keeper.stop()
    assert value_of(other) is None


def test_stop_while_the_node_is_being_taken_leaves_no_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """The attempt ends, and gives back what it took."""
    backend.fault = faulty.delay(1)
    keeper = client.keep_node('/a', ttl=TTL, wait=False)
    etcd_clock.advance(0.5)
    assert value_of(other) == keeper.value
    keeper.stop()
    assert value_of(other) is None


@pytest.mark.parametrize('moment', [0.5, 1], ids=['before the answer', 'with the answer'])
@pytest.mark.parametrize('end', ['stop', 'close'])
def test_keep_node_that_is_stopped_when_it_had_written_says_so(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, end: str, moment: float
) -> None:
    """The node was there, and stays for its TTL where it cannot be deleted."""
    backend.faults += [faulty.delay(1), faulty.refuse]
    gevent.spawn_later(
        moment, lambda: client.close() if end == 'close' else next(iter(client._daemons)).stop(Deadline(5.0))
    )
    caller = gevent.spawn(client.keep_node, '/a', 'x', ttl=TTL)
    etcd_clock.advance(2)
    assert isinstance(caller.exception, getc.ClientClosed)
    assert caller.exception.maybe_applied
    assert value_of(other) == 'x'


def test_update_that_raises_may_be_written_later_unless_the_keeper_was_stopped(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """It is remembered for when the node is written again, whatever became of it now."""
    keeper = client.keep_node('/a', 'old', ttl=TTL)
    backend.go_down()
    with pytest.raises(ConnectionRefused) as refused:
        keeper.update('new')
    etcd_clock.advance(2 * TTL)
    with pytest.raises(NodeLost) as lost:
        keeper.update('newer')
    assert refused.value.maybe_applied
    assert lost.value.maybe_applied
    backend.come_back()
    etcd_clock.advance(2)
    assert value_of(other) == 'newer'
    keeper.stop()
    with pytest.raises(NodeLost) as stopped:
        keeper.update('newest')
    assert not stopped.value.maybe_applied


def test_stop_while_the_node_is_being_taken_leaves_nothing_running_when_the_server_is_silent(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """Past its timeout it does not go on in the background."""
    backend.fault = faulty.delay(60)
    keeper = client.keep_node('/a', ttl=TTL, wait=False)
    etcd_clock.advance(0.5)
    keeper.stop(timeout=0.5)
    assert etcd_clock.elapsed == 1
    assert greenlets_of_getc() == []
    sent = len(backend.sent)
    etcd_clock.advance(TTL)
    assert len(backend.sent) == sent


def test_log_handler_that_blocks_holds_up_no_other_node(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """A lease tells the keepers of all its nodes, one after the other."""
    keeper = client.keep_node('/a', ttl=TTL)
    hold: Any = keeper._daemon._node
    with faulty.blocking_log() as said:
        began = timing.now()
        keeper._daemon.on_renewal_missed(TimedOut('too late'))
        hold._lose(NodeLost('/a was deleted'))
        assert timing.now() == began
        etcd_clock.advance(1)
        assert [line.rpartition(': ')[2] for line in said[:2]] == ['too late', '/a was deleted']


def test_stopped_keeper_is_not_kept_in_memory(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """No timer, group or client refers to it."""
    keeper = client.keep_node('/a', ttl=TTL)
    ghost = weakref.ref(keeper)
    keeper.stop()
    del keeper
    etcd_clock.advance(0)
    gc.collect()
    assert ghost() is None


def test_orphan_when_lost_or_starting_writes_nothing(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """It only ends."""
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    backend.go_down(faulty.drop)
    etcd_clock.advance(PATIENCE + 0.1)
    backend.come_back()
    sent = len(backend.times(Put)) + len(backend.times(Delete))
    keeper.orphan()
    assert len(backend.times(Put)) + len(backend.times(Delete)) == sent
    assert value_of(other) == 'x'
    etcd_clock.advance(TTL)
    assert value_of(other) is None


def test_forked_child_neither_keeps_nor_deletes_the_nodes_of_its_parent(tmp_path: Any) -> None:
    """Its greenlets go on in the child; the keeper does not."""
    report = tmp_path / 'report'
    with getc.etcd('memory://') as client:
        kept = client.keep_node('/kept', ttl=3)
        held = client.set('/lost', 'theirs', ttl=600)
        lost = client.keep_node('/lost', ttl=3, on_conflict='wait', wait=False)
        gevent.sleep(0.01)
        pid = fork_gevent()
        if pid == 0:
            try:
                index = client.get('/kept').modified_index
                before = (kept.remaining(), kept.state.name)
                client.delete('/lost')
                gevent.sleep(1.2)  # real time: fork and virtual time do not go together
                kept.stop()
                lost.stop()
                still = client.get('/kept').modified_index == index
                gone = value_of(client, '/lost') is None
                report.write_text(repr((before, still, gone)))
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        while not os.waitpid(pid, os.WNOHANG)[0]:
            gevent.sleep(0.01)
        assert report.read_text() == repr(((0.0, 'STOPPED'), True, True))
        kept.ensure()
        assert client.get('/lost').created_index == held.created_index
