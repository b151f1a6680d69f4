"""requests' adapter, with pools and connections that are gevent's own.

The pools are driven directly, beneath ``Session.request``, which costs twice the time; a session that
mounts the adapter works as well.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Callable, Mapping
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter

from getc.backends.v2.http_messages import Request
from getc.backends.v2.http_response import Response
from getc.net.endpoint import Endpoint
from getc.net.resolver import Address, get_resolver
from getc.net.sockets import Socket, connect, is_idle, peer_address
from getc.net.tls import TLSContexts
from getc.timing import Deadline

__all__ = ['Connection', 'GeventAdapter', 'Pool']

Connector = Callable[[str, int, Deadline | None], Socket]


class Connection(urllib3.connection.HTTPConnection):
    """One connection, of gevent's socket.

    Attributes:
        connect_by: When who connects it will end that, or None.
        pid: The process whose it is.
    """

    response_class = Response

    def __init__(self, *args: Any, connector: Connector, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connector = connector
        self._outgoing: list[bytes] | None = None
        self.connect_by: Deadline | None = None
        self.pid = os.getpid()
        self._address: Address | None = None

    def _new_conn(self) -> Socket:
        sock = self._connector(self.host, self.port, self.connect_by)
        self._address = peer_address(sock)
        return sock

    def mark(self, *, answers: bool) -> None:
        """Record whether the server at the address of this connection answers, for the next connection to its host."""
        if self._address is not None:
            record = get_resolver().mark_good if answers else get_resolver().mark_bad
            record(self.host, self.port, self._address)

    @property
    def is_usable(self) -> bool:
        """True if it is open, ours since no fork, and has nothing to say."""
        return self.sock is not None and self.pid == os.getpid() and is_idle(self.sock)

    def send(self, data: Any) -> None:
        if self._outgoing is not None:
            self._outgoing.append(bytes(data))
        else:
            super().send(data)

    def send_request(self, request: Request, authorization: str | None = None) -> None:
        """Send head and body in one piece: http.client alone would make two packets of them."""
        headers = {'User-Agent': 'getc', 'Accept-Encoding': 'identity'}
        if request.body is not None:
            headers['Content-Type'] = 'application/x-www-form-urlencoded'
        if authorization is not None:
            headers['Authorization'] = authorization
        self._outgoing = []
        try:
            http.client.HTTPConnection.request(self, request.method, request.target, request.body, headers)
        finally:
            outgoing, self._outgoing = self._outgoing, None
        self.send(b''.join(outgoing))

    def read_head(self) -> Response:
        """Wait for status and headers."""
        response = http.client.HTTPConnection.getresponse(self)
        assert isinstance(response, Response)
        return response


class Pool(urllib3.HTTPConnectionPool):
    """The idle connections to one server.

    A plain list in place of urllib3's queue, whose lock could block the hub; nothing here switches.
    """

    ConnectionCls = Connection

    def __init__(self, host: str, port: int | None, *, scheme: str, max_idle: int, **options: Any) -> None:
        super().__init__(host, port, maxsize=1, **options)
        self.scheme = scheme
        self._idle: list[Connection] = []
        self._max_idle = max_idle
        self._is_closed = False

    def take(self) -> Connection:
        """The connection used last that is still good; else a new one, not connected yet."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        fresh = self._new_conn()
        assert isinstance(fresh, Connection)
        return fresh

    def give(self, connection: Connection) -> None:
        """Keep a connection on which nothing is under way."""
        if connection.sock is None or self._is_closed or len(self._idle) >= self._max_idle:
            connection.close()
        else:
            self._idle.append(connection)

    def clear(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        self._is_closed = True
        self.clear()
        super().close()

    # What urllib3's own urlopen calls, for whoever mounts the adapter on a session.

    def _get_conn(self, timeout: float | None = None) -> Any:
        return self.take()

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            self.give(conn)


class _Pools(urllib3.PoolManager):
    """One pool a server."""

    def __init__(self, *, contexts: Mapping[str, TLSContexts | None], max_idle: int) -> None:
        super().__init__(num_pools=1024)  # none is let go: it would be closed while in use
        self._contexts = contexts
        self._max_idle = max_idle
        self.all: list[Pool] = []

    def _new_pool(self, scheme: str, host: str, port: int, request_context: dict[str, Any] | None = None) -> Pool:
        contexts = self._contexts[scheme]

        def connector(host: str, port: int, deadline: Deadline | None) -> Socket:
            return connect(host, port, None if contexts is None else contexts.current(), deadline=deadline)

        pool = Pool(host, port, scheme=scheme, connector=connector, max_idle=self._max_idle)
        self.all.append(pool)
        return pool


class GeventAdapter(HTTPAdapter):
    """requests' adapter over connections of gevent's own.

    Args:
        contexts: The TLS contexts of each scheme; None for none.
        max_idle: Connections kept open without use, for each server.
    """

    def __init__(self, *, contexts: Mapping[str, TLSContexts | None], max_idle: int) -> None:
        self._contexts = contexts
        self._max_idle = max_idle
        self._pools: dict[Endpoint, Pool] = {}
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        self.poolmanager = _Pools(contexts=self._contexts, max_idle=self._max_idle)

    def pool_of(self, endpoint: Endpoint) -> Pool:
        """The pool of a server."""
        pool = self._pools.get(endpoint)
        if pool is None:
            found = self.poolmanager.connection_from_host(endpoint.host, endpoint.port, endpoint.scheme)
            assert isinstance(found, Pool)
            pool = self._pools[endpoint] = found
        return pool

    def clear(self) -> None:
        """Close the idle connections."""
        for pool in self.poolmanager.all:
            pool.clear()

    def close(self) -> None:
        for pool in self.poolmanager.all:
            pool.close()
        super().close()
