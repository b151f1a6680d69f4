"""A real cluster: every fault, recovery, and that no process or file is left behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gevent
import pytest

import getc
from getc.testing import EtcdBinary, EtcdCluster, MemberState, VirtualTime
from getc.testing.binaries import DIVERGING_VERSIONS
from getc.testing.processes import poll_until
from getc.v3 import EVERYTHING
from getc.v3.maintenance import Maintenance
from pytest_getc import _cluster_binary
from tests.support.api_support import skip_unless_supported
from tests.support.programs import is_running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def cluster(etcd_cluster: EtcdCluster) -> EtcdCluster:
    """Three healthy members without keys."""
    return etcd_cluster


@pytest.fixture
def cluster_binary(request: pytest.FixtureRequest, etcd_binary: EtcdBinary) -> str:
    """The path of the etcd of ``cluster``, for a cluster of the test."""
    return _cluster_binary(request.config).path


@pytest.fixture
def etcd(cluster: EtcdCluster) -> Iterator[getc.Client]:
    with getc.etcd(cluster.urls, api='v3', timeout=60) as etcd:
        yield etcd


def stored(cluster: EtcdCluster, index: int, key: str) -> str | None:
    """Return the value in this member's own store (a serializable read); None if there is none."""
    with cluster.members[index].client() as client:
        found = client.v3.kv.range(key.encode(), serializable=True).kvs
        return found[0].value.decode() if found else None


def write(cluster: EtcdCluster, key: str, value: str) -> None:
    """Write through the leader, since a member that was down may not know yet who leads."""
    with cluster.members[cluster.leader()].client() as client:
        client.set(key, value, timeout=60)


def requires_password(client: getc.Client) -> bool:
    try:
        client.v3.kv.range(b'/a', serializable=True)
    except getc.EtcdError:
        return True
    return False


def ids(cluster: EtcdCluster) -> list[int]:
    return [member.id for member in cluster.members]


def test_members_replicate_when_started(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """Their traffic passes over the links between them."""
    assert [member.state for member in cluster.members] == [MemberState.UP] * 3
    assert len({member.pid for member in cluster.members}) == 3
    assert cluster.urls == ','.join(member.url for member in cluster.members)
    assert cluster.leader() in range(3)
    etcd.set('/a', '1')
    for index in range(3):
        assert poll_until(lambda index=index: stored(cluster, index, '/a') == '1', 60)
    assert cluster.link(0, 1).connections + cluster.link(1, 0).connections > 0
    names = [member.name for member in cluster.members]
    assert repr(cluster) == f'<EtcdCluster {cluster.version} {" ".join(f"{name}:up" for name in names)}>'
    with pytest.raises(RuntimeError, match='is already started'):
        cluster.start()


def test_leader_is_replaced_when_isolated(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """Its clients still reach it, but it receives nothing from the others until it is healed."""
    etcd.set('/a', 'before')
    lost = cluster.leader()
    cluster.isolate(lost)
    assert cluster.isolated == {lost}
    assert cluster.leader() != lost
    write(cluster, '/a', 'after')
    assert stored(cluster, lost, '/a') == 'before'
    cluster.heal(lost)
    assert not cluster.isolated
    assert poll_until(lambda: stored(cluster, lost, '/a') == 'after', 60)


def test_healed_member_does_not_reach_members_that_are_isolated(cluster: EtcdCluster) -> None:
    cluster.isolate(0)
    cluster.isolate(1)
    cluster.heal(0)
    assert cluster.isolated == {1}
    assert cluster.link(0, 1).fault.name == cluster.link(1, 2).fault.name == 'cut'
    assert cluster.link(0, 2).fault.name == 'none'
    assert cluster.leader() in (0, 2)


def test_move_leader_transfers_the_leadership_to_each_member(cluster: EtcdCluster) -> None:
    """Also to the one that leads already."""
    for index in (0, 1, 2, 2):

        def leads_when_moved(index: int = index) -> bool:
            cluster.move_leader(index)
            return cluster.leader() == index

        assert poll_until(leads_when_moved, 60)  # on a busy machine an election may replace the new leader at once


def test_move_leader_repeats_the_transfer_when_the_leader_has_changed(
    cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cluster.leader()
    second, third = (index for index in range(3) if index != first)
    move_leader, targets = Maintenance.move_leader, []

    def fail_after_an_election(maintenance: Maintenance, target: int) -> object:
        targets.append(target)
        if len(targets) > 1:
            return move_leader(maintenance, target)
        move_leader(maintenance, cluster.members[second].id)
        assert poll_until(lambda: cluster.leader() == second, 60)
        raise getc.NoLeader('etcdserver: not leader')

    monkeypatch.setattr(Maintenance, 'move_leader', fail_after_an_election)
    cluster.move_leader(third)
    assert set(targets) == {cluster.members[third].id} and len(targets) > 1


def test_leader_is_replaced_when_paused(cluster: EtcdCluster) -> None:
    """It follows the new leader when it is resumed."""
    lost = cluster.leader()
    cluster.pause(lost)
    assert cluster.members[lost].state is MemberState.PAUSED
    assert cluster.leader() != lost
    cluster.resume(lost)
    write(cluster, '/a', '1')
    assert poll_until(lambda: stored(cluster, lost, '/a') == '1', 60)


def test_member_keeps_its_data_when_killed(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """Also when all members are down, and the first to start has no quorum."""
    etcd.set('/a', '1')
    for index in range(3):
        cluster.kill(index, may_diverge=True)
        assert cluster.members[index].state is MemberState.DOWN
        assert cluster.members[index].pid is None
    for index in range(3):
        cluster.restart(index)
    assert etcd.get('/a').value == '1'


def test_kill_is_refused_when_the_etcd_may_diverge(cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the remedy; ``restart`` is permitted, since it terminates the member by SIGTERM."""
    monkeypatch.setattr(cluster, 'binary', dataclasses.replace(cluster.binary, version=DIVERGING_VERSIONS[1]))
    with pytest.raises(getc.NotSupported, match='may_diverge=True'):
        cluster.kill(0)
    assert cluster.members[0].state is MemberState.UP
    pid = cluster.members[0].pid
    cluster.restart(0)
    assert cluster.members[0].pid not in (None, pid)
    monkeypatch.setattr(cluster, 'binary', dataclasses.replace(cluster.binary, version=(3, 5, 3)))
    cluster.kill(0, may_diverge=True)
    assert cluster.members[0].state is MemberState.DOWN


def test_restart_replaces_the_member_when_wiped(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """It has the same URL and a new member id, and receives the data from the others."""
    etcd.set('/a', '1')
    before, url = ids(cluster), cluster.members[1].url
    cluster.restart(1, wipe=True)
    assert cluster.members[1].url == url
    assert cluster.members[1].id not in before
    assert poll_until(lambda: stored(cluster, 1, '/a') == '1', 60)


def test_members_are_added_and_removed(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """A new member has the data; removing the leader causes an election."""
    etcd.set('/a', '1')
    added = cluster.add()
    assert added == 3
    assert cluster.urls.count('http') == 4
    assert poll_until(lambda: stored(cluster, added, '/a') == '1', 60)
    removed = cluster.members[cluster.leader()]
    pid = removed.pid
    cluster.remove(cluster.members.index(removed))
    assert pid is not None
    assert not is_running(pid)
    assert removed not in cluster.members
    assert cluster.leader() in range(3)


def test_learner_replicates_after_a_replacement_and_a_wipe(cluster_binary: str) -> None:
    """It is not in ``members``, so it is never considered the leader.  The test has its own cluster."""
    with EtcdCluster(binary=cluster_binary) as cluster:
        learner = cluster.add_learner()

        def has(key: str) -> bool:
            with learner.client() as client:
                try:
                    return bool(client.v3.kv.range(key.encode(), serializable=True, timeout=1.0).kvs)
                except getc.EtcException:  # it has not joined yet
                    return False

        for change in ('start', 'replace', 'wipe'):
            if change == 'replace':
                cluster.restart(0, wipe=True)
            elif change == 'wipe':
                cluster.wipe()
            write(cluster, f'/{change}', 'x')
            assert poll_until(partial(has, f'/{change}'), 60)
        assert (len(cluster.members), cluster.learners) == (3, [learner])
        assert not has('/start')


def test_wipe_empties_the_cluster_and_keeps_urls_and_cluster_id(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """The history starts again, and isolated members are reconnected."""
    urls, index = cluster.urls, etcd.set('/a', '1').etcd_index
    cluster.isolate(0)
    cluster.wipe()
    assert cluster.urls == urls
    assert not cluster.isolated
    assert etcd.set('/b', '1').etcd_index <= index
    with pytest.raises(getc.KeyNotFound):
        etcd.get('/a')


def test_clear_deletes_keys_and_leases(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """On every member; the revisions continue."""
    index = etcd.set('/a', '1', ttl=1000).etcd_index
    cluster.clear()
    for member in cluster.members:
        with member.client() as client:
            assert not client.v3.kv.range(b'\0', range_end=EVERYTHING, serializable=True).kvs
            assert not client.v3.lease.leases().leases
    assert etcd.set('/b', '1').etcd_index > index


def test_clear_deletes_v2_nodes(cluster: EtcdCluster) -> None:
    """Also hidden ones."""
    skip_unless_supported('v2', cluster.binary)
    with getc.etcd(cluster.urls, api='v2') as old:
        old.set('/a', '1')
        old.set('/_hidden', '1')
        cluster.clear()
        for key in ('/a', '/_hidden'):
            with pytest.raises(getc.KeyNotFound):
                old.get(key)


def test_clear_wipes_the_cluster_when_authentication_is_enabled(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """The cluster comes back without keys and without users."""
    etcd.set('/a', '1')
    etcd.v3.auth.user_add('root', 'secret')
    etcd.v3.auth.user_grant_role('root', 'root')
    etcd.v3.auth.enable()
    with cluster.members[cluster.leader()].client() as client:
        assert poll_until(lambda: requires_password(client), 60)  # on the leader as well
    cluster.clear()
    with pytest.raises(getc.KeyNotFound):
        etcd.get('/a')


def test_leader_is_found_when_authentication_is_enabled(
    cluster: EtcdCluster, etcd: getc.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a password: from etcd 3.5.28 and 3.6.9 on, only root may read the status of a member."""
    etcd.v3.auth.user_add('root', 'secret')
    etcd.v3.auth.user_grant_role('root', 'root')
    etcd.v3.auth.enable()
    for member in cluster.members:
        with member.client() as client:
            assert poll_until(lambda client=client: requires_password(client), 60)

    def refuse(_: object) -> None:  # what these versions do, also for the other ones
        raise getc.Unauthorized('permission denied')

    monkeypatch.setattr(Maintenance, 'status', refuse)
    before = cluster.leader()
    cluster.isolate(before)
    assert cluster.leader() != before
    cluster.heal(before)
    assert cluster.leader() in range(3)
    assert poll_until(lambda: cluster._group.status().is_level(), 60)
    assert {status.id for status in cluster._group.status().answers.values()} == set(ids(cluster))


def test_stop_leaves_no_process_file_socket_or_greenlet(cluster_binary: str) -> None:
    """Also under virtual time, which does not advance meanwhile."""
    before = len(os.listdir('/dev/fd'))
    with VirtualTime() as clock:
        with EtcdCluster(2, binary=cluster_binary) as cluster:
            assert cluster.leader() in (0, 1)
            cluster.clear()
            pids = [member.pid for member in cluster.members]
            folders = [member.data.parent for member in cluster.members]
            cluster.pause(0)
        assert clock.elapsed == 0
    assert not any(is_running(pid) for pid in pids if pid)
    assert not any(folder.exists() for folder in folders)
    assert [member.state for member in cluster.members] == [MemberState.DOWN] * 2
    assert poll_until(lambda: len(os.listdir('/dev/fd')) <= before, 60)
    cluster.stop()  # twice is fine


def test_virtual_time_advances_by_itself_when_a_cluster_runs(cluster: EtcdCluster, etcd_clock: VirtualTime) -> None:
    """The traffic between members does not hold it back."""
    gevent.sleep(3600)
    assert etcd_clock.elapsed == 3600
    assert cluster.leader() in range(3)


def test_no_process_or_file_is_left_when_the_program_is_killed(cluster_binary: str) -> None:
    code = (
        'import sys; from getc.testing import EtcdCluster; c = EtcdCluster(2, binary=sys.argv[1]).start(); '
        'print(*(f"{m.pid}={m.data.parent}" for m in c.members), flush=True); sys.stdin.readline()'
    )
    program = subprocess.Popen(
        [sys.executable, '-c', code, cluster_binary],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with program:
        assert program.stdout is not None
        line = program.stdout.readline()
        program.send_signal(signal.SIGKILL)
    left = [part.split('=') for part in line.split()]
    assert len(left) == 2, 'the cluster did not start'
    for pid, folder in left:
        assert poll_until(lambda pid=pid, folder=folder: not is_running(int(pid)) and not Path(folder).exists(), 60)
