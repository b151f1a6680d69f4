"""The adapter of requests with pools and connections that use gevent's sockets.

``Http`` uses the pools directly, since ``Session.request`` takes twice the time; the adapter also works on a session.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter

from getc.backends.v2.http_response import BoundedResponse
from getc.backends.v2.messages import Request
from getc.net.connect_errors import pending_alert
from getc.net.endpoint import Endpoint
from getc.net.resolver import Address, get_resolver
from getc.net.sockets import Socket, connect, is_idle, peer_address
from getc.net.tls import TLSContexts
from getc.timing import Deadline

__all__ = ['Connection', 'GeventAdapter', 'Pool']

Connector = Callable[[str, int, Deadline | None], Socket]


class Connection(urllib3.connection.HTTPConnection):
    """A connection that uses gevent's sockets.

    Attributes:
        connect_by: The deadline of the connection attempt, or None.
        pid: The process that made the connection.
    """

    response_class = BoundedResponse

    def __init__(self, *args: Any, connector: Connector, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connector = connector
        self._outgoing: list[bytes] | None = None
        self.connect_by: Deadline | None = None
        self.pid = os.getpid()
        self._address: Address | None = None

    def _new_conn(self) -> Socket:
        sock = self._connector(self.host, self.port, self.connect_by)
        try:
            self._address = peer_address(sock)
        except OSError as error:  # the connection broke already, perhaps after an alert about the client certificate
            error = pending_alert(sock, error)
            sock.close()
            raise error
        return sock

    def mark(self, *, is_good: bool) -> None:
        """Record whether the server at the connection's address responds, for the next connection to its host."""
        if self._address is not None:
            record = get_resolver().mark_good if is_good else get_resolver().mark_bad
            record(self.host, self.port, self._address)

    @property
    def is_usable(self) -> bool:
        """True if the connection is open, was made in this process, and has no unread bytes."""
        return self.sock is not None and self.pid == os.getpid() and is_idle(self.sock)

    def send(self, data: Any) -> None:
        if self._outgoing is not None:
            self._outgoing.append(bytes(data))
        else:
            super().send(data)

    def send_request(self, request: Request, authorization: str | None = None) -> None:
        """Send head and body with one ``send``: http.client alone would send two packets."""
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

    def read_head(self) -> BoundedResponse:
        """Return the response once its status and headers have arrived."""
        response = http.client.HTTPConnection.getresponse(self)
        assert isinstance(response, BoundedResponse)
        return response


class Pool(urllib3.HTTPConnectionPool):
    """The idle connections to one server.

    A list replaces the queue of urllib3, whose lock could block the hub.  No method switches greenlets.
    """

    ConnectionCls = Connection

    def __init__(self, host: str, port: int | None, *, scheme: str, max_idle: int, **options: Any) -> None:
        super().__init__(host, port, maxsize=1, **options)
        self.scheme = scheme
        self._idle: list[Connection] = []
        self._max_idle = max_idle
        self._is_closed = False

    def take(self) -> Connection:
        """Return the most recently used connection that is usable; else a new one, which is not connected yet."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        fresh = self._new_conn()
        assert isinstance(fresh, Connection)
        return fresh

    def give(self, connection: Connection) -> None:
        """Keep a connection without an exchange in flight."""
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

    # Called by urllib3's urlopen when the adapter is mounted on a session.

    def _get_conn(self, timeout: float | None = None) -> Any:
        return self.take()

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            self.give(conn)


class _Pools(urllib3.PoolManager):
    """One pool for each server."""

    def __init__(self, *, contexts: Mapping[str, TLSContexts | None], max_idle: int) -> None:
        super().__init__(num_pools=1024)  # a pool that is evicted would be closed while in use
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

    def remove(self, pool: Pool) -> None:
        """Close a pool, so that another one is made for its server when there are calls again."""
        pool.close()
        self.all.remove(pool)
        for key in [key for key in self.pools.keys() if self.pools[key] is pool]:  # noqa: SIM118
            del self.pools[key]


class GeventAdapter(HTTPAdapter):
    """The adapter of requests over connections that use gevent's sockets.

    Args:
        contexts: The TLS contexts of each scheme; None for a scheme without TLS.
        max_idle: Idle connections that are kept for each server.
    """

    def __init__(self, *, contexts: Mapping[str, TLSContexts | None], max_idle: int) -> None:
        self._contexts = contexts
        self._max_idle = max_idle
        self._pools: dict[Endpoint, Pool] = {}
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        self.poolmanager = _Pools(contexts=self._contexts, max_idle=self._max_idle)

    def pool_of(self, endpoint: Endpoint) -> Pool:
        """Return the pool of a server."""
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

    def retain(self, endpoints: Iterable[Endpoint]) -> None:
        """Close the pools of all other servers.  A connection in use is closed when it is given back."""
        for endpoint in self._pools.keys() - set(endpoints):
            self.poolmanager.remove(self._pools.pop(endpoint))

    def close(self) -> None:
        for pool in self.poolmanager.all:
            pool.close()
        super().close()
