"""``etcd.v3.election`` between two clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import getc
from getc.errors import FailedPrecondition, LeaseNotFound, NotFound
from getc.testing import EtcdServer
from getc.v3 import schema

SERVICE = schema.Election


@pytest.fixture
def mine(client: getc.Client) -> int:
    return client.v3.lease.grant(600).ID


@pytest.fixture
def theirs(other: getc.Client) -> int:
    return other.v3.lease.grant(600).ID


def candidates(client: getc.Client) -> int:
    return client.v3.kv.range(b'name/', range_end=b'name0', count_only=True).count


def test_campaign_blocks_while_another_lease_leads(
    client: getc.Client, other: getc.Client, mine: int, theirs: int, spawn: Callable[..., Any], wait_until: Any
) -> None:
    won = client.v3.election.campaign(b'name', lease=mine, value=b'me')
    assert (won.leader.name, won.leader.lease) == (b'name', mine)
    waiting = spawn(other.v3.election.campaign, b'name', lease=theirs, value=b'you')
    wait_until(lambda: candidates(client) == 2)
    assert other.v3.election.leader(b'name').kv.value == b'me'
    client.v3.election.resign(won.leader)
    assert waiting.get().leader.lease == theirs
    assert client.v3.election.leader(b'name').kv.value == b'you'


def test_leader_raises_not_found_without_a_leader(client: getc.Client) -> None:
    with pytest.raises(NotFound, match='no leader'):
        client.v3.election.leader(b'name')


def test_leader_proclaims_another_value(client: getc.Client, mine: int) -> None:
    won = client.v3.election.campaign(b'name', lease=mine, value=b'me').leader
    client.v3.election.proclaim(won, b'still me')
    assert client.v3.election.leader(b'name').kv.value == b'still me'
    client.v3.election.resign(won)
    with pytest.raises(FailedPrecondition, match='not leader'):
        client.v3.election.proclaim(won, b'me again')


def test_killed_candidate_leaves_the_election(
    client: getc.Client, other: getc.Client, mine: int, theirs: int, spawn: Callable[..., Any], wait_until: Any
) -> None:
    won = client.v3.election.campaign(b'name', lease=mine)
    waiting = spawn(other.v3.election.campaign, b'name', lease=theirs)
    wait_until(lambda: candidates(client) == 2)
    waiting.kill()
    wait_until(lambda: candidates(client) == 1)
    client.v3.election.resign(won.leader)
    assert candidates(client) == 0


def test_campaign_times_out(client: getc.Client, other: getc.Client, mine: int, theirs: int, wait_until: Any) -> None:
    client.v3.election.campaign(b'name', lease=mine)
    with pytest.raises(getc.TimedOut) as caught:
        other.v3.election.campaign(b'name', lease=theirs, timeout=0.2)
    assert caught.value.maybe_applied
    wait_until(lambda: candidates(client) == 1)


def test_campaign_with_a_missing_lease_raises(client: getc.Client) -> None:
    with pytest.raises(LeaseNotFound):
        client.v3.election.campaign(b'name', lease=4711)


def test_observe_yields_each_leader(
    client: getc.Client, other: getc.Client, mine: int, theirs: int, spawn: Callable[..., Any], wait_until: Any
) -> None:
    won = client.v3.election.campaign(b'name', lease=mine, value=b'one').leader
    with other.v3.election.observe(b'name') as observed:
        assert next(observed).kv.value == b'one'
        client.v3.election.proclaim(won, b'two')
        assert next(observed).kv.value == b'two'
        waiting = spawn(other.v3.election.campaign, b'name', lease=theirs, value=b'three')
        wait_until(lambda: candidates(client) == 2)
        client.v3.lease.revoke(mine)
        assert waiting.get().leader.lease == theirs
        assert next(observed).kv.value == b'three'
    assert observed.is_over


def test_observe_waits_for_the_first_leader(client: getc.Client, other: getc.Client, mine: int, spawn: Any) -> None:
    with other.v3.election.observe(b'name') as observed:
        waiting = spawn(next, observed)
        client.v3.election.campaign(b'name', lease=mine, value=b'me')
        assert waiting.get().kv.value == b'me'


def test_observe_ends_with_the_connection(own_server: EtcdServer) -> None:
    with getc.etcd(own_server.url) as client:
        granted = client.v3.lease.grant(600).ID
        client.v3.election.campaign(b'name', lease=granted, value=b'me')
        with client.v3.election.observe(b'name') as observed:
            assert next(observed).kv.value == b'me'
            own_server.kill()
            with pytest.raises(getc.ConnectionError):
                next(observed)
