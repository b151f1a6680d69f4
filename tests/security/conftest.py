"""Real etcds with users and with certificates, and what must not be asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from gevent.server import StreamServer

import getc
from getc.testing import Certificates, EtcdBinary, EtcdServer, ServerTLS
from getc.testing.admin import Requests
from getc.v3.schema.authpb import Permission
from tests.support.api_support import skip_unless_spoken
from tests.support.servers import end

__all__ = ['PASSWORD', 'Served', 'Trap', 'WithUsers']

PASSWORD = 'correct horse'


Served = Callable[..., EtcdServer]


@pytest.fixture(scope='session')
def served(etcd_binary: EtcdBinary) -> Served:
    """Make a server of the run's etcd; skips where that does not speak the API."""

    def served(tls: ServerTLS | None = None, *, api: Any = None) -> EtcdServer:
        skip_unless_spoken(api, etcd_binary)
        return EtcdServer(binary=etcd_binary.path, tls=tls)

    return served


class WithUsers:
    """An etcd of which one API may want a password: its users are ``root``, and ``reader``, who reads below /open.

    Args:
        served: Makes the server.
        api: ``'v2'`` or ``'v3'``.
    """

    def __init__(self, served: Served, api: Any) -> None:
        self.api = api
        self.server = served(api=api)
        self._clients = ExitStack()

    def login(self, username: str | None = 'root', password: str = PASSWORD, **options: Any) -> getc.Client:
        """A client with a name, or without one; closed after the test."""
        options.setdefault('url', self.server.url)
        if username is not None:
            options |= {'username': username, 'password': password}
        return self._clients.enter_context(getc.etcd(api=self.api, **options))

    def switch_on(self) -> None:
        """Have it want a password."""
        if self.api == 'v3':
            self._switch_v3_on()
        else:
            self._switch_v2_on()

    def change_password(self, username: str, password: str) -> None:
        """Give a user another one, as ``root``."""
        assert self.api == 'v3'
        self.login().v3.auth.user_change_password(username, password)

    def _switch_v3_on(self) -> None:
        auth = self.login(None).v3.auth
        for name, role in (('root', 'root'), ('reader', 'reading')):
            auth.user_add(name, PASSWORD)
            auth.role_add(role)
            auth.user_grant_role(name, role)
        auth.role_grant_permission('reading', b'/open', range_end=b'/open0', perm_type=Permission.Type.READ)
        auth.enable()

    def _switch_v2_on(self) -> None:
        with Requests(self.server.url) as requests:

            def put(path: str, **content: Any) -> None:
                said = requests.ask('PUT', f'/v2/auth/{path}', json.dumps(content))
                assert '"message"' not in said, said

            put('users/root', user='root', password=PASSWORD)
            put('users/reader', user='reader', password=PASSWORD)
            put('roles/reading', role='reading', permissions={'kv': {'read': ['/open', '/open/*'], 'write': []}})
            put('roles/guest', role='guest', permissions={'kv': {'read': [], 'write': []}})
            put('users/reader', user='reader', grant=['reading'])
            put('enable')

    def close(self) -> None:
        self._clients.close()
        self.server.stop()


class Trap:
    """A server that nobody may ask.

    Attributes:
        url: Where it is.
        visits: How many came.
    """

    def __init__(self) -> None:
        self.visits = 0
        self._server = StreamServer(('127.0.0.1', 0), self._visited)
        self._server.start()
        self.url = f'http://127.0.0.1:{self._server.server_port}'

    def _visited(self, *_: object) -> None:
        self.visits += 1

    def close(self) -> None:
        end(self._server)


@pytest.fixture
def trap() -> Iterator[Trap]:
    """A server that nobody may ask."""
    trap = Trap()
    yield trap
    trap.close()


@pytest.fixture(params=['v2', 'v3'])
def users(request: pytest.FixtureRequest, served: Served) -> Iterator[WithUsers]:
    """An etcd that will have users, for both APIs."""
    users = WithUsers(served, request.param)
    with users.server:
        yield users
        users.close()


@pytest.fixture
def v3_users(served: Served) -> Iterator[WithUsers]:
    """The same for v3 alone."""
    users = WithUsers(served, 'v3')
    with users.server:
        yield users
        users.close()


@pytest.fixture(scope='session')
def certificates() -> Iterator[Certificates]:
    """An authority, and what it has signed."""
    with Certificates() as certificates:
        yield certificates
