"""Ranges as a stream through ``etcd grpc-proxy``, which refuses KV.RangeStream in every version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

import getc
from getc.testing import EtcdBinary, EtcdServer
from getc.testing.ports import HOST, free_ports
from getc.testing.processes import Process, poll_until
from getc.v3 import range_stream
from getc.v3.schema.kv import KV, RangeRequest
from tests.support.built_servers import built_server

PAGE_KEYS = 10
KEYS = [b'/s/%02d' % number for number in range(35)]


@pytest.fixture(params=['etcd of the run', '3.7'])
def client(request: pytest.FixtureRequest, etcd_binary: EtcdBinary, tmp_path: Path) -> Iterator[getc.Client]:
    """A client behind a ``grpc-proxy`` of the etcd of the run, and of etcd 3.7, which has RangeStream itself."""
    path = built_server('3.7') if request.param == '3.7' else Path(etcd_binary.path)
    if path is None:
        pytest.skip('needs etcd 3.7: run `make servers`')
    with EtcdServer(binary=path) as server, (tmp_path / 'log').open('ab') as log:
        (port,) = free_ports(1)
        options = [f'--endpoints={server.url}', f'--listen-addr={HOST}:{port}']
        proxy = Process([str(path), 'grpc-proxy', 'start', *options], output=log.fileno())
        try:
            with getc.etcd(f'http://{HOST}:{port}', api='v3') as client:
                poll_until(lambda: proxy.has_ended() or is_served(client), 60)
                assert not proxy.has_ended(), (tmp_path / 'log').read_text()
                yield client
        finally:
            proxy.kill()


def is_served(client: getc.Client) -> bool:
    try:
        client.v3.kv.range(b'/a')
    except getc.EtcException:
        return False
    return True


def test_range_stream_reads_pages_through_grpc_proxy(client: getc.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """So do ``scan`` and listings.  The refusal is remembered."""
    monkeypatch.setattr(range_stream, 'MAX_PAGE_KEYS', PAGE_KEYS)
    gevent.joinall([gevent.spawn(client.v3.kv.put, key, key) for key in KEYS], raise_error=True)
    parts = list(client.v3.kv.range_stream(b'/s/', range_end=b'/s0'))
    assert [len(part.kvs) for part in parts] == [10, 10, 10, 5]
    assert [item.value for part in parts for item in part.kvs] == KEYS
    assert (parts[-1].count, parts[-1].more) == (35, False)
    assert [item.key for item in client.v3.kv.scan(b'/s/', range_end=b'/s0')] == KEYS
    listed = client.get('/s', sorted=True)
    assert [node.value for node in listed.node.nodes] == [key.decode() for key in KEYS]
    [server] = client.v3._rpc._servers.values()
    assert not server.supports(KV.RangeStream)
    with pytest.raises(getc.NotSupported, match='RangeStream'):
        list(range_stream.stream_parts(client.v3._rpc, RangeRequest(key=b'/s/', range_end=b'/s0')))
