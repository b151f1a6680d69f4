"""A cluster of three behind one proxy of each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import getc
from getc import KeeperState
from getc.testing import EtcdCluster, wait_until
from getc.v3 import watch_health
from tests.support.proxies import Kind, RealProxy

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _check_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_health, 'WATCH_IDLE_TIMEOUT', 1.0)
    monkeypatch.setattr(watch_health, 'CHECK_READ_TIMEOUT', 2.0)


def test_client_behind_one_proxy_survives_the_loss_of_each_member(
    kind: Kind, etcd_cluster: EtcdCluster, tmp_path: Path, open_client: Callable[..., getc.Client]
) -> None:
    """The proxy uses the other members.  No change is lost, and the node stays."""
    binary = etcd_cluster.binary
    if binary.may_diverge:
        pytest.skip(f'members of {binary} must not be killed')
    urls = [member.url for member in etcd_cluster.members]
    direct = open_client(urls, api='v3')
    with RealProxy(kind, binary.path, urls, tmp_path) as proxy:
        client = open_client(proxy.url)
        client.ready(timeout=60)
        changes: list[getc.EtcdResult] = []
        mirror = client.mirror('/cfg', timeout=60)
        client.on_change('/cfg', changes.append)
        keeper = client.keep_node('/servers/a', ttl=30)
        token = keeper.ensure()
        for number in range(len(urls)):
            etcd_cluster.kill(number)
            direct.ready(timeout=60)
            direct.set('/cfg/a', str(number), timeout=60)
            wait_until(lambda: not mirror.is_stale and mirror.get('/cfg/a') == str(number))  # noqa: B023
            client.ready(timeout=60)
            etcd_cluster.recover()
        wait_until(lambda: keeper.state is KeeperState.KEPT)
        assert keeper.ensure() == token
        wait_until(lambda: len(changes) == 3)
        assert [(change.value, change.resync) for change in changes] == [('0', False), ('1', False), ('2', False)]
        client.close()
