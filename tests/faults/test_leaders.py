"""Leaders are lost, one after the other, and nobody sees a node that is kept vanish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import gevent
import pytest

import getc
from getc.testing import EtcdCluster, wait_until

pytestmark = pytest.mark.timeout(400)

TTL = 5

REST = 1.5
"""Seconds of service between two losses: without any, etcd would be there for a tenth of the time."""


@pytest.fixture
def clients(etcd_cluster: EtcdCluster) -> Iterator[list[getc.Client]]:
    """One for each member, which asks that one first."""
    urls = [member.url for member in etcd_cluster.members]
    with ExitStack() as opened:
        yield [opened.enter_context(getc.etcd(urls[first:] + urls[:first], api='v3')) for first in range(len(urls))]
        etcd_cluster.mend()  # or the end of the clients would wait for who does not answer


def lose_leader(cluster: EtcdCluster, number: int) -> None:
    """Have it crash.  Where members of this etcd must not: have it hand over, or stop until there is another."""
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


@pytest.mark.parametrize('leaders', [pytest.param(4, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.soak)])
def test_no_watcher_sees_a_kept_node_vanish_while_leaders_are_lost(
    etcd_cluster: EtcdCluster, clients: list[getc.Client], leaders: int
) -> None:
    """Each client keeps a node and watches all of them: they see three nodes come, and nothing more."""
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
    for number in range(leaders):
        lose_leader(etcd_cluster, number)
        gevent.sleep(REST)
    end = clients[0].set('/servers/end', 'x').modified_index
    wait_until(lambda: all(watcher.index >= end for watcher in watchers))
    wait_until(lambda: all(len(each) == len(keepers) + 1 for each in seen))
    assert seen == [['Set /servers/0', 'Set /servers/1', 'Set /servers/2', 'Set /servers/end']] * len(clients)
    assert lost == []
    assert [keeper.ensure() for keeper in keepers] == tokens
