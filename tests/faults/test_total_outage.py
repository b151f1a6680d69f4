"""An outage of all members for three times the TTL: its cost, and the recovery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import greenlet
import pytest

import getc
from getc import KeeperState
from getc.testing import EtcdCluster, wait_until
from tests.faults.gateway import ALL_KEYS, Gateway, RequestRefused, text_of
from tests.faults.unexpected_errors import UnexpectedErrors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TTLS = (3, 4)
NODES = 20
OUTAGE = 3 * max(TTLS)
"""Seconds."""

MAX_SWITCHES = 400 * OUTAGE
"""Greenlet switches of the process during the outage, with 40 nodes, a watcher and a mirror: a measure of its work."""


@contextmanager
def killed(cluster: EtcdCluster) -> Iterator[None]:
    """Connections are refused during the outage."""
    for member in range(len(cluster.members)):
        cluster.kill(member, may_diverge=True)  # nothing is written when they are killed
    yield
    for member in range(len(cluster.members)):
        cluster.restart(member)


@contextmanager
def stopped(cluster: EtcdCluster) -> Iterator[None]:
    """Connections stay open during the outage, and nothing is answered."""
    for member in range(len(cluster.members)):
        cluster.pause(member)
    yield
    for member in range(len(cluster.members)):
        cluster.resume(member)


Outage = Callable[[EtcdCluster], 'contextmanager[None]']


class GatewayObserver:
    """Reads etcd without getc."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self._gateways = [Gateway(member.url, '', '', timeout=1.0) for member in cluster.members]

    def request(self, path: str, **request: object) -> dict[str, object]:
        """Return the response of the first member that answers; empty if none does."""
        for gateway in self._gateways:
            try:
                return gateway.request(path, request)
            except (OSError, RequestRefused):
                pass
        return {}

    def keys(self) -> set[str] | None:
        """Return the keys; None if no member answers."""
        answer = self.request('/v3/kv/range', **ALL_KEYS, keys_only=True)
        return {text_of(kv['key']) for kv in answer.get('kvs', ())} if answer else None

    def leases(self) -> int:
        """Return the number of leases."""
        return len(self.request('/v3/lease/leases').get('leases', ()))

    def close(self) -> None:
        for gateway in self._gateways:
            gateway.close()


@pytest.fixture
def observer(etcd_cluster: EtcdCluster) -> Iterator[GatewayObserver]:
    observer = GatewayObserver(etcd_cluster)
    yield observer
    observer.close()


@pytest.mark.parametrize('outage', [killed, stopped], ids=['killed', 'stopped'])
def test_all_nodes_are_restored_after_an_outage_of_three_ttls(
    etcd_cluster: EtcdCluster, observer: GatewayObserver, outage: Outage
) -> None:
    """Forty nodes with two TTLs, a watcher and a mirror: no error is logged, and the nodes are on two leases again."""
    with UnexpectedErrors() as unexpected, getc.etcd(etcd_cluster.urls, api='v3') as client:
        events: list[str] = []
        keepers = [
            client.keep_node(
                f'/servers/{ttl}-{number}',
                ttl=ttl,
                on_lost=lambda keeper: events.append('lost'),
                on_restored=lambda keeper: events.append('restored'),
            )
            for ttl in TTLS
            for number in range(NODES)
        ]
        expected = {keeper.key for keeper in keepers}
        mirror = client.mirror('/servers')
        watcher = client.on_change('/servers', lambda result: None)
        assert observer.leases() == len(TTLS)
        with outage(etcd_cluster):
            with counted_switches() as switches:
                gevent.sleep(OUTAGE)
            wait_until(lambda: {keeper.state for keeper in keepers} == {KeeperState.LOST})
            wait_until(lambda: events == ['lost'] * len(keepers))
        wait_until(lambda: {keeper.state for keeper in keepers} == {KeeperState.KEPT})
        wait_until(lambda: events.count('restored') == len(keepers))
        wait_until(lambda: set(mirror) == expected and not watcher.is_stale)
        wait_until(lambda: observer.leases() == len(TTLS))
        wait_until(lambda: observer.keys() == expected)
    assert unexpected.found == []
    print(f'{len(switches)} switches in {OUTAGE} s')
    assert len(switches) < MAX_SWITCHES


@contextmanager
def counted_switches() -> Iterator[list[None]]:
    """Record each greenlet switch of this thread."""
    switches: list[None] = []
    before = greenlet.settrace(lambda event, args: switches.append(None))
    try:
        yield switches
    finally:
        greenlet.settrace(before)
