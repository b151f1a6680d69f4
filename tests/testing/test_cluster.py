"""A real cluster: hurt in every way, mended, and never left behind."""

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
from getc.testing import EtcdCluster, MemberState, VirtualTime
from getc.testing.binaries import DIVERGING_VERSIONS
from getc.testing.processes import poll_until
from getc.v3 import EVERYTHING
from getc.v3.maintenance import Maintenance
from tests.support.api_support import skip_unless_supported

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def cluster(etcd_cluster: EtcdCluster) -> EtcdCluster:
    """Three members that are well, without keys."""
    return etcd_cluster


@pytest.fixture
def etcd(cluster: EtcdCluster) -> Iterator[getc.Client]:
    with getc.etcd(cluster.urls, api='v3', timeout=60) as etcd:
        yield etcd


def stored(cluster: EtcdCluster, index: int, key: str) -> str | None:
    """What this member has itself, whatever the others have; None for nothing."""
    with cluster.members[index].client() as client:
        found = client.v3.kv.range(key.encode(), serializable=True).kvs
        return found[0].value.decode() if found else None


def write(cluster: EtcdCluster, key: str, value: str) -> None:
    """By the leader, since a member that was away may not know yet who that is."""
    with cluster.members[cluster.leader()].client() as client:
        client.set(key, value, timeout=60)


def lets_nobody_in(client: getc.Client) -> bool:
    try:
        client.v3.kv.range(b'/a', serializable=True)
    except getc.EtcdError:
        return True
    return False


def ids(cluster: EtcdCluster) -> list[int]:
    return [member.id for member in cluster.members]


def is_alive(pid: int) -> bool:
    """True if there is such a process; one that has ended and was not collected does not count."""
    done = subprocess.run(['ps', '-o', 'stat=', '-p', str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:1] not in ('', 'Z')


def test_members_are_one_store_once_started(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """Each is up and has a process; what was written is on all of them, over the lines between them."""
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


def test_isolated_leader_is_replaced(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """Its clients still reach it, but it learns nothing from the others until it is healed."""
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


def test_healed_member_does_not_reach_one_that_is_isolated(cluster: EtcdCluster) -> None:
    """Who is healed reaches only those who are not isolated, and that is a majority."""
    cluster.isolate(0)
    cluster.isolate(1)
    cluster.heal(0)
    assert cluster.isolated == {1}
    assert cluster.link(0, 1).fault.name == cluster.link(1, 2).fault.name == 'cut'
    assert cluster.link(0, 2).fault.name == 'none'
    assert cluster.leader() in (0, 2)


def test_leader_moves_where_it_is_told(cluster: EtcdCluster) -> None:
    """To each, and to the one that leads already."""
    for index in (0, 1, 2, 2):
        cluster.move_leader(index)
        assert cluster.leader() == index


def test_paused_leader_is_replaced(cluster: EtcdCluster) -> None:
    """And follows when it is resumed."""
    lost = cluster.leader()
    cluster.pause(lost)
    assert cluster.members[lost].state is MemberState.PAUSED
    assert cluster.leader() != lost
    cluster.resume(lost)
    write(cluster, '/a', '1')
    assert poll_until(lambda: stored(cluster, lost, '/a') == '1', 60)


def test_killed_member_keeps_its_data(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """With all of them down too, where the first cannot be well before there is a second."""
    etcd.set('/a', '1')
    for index in range(3):
        cluster.kill(index, may_diverge=True)
        assert cluster.members[index].state is MemberState.DOWN
        assert cluster.members[index].pid is None
    for index in range(3):
        cluster.restart(index)
    assert etcd.get('/a').value == '1'


def test_member_of_a_diverging_etcd_is_not_killed(cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what would do; a restart is allowed, since it ends a member in the orderly way."""
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


def test_wiped_member_is_taken_in_anew(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """At the same URL, under another id, and it gets all the data from the others."""
    etcd.set('/a', '1')
    before, url = ids(cluster), cluster.members[1].url
    cluster.restart(1, wipe=True)
    assert cluster.members[1].url == url
    assert cluster.members[1].id not in before
    assert poll_until(lambda: stored(cluster, 1, '/a') == '1', 60)


def test_members_come_and_go(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """The new one has the data; removing the leader leaves the others with another one."""
    etcd.set('/a', '1')
    added = cluster.add()
    assert added == 3
    assert cluster.urls.count('http') == 4
    assert poll_until(lambda: stored(cluster, added, '/a') == '1', 60)
    removed = cluster.members[cluster.leader()]
    pid = removed.pid
    cluster.remove(cluster.members.index(removed))
    assert pid is not None
    assert not is_alive(pid)
    assert removed not in cluster.members
    assert cluster.leader() in range(3)


def test_learner_follows_also_after_a_member_was_replaced_and_all_were_wiped() -> None:
    """It is not among the members, so it is never taken for one that could lead.  The cluster is this test's own."""
    with EtcdCluster() as cluster:
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


def test_wiped_cluster_is_empty_and_looks_the_same(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """The same URLs, and a history that begins again; what was isolated is connected."""
    urls, index = cluster.urls, etcd.set('/a', '1').etcd_index
    cluster.isolate(0)
    cluster.wipe()
    assert cluster.urls == urls
    assert not cluster.isolated
    assert etcd.set('/b', '1').etcd_index <= index
    with pytest.raises(getc.KeyNotFound):
        etcd.get('/a')


def test_clear_deletes_keys_and_leases(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """On every member, and the revisions go on."""
    index = etcd.set('/a', '1', ttl=1000).etcd_index
    cluster.clear()
    for member in cluster.members:
        with member.client() as client:
            assert not client.v3.kv.range(b'\0', range_end=EVERYTHING, serializable=True).kvs
            assert not client.v3.lease.leases().leases
    assert etcd.set('/b', '1').etcd_index > index


def test_clear_deletes_what_v2_has(cluster: EtcdCluster) -> None:
    """Also what is hidden."""
    skip_unless_supported('v2', cluster.binary)
    with getc.etcd(cluster.urls, api='v2') as old:
        old.set('/a', '1')
        old.set('/_hidden', '1')
        cluster.clear()
        for key in ('/a', '/_hidden'):
            with pytest.raises(getc.KeyNotFound):
                old.get(key)


def test_clear_works_when_authentication_is_on(cluster: EtcdCluster, etcd: getc.Client) -> None:
    """Nobody may delete then: the cluster comes back without keys and without users."""
    etcd.set('/a', '1')
    etcd.v3.auth.user_add('root', 'secret')
    etcd.v3.auth.user_grant_role('root', 'root')
    etcd.v3.auth.enable()
    with cluster.members[cluster.leader()].client() as client:
        assert poll_until(lambda: lets_nobody_in(client), 60)  # the leader knows of it, too
    cluster.clear()
    with pytest.raises(getc.KeyNotFound):
        etcd.get('/a')


def test_leader_is_found_when_authentication_is_on(
    cluster: EtcdCluster, etcd: getc.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a password: from etcd 3.5.28 and 3.6.9 on a member's status is for the user root."""
    before = cluster.leader()
    etcd.v3.auth.user_add('root', 'secret')
    etcd.v3.auth.user_grant_role('root', 'root')
    etcd.v3.auth.enable()
    with cluster.members[before].client() as client:
        assert poll_until(lambda: lets_nobody_in(client), 60)

    def refused(_: object) -> None:  # by those, and by older ones for the test
        raise getc.Unauthorized('permission denied')

    monkeypatch.setattr(Maintenance, 'status', refused)
    assert cluster.leader() == before
    cluster.isolate(before)
    after = cluster.leader()
    assert after != before
    cluster.heal(before)
    assert cluster.leader() == after
    assert poll_until(lambda: cluster._group.status().is_level(), 60)
    assert {status.id for status in cluster._group.status().answers.values()} == set(ids(cluster))


def test_stopped_cluster_leaves_nothing() -> None:
    """No process, no file, no socket and no greenlet; in virtual time too, whose clock does not move."""
    before = len(os.listdir('/dev/fd'))
    with VirtualTime() as clock:
        with EtcdCluster(2) as cluster:
            assert cluster.leader() in (0, 1)
            cluster.clear()
            pids = [member.pid for member in cluster.members]
            folders = [member.data.parent for member in cluster.members]
            cluster.pause(0)
        assert clock.elapsed == 0
    assert not any(is_alive(pid) for pid in pids if pid)
    assert not any(folder.exists() for folder in folders)
    assert [member.state for member in cluster.members] == [MemberState.DOWN] * 2
    assert poll_until(lambda: len(os.listdir('/dev/fd')) <= before, 60)
    cluster.stop()  # twice is fine


def test_virtual_time_moves_on_by_itself_beside_a_cluster(cluster: EtcdCluster, etcd_clock: VirtualTime) -> None:
    """What its members say to each other is no reason to stand still; the cluster is well all the while."""
    gevent.sleep(3600)
    assert etcd_clock.elapsed == 3600
    assert cluster.leader() in range(3)


def test_cluster_ends_when_its_program_is_killed() -> None:
    """By SIGKILL: no process and no file is left."""
    code = (
        'import sys; from getc.testing import EtcdCluster; c = EtcdCluster(2).start(); '
        'print(*(f"{m.pid}={m.data.parent}" for m in c.members), flush=True); sys.stdin.readline()'
    )
    program = subprocess.Popen(
        [sys.executable, '-c', code],
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
        assert poll_until(lambda pid=pid, folder=folder: not is_alive(int(pid)) and not Path(folder).exists(), 60)
