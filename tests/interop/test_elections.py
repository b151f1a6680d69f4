"""``etcd.v3.election`` of getc against ``concurrency.Election`` of Go."""

from __future__ import annotations

from typing import Any

import pytest

import getc
from tests.support.interop import Go
from tests.support.interop_events import GoError, Led

NAME = '/leader'


@pytest.fixture
def lease(etcd: getc.Client) -> int:
    return etcd.v3.lease.grant(600).ID


def candidates(go: Go) -> int:
    return go.get(f'{NAME}/'.encode(), prefix=True).result().count


def test_getc_waits_for_the_leader_of_go(go: Go, etcd: getc.Client, lease: int, spawn: Any, wait_until: Any) -> None:
    session = go.open_session()
    won = session.campaign(NAME, 'go').result()
    leader = etcd.v3.election.leader(NAME.encode()).kv
    assert (leader.key, leader.value, leader.create_revision) == (won.key.encode(), b'go', won.create_revision)
    waiting = spawn(etcd.v3.election.campaign, NAME.encode(), lease=lease, value=b'getc')
    wait_until(lambda: candidates(go) == 2)
    assert not waiting.ready()
    session.resign(NAME).result()
    assert waiting.get().leader.lease == lease
    assert session.leader(NAME).result().value == b'getc'


def test_go_waits_for_the_leader_of_getc(go: Go, etcd: getc.Client, lease: int, wait_until: Any) -> None:
    won = etcd.v3.election.campaign(NAME.encode(), lease=lease, value=b'getc').leader
    session = go.open_session()
    waiting = session.campaign(NAME, 'go')
    wait_until(lambda: candidates(go) == 2)
    assert not waiting.is_done
    found = session.leader(NAME).result()
    assert (found.key, found.create_revision) == (won.key, won.rev)
    etcd.v3.election.resign(won)
    assert waiting.result().lease == session.lease


def test_both_sides_observe_one_sequence(go: Go, etcd: getc.Client, lease: int, wait_until: Any) -> None:
    """Each value is awaited on both sides before the next: Go's Observe may skip values."""
    session, observer = go.open_session(), go.open_session()
    observing = observer.observe(NAME)
    with etcd.v3.election.observe(NAME.encode()) as observed:

        def both_see(value: bytes) -> None:
            assert next(observed).kv.value == value
            observing.wait(Led, lambda led: led.kv.value == value)

        session.campaign(NAME, 'one').result()
        both_see(b'one')
        session.proclaim(NAME, 'two').result()
        both_see(b'two')
        session.resign(NAME).result()
        won = etcd.v3.election.campaign(NAME.encode(), lease=lease, value=b'three').leader
        both_see(b'three')
        etcd.v3.election.proclaim(won, b'four')
        both_see(b'four')
    assert [event.kv.value for event in observing.events] == [b'one', b'two', b'three', b'four']
    observing.cancel()


def test_value_is_proclaimed_by_the_leader_only(go: Go, etcd: getc.Client, lease: int) -> None:
    session = go.open_session()
    with pytest.raises(GoError, match='election: not leader'):
        session.proclaim(NAME, 'x').result()
    won = session.campaign(NAME, 'go').result()
    etcd.v3.kv.delete_range(won.key.encode())
    with pytest.raises(GoError, match='election: not leader'):
        session.proclaim(NAME, 'x').result()
    with pytest.raises(GoError, match='election: no leader'):
        session.leader(NAME).result()
    assert etcd.v3.election.campaign(NAME.encode(), lease=lease, value=b'getc').leader.lease == lease


def test_leader_changes_when_the_session_of_go_is_revoked(
    go: Go, etcd: getc.Client, lease: int, spawn: Any, wait_until: Any
) -> None:
    session = go.open_session(ttl=6)
    session.campaign(NAME, 'go').result()
    waiting = spawn(etcd.v3.election.campaign, NAME.encode(), lease=lease, value=b'getc')
    wait_until(lambda: candidates(go) == 2)
    etcd.v3.lease.revoke(session.lease)
    assert waiting.get().leader.lease == lease
    session.ended.result()


def test_cancelled_campaign_leaves_the_election(go: Go, etcd: getc.Client, lease: int, wait_until: Any) -> None:
    etcd.v3.election.campaign(NAME.encode(), lease=lease, value=b'getc')
    waiting = go.open_session().campaign(NAME, 'go')
    wait_until(lambda: candidates(go) == 2)
    waiting.cancel()
    wait_until(lambda: candidates(go) == 1)
    with pytest.raises(GoError) as caught:
        waiting.result()
    assert caught.value.code == 'Canceled'
