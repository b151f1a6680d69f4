"""Locks on a real etcd v3: other programs in the queue, lost leases, lost replies, and the number of requests."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

import getc
from getc.backends.tree.lease.pool import LeasePool
from getc.recipes import ContenderState
from getc.recipes.contender_key import ContenderKey
from getc.testing import EtcdServer, FaultProxy, wait_until
from getc.v3.rpc import RpcClient

KEY = '/locks/a'
RANGE = (b'/locks/a/', b'/locks/a0')
TTL = 30


@pytest.fixture
def client(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


@pytest.fixture
def other(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


def keys(client: getc.Client) -> list[str]:
    return [value.key for value in client.lock(KEY).contenders()]


def wait_for(client: getc.Client, count: int) -> list[str]:
    wait_until(lambda: len(keys(client)) == count)
    return keys(client)


def lease_of(client: getc.Client, key: str) -> int:
    lease: int = client.v3.kv.range(key.encode()).kvs[0].lease
    return lease


class Etcdctl:
    """``etcdctl lock``, which holds the lock until it is interrupted."""

    def __init__(self, path: Path, url: str, *arguments: str) -> None:
        command = [str(path), f'--endpoints={url}', 'lock', KEY, f'--ttl={TTL}', *arguments]
        self.process = subprocess.Popen(command, env={'ETCDCTL_API': '3'}, stdout=subprocess.PIPE, text=True)

    def unlock(self) -> None:
        self.process.send_signal(signal.SIGINT)
        wait_until(lambda: self.process.poll() is not None)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def etcdctl(etcd_server: EtcdServer) -> Iterator[Callable[..., Etcdctl]]:
    path = Path(etcd_server.binary.path).with_name('etcdctl')
    if not os.access(path, os.X_OK):
        pytest.skip(f'there is no etcdctl beside {etcd_server.binary.path}')
    started: list[Etcdctl] = []

    def start(*arguments: str) -> Etcdctl:
        started.append(Etcdctl(path, etcd_server.url, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.end()


# -- etcdctl and the Lock service of etcd


def test_lock_waits_for_etcdctl_and_etcdctl_for_the_lock(
    client: getc.Client, other: getc.Client, etcdctl: Callable[..., Etcdctl]
) -> None:
    """etcdctl before, between and after two locks of getc; kazoo get_predecessor; V3LockLockWaiter."""
    first = etcdctl()
    (etcdctl_key,) = wait_for(client, 1)
    with pytest.raises(getc.TimedOut, match=f'{etcdctl_key} is first'):
        client.lock(KEY).acquire(timeout=0)
    wait_for(client, 1)
    locks = [client.lock(KEY, 'one', ttl=TTL), other.lock(KEY, 'two', ttl=TTL)]
    waiting = [gevent.spawn(locks[0].acquire)]
    wait_for(client, 2)
    between = etcdctl()
    wait_for(client, 3)
    waiting.append(gevent.spawn(locks[1].acquire))
    order = wait_for(client, 4)
    last = etcdctl()
    order = wait_for(client, 5)
    created = [value.created_index for value in client.lock(KEY).contenders()]

    first.unlock()
    assert waiting[0].get(timeout=30) == created[1]
    assert keys(client) == order[1:]
    locks[0].release()
    wait_until(lambda: keys(client) == order[2:])
    assert not waiting[1].dead and between.process.stdout is not None
    assert between.process.stdout.readline().strip() == order[2]  # it prints its key when it holds the lock
    between.unlock()
    assert waiting[1].get(timeout=30) == created[3] > created[1]
    locks[1].release()
    assert last.process.stdout is not None and last.process.stdout.readline().strip() == order[4]
    last.unlock()
    wait_for(client, 0)


def test_lock_service_of_etcd_takes_part(client: getc.Client, other: getc.Client) -> None:
    lease = other.v3.lease.grant(TTL).ID
    held = other.v3.lock.lock(KEY.encode(), lease=lease)
    lock = client.lock(KEY, ttl=TTL)
    waiting = gevent.spawn(lock.acquire)
    wait_for(client, 2)
    other.v3.lock.unlock(held.key)
    token = waiting.get(timeout=30)
    behind = gevent.spawn(other.v3.lock.lock, KEY.encode(), lease=lease, timeout=60)
    wait_for(client, 2)
    assert lock.ensure() == token and not behind.dead
    lock.release()
    assert behind.get(timeout=30).key
    other.v3.lease.revoke(lease)


@pytest.mark.parametrize('name', [b'/locks/a/', b'/locks/a/_hidden', b'/locks/a//x', b'/locks/a/sub/x'])
def test_foreign_key_in_front_blocks_and_is_named_and_watched(client: getc.Client, name: bytes) -> None:
    """Go waits for every key below the lock: a marker, a hidden key, a nested one."""
    client.v3.kv.put(name, b'x')
    lock = client.lock(KEY, ttl=TTL)
    with pytest.raises(getc.TimedOut, match='it has no TTL') as caught:
        lock.acquire(timeout=0)
    assert name.decode() in str(caught.value)
    waiting = gevent.spawn(lock.acquire)
    wait_for(client, 2)
    assert keys(client)[0] == name.decode()
    client.v3.kv.delete_range(name)
    assert waiting.get(timeout=30) == lock.ensure()
    lock.release()


# -- lost keys and leases


@pytest.mark.parametrize('loss', ['deleted', 'overwritten', 'lease revoked'])
def test_owner_is_lost_when_another_program_takes_its_key(client: getc.Client, other: getc.Client, loss: str) -> None:
    """Soon, because the key of an owner is watched, and not only at the next renewal."""
    lock = client.lock(KEY, ttl=TTL)
    lock.acquire()
    next_one = other.lock(KEY, ttl=TTL)
    waiting = gevent.spawn(next_one.acquire)
    own, _ = wait_for(client, 2)
    if loss == 'deleted':
        other.delete(own)
    elif loss == 'overwritten':
        other.set(own, 'x')
    else:
        other.v3.lease.revoke(lease_of(other, own))
    wait_until(lambda: lock.state is ContenderState.LOST, timeout=TTL / 3)
    with pytest.raises(getc.NodeLost):
        lock.release()
    assert waiting.get(timeout=30) == next_one.ensure()
    assert len(keys(client)) == 1
    next_one.release()


def test_waiter_whose_lease_is_revoked_rejoins_at_the_end(client: getc.Client, other: getc.Client) -> None:
    """etcd PR #22387 and etcd#19597: an owner that is not there must not be believed in, nor a waiter forgotten."""
    with client.lock(KEY, ttl=TTL):
        second, third = other.lock(KEY, 'second', ttl=3), client.lock(KEY, 'third', ttl=TTL)
        waiting = gevent.spawn(second.acquire)
        wait_for(client, 2)
        behind = gevent.spawn(third.acquire)
        order = wait_for(client, 3)
        other.v3.lease.revoke(lease_of(client, order[1]))
        wait_until(lambda: [value.value for value in client.lock(KEY).contenders()][1:] == ['third', 'second'])
    assert behind.get(timeout=30) == third.ensure()
    assert not waiting.dead
    third.release()
    assert waiting.get(timeout=30) == second.ensure() > order.index(order[0])
    second.release()


def test_compaction_while_a_waiter_waits_does_not_disturb_it(client: getc.Client, other: getc.Client) -> None:
    lock = client.lock(KEY, ttl=TTL)
    lock.acquire()
    next_one = other.lock(KEY, ttl=TTL)
    waiting = gevent.spawn(next_one.acquire)
    wait_for(client, 2)
    client.v3.kv.compact(client.set('/x', '1').etcd_index)
    lock.release()
    assert waiting.get(timeout=30) == next_one.ensure()
    next_one.release()


def test_orphans_on_a_lease_that_lives_on_are_deleted_by_a_renewal(
    client: getc.Client, other: getc.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys whose creation was not answered, and whose deletion did not arrive."""
    monkeypatch.setattr(ContenderKey, 'remove', lambda _: None)
    with client.lock('/locks/b', ttl=6):
        send = LeasePool._send

        def lose(pool: LeasePool, *args: Any) -> Any:
            send(pool, *args)
            raise getc.PermissionDenied('lost', maybe_applied=True)

        monkeypatch.setattr(LeasePool, '_send', lose)
        for _ in range(10):
            with pytest.raises(getc.PermissionDenied):
                client.lock(KEY, ttl=6).acquire()
        monkeypatch.setattr(LeasePool, '_send', send)
        assert len(keys(other)) == 10
        wait_until(lambda: keys(other) == [], timeout=5.9)  # the TTL would need 6 s from the last renewal


# -- lost replies


def test_reply_that_a_proxy_drops_makes_no_second_contender(etcd_server: EtcdServer, other: getc.Client) -> None:
    """The create is repeated with the same key, so the first one is found."""
    with FaultProxy(etcd_server.url) as proxy, getc.etcd(proxy.url, api='v3') as client:
        client.get('/')
        lock = client.lock(KEY, ttl=TTL)
        with client.lock('/locks/warm', ttl=TTL):  # grants the lease
            proxy.drop_replies()
            acquiring = gevent.spawn(lock.acquire)
            (first,) = wait_for(other, 1)
            proxy.reset()
            proxy.heal()
            token = acquiring.get(timeout=60)
            assert keys(other) == [first]
            assert other.get(first).created_index == token
            lock.release()
            wait_for(other, 0)


def test_delete_whose_reply_a_proxy_drops_is_finished_in_the_background(
    etcd_server: EtcdServer, other: getc.Client
) -> None:
    with FaultProxy(etcd_server.url) as proxy, getc.etcd(proxy.url, api='v3') as client:
        lock = client.lock(KEY, ttl=TTL)
        lock.acquire()
        proxy.silence()
        lock.release(timeout=0.1)
        assert lock.state is ContenderState.LEAVING
        proxy.reset()
        proxy.heal()
        wait_until(lambda: keys(other) == [], timeout=TTL / 3)
        wait_until(lambda: lock.state is ContenderState.OUT)


# -- requests


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the unary RPCs that any client calls."""
    calls: list[str] = []
    call = RpcClient.call

    def record(self: RpcClient, method: Any, *args: Any, **options: Any) -> Any:
        calls.append(method.path.rpartition('/')[2])
        return call(self, method, *args, **options)

    monkeypatch.setattr(RpcClient, 'call', record)
    return calls


def test_uncontended_cycle_takes_two_round_trips(client: getc.Client, calls: list[str]) -> None:
    lock = client.lock(KEY, ttl=TTL)
    with lock:  # the first one grants a lease
        assert calls[-2:] == ['LeaseGrant', 'Txn']
    calls.clear()
    with lock as token:
        assert calls == ['Txn'] and token
    assert calls == ['Txn', 'Txn']


def test_handover_takes_two_round_trips(client: getc.Client, other: getc.Client, calls: list[str]) -> None:
    """The deletion of the owner, and one query of the next one; the other waiters sleep."""
    locks = [client.lock(KEY, ttl=TTL) for _ in range(20)]
    waiting = [gevent.spawn(lock.acquire) for lock in locks]
    wait_for(other, 20)
    for _ in range(5):
        (owner,) = [lock for lock in locks if lock.state is ContenderState.HELD]
        calls.clear()
        owner.release()
        wait_until(lambda: any(lock.state is ContenderState.HELD for lock in locks))
        assert [call for call in calls if call != 'LeaseTimeToLive'] == ['Txn', 'Txn']  # renewals go on
    gevent.killall(waiting)


@pytest.mark.slow
def test_thousand_waiters_cost_one_query_for_each_release(
    client: getc.Client, other: getc.Client, calls: list[str]
) -> None:
    """G6 on a real etcd."""
    locks = [client.lock(KEY, ttl=60) for _ in range(1000)]
    waiting = [gevent.spawn(lock.acquire) for lock in locks]
    wait_until(lambda: len(keys(other)) == 1000)
    for _ in range(20):
        (owner,) = [lock for lock in locks if lock.state is ContenderState.HELD]
        calls.clear()
        owner.release()
        wait_until(lambda: any(lock.state is ContenderState.HELD for lock in locks))
        assert [call for call in calls if call != 'LeaseTimeToLive'] == ['Txn', 'Txn']
    gevent.killall(waiting)


# -- permissions


def test_user_needs_permission_for_the_range_of_the_lock_only() -> None:
    """With ``strict=False``; otherwise the keys above the lock are compared."""
    with EtcdServer() as server, getc.etcd(server.url, api='v3') as admin:
        auth = admin.v3.auth
        for name in ('root', 'user'):
            auth.user_add(name, 'secret')
            auth.role_add(name)
            auth.user_grant_role(name, name)
        auth.role_grant_permission('user', *RANGE[:1], range_end=RANGE[1])
        auth.enable()
        login = {'username': 'user', 'password': 'secret'}
        with (
            getc.etcd(server.url, api='v3', strict=False, **login) as client,
            getc.etcd(server.url, api='v3', **login) as strict,
        ):
            lock, behind = client.lock(KEY), client.lock(KEY)
            token = lock.acquire()
            waiting = gevent.spawn(behind.acquire)
            wait_for(client, 2)
            lock.release()
            assert waiting.get(timeout=30) > token
            behind.release()
            for refused in (strict.lock(KEY), client.lock('/locks/b')):
                with pytest.raises(getc.PermissionDenied):
                    refused.acquire()
                assert refused.state is ContenderState.OUT
