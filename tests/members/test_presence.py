"""Nodes kept via a member that fails: the node is never deleted, and its keeper never reports a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import getc
from getc import Keeper
from getc.testing import EtcdCluster, FaultProxies, wait_until
from tests.support.api_support import supported_apis

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TTL = 8
Open = Callable[..., getc.Client]


class KeptAndWatched:
    """A node that is kept by one client and watched by another."""

    def __init__(self, top: str, keeping: getc.Client, watching: getc.Client) -> None:
        self.lost: list[Keeper] = []
        self.gone: list[Any] = []
        self.watcher = watching.on_change(top, self._on_change)
        self.keeper = keeping.keep_node(f'{top}/a', 'x', ttl=TTL, on_lost=self.lost.append)
        self.token = self.keeper.ensure()

    @property
    def lost_at(self) -> float:
        node = self.keeper._daemon._node
        return 0.0 if node is None else node.lost_at

    def _on_change(self, result: getc.EtcdResult) -> None:
        if isinstance(result, getc.Deleted):
            self.gone.append(result)


KeepVia = Callable[..., list[KeptAndWatched]]


def check_kept_for(nodes: list[KeptAndWatched], seconds: float) -> None:
    """Wait until each node was renewed a number of seconds past its deadline; check that none was lost."""
    end = max(node.lost_at for node in nodes) + seconds
    wait_until(lambda: all(node.lost_at > end for node in nodes) or any(each.lost for each in nodes))
    assert [(each.lost, each.gone, each.keeper.ensure()) for each in nodes] == [([], [], each.token) for each in nodes]


@pytest.fixture
def keep_via(cluster: EtcdCluster, open_client: Open) -> Callable[..., list[KeptAndWatched]]:
    """Keep nodes via one member with each API, and watch them via another."""

    def keep_via(member: int, urls: list[str] | None = None) -> list[KeptAndWatched]:
        watching = (member + 1) % 3
        return [
            KeptAndWatched(f'/{member}/{api}', open_client(member, urls, api=api), open_client(watching, api=api))
            for api in supported_apis(cluster.binary)
        ]

    return keep_via


def test_node_is_kept_when_its_member_is_paused(cluster: EtcdCluster, keep_via: KeepVia) -> None:
    """Its kernel accepts the requests, and nothing answers."""
    member = (cluster.leader() + 1) % 3
    nodes = keep_via(member)
    cluster.pause(member)
    check_kept_for(nodes, TTL)


def test_node_is_kept_when_the_leader_is_paused(cluster: EtcdCluster, keep_via: KeepVia) -> None:
    """The other members have to elect a leader first."""
    nodes = keep_via(cluster.leader())
    cluster.pause(cluster.leader())
    check_kept_for(nodes, TTL)


def test_node_is_kept_when_its_member_is_isolated(cluster: EtcdCluster, keep_via: KeepVia) -> None:
    """The member answers but has no leader: streams that require one are ended, and calls time out."""
    member = cluster.leader()
    nodes = keep_via(member)
    cluster.isolate(member)
    check_kept_for(nodes, TTL)


def test_node_is_kept_when_the_network_to_its_member_fails(proxies: FaultProxies, keep_via: KeepVia) -> None:
    """Nothing arrives; or requests arrive and responses are lost; or connections are reset."""
    nodes: list[KeptAndWatched] = []
    for member, proxy in enumerate(proxies):
        urls = [each.url if each is proxy else each.target for each in proxies]
        nodes += keep_via(member, urls)
    proxies[0].silence()
    proxies[1].drop_replies()
    proxies[2].cut()
    check_kept_for(nodes, TTL)
