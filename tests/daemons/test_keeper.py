"""Tests of keepers on a backend that fails on command, in virtual time."""

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
LOST_AFTER = TTL - safety_margin(TTL)
INTERVAL = TTL / 3
SLACK = 1e-6
"""Seconds: times are sums of floats."""


class Log:
    """Callbacks that record their calls and times."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []

    def on_lost(self, _keeper: Keeper) -> None:
        self.calls.append(('lost', timing.now()))

    def on_restored(self, _keeper: Keeper) -> None:
        self.calls.append(('restored', timing.now()))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    @property
    def callbacks(self) -> dict[str, Callable[[Keeper], object]]:
        return {'on_lost': self.on_lost, 'on_restored': self.on_restored}


@pytest.fixture
def log() -> Log:
    return Log()


def value_of(client: getc.Client, key: str = '/a') -> str | None:
    """Return the value of a node, or None if there is none."""
    try:
        return client.get(key).value
    except getc.KeyNotFound:
        return None


def last_renewal(backend: FaultyBackend) -> float:
    """Return the time at which the latest write was sent."""
    return backend.times(Put)[-1]


# -- renewals


def test_node_is_renewed_at_a_third_of_its_ttl(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """Counted from the time at which the previous renewal was sent."""
    backend.fault = faulty.delay(0.5)
    began = timing.now()
    client.keep_node('/a', 'x', ttl=TTL)
    etcd_clock.advance(40)
    assert backend.times(Put) == pytest.approx([began + INTERVAL * number for number in range(13)])


def test_renewals_of_many_nodes_use_a_bounded_number_of_requests_in_flight(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    keepers = [client.keep_node(f'/many/{number}', ttl=TTL) for number in range(100)]
    in_flight = [0, 0]

    def count(operation: Any, deadline: Any, do: faulty.Do) -> Any:
        in_flight[0] += 1
        in_flight[1] = max(in_flight)
        gevent.sleep(0.1)
        in_flight[0] -= 1
        return do()

    backend.fault = count
    etcd_clock.advance(3 * TTL)
    assert in_flight[1] == 16
    assert {keeper.state for keeper in keepers} == {KeeperState.KEPT}


def test_idle_keeper_has_no_running_greenlet(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """It has timers only: the stacks of ten thousand greenlets would take too much memory."""
    client.keep_node('/a', ttl=TTL)
    etcd_clock.advance(1)
    ours = greenlets_of_getc()
    assert len(ours) == 2
    assert not any(greenlet.started and greenlet.gr_frame for greenlet in ours)


# -- missed renewals and losses


def test_keeper_is_suspect_after_a_missed_renewal_and_kept_after_the_next_success(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """No callback runs for an outage shorter than the TTL."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    token = keeper.ensure()
    backend.go_down()
    etcd_clock.advance(INTERVAL + 0.1)
    assert keeper.state is KeeperState.SUSPECT
    assert isinstance(keeper.last_error, ConnectionError)
    assert keeper.ensure() == token
    etcd_clock.advance(LOST_AFTER - INTERVAL - 1.5)
    assert keeper.state is KeeperState.SUSPECT
    backend.recover()
    etcd_clock.advance(1.3)
    assert keeper.state is KeeperState.KEPT
    assert keeper.remaining() > TTL / 2
    assert log.calls == []
    assert keeper.ensure() == token


@pytest.mark.parametrize('fault', [faulty.refuse, faulty.drop, faulty.hang])
def test_on_lost_runs_before_the_server_deletes_the_node(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    log: Log,
    etcd_clock: VirtualTime,
    fault: faulty.Fault,
) -> None:
    """At the time at which the last acknowledged renewal was sent, plus the TTL, minus the margin."""
    backend.fault = faulty.delay(1)  # the server grants the TTL a second before the response arrives
    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    etcd_clock.advance(2 * INTERVAL + 1.1)
    acknowledged = last_renewal(backend)
    backend.go_down(fault)
    etcd_clock.advance(acknowledged + LOST_AFTER - timing.now() - 0.01)
    assert log.calls == []
    assert keeper.state is KeeperState.SUSPECT
    keeper.ensure()
    etcd_clock.advance(0.01 + SLACK)
    assert log.names == ['lost']
    assert log.calls[0][1] == pytest.approx(acknowledged + LOST_AFTER, abs=SLACK)
    assert keeper.state is KeeperState.LOST
    assert value_of(other) == 'x'  # the server deletes the node one safety margin later
    etcd_clock.advance(safety_margin(TTL))
    assert value_of(other) is None


@pytest.mark.parametrize('ttl', [1, 2, 3, 60])
def test_on_lost_runs_in_time_for_every_ttl(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime, ttl: int
) -> None:
    """The margin is a tenth of the TTL, at least half a second."""
    began = timing.now()
    client.keep_node('/a', ttl=ttl, **log.callbacks)
    backend.go_down(faulty.hang)
    etcd_clock.advance(ttl)
    assert log.calls == [('lost', pytest.approx(began + ttl - max(0.5, ttl / 10)))]


def test_on_lost_runs_in_time_while_alive_blocks(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    calls: list[float] = []

    def alive() -> bool:
        calls.append(timing.now())
        gevent.sleep(1.5 if timing.now() > began + 2 else 0)
        return True

    began = timing.now()
    client.keep_node('/a', ttl=TTL, alive=alive, **log.callbacks)
    backend.go_down(faulty.hang)
    etcd_clock.advance(TTL)
    assert log.calls[0] == ('lost', pytest.approx(began + LOST_AFTER))
    assert len(calls) > 1


def test_renewal_acknowledged_after_the_loss_does_not_cancel_it(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """The program may have seen LOST, so on_lost and on_restored run."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    token = keeper.ensure()
    backend.faults.append(faulty.delay(1))
    etcd_clock.advance(INTERVAL + 0.5)
    etcd_clock.stall(LOST_AFTER - INTERVAL)
    assert (keeper.remaining(), keeper.state) == (0, KeeperState.LOST)
    with pytest.raises(NodeLost, match='/a is not kept: LOST'):
        keeper.ensure()
    etcd_clock.advance(SLACK)
    assert log.names == ['lost', 'restored']
    assert keeper.ensure() > token
    assert keeper.state is KeeperState.KEPT


def test_keeper_is_lost_from_the_first_instruction_after_a_stall_longer_than_the_ttl(
    client: getc.Client, other: getc.Client, log: Log, etcd_clock: VirtualTime
) -> None:
    """No callback can run during the stall, but the clock is correct after it."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    token = keeper.ensure()
    etcd_clock.stall(100)
    assert (keeper.remaining(), keeper.state) == (0, KeeperState.LOST)
    with pytest.raises(NodeLost):
        keeper.ensure()
    with pytest.raises(NodeLost):
        keeper.update('y')
    assert log.calls == []
    etcd_clock.advance(1)
    assert log.names == ['lost', 'restored']
    assert keeper.ensure() > token
    assert value_of(other) == 'y'


def test_keeper_is_lost_when_a_suspended_machine_resumes(
    client: getc.Client, other: getc.Client, log: Log, etcd_clock: VirtualTime
) -> None:
    """Timers do not count the suspend; the callbacks run at the next renewal."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    token = keeper.ensure()
    etcd_clock.advance(INTERVAL / 2)
    etcd_clock.suspend(3600)
    assert (keeper.remaining(), keeper.state) == (0, KeeperState.LOST)
    with pytest.raises(NodeLost, match='LOST: it was not renewed'):
        keeper.ensure()
    with pytest.raises(NodeLost):
        keeper.update('y')
    etcd_clock.advance(INTERVAL / 2 + 1)
    assert log.names == ['lost', 'restored']
    assert keeper.ensure() > token
    assert value_of(other) == 'y'


def test_error_after_a_stall_says_that_the_process_did_not_run(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not show the error of a renewal long before the stall."""
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


def test_node_lost_names_the_reason_in_each_state(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    def reason() -> str:
        with pytest.raises(NodeLost) as caught:
            keeper.ensure()
        return str(caught.value)

    backend.go_down()
    keeper = client.keep_node('/a', 'x', ttl=TTL, wait=False)
    assert reason() == '/a is not kept: STARTING: it was not written yet'
    etcd_clock.advance(1)
    assert reason() == '/a is not kept: STARTING: connection refused'
    backend.recover()
    etcd_clock.advance(2)
    keeper.ensure()
    other.set('/a', 'theirs', ttl=TTL)
    etcd_clock.advance(INTERVAL)
    assert reason() == '/a is not kept: LOST: /a was written by another client'
    keeper.stop()
    assert reason() == '/a is not kept: STOPPED: the keeper was stopped'


def test_stall_shorter_than_the_ttl_does_not_lose_the_node(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """The overdue renewal is sent at once."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    token = keeper.ensure()
    etcd_clock.stall(LOST_AFTER - 1)
    assert keeper.remaining() == pytest.approx(1)
    etcd_clock.advance(SLACK)
    assert keeper.ensure() == token
    assert keeper.remaining() == pytest.approx(LOST_AFTER)
    assert log.calls == []


# -- lost replies


@pytest.mark.parametrize('on_conflict', ['replace', 'wait', 'raise'])
def test_create_with_a_lost_reply_counts_as_ours(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, on_conflict: Any
) -> None:
    """By its value: the keeper neither waits for that node nor raises."""
    backend.faults.append(faulty.lose_reply)
    keeper = client.keep_node('/a', 'x', ttl=TTL, on_conflict=on_conflict)
    assert keeper.ensure() == other.get('/a').modified_index
    assert etcd_clock.elapsed < 1
    etcd_clock.advance(3 * TTL)
    assert keeper.state is KeeperState.KEPT


def test_create_with_a_lost_reply_counts_as_ours_after_the_value_has_changed(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    backend.faults.extend([faulty.lose_reply, faulty.refuse, faulty.refuse])
    keeper = client.keep_node('/a', 'old', ttl=TTL, on_conflict='wait', wait=False)
    etcd_clock.advance(0)
    with pytest.raises(NodeLost):
        keeper.update('new')
    etcd_clock.advance(2)
    assert keeper.state is KeeperState.KEPT
    assert value_of(other) == 'new'


@pytest.mark.parametrize('fault', [faulty.lose_reply, faulty.drop, faulty.hang, faulty.late(2)])
def test_refresh_without_a_reply_does_not_lose_the_node(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime, fault: faulty.Fault
) -> None:
    """Whether it was applied, was not, or is applied later."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    token = keeper.ensure()
    backend.faults.append(fault)
    etcd_clock.advance(INTERVAL + 3)
    backend.faults.extend([fault, fault])
    etcd_clock.advance(5 * TTL)
    assert keeper.state is KeeperState.KEPT
    assert log.calls == []
    assert keeper.ensure() == token


def test_refresh_answered_by_a_member_without_a_leader_does_not_lose_the_node(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """Errors 300 and 301 do not show whether the write was applied."""

    def elect(_operation: Any, _deadline: Any, do: faulty.Do) -> Any:
        do()
        raise LeaderElect('During Leader Election')

    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    backend.faults.append(elect)
    etcd_clock.advance(3 * TTL)
    assert keeper.state is KeeperState.KEPT
    assert log.calls == []


@pytest.mark.parametrize('fault', [faulty.lose_reply, faulty.drop, faulty.late(1)])
def test_update_without_a_reply_raises_maybe_applied_and_keeps_the_node(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    log: Log,
    etcd_clock: VirtualTime,
    fault: faulty.Fault,
) -> None:
    keeper = client.keep_node('/a', 'one', ttl=TTL, **log.callbacks)
    backend.faults.append(fault)
    with pytest.raises(ConnectionError) as caught:
        keeper.update('two', timeout=0.5)
    assert caught.value.maybe_applied
    etcd_clock.advance(3 * TTL)
    assert keeper.state is KeeperState.KEPT
    assert log.calls == []
    assert value_of(other) in ('one', 'two')
    assert keeper.update('three').value == value_of(other) == 'three'


def test_keeper_remembers_the_values_of_all_updates_without_a_reply(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """Two updates are not applied, and a refresh between them is: the node has the value from before."""
    keeper = client.keep_node('/a', 'one', ttl=TTL, **log.callbacks)
    for fault, value in ((faulty.drop, 'two'), (faulty.drop, 'three')):
        backend.faults.append(fault)
        with pytest.raises(ConnectionError):
            keeper.update(value)
        backend.faults.append(faulty.lose_reply)
        etcd_clock.advance(INTERVAL + 2)
    assert log.calls == []
    assert value_of(other) == 'one'
    keeper.ensure()


def test_update_counts_as_a_renewal(client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime) -> None:
    keeper = client.keep_node('/a', 'one', ttl=TTL)
    backend.faults.append(faulty.hang)
    etcd_clock.advance(INTERVAL + TTL / 6 - 0.01)
    backend.go_down()
    etcd_clock.advance(0.02)
    assert keeper.state is KeeperState.SUSPECT
    backend.recover()
    keeper.update('two')
    assert keeper.state is KeeperState.KEPT
    assert keeper.remaining() == pytest.approx(LOST_AFTER)


@pytest.mark.parametrize('fault', [faulty.lose_reply, faulty.drop])
def test_stop_without_a_reply_stops_the_keeper(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, fault: faulty.Fault
) -> None:
    """The node was deleted, or its TTL deletes it."""
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    backend.faults.append(fault)
    keeper.stop()
    assert keeper.state is KeeperState.STOPPED
    assert isinstance(keeper.last_error, ConnectionError)
    etcd_clock.advance(TTL)
    assert value_of(other) is None


def test_stop_deletes_the_node_after_a_renewal_with_a_lost_reply(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    backend.faults.append(faulty.lose_reply)
    etcd_clock.advance(INTERVAL)
    keeper.stop()
    assert value_of(other) is None


def test_stop_during_a_renewal_deletes_the_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """Also if the renewal was applied and its reply is in flight."""
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    backend.faults.append(faulty.delay(1))
    etcd_clock.advance(INTERVAL + 0.5)
    keeper.stop()
    assert value_of(other) is None


# -- recovery after outages


def test_lost_node_that_still_exists_is_reclaimed_under_a_new_token(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """No follower sees a deletion."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    token, created = keeper.ensure(), other.get('/a').created_index
    backend.go_down(faulty.drop)
    etcd_clock.advance(LOST_AFTER + 0.1)
    assert log.names == ['lost']
    backend.recover()
    etcd_clock.advance(1)
    assert log.names == ['lost', 'restored']
    assert keeper.ensure() > token
    assert other.get('/a').created_index == created


@pytest.mark.parametrize('ttl', [1, 4, 9, 12])
def test_node_is_back_within_two_seconds_although_the_previous_attempt_is_never_answered(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime, ttl: int
) -> None:
    """As if it was sent to a leader that had just failed."""
    client.keep_node('/a', 'x', ttl=ttl, **log.callbacks)
    backend.go_down()
    etcd_clock.advance(3 * ttl)
    backend.faults.append(faulty.hang)
    while backend.faults:
        etcd_clock.advance(0.01)
    backend.recover()
    etcd_clock.advance(2.01)
    assert log.names == ['lost', 'restored']


def test_node_is_written_again_after_an_outage_longer_than_the_ttl(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """Within about a second of the server's return, however long the outage was."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    token = keeper.ensure()
    backend.go_down()
    etcd_clock.advance(3600)
    assert (log.names, value_of(other)) == (['lost'], None)
    assert 3000 < len(backend.sent) < 20_000  # attempts back off
    backend.recover()
    etcd_clock.advance(1.01)
    assert (log.names, value_of(other)) == (['lost', 'restored'], 'x')
    assert keeper.ensure() > token


def test_backoff_is_reset_by_each_success(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    for _ in range(3):
        backend.go_down()
        etcd_clock.advance(1000)
        backend.recover()
        etcd_clock.advance(1.01)
    backend.go_down()
    etcd_clock.advance(LOST_AFTER + 0.02)
    lost_at = log.calls[-1][1]
    attempts = [at for at in backend.times(Get) if at >= lost_at - SLACK]
    assert attempts[0] == pytest.approx(lost_at)
    etcd_clock.advance(0.2)
    assert len([at for at in backend.times(Get) if at >= lost_at - SLACK]) >= 3


def test_node_is_written_again_when_the_store_comes_back_empty(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """At the next renewal."""
    keeper = client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    backend.recover(empty=True)
    etcd_clock.advance(INTERVAL + 0.1)
    assert log.names == ['lost', 'restored']
    assert value_of(client) == 'x'
    assert keeper.state is KeeperState.KEPT


def test_reclaim_with_a_lost_reply_counts_as_ours(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """Also with a value that was given meanwhile."""
    keeper = client.keep_node('/a', 'old', ttl=TTL, **log.callbacks)
    backend.go_down()
    etcd_clock.advance(LOST_AFTER + 0.01)
    with pytest.raises(NodeLost):
        keeper.update('new')
    backend.faults.clear()
    backend.faults.extend([None, faulty.lose_reply])
    backend.recover()
    etcd_clock.advance(0.9)
    assert log.names == ['lost', 'restored']
    assert value_of(other) == 'new'


# -- other owners


def test_keeper_does_not_take_a_node_back_from_a_successor_with_the_same_value(
    client: getc.Client, other: getc.Client, log: Log, etcd_clock: VirtualTime
) -> None:
    """A restarted server has the address of its predecessor."""
    first = client.keep_node('/a', '10.0.0.7:7000', ttl=TTL, **log.callbacks)
    second = other.keep_node('/a', '10.0.0.7:7000', ttl=TTL)
    token = second.ensure()
    etcd_clock.advance(5 * TTL)
    assert log.names == ['lost']
    assert first.state is KeeperState.LOST
    assert isinstance(first.last_error, Overtaken)
    assert second.ensure() == token


def test_keeper_does_not_take_a_node_back_from_an_owner_that_writes_its_value_later(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """Also after lost replies."""
    client.keep_node('/a', 'x', ttl=TTL, **log.callbacks)
    backend.faults.append(faulty.drop)
    etcd_clock.advance(INTERVAL)
    new_owner = other.keep_node('/a', 'y', ttl=TTL)
    token = new_owner.ensure()
    backend.faults.extend([None, None, faulty.refuse])  # the keeper is overtaken, and its first read is refused
    etcd_clock.advance(0.051)
    assert log.names == ['lost']
    new_owner.update('x')
    etcd_clock.advance(3 * TTL)
    assert log.names == ['lost']
    assert new_owner.ensure() == token


def test_keeper_takes_the_node_as_soon_as_the_other_owner_deletes_it(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """It watches the node and does not poll."""
    keeper = client.keep_node('/a', 'ours', ttl=TTL, **log.callbacks)
    new_owner = other.keep_node('/a', 'theirs', ttl=3600)
    etcd_clock.advance(600)
    assert keeper.state is KeeperState.LOST
    called = len(backend.sent)
    etcd_clock.advance(600)
    assert len(backend.sent) == called
    new_owner.stop()
    etcd_clock.advance(0)
    assert log.names == ['lost', 'restored']


def test_keeper_reads_the_node_again_when_the_watch_of_the_other_owner_ends(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """The other owner may have deleted the node meanwhile."""
    client.keep_node('/a', 'ours', ttl=TTL, **log.callbacks)
    new_owner = other.keep_node('/a', 'theirs', ttl=3600)
    etcd_clock.advance(2 * TTL)
    backend.go_down()
    new_owner.stop()
    etcd_clock.advance(60)
    backend.recover()
    etcd_clock.advance(1.01)
    assert log.names == ['lost', 'restored']


@pytest.mark.parametrize('is_dir', [False, True])
def test_keeper_waits_while_its_key_is_a_node_without_a_ttl_or_a_directory(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime, is_dir: bool
) -> None:
    """It stays LOST, and takes the key when it is free."""
    keeper = client.keep_node('/a', 'ours', ttl=TTL, **log.callbacks)
    other.delete('/a')
    if is_dir:
        other.set('/a/b', 'theirs')
    else:
        other.set('/a', 'theirs')
    etcd_clock.advance(600)
    assert (keeper.state, log.names) == (KeeperState.LOST, ['lost'])
    assert len(backend.sent) < 500
    other.delete('/a', recursive=True)
    etcd_clock.advance(0)
    assert log.names == ['lost', 'restored']


def test_stop_after_an_unanswered_create_of_an_empty_value_spares_another_owners_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    backend.go_down(faulty.drop)
    keeper = client.keep_node('/a', '', ttl=TTL, wait=False)
    etcd_clock.advance(1)
    other.set('/a', 'theirs', ttl=TTL)
    backend.recover()
    keeper.stop()
    assert keeper.last_error is not None
    assert value_of(other) == 'theirs'


@pytest.mark.parametrize('fault', [faulty.drop, faulty.lose_reply, faulty.late(2)])
@pytest.mark.parametrize('on_conflict', ['raise', 'wait'])
@pytest.mark.parametrize('is_killed', [False, True])
def test_unanswered_create_neither_takes_nor_deletes_a_node_that_its_owner_has_refreshed(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    etcd_clock: VirtualTime,
    on_conflict: Any,
    fault: faulty.Fault,
    is_killed: bool,
) -> None:
    """Although the value is the same: nothing refreshes what an unanswered create has made."""
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


# -- alive


def test_alive_runs_before_each_renewal_and_false_removes_the_node(
    client: getc.Client, other: getc.Client, log: Log, etcd_clock: VirtualTime
) -> None:
    """At once, not after the TTL.  True restores it within a third of the TTL."""
    called: list[float] = []
    answer: list[object] = [True]

    def alive() -> object:
        called.append(timing.now())
        return answer[0]

    began = timing.now()
    keeper = client.keep_node('/a', 'x', ttl=TTL, alive=alive, **log.callbacks)
    etcd_clock.advance(2.5 * INTERVAL)
    assert called == pytest.approx([began, began + INTERVAL, began + 2 * INTERVAL])
    answer[0] = 0  # counts as False
    etcd_clock.advance(INTERVAL)
    assert (log.names, value_of(other), keeper.state) == (['lost'], None, KeeperState.LOST)
    with pytest.raises(NodeLost):
        keeper.ensure()
    etcd_clock.advance(600)
    assert value_of(other) is None
    answer[0] = True
    etcd_clock.advance(INTERVAL)
    assert (log.names, value_of(other)) == (['lost', 'restored'], 'x')


@pytest.mark.parametrize('error', [RuntimeError('the loop has ended'), gevent.Timeout(1), gevent.GreenletExit()])
def test_alive_that_raises_counts_as_false(
    client: getc.Client, other: getc.Client, log: Log, etcd_clock: VirtualTime, error: BaseException
) -> None:
    """It is called again at the next renewal."""
    errors: list[BaseException] = []

    def alive() -> bool:
        if errors:
            raise errors[0]
        return True

    keeper = client.keep_node('/a', 'x', ttl=TTL, alive=alive, **log.callbacks)
    errors.append(error)
    etcd_clock.advance(INTERVAL + 0.1)
    assert (log.names, value_of(other)) == (['lost'], None)
    errors.clear()
    etcd_clock.advance(INTERVAL)
    assert (log.names, value_of(other)) == (['lost', 'restored'], 'x')
    assert keeper.state is KeeperState.KEPT


def test_alive_that_blocks_removes_its_own_node_and_delays_no_other(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """It counts as False after a sixth of the TTL."""
    blocks: list[bool] = []

    def alive() -> bool:
        if blocks:
            gevent.sleep(3600)
        return True

    unhealthy = [client.keep_node(f'/unhealthy/{number}', ttl=TTL, alive=alive) for number in range(60)]
    healthy = [client.keep_node(f'/healthy/{number}', ttl=TTL) for number in range(60)]
    blocks.append(True)
    etcd_clock.advance(INTERVAL + TTL / 6 + 0.1)
    assert other.get('/unhealthy').nodes == ()
    etcd_clock.advance(3 * TTL)
    assert {keeper.state for keeper in unhealthy} == {KeeperState.LOST}
    assert {keeper.state for keeper in healthy} == {KeeperState.KEPT}
    assert len(other.get('/healthy').nodes) == 60


def test_alive_that_catches_its_kill_removes_its_own_node_only(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """It counts as False after a sixth of the TTL."""
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

    unhealthy = client.keep_node('/unhealthy', ttl=TTL, alive=alive)
    healthy = client.keep_node('/healthy', ttl=TTL)
    blocks.append(True)
    etcd_clock.advance(INTERVAL + TTL / 6 + 0.1)
    assert (value_of(other, '/unhealthy'), unhealthy.state) == (None, KeeperState.LOST)
    etcd_clock.advance(3 * TTL)
    assert healthy.state is KeeperState.KEPT
    assert len(running) == 1
    blocks.clear()
    etcd_clock.advance(TTL)
    assert unhealthy.state is KeeperState.KEPT


def test_alive_that_catches_its_timeout_is_killed(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """At the next renewal, before it is called again."""
    events: list[str] = []

    def alive() -> bool:
        events.append('called')
        if len(events) == 2:
            try:
                with suppress(gevent.Timeout):
                    gevent.sleep(1000)
                gevent.sleep(1000)
            finally:
                events.append('ended')
        return True

    keeper = client.keep_node('/a', ttl=TTL, alive=alive)
    etcd_clock.advance(INTERVAL + TTL / 6 + 0.1)
    assert (events, keeper.state) == (['called', 'called'], KeeperState.LOST)
    etcd_clock.advance(TTL)
    assert keeper.state is KeeperState.KEPT
    assert events[:4] == ['called', 'called', 'ended', 'called']


def test_alive_may_stop_its_keeper(client: getc.Client, other: getc.Client, etcd_clock: VirtualTime) -> None:
    """The node is deleted, and the function continues."""
    events: list[str] = []

    def alive() -> bool:
        if events:
            keeper.stop()
            events.append('went on')
        return True

    keeper = client.keep_node('/a', ttl=TTL, alive=alive)
    events.append('stop')
    etcd_clock.advance(INTERVAL + 0.1)
    assert events == ['stop', 'went on']
    assert value_of(other) is None


def test_no_alive_runs_after_stop_has_returned(client: getc.Client, etcd_clock: VirtualTime) -> None:
    events: list[str] = []

    def alive() -> bool:
        events.append('called')
        if len(events) > 1:
            try:
                gevent.sleep(1)
            finally:
                events.append('ended')
        return True

    keeper = client.keep_node('/a', ttl=TTL, alive=alive)
    etcd_clock.advance(INTERVAL + 0.1)
    assert events == ['called', 'called']
    keeper.stop(timeout=0.2)
    assert events == ['called', 'called', 'ended']
    etcd_clock.advance(3 * TTL)
    assert len(events) == 3


def test_node_that_could_not_be_deleted_is_reclaimed_when_alive_returns_true(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    answer = [True]
    keeper = client.keep_node('/a', 'x', ttl=TTL, alive=lambda: answer[0], **log.callbacks)
    answer[0] = False
    backend.faults.append(faulty.drop)
    etcd_clock.advance(INTERVAL + 0.1)
    assert (log.names, value_of(other)) == (['lost'], 'x')
    answer[0] = True
    etcd_clock.advance(INTERVAL)
    assert (log.names, value_of(other)) == (['lost', 'restored'], 'x')
    keeper.ensure()


# -- killed greenlets and timeouts


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
    """The keeper is stopped, and deletes what its requests in flight wrote."""
    backend.fault = fault
    backend.spares_reads = True
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


def test_gevent_timeout_around_keep_node_leaves_no_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """It is raised unchanged."""
    backend.fault = faulty.delay(1)
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.5) as timeout:
        client.keep_node('/a', 'x', ttl=TTL)
    assert caught.value is timeout
    etcd_clock.advance(3)
    assert value_of(other) is None


def test_keep_node_names_the_last_error_when_it_times_out(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    backend.go_down()
    with pytest.raises(TimedOut, match='keep_node /a did not start within 3 s: connection refused') as caught:
        client.keep_node('/a', ttl=TTL, timeout=3)
    assert not caught.value.maybe_applied
    backend.recover()
    etcd_clock.advance(TTL)
    assert value_of(other) is None


@pytest.mark.parametrize('timeout', [3, 10], ids=['the first attempt is on', 'it was given up'])
def test_keep_node_that_times_out_has_maybe_applied_while_a_write_is_unanswered(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, timeout: float
) -> None:
    """A server that hangs applies it when it continues."""
    backend.faults += [faulty.late(20), *[faulty.refuse] * 100]
    with pytest.raises(TimedOut) as caught:
        client.keep_node('/a', 'x', ttl=TTL, timeout=timeout)
    assert caught.value.maybe_applied
    backend.faults.clear()
    etcd_clock.advance(20.5 - timeout)
    assert value_of(other) == 'x'


def test_keep_node_that_is_refused_has_maybe_applied_after_an_unanswered_write(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """The keeper deletes the node if it may."""

    def forbid(*_: object) -> NoReturn:
        raise PermissionDenied('permission denied')

    backend.faults += [faulty.lose_reply, forbid]
    with pytest.raises(PermissionDenied) as caught:
        client.keep_node('/a', 'x', ttl=TTL)
    assert caught.value.maybe_applied
    etcd_clock.advance(1)
    assert value_of(other) is None


def test_keep_node_writes_nothing_after_it_timed_out_during_a_read(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    theirs = other.set('/a', 'theirs', ttl=60).node.modified_index
    backend.faults += [None, faulty.delay(2)]
    with pytest.raises(TimedOut) as caught:
        client.keep_node('/a', 'ours', ttl=TTL, timeout=1)
    assert not caught.value.maybe_applied
    etcd_clock.advance(5)
    assert other.get('/a').node.modified_index == theirs
    assert len(backend.times(Put)) == 1


@pytest.mark.parametrize('end', ['timeout', 'stop'])
def test_keeper_writes_nothing_when_it_is_stopped_during_the_detection_of_the_api(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Stop does not wait for the detection."""

    def detect_api(_deadline: Deadline) -> FaultyBackend:
        gevent.sleep(2)
        return backend

    monkeypatch.setattr(backend, 'detect_api', detect_api)
    if end == 'stop':
        keeper = client.keep_node('/a', 'x', ttl=TTL, wait=False)
        etcd_clock.advance(1)
        keeper.stop()
    else:
        with pytest.raises(TimedOut) as caught:
            client.keep_node('/a', 'x', ttl=TTL, timeout=1)
        assert not caught.value.maybe_applied
    assert etcd_clock.elapsed == 1
    etcd_clock.advance(5)
    assert backend.times(Put) == []


def test_keep_node_waits_for_an_unreachable_etcd_without_limit(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """A server may start before its etcd."""
    backend.go_down()
    caller = gevent.spawn(client.keep_node, '/a', ttl=TTL)
    etcd_clock.advance(3600)
    assert not caller.ready()
    backend.recover()
    etcd_clock.advance(1.01)
    assert caller.get(block=False).state is KeeperState.KEPT


def test_node_that_would_be_lost_as_soon_as_it_is_taken_is_not_kept(
    client: getc.Client, backend: FaultyBackend, log: Log, etcd_clock: VirtualTime
) -> None:
    """Replies take longer than half of the TTL."""
    backend.fault = faulty.delay(1.5)
    with pytest.raises(TimedOut, match='did not start within 30 s'):
        client.keep_node('/a', ttl=2, timeout=30, **log.callbacks)
    assert log.calls == []


@pytest.mark.parametrize('target', ['renewal', 'attempt'])
def test_greenlets_that_alive_kills_are_replaced(
    client: getc.Client, log: Log, etcd_clock: VirtualTime, target: str
) -> None:
    kills = [target == 'attempt']

    def alive() -> bool:
        if kills[0]:
            kills[0] = False
            for greenlet in greenlets_of_getc():
                if greenlet is not gevent.getcurrent() and greenlet.gr_frame:
                    greenlet.kill(block=False)
        return True

    keeper = client.keep_node('/a', ttl=TTL, alive=alive, **log.callbacks)
    kills[0] = target == 'renewal'
    etcd_clock.advance(5 * TTL)
    assert kills == [False]
    assert log.calls == []
    assert keeper.state is KeeperState.KEPT


def test_killed_callback_does_not_prevent_the_next(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
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


def test_callback_that_does_not_return_does_not_delay_renewals(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    keeper = client.keep_node('/a', ttl=TTL, on_lost=lambda _: gevent.sleep(10_000))
    for _ in range(3):
        other.delete('/a')
        etcd_clock.advance(INTERVAL + 0.1)
        keeper.ensure()
    etcd_clock.advance(3 * TTL)
    keeper.ensure()


# -- stop


def test_stop_returns_at_its_timeout_when_the_server_is_silent(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    for moment in (0.0, INTERVAL, LOST_AFTER + 0.1):
        keeper = client.keep_node('/a', ttl=TTL)
        etcd_clock.advance(moment)
        backend.go_down(faulty.hang)
        etcd_clock.advance(INTERVAL)
        began = timing.now()
        keeper.stop(timeout=0.5)
        assert timing.now() - began == pytest.approx(0.5)
        assert keeper.state is KeeperState.STOPPED
        backend.recover()
        etcd_clock.advance(2 * TTL)


def test_stop_in_each_state_leaves_no_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    for moment, state in (
        (0.0, KeeperState.KEPT),
        (INTERVAL + 0.1, KeeperState.SUSPECT),
        (LOST_AFTER + 0.1, KeeperState.LOST),
    ):
        keeper = client.keep_node('/a', ttl=TTL)
        backend.go_down(faulty.drop)
        etcd_clock.advance(moment)
        assert keeper.state is state
        backend.recover()
        keeper.stop()
        etcd_clock.advance(0)
        assert value_of(other) is None
    backend.go_down(faulty.lose_reply)
    keeper = client.keep_node('/a', ttl=TTL, wait=False)
    etcd_clock.advance(0)
    assert (keeper.state, value_of(other)) == (KeeperState.STARTING, keeper.value)
    backend.recover()
    keeper.stop()
    assert value_of(other) is None


def test_stop_during_the_first_write_leaves_no_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    backend.fault = faulty.delay(1)
    keeper = client.keep_node('/a', ttl=TTL, wait=False)
    etcd_clock.advance(0.5)
    assert value_of(other) == keeper.value
    keeper.stop()
    assert value_of(other) is None


@pytest.mark.parametrize('moment', [0.5, 1], ids=['before the answer', 'with the answer'])
@pytest.mark.parametrize('end', ['stop', 'close'])
def test_keep_node_that_is_stopped_after_its_write_has_maybe_applied(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, end: str, moment: float
) -> None:
    """The node exists until its TTL has passed if it cannot be deleted."""
    backend.faults += [faulty.delay(1), faulty.refuse]
    gevent.spawn_later(
        moment, lambda: client.close() if end == 'close' else next(iter(client._daemons)).stop(Deadline(5.0))
    )
    caller = gevent.spawn(client.keep_node, '/a', 'x', ttl=TTL)
    etcd_clock.advance(2)
    assert isinstance(caller.exception, getc.ClientClosed)
    assert caller.exception.maybe_applied
    assert value_of(other) == 'x'


def test_value_of_an_update_that_raises_is_written_later_unless_the_keeper_was_stopped(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    keeper = client.keep_node('/a', 'old', ttl=TTL)
    backend.go_down()
    with pytest.raises(ConnectionRefused) as refused:
        keeper.update('new')
    etcd_clock.advance(2 * TTL)
    with pytest.raises(NodeLost) as lost:
        keeper.update('newer')
    assert refused.value.maybe_applied
    assert lost.value.maybe_applied
    backend.recover()
    etcd_clock.advance(2)
    assert value_of(other) == 'newer'
    keeper.stop()
    with pytest.raises(NodeLost) as stopped:
        keeper.update('newest')
    assert not stopped.value.maybe_applied


def test_stop_during_the_first_write_leaves_no_greenlet_when_the_server_is_silent(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    backend.fault = faulty.delay(60)
    keeper = client.keep_node('/a', ttl=TTL, wait=False)
    etcd_clock.advance(0.5)
    keeper.stop(timeout=0.5)
    assert etcd_clock.elapsed == 1
    assert greenlets_of_getc() == []
    sent = len(backend.sent)
    etcd_clock.advance(TTL)
    assert len(backend.sent) == sent


def test_log_handler_that_blocks_delays_no_other_node(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """A lease notifies the keepers of its nodes one after the other."""
    keeper = client.keep_node('/a', ttl=TTL)
    node: Any = keeper._daemon._node
    with faulty.blocking_log() as lines:
        began = timing.now()
        keeper._daemon.on_renewal_missed(TimedOut('too late'))
        node._lose(NodeLost('/a was deleted'))
        assert timing.now() == began
        etcd_clock.advance(1)
        assert [line.rpartition(': ')[2] for line in lines[:2]] == ['too late', '/a was deleted']


def test_stopped_keeper_can_be_collected(client: getc.Client, etcd_clock: VirtualTime) -> None:
    keeper = client.keep_node('/a', ttl=TTL)
    reference = weakref.ref(keeper)
    keeper.stop()
    del keeper
    etcd_clock.advance(0)
    gc.collect()
    assert reference() is None


def test_detach_of_a_lost_node_writes_nothing(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    backend.go_down(faulty.drop)
    etcd_clock.advance(LOST_AFTER + 0.1)
    backend.recover()
    sent = len(backend.times(Put)) + len(backend.times(Delete))
    keeper.detach()
    assert len(backend.times(Put)) + len(backend.times(Delete)) == sent
    assert value_of(other) == 'x'
    etcd_clock.advance(TTL)
    assert value_of(other) is None


def test_forked_child_neither_keeps_nor_deletes_the_nodes_of_its_parent(tmp_path: Any) -> None:
    """The greenlets of the parent are copied into the child."""
    report = tmp_path / 'report'
    with getc.etcd('memory://') as client:
        kept = client.keep_node('/kept', ttl=3)
        existing = client.set('/lost', 'theirs', ttl=600)
        lost = client.keep_node('/lost', ttl=3, on_conflict='wait', wait=False)
        gevent.sleep(0.01)
        pid = fork_gevent()
        if pid == 0:
            try:
                index = client.get('/kept').modified_index
                before = (kept.remaining(), kept.state.name)
                client.delete('/lost')
                gevent.sleep(1.2)  # real time, because virtual time does not survive a fork
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
        assert client.get('/lost').created_index == existing.created_index
