"""etcd v3 as it is, on a real etcd: every RPC, called for real.

A file that is about a service says so, ``SERVICE = schema.KV``, and fails at its end if its tests did not get an
answer, or a refusal of etcd's own, from every RPC of that service.  ``test_coverage.py`` sees to it that every service
has such a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

import getc
from getc.errors import EtcdError, NotSupported
from getc.net.endpoint import Endpoint
from getc.net.selector import EndpointSelector
from getc.testing import EtcdBinary, EtcdNotFound, EtcdServer, find_etcd
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.table import Method
from getc.v3.stream import MessageStream
from tests.support.fixtures import serve
from tests.support.leftovers import check_greenlets
from tests.support.server_probe import metric

__all__ = ['open_rpc', 'serve']

NOBODY = 'http://127.0.0.1:1'

_answered: set[str] = set()
_cut_short: set[str] = set()


@pytest.fixture
def server(etcd_server: EtcdServer) -> EtcdServer:
    """An etcd without keys, which no test of this folder kills or changes for the others."""
    return etcd_server


@pytest.fixture
def own_server(etcd_binary: EtcdBinary) -> Iterator[EtcdServer]:
    """An etcd for this test alone, which may do with it what it likes."""
    with EtcdServer(binary=etcd_binary.path) as server:
        yield server


@pytest.fixture
def client(server: EtcdServer) -> Iterator[getc.Client]:
    """A client of ``server``."""
    with getc.etcd(server.url) as client:
        yield client


@pytest.fixture
def other(server: EtcdServer) -> Iterator[getc.Client]:
    """A second client of ``server``."""
    with getc.etcd(server.url) as client:
        yield client


@pytest.fixture
def nobody() -> Iterator[getc.Client]:
    """A client that fails with ConnectionRefused as soon as it does any I/O."""
    with getc.etcd(NOBODY) as client:
        yield client


@pytest.fixture
def watchers(server: EtcdServer) -> Callable[[], int]:
    """How many watches the server has."""
    return lambda: metric(server.url, 'etcd_debugging_mvcc_watcher_total')


# -- an RPC client alone, of a server in this process


@pytest.fixture
def open_rpc(request: pytest.FixtureRequest) -> Iterator[Callable[..., RpcClient]]:
    """Callers that are closed after the test; then no greenlet of theirs may be there."""
    opened: list[RpcClient] = []

    def open_rpc(*endpoints: Endpoint, timeout: float | None = 30.0) -> RpcClient:
        opened.append(RpcClient(EndpointSelector(endpoints), timeout=timeout))
        return opened[-1]

    yield open_rpc
    for rpc in opened:
        rpc.close()
    gevent.sleep(0)
    gevent.sleep(0)
    check_greenlets(request)


# -- which RPCs were called


@pytest.fixture(scope='session', autouse=True)
def _listening() -> Iterator[None]:
    """Remember every RPC that a server has answered: with a message, or with a refusal."""
    call, receive = RpcClient.call, MessageStream.receive

    def listening_call(rpc: RpcClient, method: Method[Any, Any], *args: Any, **options: Any) -> Any:
        with _hearing(method):
            return call(rpc, method, *args, **options)

    def listening_receive(stream: MessageStream[Any, Any], deadline: Deadline) -> Any:
        with _hearing(stream._method, is_answer=False):
            message = receive(stream, deadline)
        if message is not None:
            _answered.add(stream._method.path)
        return message

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RpcClient, 'call', listening_call)
        patch.setattr(MessageStream, 'receive', listening_receive)
        yield


@contextmanager
def _hearing(method: Method[Any, Any], *, is_answer: bool = True) -> Iterator[None]:
    try:
        yield
    except (EtcdError, NotSupported):
        _answered.add(method.path)
        raise
    if is_answer:
        _answered.add(method.path)


@pytest.fixture(scope='module', autouse=True)
def _every_rpc_of_the_service_is_called(request: pytest.FixtureRequest, _listening: None) -> Iterator[None]:
    """Fail at the end of a file that has left out an RPC of its service.

    Not if only some tests of the file were asked for, or one has failed: that says enough.
    """
    service = getattr(request.module, 'SERVICE', None)
    _answered.clear()
    yield
    if service is None or request.session.testsfailed or str(request.path) in _cut_short or not _is_there_an_etcd():
        return
    missing = [
        name for name, method in vars(service).items() if isinstance(method, Method) and method.path not in _answered
    ]
    if missing:
        pytest.fail(f'no test of {request.path.name} has called {", ".join(missing)}', pytrace=False)


def _is_there_an_etcd() -> bool:
    try:
        find_etcd('v3')
    except EtcdNotFound:
        return False
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A file of which tests were named one by one is not whole."""
    for argument in config.invocation_params.args:
        path, _, name = str(argument).partition('::')
        if name:
            _cut_short.add(str((config.invocation_params.dir / path).resolve()))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Nor is one from which tests were left out."""
    _cut_short.update(str(item.path) for item in items)
