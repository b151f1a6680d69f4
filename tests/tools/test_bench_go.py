"""The row of Go in the benchmark: it does the work of every v3 case, and the same as getc."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

import getc
from getc.backends.tree.codec.write import encode_put
from getc.operations import Put
from getc.testing import EtcdBinary, EtcdServer
from getc.v3.schema.kv import PutRequest, TxnRequest, TxnResponse
from tests.support.grpc_server import GrpcServer, ServerCall
from tools.bench.cases import CASES, Case, select
from tools.bench.environments import Launch, NotInstalled, prepare
from tools.bench.registry import BenchClient, find_clients
from tools.bench.registry import select as select_clients
from tools.bench.runner import Runner
from tools.bench.scale import COLUMNS
from tools.bench.server import PREFIX, BenchServer
from tools.bench.worker_process import Unsupported, WorkerFailed, WorkerProcess
from tools.interop import build as building

V3_CASES = [case for case in CASES if 'v3' in case.apis]


def go_client() -> BenchClient:
    (client,) = select_clients(['go_clientv3'], find_clients())
    return client


@pytest.fixture(scope='module')
def launch() -> Launch:
    """How to start the Go program; the tests are skipped where there is no Go."""
    try:
        building.build()
    except building.CannotBuild as error:
        pytest.skip(str(error))
    return prepare(go_client())


@pytest.fixture(scope='module')
def etcd(etcd_binary: EtcdBinary) -> Iterator[EtcdServer]:
    with EtcdServer(binary=etcd_binary.path) as server:
        yield server


def short_request(case: Case, server: BenchServer) -> dict[str, Any]:
    """Return a request for little work."""
    if case.counts:
        return next(iter(case.requests().values())) | {'count': 10, 'seconds': 0.1, 'calls': 30}
    request = case.request('v3', 0.02)
    if case.is_watch:
        request |= {'prefix': PREFIX, 'index': server.next_index('v3'), 'count': 200, 'times': 2}
        server.write_history('v3', 200)
    return request


def test_go_is_a_peer_of_the_v3_api() -> None:
    client = go_client()
    assert (client.api, client.role, client.requires, client.runs_scale) == ('v3', 'peer', (), True)


@pytest.mark.parametrize('case', V3_CASES, ids=lambda case: case.name)
def test_go_does_the_work_of_every_v3_case(launch: Launch, etcd: EtcdServer, case: Case) -> None:
    with WorkerProcess(launch, etcd.url) as process:
        answer = process.run(short_request(case, BenchServer(etcd.url)), timeout=120)
    assert answer['cpu'] > 0
    if case.counts:
        assert set(COLUMNS[case.work]) <= answer.keys()
    elif case.work == 'memory':
        assert answer['base'] > 2**20 and answer['each'] > 0
    else:
        expected = 400 if case.is_watch else 1 if case.work == 'connect' else case.in_flight
        assert answer['operations'] >= expected and answer['seconds'] > 0
        assert case.is_watch or 0 < answer['p50'] <= answer['p99'] <= answer['seconds']


def test_go_names_its_versions(launch: Launch, etcd: EtcdServer) -> None:
    with WorkerProcess(launch, etcd.url) as process:
        assert process.versions['packages']['go.etcd.io/etcd/client/v3'] == building.required_version()
        assert process.versions['packages']['Go']


def test_go_checks_the_values_that_it_reads(launch: Launch, etcd: EtcdServer) -> None:
    with WorkerProcess(launch, etcd.url) as process:
        request = {'work': 'get', 'in_flight': 1, 'size': 32, 'seconds': 0.02}
        process.run(request, timeout=60)
        with getc.etcd(etcd.url) as client:
            client.delete('/bench/32/0')
        with pytest.raises(WorkerFailed, match='got 0 keys where a value of size 32 was set'):
            process.run(request, timeout=60)


def test_unknown_work_is_unsupported(launch: Launch, etcd: EtcdServer) -> None:
    with WorkerProcess(launch, etcd.url) as process:
        with pytest.raises(Unsupported, match="Go's row has no nap"):
            process.run({'work': 'nap'}, timeout=60)


def test_go_sends_the_transaction_of_getc(launch: Launch) -> None:
    """The compares, writes and reads are those of ``set``; so is the plain ``put``."""
    received: dict[str, list[bytes]] = {}

    def record(call: ServerCall) -> None:
        message = call.receive()
        assert message is not None
        received.setdefault(call.path.rpartition('/')[2], []).append(message)
        call.answer(TxnResponse(succeeded=True).SerializeToString() if call.path.endswith('Txn') else b'')

    with GrpcServer(record) as server:
        key, value = '/bench/4/0', 'xxxx'
        url = f'http://127.0.0.1:{server.endpoint.port}'
        with WorkerProcess(launch, url) as process:
            process.send({'work': 'tree-set', 'in_flight': 1, 'size': 4, 'seconds': 0.01})
            with gevent.Timeout(60):
                while 'Txn' not in received:
                    gevent.sleep(0.01)
    assert PutRequest.FromString(received['Put'][0]) == PutRequest(key=key.encode(), value=value.encode())
    assert TxnRequest.FromString(received['Txn'][0]) == TxnRequest.FromString(encode_put(Put(key, value)))


def test_go_is_left_out_with_the_remedy_where_it_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(building, 'is_built', lambda binary: False)
    with pytest.raises(NotInstalled, match=r'install Go 1\.26 or newer .* and run `make interop`'):
        prepare(go_client())
    runner = Runner(
        'http://127.0.0.1:1', [go_client()], rounds=1, seconds=0.1, rng=random.Random(), show_progress=print
    )
    with runner:
        runner.measure(select(['get-1-64'])[0])
    assert 'there is no Go' in runner.results.left_out[go_client()]
    assert runner.results.samples == {select(['get-1-64'])[0]: {}}
