"""Real etcds with users, and servers that a client must not connect to."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from gevent.server import StreamServer

import getc
from getc.testing import EtcdServer
from getc.testing.admin import Requests
from getc.v3.schema.authpb import Permission
from tests.support.servers import end

__all__ = ['PASSWORD', 'AuthServer', 'ForbiddenServer', 'Served']

PASSWORD = 'correct horse'

Served = Callable[..., EtcdServer]
"""Starts a server: see the fixture ``served`` of tests/security."""


class AuthServer:
    """An etcd with the users ``root``, and ``reader``, which may read below /open.

    Args:
        served: Starts the server.
        api: ``'v2'`` or ``'v3'``: the API whose authentication is enabled.
    """

    def __init__(self, served: Served, api: Any) -> None:
        self.api = api
        self.server = served(api=api)
        self._clients = ExitStack()

    def login(self, username: str | None = 'root', password: str = PASSWORD, **options: Any) -> getc.Client:
        """Return a client with or without credentials; it is closed after the test."""
        options.setdefault('url', self.server.url)
        if username is not None:
            options |= {'username': username, 'password': password}
        return self._clients.enter_context(getc.etcd(api=self.api, **options))

    def enable_auth(self) -> None:
        """Create the users and enable authentication."""
        if self.api == 'v3':
            self._enable_v3()
        else:
            self._enable_v2()

    def change_password(self, username: str, password: str) -> None:
        """Change the password of a user, as ``root``."""
        assert self.api == 'v3'
        self.login().v3.auth.user_change_password(username, password)

    def _enable_v3(self) -> None:
        auth = self.login(None).v3.auth
        for name, role in (('root', 'root'), ('reader', 'reading')):
            auth.user_add(name, PASSWORD)
            auth.role_add(role)
            auth.user_grant_role(name, role)
        auth.role_grant_permission('reading', b'/open', range_end=b'/open0', perm_type=Permission.Type.READ)
        auth.enable()

    def _enable_v2(self) -> None:
        with Requests(self.server.url) as requests:

            def put(path: str, **content: Any) -> None:
                answer = requests.request('PUT', f'/v2/auth/{path}', json.dumps(content))
                assert '"message"' not in answer, answer

            put('users/root', user='root', password=PASSWORD)
            put('users/reader', user='reader', password=PASSWORD)
            put('roles/reading', role='reading', permissions={'kv': {'read': ['/open', '/open/*'], 'write': []}})
            put('roles/guest', role='guest', permissions={'kv': {'read': [], 'write': []}})
            put('users/reader', user='reader', grant=['reading'])
            put('enable')

    def close(self) -> None:
        self._clients.close()
        self.server.stop()


class ForbiddenServer:
    """A server that must not receive a connection.

    Attributes:
        url: Its URL.
        connections: The number of connections that it accepted.
    """

    def __init__(self) -> None:
        self.connections = 0
        self._server = StreamServer(('127.0.0.1', 0), self._on_connection)
        self._server.start()
        self.url = f'http://127.0.0.1:{self._server.server_port}'

    def _on_connection(self, *_: object) -> None:
        self.connections += 1

    def close(self) -> None:
        end(self._server)
