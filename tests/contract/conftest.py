"""The contract of getc: one suite that runs on every backend.

The tests use the public API only.  A test marked ``v3_differs(reason)`` states what etcd v2 does and v3 does not;
a test marked ``whole_tree`` needs the root, so it is not run inside a namespace;
a test marked ``transactions`` is not run on v2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest

import getc
from getc.testing import EtcdServer
from tests.support.api_support import skip_unless_supported

BACKENDS = {'memory': 'memory', 'v2': 'v2', 'v3': 'v3', 'memory-namespace': 'memory'}
"""The backends, and the value of ``--etcd-api`` that includes each of them."""

APIS = ('v2', 'v3')
REFUSING_URL = 'http://127.0.0.1:1'

_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line('markers', 'v3_differs(reason): what v2 does, and v3 cannot (design, section 3)')
    config.addinivalue_line('markers', 'whole_tree: needs the root of the tree, so not inside a namespace')
    config.addinivalue_line('markers', 'transactions: needs transactions, which v2 does not have')


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on every backend, or on those of the APIs that ``--etcd-api`` names."""
    if 'backend_under_test' in metafunc.fixturenames:
        apis = metafunc.config.getoption('--etcd-api') or BACKENDS.values()
        if metafunc.definition.get_closest_marker('transactions'):
            apis = [api for api in apis if api != 'v2']
        metafunc.parametrize(
            'backend_under_test', [name for name, api in BACKENDS.items() if api in apis], indirect=True
        )


class BackendUnderTest:
    """A backend under test: opens clients of one empty store, and controls time.

    Args:
        name: One of ``BACKENDS``.
        url: The URL of the store.
        namespace: The namespace of all clients, or None.
        advance: Advances virtual time; None where time is real.
        version: The version of the server, or of the server that the backend imitates.
    """

    def __init__(
        self,
        name: str,
        url: str,
        namespace: str | None,
        advance: Callable[[float], object] | None,
        version: str = '3.5.1',
    ) -> None:
        self.name = name
        self.url = url
        self.version = tuple(int(part) for part in version.split('.'))
        self.namespace = namespace
        self._advance = advance
        self._clients = ExitStack()

    def open(self, **options: Any) -> getc.Client:
        """Open another client of the store, which is closed after the test."""
        options.setdefault('namespace', self.namespace)
        api = self.name if self.name in APIS else None
        return self._clients.enter_context(getc.etcd(self.url, api=api, **options))

    def pass_time(self, seconds: float) -> None:
        """Advance virtual time.  Does nothing on a real server, where tests wait for conditions."""
        if self._advance is not None:
            self._advance(seconds)

    def compact_history(self, client: getc.Client) -> None:
        """Discard the history of all changes so far."""
        if self.name == 'v3':
            client.v3.kv.compact(client.set('/other', 'x').etcd_index)
            return
        writers = [gevent.spawn(lambda: [client.set('/other', 'x') for _ in range(130)]) for _ in range(8)]
        gevent.joinall(writers, raise_error=True)

    def close(self) -> None:
        self._clients.close()


@pytest.fixture
def backend_under_test(request: pytest.FixtureRequest) -> Iterator[BackendUnderTest]:
    """The backend under test, with an empty store."""
    name: str = request.param
    if 'namespace' in name and request.node.get_closest_marker('whole_tree'):
        pytest.skip('needs the root of the tree')
    differs = request.node.get_closest_marker('v3_differs')
    if name == 'v3' and differs is not None:
        pytest.skip(f'v3 differs: {differs.args[0]}')
    if name in APIS:
        server: EtcdServer = request.getfixturevalue('etcd_server')
        skip_unless_supported(name, server.binary)
        made = BackendUnderTest(name, server.url, None, None, server.version)
    else:
        namespace = '/name/space' if 'namespace' in name else None
        advance = request.getfixturevalue('etcd_clock').advance
        made = BackendUnderTest(name, f'memory://contract-{next(_numbers)}', namespace, advance)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def directory_updates(backend_under_test: BackendUnderTest) -> None:
    """Skip the test where a directory cannot be updated: etcd 3.5 refuses that on v2, etcd 3.4 does not."""
    if backend_under_test.name == 'v2' and backend_under_test.version >= (3, 5):
        pytest.skip('etcd 3.5 cannot update a directory on v2')


@pytest.fixture
def client(backend_under_test: BackendUnderTest) -> getc.Client:
    """A client of an empty store."""
    return backend_under_test.open()


@pytest.fixture
def other(backend_under_test: BackendUnderTest, client: getc.Client) -> getc.Client:
    """Another client of the same store."""
    return backend_under_test.open()


@pytest.fixture
def refusing() -> Iterator[getc.Client]:
    """A client that fails with ConnectionRefused on any I/O."""
    with getc.etcd(REFUSING_URL, api='v2') as client:
        yield client
