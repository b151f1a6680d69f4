"""Clients with ``sync=`` while the members of a real cluster change."""

from __future__ import annotations

import gevent
import pytest

import getc
from getc.backends.tree.members import V3Members
from getc.testing import EtcdBinary, EtcdCluster, wait_until
from getc.testing.member import Member
from getc.testing.ports import free_ports
from getc.timing import Deadline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS = 3


def test_client_uses_all_voters_and_no_learner(etcd_binary: EtcdBinary) -> None:
    """Also when the learner is one of its own endpoints.  A member that was added and not started has no address."""
    with EtcdCluster(1, binary=etcd_binary.path) as cluster:
        learner = cluster.add_learner()
        wait_until(lambda: serves_itself(learner))
        with (
            getc.etcd(cluster.urls, sync=1.0) as client,
            getc.etcd([learner.url, cluster.urls], sync=1.0) as other,
        ):
            client.set('/a', '1')
            other.set('/a', '2')
            wait_until(lambda: other.endpoints == (cluster.urls,))
            assert client.endpoints == (cluster.urls,)
            assert serves_itself(learner)
            with getc.etcd(cluster.urls, api='v3') as admin:
                (learner_id,) = (each.ID for each in admin.v3.cluster.member_list().members if each.isLearner)
                wait_until(lambda: is_promoted(admin, learner_id))
                admin.v3.cluster.member_add(['http://127.0.0.1:1'])
                assert len(V3Members(admin.v3._rpc).members(Deadline(60)).voters) == 2
            wait_until(lambda: client.endpoints == other.endpoints == (cluster.urls, learner.url))
            assert client.get('/a').value == '2'


def serves_itself(learner: Member) -> bool:
    """Return True if a learner answers a read that needs no other member, which is nearly all it does."""
    with learner.client() as client:
        try:
            return client.v3.kv.range(b'/a', serializable=True).header.member_id != 0
        except getc.ConnectionError:
            return False


def is_promoted(admin: getc.Client, member: int) -> bool:
    """Return True if the learner is a voter now; it is refused until it has caught up."""
    try:
        admin.v3.cluster.member_promote(member)
    except getc.EtcdError:
        pass
    return not any(each.isLearner for each in admin.v3.cluster.member_list().members)


def test_client_drops_removed_members(etcd_binary: EtcdBinary) -> None:
    """And keeps the last one.  With API v2, the members are read over v3, since v2 lists learners like voters."""
    with EtcdCluster(3, binary=etcd_binary.path) as cluster:
        api = 'v2' if cluster.binary.supports('v2') else None
        with getc.etcd(cluster.urls, sync=1.0, api=api) as client:
            client.set('/a', '1')
            for _ in range(2):
                cluster.remove(cluster.leader())
                wait_until(lambda: client.endpoints == tuple(member.url for member in cluster.members), 60)
                assert client.get('/a').value == '1'
            assert f'in_use={client.endpoints[0]}' in repr(client)


def test_daemons_lose_neither_node_nor_event_when_all_members_are_replaced(cluster: EtcdCluster) -> None:
    """At the end, no member has an address that the client was opened with."""
    urls = [member.url for member in cluster.members]
    lost: list[getc.Keeper] = []
    seen: list[int] = []
    resyncs: list[getc.Watcher] = []
    with getc.etcd(urls, api='v3', sync=1.0) as client:
        keepers = [client.keep_node(f'/servers/{number}', ttl=15, on_lost=lost.append) for number in range(20)]
        mirror = client.mirror('/log')
        servers = client.mirror('/servers')
        watcher = client.on_change(
            '/log', lambda change: seen.append(int(change.value or 0)), recursive=True, on_resync=resyncs.append
        )
        written = 0
        is_over = False

        def write() -> None:
            nonlocal written
            while not is_over:
                try:
                    client.create(f'/log/{written + 1:06}', str(written + 1))
                except getc.EtcException as error:
                    if isinstance(error, getc.NodeExist) or error.maybe_applied:
                        client.ready(60)
                        is_there = client.get('/log', recursive=True).nodes[-1].key == f'/log/{written + 1:06}'
                        written += is_there
                else:
                    written += 1
                gevent.sleep(0.005)

        writer = gevent.spawn(write)
        for _ in range(ROUNDS):
            before = written
            added = cluster.members[cluster.add()]
            wait_until(lambda url=added.url: url in client.endpoints, 60)
            removed = cluster.members[0].url
            cluster.remove(0)
            wait_until(lambda url=removed: url not in client.endpoints, 60)
            wait_until(lambda before=before: written > before + 20, 60)
        is_over = True
        writer.get(timeout=60)
        assert set(client.endpoints) == {member.url for member in cluster.members}
        assert not set(client.endpoints) & set(urls)
        wait_until(lambda: len(seen) >= written, 60)
        assert seen == list(range(1, written + 1))
        wait_until(lambda: len(mirror) == written, 60)
        assert (lost, resyncs) == ([], [])
        assert [keeper.state for keeper in keepers] == [getc.KeeperState.KEPT] * 20
        assert len(servers) == 20 and watcher.state.name == 'LIVE'


def test_client_follows_a_member_that_restarts_at_another_address(etcd_binary: EtcdBinary) -> None:
    """With its ID and data, one member after the other."""
    with EtcdCluster(3, binary=etcd_binary.path) as cluster:
        with getc.etcd(cluster.urls, api='v3', sync=1.0) as client:
            keeper = client.keep_node('/node', ttl=15)
            for member in cluster.members:
                old = member.url
                member.url = f'http://127.0.0.1:{free_ports(1)[0]}'
                cluster.restart(cluster.members.index(member))
                wait_until(lambda old=old, new=member.url: new in client.endpoints and old not in client.endpoints)
            assert set(client.endpoints) == {member.url for member in cluster.members}
            assert client.get('/node').value == keeper.value
            assert keeper.state is getc.KeeperState.KEPT


@pytest.mark.parametrize('api', ['v3', 'v2'])
def test_daemons_move_when_the_endpoint_of_their_streams_is_removed(cluster: EtcdCluster, api: str) -> None:
    """The server still runs, as one that DNS does not name any more.  No connection to it is left."""
    if not cluster.binary.supports(api):  # type: ignore[arg-type]
        pytest.skip(f'etcd {cluster.version} has no {api} API')
    seen: list[str | None] = []
    resyncs: list[getc.Watcher] = []
    with getc.etcd(cluster.urls, api=api) as client:  # type: ignore[arg-type]
        keeper = client.keep_node('/node', ttl=6)
        watcher = client.on_change('/a', lambda change: seen.append(change.value), on_resync=resyncs.append)
        endpoints = client.v3._rpc._endpoints
        for left in (2, 1):
            client.set('/a', str(left))
            wait_until(lambda left=left: seen[-1:] == [str(left)])
            old = endpoints.current
            assert old is not None
            endpoints.replace([each for each in endpoints if each != old])
            assert old.url not in client.endpoints and len(client.endpoints) == left
            remaining = keeper.remaining()
            wait_until(lambda remaining=remaining: keeper.remaining() > remaining)
            assert {server.channel.endpoint for server in client.v3._rpc._servers.values()} <= set(endpoints)
            assert all(server.channel.is_idle for server in client.v3._rpc._retired)
        client.set('/a', 'last')
        wait_until(lambda: seen[-1] == 'last')
        assert (resyncs, keeper.state) == ([], getc.KeeperState.KEPT)
        assert watcher.state.name == 'LIVE'
