"""An outage of all members for three times the TTL: what it costs meanwhile, and how soon all is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import greenlet
import pytest

import getc
from getc import KeeperState
from getc.testing import EtcdCluster, wait_until
from tests.faults.gateway import EVERYTHING, Gateway, Refused, text_of
from tests.faults.unexpected_errors import Surprises

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TTLS = (3, 4)
NODES = 20
OUTAGE = 3 * max(TTLS)
"""Seconds."""

MAX_SWITCHES = 400 * OUTAGE
"""Greenlet switches of the whole process during the outage, a measure of its work: 40 nodes, a watcher and a mirror."""


@contextmanager
def killed(cluster: EtcdCluster) -> Iterator[None]:
    """Connections are refused meanwhile."""
    for member in range(len(cluster.members)):
        cluster.kill(member, may_diverge=True)  # nothing is written when they are killed
    yield
    for member in range(len(cluster.members)):
        cluster.restart(member)


@contextmanager
def stopped(cluster: EtcdCluster) -> Iterator[None]:
    """Connections stay, and nothing is answered meanwhile."""
    for member in range(len(cluster.members)):
        cluster.pause(member)
    yield
    for member in range(len(cluster.members)):
        cluster.resume(member)


Outage = Callable[[EtcdCluster], 'contextmanager[None]']


class Observer:
    """Asks etcd without getc."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self._gateways = [Gateway(member.url, '', '', timeout=1.0) for member in cluster.members]

    def ask(self, path: str, **request: object) -> dict[str, object]:
        """The answer of the first member that has one; empty without."""
        for gateway in self._gateways:
            try:
                return gateway.ask(path, request)
            except (OSError, Refused):
                pass
        return {}

    def keys(self) -> set[str] | None:
        """What is there; None if nobody knows."""
        answer = self.ask('/v3/kv/range', **EVERYTHING, keys_only=True)
        return {text_of(kv['key']) for kv in answer.get('kvs', ())} if answer else None

    def leases(self) -> int:
        """How many there are."""
        return len(self.ask('/v3/lease/leases').get('leases', ()))

    def close(self) -> None:
        for gateway in self._gateways:
            gateway.close()


@pytest.fixture
def observer(etcd_cluster: EtcdCluster) -> Iterator[Observer]:
    observer = Observer(etcd_cluster)
    yield observer
    observer.close()


@pytest.mark.parametrize('outage', [killed, stopped], ids=['killed', 'stopped'])
def test_every_node_is_back_at_once_after_an_outage_of_three_ttls_that_cost_nothing(
    etcd_cluster: EtcdCluster, observer: Observer, outage: Outage
) -> None:
    """Forty nodes of two TTLs, a watcher and a mirror: no error reaches the user, and they are on two leases again."""
    with Surprises() as surprises, getc.etcd(etcd_cluster.urls, api='v3') as client:
        told: list[str] = []
        keepers = [
            client.keep_node(
                f'/servers/{ttl}-{number}',
                ttl=ttl,
                on_lost=lambda keeper: told.append('lost'),
                on_restored=lambda keeper: told.append('restored'),
            )
            for ttl in TTLS
            for number in range(NODES)
        ]
        wanted = {keeper.key for keeper in keepers}
        mirror = client.mirror('/servers')
        watcher = client.on_change('/servers', lambda result: None)
        assert observer.leases() == len(TTLS)
        with outage(etcd_cluster):
            with counted_switches() as switches:
                gevent.sleep(OUTAGE)
            wait_until(lambda: {keeper.state for keeper in keepers} == {KeeperState.LOST})
            wait_until(lambda: told == ['lost'] * len(keepers))
        wait_until(lambda: {keeper.state for keeper in keepers} == {KeeperState.KEPT})
        wait_until(lambda: told.count('restored') == len(keepers))
        wait_until(lambda: set(mirror) == wanted and not watcher.is_stale)
        wait_until(lambda: observer.leases() == len(TTLS))
        assert observer.keys() == wanted
    assert surprises.found == []
    print(f'{len(switches)} switches in {OUTAGE} s')
    assert len(switches) < MAX_SWITCHES


@contextmanager
def counted_switches() -> Iterator[list[None]]:
    """Record each switch between greenlets of this thread."""
    switches: list[None] = []
    before = greenlet.settrace(lambda event, args: switches.append(None))
    try:
        yield switches
    finally:
        greenlet.settrace(before)
