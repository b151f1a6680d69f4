"""``etcd.v3.lock`` of getc, which runs in the server, against ``concurrency.Mutex`` of Go, which runs in the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from tests.support.interop import Go
from tests.support.interop_events import GoError

NAME = '/locks/a'


@pytest.fixture
def lease(etcd: getc.Client) -> int:
    return etcd.v3.lease.grant(600).ID


def queued(go: Go) -> int:
    """Return how many hold the lock or wait for it."""
    return go.get(f'{NAME}/'.encode(), prefix=True).result().count


def test_mutex_returns_its_key_and_its_revisions(go: Go) -> None:
    session = go.open_session()
    held = session.lock(NAME).result()
    (found,) = go.get(held.key.encode()).result().kvs
    assert (found.create_revision, found.lease) == (held.create_revision, session.lease)
    assert held.header_revision == held.create_revision  # it did not wait
    assert held.key == f'{NAME}/{session.lease:x}'


def test_getc_waits_for_go(go: Go, etcd: getc.Client, lease: int, spawn: Any, wait_until: Any) -> None:
    session = go.open_session()
    session.lock(NAME).result()
    waiting = spawn(etcd.v3.lock.lock, NAME.encode(), lease=lease)
    wait_until(lambda: queued(go) == 2)
    assert not waiting.ready()
    session.unlock(NAME).result()
    assert waiting.get().key.startswith(b'/locks/a/')


def test_go_waits_for_getc(go: Go, etcd: getc.Client, lease: int, wait_until: Any) -> None:
    held = etcd.v3.lock.lock(NAME.encode(), lease=lease)
    session = go.open_session()
    assert session.try_lock(NAME).result() is None
    waiting = session.lock(NAME)
    wait_until(lambda: queued(go) == 2)
    assert not waiting.is_done
    etcd.v3.lock.unlock(held.key)
    assert waiting.result().key == f'{NAME}/{session.lease:x}'


def test_try_lock_leaves_no_key_when_the_lock_is_held(go: Go) -> None:
    first, second = go.open_session(), go.open_session()
    held = first.try_lock(NAME).result()
    assert held is not None
    assert second.try_lock(NAME).result() is None
    assert queued(go) == 1
    first.unlock(NAME).result()
    taken = second.try_lock(NAME).result()
    assert taken is not None and taken.create_revision > held.create_revision


def test_lock_is_free_when_the_lease_of_its_owner_is_revoked(
    go: Go, etcd: getc.Client, lease: int, spawn: Any, wait_until: Any
) -> None:
    session = go.open_session()
    session.lock(NAME).result()
    waiting = spawn(etcd.v3.lock.lock, NAME.encode(), lease=lease)
    wait_until(lambda: queued(go) == 2)
    session.close().result()
    waiting.get()
    other = go.open_session()
    after = other.lock(NAME)
    wait_until(lambda: queued(go) == 2)
    etcd.v3.lease.revoke(lease)
    assert after.result().lease == other.lease


def test_waiting_mutex_fails_when_its_session_is_revoked(
    go: Go, etcd: getc.Client, lease: int, wait_until: Any
) -> None:
    held = etcd.v3.lock.lock(NAME.encode(), lease=lease)
    session = go.open_session(ttl=6)
    waiting = session.lock(NAME)
    wait_until(lambda: queued(go) == 2)
    etcd.v3.lease.revoke(session.lease)
    session.ended.result()
    etcd.v3.lock.unlock(held.key)
    with pytest.raises(GoError, match='mutex: session is expired'):
        waiting.result()


def test_write_of_an_owner_is_refused_when_the_lock_is_lost(go: Go, etcd: getc.Client) -> None:
    session = go.open_session()
    held = session.lock(NAME).result()
    assert session.owned_put(NAME, b'/work', b'1').result().succeeded
    etcd.v3.kv.delete_range(held.key.encode())
    assert not session.owned_put(NAME, b'/work', b'2').result().succeeded
    assert etcd.get('/work').value == '1'


def test_unlock_without_a_lock_is_an_error_of_go(go: Go) -> None:
    with pytest.raises(GoError, match='mutex: lock has already been released'):
        go.open_session().unlock(NAME).result()


def test_header_revision_is_not_a_fencing_token(go: Go, wait_until: Any) -> None:
    """The revision of the response that ended the wait rises above the create revisions of later contenders."""
    first, second, third = go.open_session(), go.open_session(), go.open_session()
    first.lock(NAME).result()
    waiting = second.lock(NAME)
    wait_until(lambda: queued(go) == 2)
    last = third.lock(NAME)
    wait_until(lambda: queued(go) == 3)
    first.unlock(NAME).result()
    held = waiting.result()
    second.unlock(NAME).result()
    assert last.result().create_revision > held.create_revision
    assert last.result().create_revision < held.header_revision


def test_lock_excludes_owners_of_both_sides(go: Go, etcd: getc.Client) -> None:
    inside: set[str] = set()
    most, rounds = 0, 5

    def enter(who: str) -> None:
        nonlocal most
        inside.add(who)
        most = max(most, len(inside))
        etcd.v3.kv.put(b'/work', who.encode())
        inside.remove(who)

    def work_in_getc(who: str) -> None:
        lease = etcd.v3.lease.grant(600).ID
        for _ in range(rounds):
            held = etcd.v3.lock.lock(NAME.encode(), lease=lease, timeout=60)
            enter(who)
            etcd.v3.lock.unlock(held.key)

    def work_in_go(who: str) -> None:
        session = go.open_session()
        for _ in range(rounds):
            session.lock(NAME).result()
            enter(who)
            session.unlock(NAME).result()

    works: list[Callable[[str], None]] = [work_in_getc, work_in_go] * 4
    gevent.joinall([gevent.spawn(work, str(number)) for number, work in enumerate(works)], raise_error=True)
    assert most == 1
    assert etcd.v3.kv.range(b'/work').kvs[0].version == rounds * len(works)
    assert queued(go) == 0
