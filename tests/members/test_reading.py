"""Reads from one member never go back in time, whichever member that is; and a wiped cluster is no trap."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import getc
from getc.testing import EtcdCluster, FaultProxies
from tests.support.api_support import skip_unless_spoken

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Open = Callable[..., getc.Client]

READS: dict[str, list[Callable[[getc.Client], object]]] = {
    'v3': [
        lambda client: client.get('/dir/a', quorum=False).value,
        lambda client: client.get('/dir', quorum=False).node.values,
    ],
    'v2': [
        lambda client: client.get('/dir/a').value,
        lambda client: client.get('/dir', quorum=False).node.values,
    ],
}


@pytest.mark.parametrize('api', READS)
def test_read_after_a_switch_is_no_older_than_what_was_seen(
    cluster: EtcdCluster, proxies: FaultProxies, open_client: Open, api: str
) -> None:
    """The next member is cut off from the others and lags: another is asked, and the old state is never shown."""
    skip_unless_spoken(api, cluster.binary)
    first = cluster.leader()
    behind = (first + 1) % 3
    urls = [proxies[first].url, cluster.members[behind].url, cluster.members[(first + 2) % 3].url]
    for read, expected in zip(READS[api], ('new', ('new',)), strict=True):
        cluster.mend()
        proxies.heal()
        with getc.etcd(urls, api=api, timeout=15) as client:
            client.set('/dir/a', 'old')
            with getc.etcd(cluster.members[behind].url, api=api) as lagging:
                assert lagging.get('/dir/a', quorum=True).value == 'old'
                cluster.isolate(behind)
                client.set('/dir/a', 'new')
                proxies[first].cut()
                assert lagging.get('/dir/a', quorum=False).value == 'old'  # who has not seen more is shown it
                assert read(client) == expected


@pytest.mark.parametrize('api', READS)
def test_wiped_cluster_is_read_anew(cluster: EtcdCluster, open_client: Open, api: str) -> None:
    """Its members agree on less than was seen: it went back, and reads of one member are good again."""
    skip_unless_spoken(api, cluster.binary)
    client = open_client(0, api=api, timeout=60)
    for number in range(20):
        seen = client.set('/a', str(number)).etcd_index
    cluster.wipe()
    with pytest.raises(getc.KeyNotFound) as caught:
        client.get('/a', quorum=False)
    assert caught.value.index is not None and caught.value.index < seen
    assert client.set('/a', 'again').etcd_index < seen
    assert client.get('/a', quorum=False).value == 'again'
