"""Tests of keepers that are stopped, updated or overtaken while one of their requests is in flight, in virtual time."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

import getc
from getc import KeeperState, timing
from getc.backends.refresh import RefreshGroup
from getc.errors import ConnectionError, KeyNotFound, NodeLost, Overtaken, TimedOut
from getc.operations import Delete, Put
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support import faulty
from tests.support.clients import client_on
from tests.support.faulty import FaultyBackend

TTL = 10
INTERVAL = TTL / 3


def value_of(client: getc.Client, key: str = '/a') -> str | None:
    """Return the value of a node, or None if there is none."""
    try:
        return client.get(key).value
    except KeyNotFound:
        return None


# -- stop


def test_stop_without_time_ends_the_renewals_and_is_logged(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    etcd_clock: VirtualTime,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    keeper.stop(timeout=0)
    assert value_of(other) == 'x'
    etcd_clock.advance(TTL)
    assert value_of(other) is None
    assert backend.times(Delete) == []
    assert 'the deletion of the node was interrupted: etcd deletes the node after its TTL of 10 s' in caplog.text


def test_stop_before_the_attempt_has_begun_deletes_the_node_of_an_unanswered_write(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    backend.faults += [faulty.lose_reply]
    keeper = client.keep_node('/a', 'x', ttl=TTL, wait=False)
    etcd_clock.advance(0)
    assert value_of(other) == 'x'
    keeper._daemon.retry.schedule(0)
    assert keeper._daemon.retry.is_attempting
    keeper.stop()
    assert value_of(other) is None


def test_keeper_that_is_stopped_while_it_reclaims_its_node_writes_nothing(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    keeper = client.keep_node('/a', 'x', ttl=TTL)
    backend.go_down(faulty.drop)
    etcd_clock.advance(TTL - 0.5)
    assert keeper.state is KeeperState.LOST
    backend.recover()
    other.set('/a', 'theirs', ttl=3600)
    backend.fault = faulty.delay(1)
    etcd_clock.advance(0.6)
    writes = len(backend.times(Put))
    keeper.stop()
    assert len(backend.times(Put)) == writes
    assert value_of(other) == 'theirs'


# -- detach


def test_detach_during_the_first_write_leaves_the_node_to_its_ttl(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    backend.fault = faulty.delay(1)
    keeper = client.keep_node('/a', 'x', ttl=TTL, wait=False)
    etcd_clock.advance(0.5)
    keeper.detach()
    assert keeper.state is KeeperState.STOPPED
    assert value_of(other) == 'x'
    etcd_clock.advance(TTL)
    assert value_of(other) is None
    assert backend.times(Delete) == []


def test_detach_during_a_write_without_a_reply_leaves_the_node_to_its_ttl(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    backend.fault = faulty.delay(3)
    keeper = client.keep_node('/a', 'x', ttl=TTL, wait=False)
    etcd_clock.advance(0.5)
    keeper.detach()
    etcd_clock.advance(1)
    assert value_of(other) == 'x'
    assert backend.times(Delete) == []


# -- update


@pytest.mark.parametrize('faults', [[], [faulty.refuse, faulty.drop]], ids=['answered', 'after failures'])
def test_value_of_an_update_during_the_first_write_is_written(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, faults: list[Any]
) -> None:
    """It raises NodeLost, and the keeper will write the node with this value."""
    backend.faults += [faulty.delay(1), *faults]
    keeper = client.keep_node('/a', 'old', ttl=TTL, wait=False)
    etcd_clock.advance(0.5)
    with pytest.raises(NodeLost):
        keeper.update('new')
    etcd_clock.advance(1.5)
    assert (keeper.state, value_of(other)) == (KeeperState.KEPT, 'new')
    writes = len(backend.times(Put))
    etcd_clock.advance(1)
    assert len(backend.times(Put)) == writes


@pytest.mark.parametrize('timeout', [None, 30.0])
def test_update_without_a_reply_does_not_delay_renewals(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, timeout: float | None
) -> None:
    lost: list[object] = []
    keeper = client.keep_node('/a', 'old', ttl=2, on_lost=lost.append)

    def fail_writes_of_values(operation: Any, deadline: Deadline, do: faulty.Do) -> Any:
        is_update = isinstance(operation, Put) and operation.value == 'new'
        return faulty.hang(operation, deadline, do) if is_update else do()

    backend.fault = fail_writes_of_values
    caller = gevent.spawn(keeper.update, 'new', timeout=timeout)
    etcd_clock.advance(20)
    assert (lost, keeper.state) == ([], KeeperState.KEPT)
    backend.fault = None
    etcd_clock.advance(1)
    assert caller.get(block=False).value == value_of(other) == 'new'


def test_update_that_is_not_answered_raises_at_its_timeout_and_names_it(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    keeper = client.keep_node('/a', 'old', ttl=60)
    backend.spares_reads = True
    backend.fault = faulty.hang
    began = timing.now()
    with pytest.raises(TimedOut, match=r'^/a was not written within 15 s: no answer$') as caught:
        keeper.update('new', timeout=15)
    assert timing.now() - began == pytest.approx(15)
    assert caught.value.maybe_applied


def test_update_without_a_reply_does_not_overwrite_a_later_update(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    keeper = client.keep_node('/a', 'old', ttl=TTL)
    backend.faults += [faulty.hang]
    earlier = gevent.spawn(keeper.update, 'earlier', timeout=30)
    etcd_clock.advance(0.5)
    later = gevent.spawn(keeper.update, 'later', timeout=30)
    etcd_clock.advance(5)
    assert isinstance(earlier.exception, TimedOut)
    assert later.get(block=False).value == value_of(other) == 'later'


def test_update_between_two_attempts_of_an_earlier_one_is_not_overwritten(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    keeper = client.keep_node('/a', 'old', ttl=TTL)

    def hang_earlier(operation: Any, deadline: Deadline, do: faulty.Do) -> Any:
        is_earlier = isinstance(operation, Put) and operation.value == 'earlier'
        return faulty.hang(operation, deadline, do) if is_earlier else do()

    backend.fault = hang_earlier
    earlier = gevent.spawn(keeper.update, 'earlier', timeout=60)
    etcd_clock.advance(0.1)
    node: Any = keeper._daemon._node
    while node._write_lock._is_held:
        etcd_clock.advance(0.001)
    assert not earlier.ready()
    assert keeper.update('later').value == 'later'
    backend.fault = None
    etcd_clock.advance(5)
    assert isinstance(earlier.exception, TimedOut)
    assert value_of(other) == 'later'


def test_update_that_waits_raises_overtaken_when_another_owner_takes_the_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """A renewal that finds out is in flight when the update is called."""

    def delay_refreshes(operation: Any, deadline: Deadline, do: faulty.Do) -> Any:
        if isinstance(operation, Put) and operation.refresh:
            gevent.sleep(1)
        return do()

    keeper = client.keep_node('/a', 'old', ttl=TTL)
    backend.fault = delay_refreshes
    other.set('/a', 'theirs', ttl=TTL)
    etcd_clock.advance(0.5)
    assert keeper.state is KeeperState.KEPT
    waiting = gevent.spawn(keeper.update, 'new', timeout=30)
    etcd_clock.advance(1)
    assert isinstance(waiting.exception, Overtaken)
    assert str(waiting.exception) == '/a is not kept: LOST: /a was written by another client'
    assert (keeper.state, value_of(other)) == (KeeperState.LOST, 'theirs')


@pytest.mark.parametrize('timeout', [1.0, None])
def test_update_takes_the_timeout_of_its_client(
    backend: FaultyBackend, etcd_clock: VirtualTime, timeout: float | None
) -> None:
    with client_on(backend, url='memory://faulty', timeout=timeout) as client:
        keeper = client.keep_node('/a', 'old', ttl=60)
        backend.spares_reads = True
        backend.fault = faulty.hang
        caller = gevent.spawn(keeper.update, 'new')
        etcd_clock.advance(1)
        assert isinstance(caller.exception, TimedOut if timeout else type(None))
        etcd_clock.advance(20)
        assert caller.ready() == (timeout is not None)
        backend.fault = None
        etcd_clock.advance(11)
        assert caller.ready()


# -- losses


def test_ensure_raises_overtaken_while_another_owner_has_the_node(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """Also if the keeper found that owner after an outage, and after later errors."""
    keeper = client.keep_node('/a', 'x', ttl=2)
    backend.go_down()
    etcd_clock.advance(3)
    with pytest.raises(NodeLost) as lost:
        keeper.ensure()
    assert not isinstance(lost.value, Overtaken)
    other.set('/a', 'theirs', ttl=3600)
    backend.recover()
    etcd_clock.advance(2)
    with pytest.raises(Overtaken, match='/a was written by another client'):
        keeper.ensure()
    backend.go_down()
    etcd_clock.advance(5)
    assert isinstance(keeper.last_error, ConnectionError)
    with pytest.raises(Overtaken):
        keeper.ensure()
    backend.recover()
    other.delete('/a')
    etcd_clock.advance(2)
    keeper.ensure()


def test_node_that_is_lost_before_its_write_has_returned_is_taken_again(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was never owned is not lost: no callback runs."""
    lost: list[object] = []
    keep, losses = RefreshGroup.keep, [NodeLost('the lease has ended')]

    def lose(*args: Any) -> Any:
        node = keep(*args)
        if losses:
            node._lose(losses.pop())
        return node

    monkeypatch.setattr(RefreshGroup, 'keep', lose)
    keeper = client.keep_node('/a', 'x', ttl=TTL, on_lost=lost.append, on_restored=lost.append)
    assert (lost, losses) == ([], [])
    etcd_clock.advance(3 * TTL)
    assert (lost, keeper.state) == ([], KeeperState.KEPT)
    keeper.stop()
    assert value_of(other) is None


# -- alive


def test_keep_node_names_alive_when_it_is_not_alive_at_the_start(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    reason = r'/a was not written, because alive\(\) returned False, raised or timed out$'
    with pytest.raises(TimedOut, match=rf'^keep_node /a did not start within 3 s: {reason}'):
        client.keep_node('/a', 'x', ttl=TTL, alive=lambda: False, timeout=3)
    assert value_of(other) is None


def test_failed_delete_of_a_node_that_is_not_alive_is_logged(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    etcd_clock: VirtualTime,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = [True]
    client.keep_node('/a', 'x', ttl=TTL, alive=lambda: answer[0])
    answer[0] = False
    backend.faults.append(faulty.drop)
    etcd_clock.advance(INTERVAL + 0.1)
    assert value_of(other) == 'x'
    assert 'keep_node /a: could not delete the node, which etcd deletes after its TTL of 10 s' in caplog.text
