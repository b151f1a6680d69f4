"""Fixtures for ``etcd.v3`` on a real etcd, and a check that every RPC is called.

A test file for a service declares it, as ``SERVICE = schema.KV``.  The file fails at its end unless each RPC of the
service was answered by etcd, with a response or a refusal.  ``test_coverage.py`` checks that every service has a file.
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

UNREACHABLE = 'http://127.0.0.1:1'

_answered: set[str] = set()
_incomplete_files: set[str] = set()


@pytest.fixture
def server(etcd_server: EtcdServer) -> EtcdServer:
    """A shared etcd without keys.  Tests must not kill it or change its configuration."""
    return etcd_server


@pytest.fixture
def own_server(etcd_binary: EtcdBinary) -> Iterator[EtcdServer]:
    """An etcd that only this test uses."""
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
def unreachable() -> Iterator[getc.Client]:
    """A client that fails with ConnectionRefused as soon as it does any I/O."""
    with getc.etcd(UNREACHABLE) as client:
        yield client


@pytest.fixture
def watchers(server: EtcdServer) -> Callable[[], int]:
    """Return a function that returns the number of watches on the server."""
    return lambda: metric(server.url, 'etcd_debugging_mvcc_watcher_total')


# -- an RPC client alone, of a server in this process


@pytest.fixture
def open_rpc(request: pytest.FixtureRequest) -> Iterator[Callable[..., RpcClient]]:
    """Return a function that creates RPC clients; they are closed after the test, and must leave no greenlet."""
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


@pytest.fixture(scope='module', autouse=True)
def _record_answers() -> Iterator[None]:
    """Record every RPC that a server has answered, with a response or a refusal.

    For one file at a time: tests of other folders, which may follow in this process, count the calls of an operation.
    """
    call, receive = RpcClient.call, MessageStream.receive

    def recording_call(rpc: RpcClient, method: Method[Any, Any], *args: Any, **options: Any) -> Any:
        with _recording(method):
            return call(rpc, method, *args, **options)

    def recording_receive(stream: MessageStream[Any, Any], deadline: Deadline) -> Any:
        with _recording(stream._method, is_answer=False):
            message = receive(stream, deadline)
        if message is not None:
            _answered.add(stream._method.path)
        return message

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RpcClient, 'call', recording_call)
        patch.setattr(MessageStream, 'receive', recording_receive)
        yield


@contextmanager
def _recording(method: Method[Any, Any], *, is_answer: bool = True) -> Iterator[None]:
    try:
        yield
    except (EtcdError, NotSupported):
        _answered.add(method.path)
        raise
    if is_answer:
        _answered.add(method.path)


@pytest.fixture(scope='module', autouse=True)
def _every_rpc_of_the_service_is_called(request: pytest.FixtureRequest, _record_answers: None) -> Iterator[None]:
    """Fail at the end of a file that has not called an RPC of its service.

    Not if only some tests of the file were selected, or a test has failed.
    """
    service = getattr(request.module, 'SERVICE', None)
    _answered.clear()
    yield
    if service is None or request.session.testsfailed or str(request.path) in _incomplete_files or not _has_etcd():
        return
    missing = [
        name for name, method in vars(service).items() if isinstance(method, Method) and method.path not in _answered
    ]
    if missing:
        pytest.fail(f'no test of {request.path.name} has called {", ".join(missing)}', pytrace=False)


def _has_etcd() -> bool:
    try:
        find_etcd('v3')
    except EtcdNotFound:
        return False
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note files of which only some tests were selected by name."""
    for argument in config.invocation_params.args:
        path, _, name = str(argument).partition('::')
        if name:
            _incomplete_files.add(str((config.invocation_params.dir / path).resolve()))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Note files from which tests were deselected."""
    _incomplete_files.update(str(item.path) for item in items)
