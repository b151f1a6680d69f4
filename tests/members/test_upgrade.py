"""A cluster whose members are upgraded one by one, while clients use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest

import getc
from getc import KeeperState
from getc.testing import EtcdCluster, wait_until
from getc.testing.binaries import EtcdBinary, choose_etcd
from getc.v3 import range_stream
from tests.support.built_servers import built_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PAGE_KEYS = 10
KEYS = [f'/many/{number:02}' for number in range(35)]


@pytest.fixture(params=[('3.5', '3.6'), ('3.6', '3.7')], ids=['3.5 to 3.6', '3.6 to 3.7'])
def upgraded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[EtcdCluster, str]]:
    """A cluster of one line without the v2 API, and the path of an etcd of the next line.

    With ``--enable-v2`` even the health check of etcd 3.5 leaves a v2 request in its log, at which etcd 3.6 ends.
    """
    paths = [built_server(line) for line in request.param]
    if not all(paths):
        pytest.skip(f'needs etcd {" and ".join(request.param)}: run `make servers`')
    monkeypatch.setattr(EtcdBinary, 'supports', lambda self, api: api != 'v2')
    with EtcdCluster(binary=paths[0]) as cluster:
        yield cluster, str(paths[1])


def test_upgrade_loses_neither_node_nor_change(
    upgraded: tuple[EtcdCluster, str],
    spawn: Callable[..., gevent.Greenlet[..., None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Directories are read as a whole, by RangeStream where a member has it.  A write may have to be repeated."""
    monkeypatch.setattr(range_stream, 'MAX_PAGE_KEYS', PAGE_KEYS)
    cluster, path = upgraded
    binary = choose_etcd('v3', path)
    with getc.etcd(cluster.urls, timeout=60) as client, getc.etcd(cluster.urls, timeout=60) as writer:
        gevent.joinall([gevent.spawn(client.set, key, 'x') for key in KEYS], raise_error=True)
        received: list[str | None] = []
        resyncs: list[object] = []
        lost: list[object] = []
        keeper = client.keep_node('/servers/a', 'here', ttl=30, on_lost=lost.append)
        token = keeper.ensure()
        mirror = client.mirror('/cfg')
        client.on_change('/cfg', lambda change: received.append(change.value), on_resync=resyncs.append)
        written: list[str] = []
        is_done = False

        def write() -> None:
            while not is_done:
                number = str(len(written))
                try:
                    writer.set('/cfg/number', number)
                except getc.EtcException as error:  # the leader has ended before it answered
                    if not error.maybe_applied:
                        raise
                    continue
                written.append(number)
                gevent.sleep(0.05)

        writing = spawn(write)
        for index in range(3):
            cluster.members[index].binary = binary
            cluster.restart(index)
            assert status_version(cluster, index) == '.'.join(map(str, binary.version))
            count = len(written)
            wait_until(lambda count=count: len(written) > count + 10 or writing.ready())
            for _ in range(3):
                listed = client.get('/many', recursive=True, sorted=True)
                assert [leaf.key for leaf in listed.node.leaves()] == KEYS
        is_done = True
        writing.get()
        wait_until(lambda: len(received) >= len(written) and mirror.get('/cfg/number') == written[-1])
        assert list(dict.fromkeys(received)) == written
        assert (resyncs, lost, keeper.state, keeper.ensure()) == ([], [], KeeperState.KEPT, token)
        assert client.get('/servers/a').value == 'here'


def status_version(cluster: EtcdCluster, index: int) -> str:
    with cluster.members[index].client() as client:
        return client.v3.maintenance.status(timeout=60).version
