"""A node that is kept by way of a member that is lost: it never vanishes, and its keeper never takes it for lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import getc
from getc import Keeper
from getc.testing import EtcdCluster, FaultProxies, wait_until
from tests.support.api_support import spoken

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TTL = 8
Open = Callable[..., getc.Client]


class Presence:
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


KeptBy = Callable[..., list[Presence]]


def outlive(presences: list[Presence], seconds: float) -> None:
    """Have the nodes be renewed, until all of them would be gone for so long without."""
    end = max(presence.lost_at for presence in presences) + seconds
    wait_until(lambda: all(presence.lost_at > end for presence in presences) or any(each.lost for each in presences))
    assert [(each.lost, each.gone, each.keeper.ensure()) for each in presences] == [
        ([], [], each.token) for each in presences
    ]


@pytest.fixture
def kept_by(cluster: EtcdCluster, open_client: Open) -> Callable[..., list[Presence]]:
    """Have nodes kept by one member, over each API, and watched by another."""

    def kept_by(asked: int, urls: list[str] | None = None) -> list[Presence]:
        watching = (asked + 1) % 3
        return [
            Presence(f'/{asked}/{api}', open_client(asked, urls, api=api), open_client(watching, api=api))
            for api in spoken(cluster.binary)
        ]

    return kept_by


def test_node_stays_when_the_member_it_is_kept_by_is_paused(cluster: EtcdCluster, kept_by: KeptBy) -> None:
    """Its kernel takes what is sent, and nothing is answered."""
    asked = (cluster.leader() + 1) % 3
    presences = kept_by(asked)
    cluster.pause(asked)
    outlive(presences, TTL)


def test_node_stays_when_the_leader_is_paused(cluster: EtcdCluster, kept_by: KeptBy) -> None:
    """The others must find another one first."""
    presences = kept_by(cluster.leader())
    cluster.pause(cluster.leader())
    outlive(presences, TTL)


def test_node_stays_when_the_member_it_is_kept_by_is_cut_off(cluster: EtcdCluster, kept_by: KeptBy) -> None:
    """It answers, and can do nothing: a stream that asks for a leader is ended, a call takes too long."""
    asked = cluster.leader()
    presences = kept_by(asked)
    cluster.isolate(asked)
    outlive(presences, TTL)


def test_node_stays_when_the_way_to_a_member_is_bad(proxies: FaultProxies, kept_by: KeptBy) -> None:
    """Nothing arrives; or what is said does, and the answers are lost; or connections are reset."""
    presences: list[Presence] = []
    for asked, proxy in enumerate(proxies):
        urls = [each.url if each is proxy else each.target for each in proxies]
        presences += kept_by(asked, urls)
    proxies[0].silence()
    proxies[1].half()
    proxies[2].cut()
    outlive(presences, TTL)
