"""Kept nodes are not deleted while the cluster loses one leader after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import gevent
import pytest

import getc
from getc.testing import EtcdCluster, wait_until

pytestmark = pytest.mark.timeout(400)

TTL = 5

SERVICE_SECONDS = 1.5
"""Seconds of service between two losses; without them etcd would be available for a tenth of the time."""


@pytest.fixture
def clients(etcd_cluster: EtcdCluster) -> Iterator[list[getc.Client]]:
    """A client for each member, whose first endpoint is that member."""
    urls = [member.url for member in etcd_cluster.members]
    with ExitStack() as opened:
        yield [opened.enter_context(getc.etcd(urls[first:] + urls[:first], api='v3')) for first in range(len(urls))]
        etcd_cluster.recover()  # or closing the clients would wait for members that do not answer


def lose_leader(cluster: EtcdCluster, number: int) -> None:
    """Kill the leader.  If members of this etcd must not be killed: move the leadership, or pause the leader."""
    lost = cluster.leader()
    if not cluster.binary.may_diverge:
        cluster.kill(lost)
        assert cluster.leader() != lost
        cluster.restart(lost)
    elif number % 2:
        cluster.move_leader((lost + 1) % len(cluster.members))
    else:
        cluster.pause(lost)
        assert cluster.leader() != lost
        cluster.resume(lost)


@pytest.mark.parametrize('losses', [pytest.param(4, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.soak)])
def test_kept_nodes_are_not_deleted_while_leaders_are_lost(
    etcd_cluster: EtcdCluster, clients: list[getc.Client], losses: int
) -> None:
    """Each client keeps a node and watches all of them: each sees three nodes created, and nothing else."""
    seen: list[list[str]] = [[] for _ in clients]
    lost: list[getc.Keeper] = []
    watchers = [
        client.on_change('/servers', lambda result, seen=seen: seen.append(f'{type(result).__name__} {result.key}'))
        for client, seen in zip(clients, seen, strict=True)
    ]
    keepers = [
        client.keep_node(f'/servers/{number}', ttl=TTL, on_lost=lost.append) for number, client in enumerate(clients)
    ]
    tokens = [keeper.ensure() for keeper in keepers]
    for number in range(losses):
        lose_leader(etcd_cluster, number)
        gevent.sleep(SERVICE_SECONDS)
    end = clients[0].set('/servers/end', 'x').modified_index
    wait_until(lambda: all(watcher.index >= end for watcher in watchers))
    wait_until(lambda: all(len(each) == len(keepers) + 1 for each in seen))
    assert seen == [['Set /servers/0', 'Set /servers/1', 'Set /servers/2', 'Set /servers/end']] * len(clients)
    assert lost == []
    assert [keeper.ensure() for keeper in keepers] == tokens
