"""sync of a mirror whose member fails: it still shows everything that was written before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import getc
from getc.testing import EtcdCluster
from tests.support.api_support import supported_apis

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Open = Callable[..., getc.Client]


@pytest.mark.parametrize('fault', ['pause', 'isolate'])
def test_sync_shows_every_earlier_write_while_the_member_of_the_mirror_fails(
    cluster: EtcdCluster, open_client: Open, fault: str
) -> None:
    """The member does not answer, or answers and lags behind."""
    member = (cluster.leader() + 1) % 3
    for api in supported_apis(cluster.binary):
        writer, reader = open_client(cluster.leader(), api=api), open_client(member, api=api)
        mirror = reader.mirror(f'/synced-{api}')
        for number in range(30):
            if number == 10:
                getattr(cluster, fault)(member)
            written = writer.set(f'/synced-{api}/a' if number % 2 else '/elsewhere', str(number), timeout=60)
            assert mirror.sync(100) >= written.etcd_index
            if number % 2:
                assert mirror[f'/synced-{api}/a'] == str(number)
        cluster.recover()
