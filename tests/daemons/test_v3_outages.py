"""Tests of daemons with a real etcd v3: revoked leases, and a process that stalls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal

import gevent
import pytest

import getc
from getc import KeeperState
from getc.errors import NodeExist, NodeLost, Overtaken
from getc.testing import EtcdServer, FaultProxy, wait_until

TTL = 5


@pytest.fixture
def client(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


@pytest.fixture
def other(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


def lease_of(client: getc.Client, key: str) -> int:
    """Return the lease of a node; 0 if there is none."""
    found = client.v3.kv.range(key.encode()).kvs
    return found[0].lease if found else 0


def test_nodes_share_a_lease_that_is_never_revoked(client: getc.Client, other: getc.Client) -> None:
    """One node is deleted and one detached; the others are unaffected."""
    keepers = [client.keep_node(f'/servers/{number}', ttl=TTL) for number in range(5)]
    lease = lease_of(other, '/servers/0')
    assert {lease_of(other, keeper.key) for keeper in keepers} == {lease}
    keepers[0].stop()
    keepers[1].detach()
    assert lease_of(other, '/servers/0') == 0
    assert lease_of(other, '/servers/1') not in (0, lease)
    assert {lease_of(other, keeper.key) for keeper in keepers[2:]} == {lease}
    assert {keeper.state for keeper in keepers[2:]} == {KeeperState.KEPT}


def test_nodes_are_restored_after_their_lease_was_revoked(client: getc.Client, other: getc.Client) -> None:
    """Within a third of the TTL."""
    lost: list[str] = []
    keepers = [
        client.keep_node(f'/servers/{number}', ttl=TTL, on_lost=lambda keeper: lost.append(keeper.key))
        for number in range(3)
    ]
    tokens = [keeper.ensure() for keeper in keepers]
    other.v3.lease.revoke(lease_of(other, '/servers/0'))
    wait_until(lambda: len(set(lost)) == 3 and all(keeper.state is KeeperState.KEPT for keeper in keepers))
    assert all(keeper.ensure() > token for keeper, token in zip(keepers, tokens, strict=True))
    assert all(lease_of(other, keeper.key) in _leases(other) for keeper in keepers)


def _leases(client: getc.Client) -> set[int]:
    return {lease.ID for lease in client.v3.lease.leases().leases}


def test_keep_node_succeeds_after_its_lease_was_revoked(client: getc.Client, other: getc.Client) -> None:
    """The other keepers of the lease are notified before any renewal."""
    first = client.keep_node('/servers/a', ttl=60)
    other.v3.lease.revoke(lease_of(other, '/servers/a'))
    second = client.keep_node('/servers/b', ttl=60)
    assert second.ensure()
    wait_until(lambda: first.state is KeeperState.KEPT and lease_of(other, '/servers/a'))
    assert lease_of(other, '/servers/b') in _leases(other)


def test_deleted_node_is_restored_and_an_overwritten_one_is_left_alone(client: getc.Client, other: getc.Client) -> None:
    """Other nodes of the lease are unaffected."""
    deleted, taken, beside = (client.keep_node(f'/{name}', 'x', ttl=TTL) for name in ('deleted', 'taken', 'beside'))
    token = beside.ensure()
    other.delete('/deleted')
    other.set('/taken', 'theirs')
    wait_until(lambda: taken.state is KeeperState.LOST and lease_of(other, '/deleted'))
    assert isinstance(taken.last_error, Overtaken)
    wait_until(lambda: deleted.state is KeeperState.KEPT)
    assert other.get('/taken').value == 'theirs'
    assert beside.ensure() == token
    other.delete('/taken')
    wait_until(lambda: taken.state is KeeperState.KEPT)


def test_keeper_is_lost_at_once_after_a_stall_longer_than_the_ttl(client: getc.Client, other: getc.Client) -> None:
    """Nothing of this process runs during the stall, and etcd deletes the node."""
    calls: list[str] = []
    keeper = client.keep_node(
        '/servers/a', ttl=2, on_lost=lambda _: calls.append('lost'), on_restored=lambda _: calls.append('restored')
    )
    token = keeper.ensure()
    end = time.monotonic() + keeper.remaining()
    while time.monotonic() < end:  # virtual time would let the hub run
        pass
    assert keeper.remaining() == 0
    assert keeper.state is KeeperState.LOST
    with pytest.raises(NodeLost):
        keeper.ensure()
    wait_until(lambda: calls == ['lost', 'restored'])
    assert keeper.ensure() > token
    assert lease_of(other, '/servers/a') in _leases(other)


@pytest.fixture
def proxy(etcd_server: EtcdServer) -> Iterator[FaultProxy]:
    with FaultProxy(etcd_server.url) as proxy:
        yield proxy


@pytest.fixture
def contender(proxy: FaultProxy) -> Iterator[getc.Client]:
    """Yield a client behind the proxy with a connection and a lease, so that the next request is a write."""
    with getc.etcd(proxy.url, api='v3') as client:
        client.keep_node('/its/own', ttl=TTL)
        yield client


@pytest.mark.parametrize('fault', ['drop_replies', 'silence'], ids=['lost reply', 'lost request'])
@pytest.mark.parametrize('on_conflict', ['raise', 'wait'])
def test_unanswered_write_of_the_same_value_does_not_take_another_owners_node(
    client: getc.Client, contender: getc.Client, proxy: FaultProxy, on_conflict: Literal['raise', 'wait'], fault: str
) -> None:
    """Ownership is proven by the lease, not by the value."""
    owner = client.keep_node('/name', 'v', ttl=10)
    before = client.v3.kv.range(b'/name').kvs[0]
    getattr(proxy, fault)()
    keeper = contender.keep_node('/name', 'v', ttl=TTL, on_conflict=on_conflict, wait=False)
    wait_until(lambda: keeper._daemon.unanswered)
    gevent.sleep(0.05)  # it is sent in the next iteration of the event loop
    proxy.heal()
    wait_until(lambda: isinstance(keeper.last_error, NodeExist))
    assert keeper.state is (KeeperState.STOPPED if on_conflict == 'raise' else KeeperState.STARTING)
    assert client.v3.kv.range(b'/name').kvs[0] == before
    assert owner.ensure() == before.mod_revision


@pytest.mark.parametrize('fault', ['drop_replies', 'silence'], ids=['lost reply', 'lost request'])
def test_kill_after_an_unanswered_write_of_the_same_value_does_not_delete_another_owners_node(
    client: getc.Client, contender: getc.Client, proxy: FaultProxy, fault: str
) -> None:
    owner = client.keep_node('/name', 'v', ttl=10)
    before = client.v3.kv.range(b'/name').kvs[0]
    getattr(proxy, fault)()
    caller = gevent.spawn(contender.keep_node, '/name', 'v', ttl=TTL, on_conflict='wait')
    gevent.sleep(0)
    (keeper,) = [daemon for daemon in contender._daemons if daemon.name == 'keep_node /name']
    wait_until(lambda: keeper.unanswered)
    gevent.sleep(0.05)  # it is sent in the next iteration of the event loop
    caller.kill()
    proxy.heal()
    wait_until(lambda: len(contender._daemons) == 1)
    assert client.v3.kv.range(b'/name').kvs[0] == before
    assert owner.ensure() == before.mod_revision
