"""keep_node: acquiring a node, renewals, loss, restoring, and release."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from getc import KeeperState

TTL = 10


def test_node_exists_with_value_and_ttl_when_keep_node_returns(client: getc.Client) -> None:
    """keep_node blocks until the node is written."""
    keeper = client.keep_node('/servers/a', '10.0.0.7:7000', ttl=TTL)
    node = client.get('/servers/a').node
    assert (node.value, node.ttl) == ('10.0.0.7:7000', TTL)
    assert keeper.state is KeeperState.KEPT
    assert 0 < keeper.remaining() <= TTL
    assert repr(keeper) == '<getc.Keeper /servers/a KEPT ttl=10>'


def test_value_is_pid_and_host_by_default(client: getc.Client) -> None:
    """``pid@host``."""
    keeper = client.keep_node('/servers/a')
    assert keeper.value == client.get('/servers/a').value == f'{os.getpid()}@{socket.gethostname()}'


@pytest.mark.v3_differs('v3 renews the lease, which changes no index: test_renewals_change_no_index')
def test_renewals_are_not_delivered_to_watchers(
    client: getc.Client, wait_until: Callable[..., None], spawn: Any
) -> None:
    """Renewals are refreshes after a third of the TTL; four of them take longer than the TTL."""
    keeper = client.keep_node('/servers/a', 'one', ttl=6)
    index = keeper.ensure()
    waiting = spawn(client.wait, '/servers/a', index + 1)
    wait_until(lambda: client.get('/servers/a').modified_index >= index + 4)
    assert not waiting.ready()
    assert client.get('/servers/a').value == 'one'
    assert keeper.ensure() == index


def test_node_is_deleted_when_its_keeper_is_stopped(client: getc.Client) -> None:
    """At once, not after the TTL; a second stop does nothing."""
    keeper = client.keep_node('/servers/a', ttl=TTL)
    keeper.stop()
    with pytest.raises(getc.KeyNotFound):
        client.get('/servers/a')
    assert keeper.state is KeeperState.STOPPED
    assert keeper.join(0)
    assert keeper.remaining() == 0
    keeper.stop()
    with pytest.raises(getc.NodeLost, match='/servers/a is not kept: STOPPED'):
        keeper.ensure()


def test_node_is_deleted_when_the_block_is_left_and_when_the_client_is_closed(
    client: getc.Client, other: getc.Client
) -> None:
    """Both stop the keeper."""
    with client.keep_node('/servers/a', ttl=TTL):
        assert other.get('/servers/a')
    with pytest.raises(getc.KeyNotFound):
        other.get('/servers/a')
    keepers = [client.keep_node(f'/servers/{number}', ttl=TTL) for number in range(20)]
    client.close()
    for keeper in keepers:
        with pytest.raises(getc.KeyNotFound):
            other.get(keeper.key)
    assert {keeper.state for keeper in keepers} == {KeeperState.STOPPED}


def test_stop_does_not_delete_the_node_of_another_owner(client: getc.Client, other: getc.Client) -> None:
    keeper = client.keep_node('/servers/a', 'ours', ttl=TTL)
    other.set('/servers/a', 'theirs', ttl=TTL)
    keeper.stop()
    assert other.get('/servers/a').value == 'theirs'


def test_orphaned_node_exists_until_its_ttl_ends(client: getc.Client, other: getc.Client) -> None:
    """A successor takes the node over without a deletion that others see."""
    keeper = client.keep_node('/servers/a', 'old', ttl=TTL)
    keeper.orphan()
    assert keeper.state is KeeperState.STOPPED
    assert client.get('/servers/a').value == 'old'
    successor = other.keep_node('/servers/a', 'new', ttl=TTL)
    assert client.get('/servers/a').value == 'new'
    assert successor.state is KeeperState.KEPT


def test_orphaned_node_expires(client: getc.Client, backend_under_test: Any) -> None:
    """The node is not renewed.  On v3 it is written once more, with a lease of its own."""
    keeper = client.keep_node('/servers/a', ttl=1)
    keeper.orphan()
    left = client.get('/servers/a')
    assert isinstance(client.wait('/servers/a', left.modified_index + 1, timeout=60), getc.Expired)


# -- conflicts


@pytest.mark.parametrize('on_conflict', ['replace', 'wait', 'raise'])
def test_keep_node_raises_when_there_is_a_permanent_node(client: getc.Client, on_conflict: Any) -> None:
    """A permanent node does not belong to a previous keeper, and is not changed."""
    client.set('/servers/a', 'permanent')
    with pytest.raises(getc.NodeExist, match='it has no TTL, so it is not taken over'):
        client.keep_node('/servers/a', 'mine', ttl=TTL, on_conflict=on_conflict)
    assert client.get('/servers/a').value == 'permanent'


@pytest.mark.parametrize('on_conflict', ['replace', 'wait', 'raise'])
def test_keep_node_raises_when_the_key_is_a_directory(client: getc.Client, on_conflict: Any) -> None:
    """A directory cannot be kept."""
    client.set('/servers/a/b', 'x')
    with pytest.raises(getc.NotFile, match='it is a directory, which cannot be kept') as caught:
        client.keep_node('/servers/a', ttl=TTL, on_conflict=on_conflict)
    assert str(caught.value).count('directory') == 1


def test_keep_node_takes_over_from_a_predecessor_and_its_token_is_higher(
    client: getc.Client, other: getc.Client, wait_until: Callable[..., None]
) -> None:
    """The default of on_conflict.  The previous owner is notified, and does not take the node back."""
    lost: list[getc.Keeper] = []
    first = client.keep_node('/servers/a', 'first', ttl=3, on_lost=lost.append)
    token = first.ensure()
    second = other.keep_node('/servers/a', 'second', ttl=TTL)
    assert second.ensure() > token
    wait_until(lambda: lost == [first])
    assert first.state is KeeperState.LOST
    assert isinstance(first.last_error, getc.Overtaken)
    assert client.get('/servers/a').value == 'second'


def test_replaced_owner_is_notified_at_once(
    client: getc.Client, other: getc.Client, wait_until: Callable[..., None]
) -> None:
    """By a watch of its node: the next renewal would be in 20 minutes."""
    lost: list[getc.Keeper] = []
    first = client.keep_node('/servers/a', 'same', ttl=3600, on_lost=lost.append)
    second = other.keep_node('/servers/a', 'same', ttl=3600)
    wait_until(lambda: first.state is KeeperState.LOST)
    with pytest.raises(getc.NodeLost):
        first.ensure()
    wait_until(lambda: lost == [first])
    assert isinstance(first.last_error, getc.Overtaken)
    assert second.ensure() == client.get('/servers/a').modified_index


def test_deleted_node_is_restored_at_once(
    client: getc.Client, other: getc.Client, wait_until: Callable[..., None]
) -> None:
    """By the same watch."""
    keeper = client.keep_node('/servers/a', 'mine', ttl=3600)
    token = keeper.ensure()
    other.delete('/servers/a')
    wait_until(lambda: keeper.state is KeeperState.KEPT and keeper.ensure() > token)
    assert other.get('/servers/a').value == 'mine'


def test_keep_node_raises_when_another_owner_exists_and_on_conflict_is_raise(
    client: getc.Client, other: getc.Client
) -> None:
    """The owner is not affected."""
    owner = client.keep_node('/servers/a', 'owner', ttl=TTL)
    with pytest.raises(getc.NodeExist):
        other.keep_node('/servers/a', 'rival', ttl=TTL, on_conflict='raise')
    assert client.get('/servers/a').value == 'owner'
    owner.ensure()


def test_keep_node_waits_for_the_owner_when_on_conflict_is_wait(
    client: getc.Client, other: getc.Client, spawn: Any
) -> None:
    """The node is acquired when the owner releases it."""
    owner = client.keep_node('/servers/a', 'owner', ttl=TTL)
    waiting = spawn(other.keep_node, '/servers/a', 'next', ttl=TTL, on_conflict='wait')
    gevent.sleep(0.1)
    assert not waiting.ready()
    assert client.get('/servers/a').value == 'owner'
    owner.stop()
    keeper = waiting.get(timeout=60)
    assert client.get('/servers/a').value == 'next'
    assert keeper.ensure() > 0


def test_nothing_is_left_when_waiting_is_aborted(
    client: getc.Client, other: getc.Client, spawn: Any, wait_until: Callable[..., None]
) -> None:
    """By a timeout, a gevent.Timeout, or a kill."""
    owner = client.keep_node('/servers/a', 'owner', ttl=TTL)
    with pytest.raises(getc.TimedOut, match=r'keep_node /servers/a did not start within 0\.05 s'):
        other.keep_node('/servers/a', 'rival', ttl=TTL, on_conflict='wait', timeout=0.05)
    with gevent.Timeout(0.05, False):
        other.keep_node('/servers/a', 'rival', ttl=TTL, on_conflict='wait')
    killed = spawn(other.keep_node, '/servers/a', 'rival', ttl=TTL, on_conflict='wait')
    gevent.sleep(0.05)
    killed.kill()
    owner.stop()
    wait_until(lambda: not other._daemons)
    assert is_gone(client, '/servers/a')


# -- loss


def test_deleted_node_is_written_again_with_a_greater_token(
    client: getc.Client, other: getc.Client, wait_until: Callable[..., None]
) -> None:
    """on_lost is called, then on_restored."""
    log: list[str] = []
    keeper = client.keep_node(
        '/servers/a',
        'mine',
        ttl=3,
        on_lost=lambda keeper: log.append(f'lost {keeper.key}'),
        on_restored=lambda keeper: log.append(f'restored {keeper.key}'),
    )
    token = keeper.ensure()
    other.delete('/servers/a')
    wait_until(lambda: len(log) == 2)
    assert log == ['lost /servers/a', 'restored /servers/a']
    assert client.get('/servers/a').value == 'mine'
    assert keeper.ensure() > token


@pytest.mark.v3_differs('a kept node has a lease of its own, which outlives that of its directory')
def test_kept_node_is_lost_and_restored_when_its_directory_expires(
    client: getc.Client, backend_under_test: Any, wait_until: Callable[..., None]
) -> None:
    """In a directory without a TTL, with another token."""
    losses: list[str] = []
    client.set('/d', dir=True, ttl=2)
    keeper = client.keep_node('/d/kept', 'mine', ttl=60, on_lost=lambda keeper: losses.append(str(keeper.last_error)))
    token = keeper.ensure()
    backend_under_test.pass_time(3)
    wait_until(lambda: keeper.state is KeeperState.KEPT and keeper.ensure() > token)
    assert len(losses) == 1
    assert client.get('/d').ttl is None
    assert client.get('/d').values == ('mine',)


def test_node_is_reclaimed_only_when_its_new_owner_has_released_it(
    client: getc.Client, other: getc.Client, wait_until: Callable[..., None]
) -> None:
    """The new owner is never overwritten."""
    log: list[str] = []
    keeper = client.keep_node(
        '/servers/a',
        'mine',
        ttl=3,
        on_lost=lambda _: log.append('lost'),
        on_restored=lambda _: log.append('restored'),
    )
    successor = other.keep_node('/servers/a', 'theirs', ttl=3)
    wait_until(lambda: log == ['lost'] and isinstance(keeper.last_error, getc.Overtaken))
    assert client.get('/servers/a').value == 'theirs'
    successor.stop()
    wait_until(lambda: log == ['lost', 'restored'])
    assert client.get('/servers/a').value == 'mine'
    keeper.ensure()


def test_update_writes_the_value_and_keeps_the_token(client: getc.Client, other: getc.Client) -> None:
    keeper = client.keep_node('/servers/a', 'lobby', ttl=TTL)
    token = keeper.ensure()
    result = keeper.update('arena')
    assert other.wait('/servers/a', token + 1).value == 'arena'
    assert (result.value, keeper.value) == ('arena', 'arena')
    assert client.get('/servers/a').ttl == TTL
    assert keeper.ensure() == token


def test_crossed_updates_leave_the_value_of_the_last_call(client: getc.Client) -> None:
    keeper = client.keep_node('/servers/a', 'lobby', ttl=TTL)
    updates = [gevent.spawn(keeper.update, str(number)) for number in range(30)]
    gevent.joinall(updates, raise_error=True)
    assert (client.get('/servers/a').value, keeper.value) == ('29', '29')
    indices = [update.value.modified_index for update in updates]
    assert indices == sorted(indices)


def test_update_raises_overtaken_when_another_owner_has_the_node(client: getc.Client, other: getc.Client) -> None:
    """The value is not written."""
    keeper = client.keep_node('/servers/a', 'mine', ttl=TTL)
    other.set('/servers/a', 'theirs', ttl=TTL)
    with pytest.raises(getc.Overtaken):
        keeper.update('mine again')
    assert client.get('/servers/a').value == 'theirs'
    assert keeper.state is KeeperState.LOST
    with pytest.raises(getc.NodeLost):
        keeper.update('and again')
    assert keeper.value == 'and again'


# -- the guard


def test_guard_names_the_node_and_survives_renewals_and_updates(
    client: getc.Client, wait_until: Callable[..., None]
) -> None:
    keeper = client.keep_node('/servers/a', 'mine', ttl=3)
    guard, end = keeper.guard, keeper._daemon._node.lost_at
    assert (guard.key, guard.created_index) == ('/servers/a', client.get('/servers/a').created_index)
    assert 'is_ours' not in repr(guard)
    keeper.update('other')
    wait_until(lambda: keeper._daemon._node.lost_at > end)
    assert keeper.guard == guard


def test_guard_of_a_node_that_was_taken_over_has_its_creation(client: getc.Client, other: getc.Client) -> None:
    """The token is the index of the takeover."""
    created = other.set('/servers/a', 'old', ttl=TTL).index
    keeper = client.keep_node('/servers/a', 'mine', ttl=TTL)
    assert keeper.ensure() > created
    assert keeper.guard.created_index == created


def test_guard_raises_node_lost_when_the_node_is_not_kept(client: getc.Client, other: getc.Client) -> None:
    keeper = client.keep_node('/servers/a', ttl=TTL)
    other.set('/servers/a', 'theirs', ttl=TTL)
    with pytest.raises(getc.Overtaken):
        keeper.update('mine')
    with pytest.raises(getc.Overtaken, match='/servers/a is not kept: LOST'):
        _ = keeper.guard
    keeper.stop()
    with pytest.raises(getc.NodeLost, match='/servers/a is not kept: STOPPED'):
        _ = keeper.guard


# -- liveness


def test_node_is_deleted_while_alive_returns_false(client: getc.Client, wait_until: Callable[..., None]) -> None:
    """A process that is running but not working is not listed."""
    well = [True]
    log: list[str] = []
    keeper = client.keep_node(
        '/servers/a',
        'mine',
        ttl=3,
        alive=lambda: well[0],
        on_lost=lambda _: log.append('lost'),
        on_restored=lambda _: log.append('restored'),
    )
    well[0] = False
    wait_until(lambda: log == ['lost'])
    wait_until(lambda: is_gone(client, '/servers/a'))
    assert keeper.state is KeeperState.LOST
    well[0] = True
    wait_until(lambda: log == ['lost', 'restored'])
    assert client.get('/servers/a').value == 'mine'


@pytest.mark.parametrize('is_blocking', [True, False], ids=['blocks', 'raises'])
def test_blocking_or_failing_alive_counts_as_false(
    client: getc.Client, wait_until: Callable[..., None], is_blocking: bool
) -> None:
    """The keeper is not blocked, and the node is deleted."""
    is_healthy = True

    def alive() -> bool:
        if is_healthy:
            return True
        if is_blocking:
            gevent.sleep(3600)
        raise RuntimeError('the game loop has ended')

    client.keep_node('/servers/a', ttl=1, alive=alive)
    is_healthy = False
    wait_until(lambda: is_gone(client, '/servers/a'))


def is_gone(client: getc.Client, key: str) -> bool:
    try:
        client.get(key)
    except getc.KeyNotFound:
        return True
    return False


# -- callbacks and stopping


def test_stop_returns_in_a_callback(client: getc.Client, other: getc.Client, wait_until: Callable[..., None]) -> None:
    """It does not wait for the callback that has called it."""
    log: list[str] = []

    def on_lost(keeper: getc.Keeper) -> None:
        keeper.stop()
        log.append('stopped')
        gevent.sleep(0.01)
        log.append('went on')

    keeper = client.keep_node('/servers/a', ttl=1, on_lost=on_lost)
    other.set('/servers/a', 'theirs', ttl=TTL)
    wait_until(lambda: len(log) == 2)
    assert keeper.state is KeeperState.STOPPED


def test_error_of_a_callback_is_logged_and_the_node_is_kept(
    client: getc.Client, other: getc.Client, wait_until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    restored: list[getc.Keeper] = []

    def on_lost(keeper: getc.Keeper) -> None:
        raise RuntimeError('a bug of the game')

    keeper = client.keep_node('/servers/a', ttl=2, on_lost=on_lost, on_restored=restored.append)
    other.delete('/servers/a')
    wait_until(lambda: restored == [keeper])
    assert 'a bug of the game' in caplog.text
    keeper.ensure()


def test_blocking_callback_does_not_delay_renewals_and_is_killed_by_stop(
    client: getc.Client, other: getc.Client, wait_until: Callable[..., None]
) -> None:
    """No callback is running when stop has returned."""
    ended: list[str] = []
    entered: list[int] = []

    def on_lost(keeper: getc.Keeper) -> None:
        entered.append(1)
        try:
            gevent.sleep(3600)
        finally:
            ended.append('killed')

    keeper = client.keep_node('/servers/a', ttl=1, on_lost=on_lost)
    other.delete('/servers/a')
    wait_until(lambda: entered and keeper.state is KeeperState.KEPT)
    assert not ended
    keeper.stop(timeout=0.05)
    assert ended == ['killed']


def test_keep_node_returns_at_once_when_wait_is_false(client: getc.Client, wait_until: Any) -> None:
    """The state is STARTING until the node is written."""
    keeper = client.keep_node('/servers/a', ttl=TTL, wait=False)
    assert keeper.state is KeeperState.STARTING
    wait_until(lambda: keeper.state is KeeperState.KEPT)
    assert client.get('/servers/a')


def test_error_without_wait_stops_the_keeper_and_is_its_last_error(
    client: getc.Client, wait_until: Callable[..., None]
) -> None:
    client.set('/servers/a', 'permanent')
    keeper = client.keep_node('/servers/a', ttl=TTL, wait=False)
    wait_until(lambda: keeper.join(0))
    assert keeper.state is KeeperState.STOPPED
    assert isinstance(keeper.last_error, getc.NodeExist)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'key': '/'}, ValueError, 'cannot keep the root'),
        ({'ttl': 0}, ValueError, 'ttl must be at least 1, not 0'),
        ({'ttl': 1.5}, TypeError, 'ttl'),
        ({'ttl': None}, TypeError, 'int .* not None; to write a node without a TTL, use set'),
        ({'value': 7}, TypeError, 'value'),
        ({'on_conflict': 'fight'}, ValueError, "on_conflict must be 'replace', 'wait' or 'raise'"),
        ({'alive': True}, TypeError, 'alive must be a function'),
        ({'on_lost': 'log'}, TypeError, 'on_lost must be a function'),
        ({'timeout': -1}, ValueError, 'timeout'),
    ],
)
def test_keep_node_raises_for_invalid_options_before_any_io(
    refusing: getc.Client, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The message names the option."""
    with pytest.raises(error, match=message):
        refusing.keep_node(**{'key': '/servers/a', **options})


def test_stop_without_time_ends_the_renewals(
    client: getc.Client, other: getc.Client, wait_until: Callable[..., None]
) -> None:
    """Although another node is kept on the same lease."""
    client.keep_node('/servers/a', 'x', ttl=1).stop(timeout=0)
    kept = client.keep_node('/servers/b', 'x', ttl=1)
    wait_until(lambda: [node.key for node in other.get('/servers').nodes] == ['/servers/b'])
    kept.ensure()
