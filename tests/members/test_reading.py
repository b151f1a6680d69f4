"""Monotonic reads: a read via any member never returns older state than an earlier read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import getc
from getc.testing import EtcdCluster, FaultProxies
from tests.support.api_support import skip_unless_supported

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
def test_read_from_the_next_member_is_not_older_than_an_earlier_read(
    cluster: EtcdCluster, proxies: FaultProxies, open_client: Open, api: str
) -> None:
    """The next member is isolated and lags: its state is older than what the client has read, so another is used."""
    skip_unless_supported(api, cluster.binary)
    first = cluster.leader()
    behind = (first + 1) % 3
    urls = [proxies[first].url, cluster.members[behind].url, cluster.members[(first + 2) % 3].url]
    for read, expected in zip(READS[api], ('new', ('new',)), strict=True):
        cluster.recover()
        proxies.heal()
        with getc.etcd(urls, api=api, timeout=15) as client:
            client.set('/dir/a', 'old')
            with getc.etcd(cluster.members[behind].url, api=api) as lagging:
                assert lagging.get('/dir/a', quorum=True).value == 'old'
                cluster.isolate(behind)
                client.set('/dir/a', 'new')
                proxies[first].cut()
                assert (
                    lagging.get('/dir/a', quorum=False).value == 'old'
                )  # a client that has not read the newer state gets the old one
                assert read(client) == expected


@pytest.mark.parametrize('api', READS)
def test_reads_of_a_wiped_cluster_return_the_new_state(cluster: EtcdCluster, open_client: Open, api: str) -> None:
    """The quorum's revision is lower than what the client has read, so serializable reads are accepted again."""
    skip_unless_supported(api, cluster.binary)
    client = open_client(0, api=api, timeout=60)
    for number in range(20):
        seen = client.set('/a', str(number)).etcd_index
    cluster.wipe()
    with pytest.raises(getc.KeyNotFound) as caught:
        client.get('/a', quorum=False)
    assert caught.value.index is not None and caught.value.index < seen
    assert client.set('/a', 'again').etcd_index < seen
    assert client.get('/a', quorum=False).value == 'again'
