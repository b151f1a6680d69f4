"""Elections of getc, Go's ``concurrency.Election``, ``etcdctl elect`` and etcd's Election service in one queue."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

import getc
from getc.recipes import CandidacyState
from getc.results import Value
from getc.testing import EtcdServer, wait_until
from tests.support.interop import Go
from tests.support.interop_events import GoError, Led

KEY = '/leaders/match'
TTL = 30


@pytest.fixture
def client(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


def values(client: getc.Client) -> list[str]:
    return [value.value for value in client.lock(KEY).contenders()]


def wait_for(client: getc.Client, expected: list[str]) -> None:
    wait_until(lambda: values(client) == expected)


def test_leadership_alternates_between_go_and_getc(client: getc.Client, go: Go) -> None:
    """One order, and tokens that rise across both."""
    sessions = [go.open_session(ttl=TTL) for _ in range(2)]
    first = sessions[0].campaign(KEY, 'go-0').result()
    candidacies = [client.elect(KEY, 'getc-0', ttl=TTL, wait=True)]
    between = sessions[1].campaign(KEY, 'go-1')
    wait_for(client, ['go-0', 'getc-0', 'go-1'])
    candidacies.append(client.elect(KEY, 'getc-1', ttl=TTL, wait=True))
    tokens = [first.create_revision]
    with pytest.raises(getc.TimedOut, match=r"is first, with the value 'go-0'"):
        candidacies[0].wait_elected(0.1)

    sessions[0].resign(KEY).result()
    tokens.append(candidacies[0].wait_elected(30))
    assert not between.is_done
    candidacies[0].stop()
    tokens.append(between.result().create_revision)
    assert candidacies[1].state is CandidacyState.CAMPAIGNING
    sessions[1].close().result()  # the lease is revoked
    tokens.append(candidacies[1].wait_elected(30))
    candidacies[1].stop()
    assert tokens == sorted(set(tokens))
    wait_for(client, [])


def test_observe_of_go_and_leader_of_getc_see_one_sequence(client: getc.Client, go: Go) -> None:
    """Proclaimed values and hand-overs on both sides; Go's ``Observe`` does not report that there is no leader."""
    seen: list[Value | None] = []
    leader = client.leader(KEY, seen.append)
    session, observer = go.open_session(ttl=TTL), go.open_session(ttl=TTL)
    watching = observer.observe(KEY)

    def observed(value: str) -> None:
        watching.wait(Led, lambda led: led.kv.value == value.encode())
        leader.wait(lambda leader: leader.value == value, 30)

    candidacy = client.elect(KEY, 'getc', ttl=TTL)
    observed('getc')
    candidacy.proclaim('GETC')
    observed('GETC')
    campaign = session.campaign(KEY, 'go')
    wait_for(client, ['GETC', 'go'])
    candidacy.stop()
    campaign.result()
    observed('go')
    session.proclaim(KEY, 'GO').result()
    observed('GO')
    session.resign(KEY).result()
    leader.wait(lambda leader: leader.token is None, 30)
    led = [event.kv for event in watching.events if isinstance(event, Led)]
    assert [kv.value.decode() for kv in led] == ['getc', 'GETC', 'go', 'GO']
    wait_until(lambda: len(seen) == 6)
    assert [None if value is None else value.value for value in seen] == [None, 'getc', 'GETC', 'go', 'GO', None]
    shown = [(value.key, value.created_index) for value in seen if value is not None]
    assert shown == [(kv.key.decode(), kv.create_revision) for kv in led]
    watching.cancel()


def test_leader_of_go_is_that_of_getc(client: getc.Client, go: Go) -> None:
    session = go.open_session(ttl=TTL)
    with pytest.raises(GoError) as caught:
        session.leader(KEY).result()
    assert caught.value.message == 'election: no leader'
    assert client.leader(KEY).value is None
    with client.elect(KEY, 'ann', ttl=TTL) as candidacy:
        token = candidacy.wait_elected(30)
        found = session.leader(KEY).result()
        assert (found.value, found.create_revision) == (b'ann', token)
        assert found.key.decode() == client.leader(KEY).key


def test_session_of_go_that_is_revoked_lets_getc_lead_and_the_reverse(client: getc.Client, go: Go) -> None:
    session = go.open_session(ttl=TTL)
    session.campaign(KEY, 'go').result()
    candidacy = client.elect(KEY, 'getc', ttl=TTL, wait=True)
    client.v3.lease.revoke(session.lease)
    candidacy.wait_elected(30)
    other = go.open_session(ttl=TTL)
    campaign = other.campaign(KEY, 'next')
    wait_for(client, ['getc', 'next'])
    lease = client.v3.kv.range(client.lock(KEY).contenders()[0].key.encode()).kvs[0].lease
    client.v3.lease.revoke(lease)
    campaign.result()
    wait_for(client, ['next', 'getc'])  # it campaigns again
    other.resign(KEY).result()
    assert candidacy.wait_elected(30)
    candidacy.stop()


def test_candidates_wait_while_the_history_is_compacted(client: getc.Client, go: Go) -> None:
    session = go.open_session(ttl=TTL)
    session.campaign(KEY, 'go').result()
    candidacy = client.elect(KEY, 'getc', ttl=TTL, wait=True)
    leader = client.leader(KEY)
    for _ in range(3):
        client.v3.kv.compact(client.set('/other', 'x').etcd_index)
    session.resign(KEY).result()
    assert candidacy.wait_elected(30)
    assert leader.wait(lambda leader: leader.value == 'getc', 30)
    candidacy.stop()


@pytest.mark.parametrize('name', ['/leaders/match/', '/leaders/match/_x', '/leaders/match/sub/x'])
def test_marker_hidden_and_nested_key_block_both(client: getc.Client, go: Go, name: str) -> None:
    client.v3.kv.put(name.encode(), b'blocks')
    session = go.open_session(ttl=TTL)
    campaign = session.campaign(KEY, 'go')
    wait_until(lambda: 'go' in values(client))
    candidacy = client.elect(KEY, 'getc', ttl=TTL, wait=True)
    with pytest.raises(getc.TimedOut, match=f'{name} is first, .*it has no TTL'):
        candidacy.wait_elected(0.1)
    assert not campaign.is_done
    client.v3.kv.delete_range(name.encode())
    campaign.result()
    session.resign(KEY).result()
    assert candidacy.wait_elected(30)
    candidacy.stop()


# -- etcdctl


@pytest.fixture
def etcdctl(etcd_server: EtcdServer, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start ``etcdctl elect``; its output goes to the file ``output``."""
    path = Path(etcd_server.binary.path).with_name('etcdctl')
    if not os.access(path, os.X_OK):
        pytest.skip(f'there is no etcdctl beside {etcd_server.binary.path}')
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [str(path), f'--endpoints={etcd_server.url}', 'elect', *arguments]
        with (tmp_path / 'output').open('ab') as output:
            started.append(subprocess.Popen(command, env={'ETCDCTL_API': '3'}, stdout=output))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=30)


def test_etcdctl_elect_before_and_after_a_candidate(
    client: getc.Client, etcdctl: Callable[..., subprocess.Popen[bytes]]
) -> None:
    first = etcdctl(KEY, 'etcdctl-1')
    wait_for(client, ['etcdctl-1'])
    candidacy = client.elect(KEY, 'getc', ttl=TTL, wait=True)
    last = etcdctl(KEY, 'etcdctl-2')
    wait_for(client, ['etcdctl-1', 'getc', 'etcdctl-2'])
    gevent.sleep(0)
    assert candidacy.token is None
    first.send_signal(signal.SIGINT)  # it resigns
    candidacy.wait_elected(30)
    candidacy.stop()
    leader = client.leader(KEY)
    assert leader.wait(lambda leader: leader.value == 'etcdctl-2', 30)
    last.send_signal(signal.SIGINT)
    assert leader.wait(lambda leader: leader.token is None, 30)


def test_etcdctl_elect_listen_shows_leaders_of_getc(
    client: getc.Client, etcdctl: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    candidacy = client.elect(KEY, 'ann', ttl=TTL)
    candidacy.wait_elected(30)
    etcdctl(KEY, '-l')
    wait_until(lambda: b'ann' in (tmp_path / 'output').read_bytes())
    candidacy.proclaim('bob')
    wait_until(lambda: b'bob' in (tmp_path / 'output').read_bytes())
    key = client.leader(KEY).key
    assert key is not None
    assert (tmp_path / 'output').read_text().split() == [key, 'ann', key, 'bob']
    candidacy.stop()


def test_election_service_of_etcd_takes_part(client: getc.Client) -> None:
    """``v3election``, which ``etcd.v3.election`` calls."""
    lease = client.v3.lease.grant(TTL).ID
    won = client.v3.election.campaign(KEY.encode(), lease=lease, value=b'service').leader
    candidacy = client.elect(KEY, 'getc', ttl=TTL, wait=True)
    assert client.leader(KEY).token == won.rev
    client.v3.election.resign(won)
    assert candidacy.wait_elected(30) > won.rev
    assert client.v3.election.leader(KEY.encode()).kv.value == b'getc'
    candidacy.stop()
