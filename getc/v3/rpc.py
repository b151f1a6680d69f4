"""Calls RPCs of etcd: with failover from server to server, an auth token where etcd requires one, and getc's errors."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from typing import Final, TypeVar

from google.protobuf.message import Message

from getc.errors import ClientClosed, NotSupported, TimedOut, Unauthorized
from getc.grpc.channel import Metadata
from getc.net.endpoint import Endpoint
from getc.net.failover import MIN_ATTEMPT_TIMEOUT, call_with_failover
from getc.net.selector import EndpointSelector
from getc.net.tls import TLSContexts
from getc.options import CALL_TIMEOUT
from getc.retry import Effect
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.v3.auth_token import MAX_REFUSALS
from getc.v3.schema.table import Method
from getc.v3.server import Server
from getc.v3.stream import MessageStream, StreamHealth

__all__ = ['RpcClient']

Request = TypeVar('Request', bound=Message)
Response = TypeVar('Response', bound=Message)

HAS_LEADER: Final = (b'hasleader', b'true')
"""Metadata of a stream: a member without a leader ends such a stream, which would be silent otherwise."""


class RpcClient:
    """Calls the RPCs of one etcd cluster.

    Args:
        endpoints: Its servers, with the credentials.  All parts of a client share this selector, and with it the health
            of each server.
        contexts: The TLS contexts of ``https`` endpoints, or None without such.
        timeout: The default timeout of a call in seconds; None for no limit.
    """

    def __init__(
        self,
        endpoints: EndpointSelector,
        contexts: TLSContexts | None = None,
        *,
        timeout: float | None = CALL_TIMEOUT,
    ) -> None:
        self._endpoints = endpoints
        self._contexts = contexts
        Deadline.after(timeout)  # raises if the timeout is not valid
        self._timeout = timeout
        # By the id of the endpoint, to which the server has a reference: to hash an endpoint takes a frame.
        self._servers: dict[int, Server] = {}
        self._retired: list[Server] = []  # servers of removed endpoints, with calls in flight
        self._is_closed = False
        weakref.finalize(self, _close_soon, self._servers, self._retired).atexit = False
        endpoints.subscribe(self._on_endpoints_changed)

    def call(
        self,
        method: Method[Request, Response],
        request: Request | bytes,
        timeout: Timeout | Deadline = DEFAULT_TIMEOUT,
        *,
        is_write: bool | None = None,
    ) -> Response:
        """Call a unary RPC and return its response.  Blocks until the timeout at most.

        If a server did not receive the call, the next one is tried.  If a server may have received it, the next one is
        tried unless the call could then be applied twice.

        Args:
            method: The RPC.
            request: The request, or its encoded bytes.
            timeout: Seconds for the whole call, or their end; None for no limit; left out for the client's default.
            is_write: Whether this request changes something, if the method alone does not determine it.

        Raises:
            EtcdError: etcd refuses.
            ConnectionError: No response; ``maybe_applied`` says whether a write may have happened.
            HTTPError, ProtocolError: The response is not etcd's.
            ResponseTooLarge: The response is larger than 16 MiB.
            NotSupported: This etcd does not have the RPC.
            ClientClosed: The client was closed, before or meanwhile.
        """
        encoded = request if isinstance(request, bytes) else request.SerializeToString()
        writes = not method.reads if is_write is None else is_write
        effect = Effect.NONE if not writes else Effect.IDEMPOTENT if method.idempotent else Effect.NON_IDEMPOTENT
        deadline = timeout if isinstance(timeout, Deadline) else self.deadline(timeout)
        is_idempotent = effect is not Effect.NON_IDEMPOTENT

        def attempt(endpoint: Endpoint, attempt_deadline: Deadline) -> Response:
            # A call that must not be sent twice has all of the time: no other server is tried after it was sent.
            call_deadline = attempt_deadline if is_idempotent else deadline
            server = self._servers.get(id(endpoint)) or self._server(endpoint)
            return server.call(method, encoded, call_deadline, attempt_deadline, writes, not is_idempotent)

        return call_with_failover(self._endpoints, attempt, deadline, effect)

    def call_endpoint(
        self, endpoint: Endpoint, method: Method[Request, Response], request: Request, deadline: Deadline
    ) -> Response:
        """Call a read-only RPC of one server, without failover.  Raises what :meth:`call` does."""
        return self._server(endpoint).call(method, request.SerializeToString(), deadline, deadline)

    def probe(
        self, endpoint: Endpoint, method: Method[Request, Response], request: Request, deadline: Deadline
    ) -> Response:
        """Call a read-only RPC of any server, over a connection for this call only, without failover.

        Raises what :meth:`call` does.
        """
        self._check_open()
        server = Server(endpoint, self._contexts)
        try:
            return server.call(method, request.SerializeToString(), deadline, deadline)
        finally:
            server.channel.close()

    def open(
        self, method: Method[Request, Response], timeout: Timeout = DEFAULT_TIMEOUT
    ) -> MessageStream[Request, Response]:
        """Open a stream of an RPC.  The server ends it when it has no leader.

        Blocks until the timeout at most, if there is no connection.

        Raises:
            EtcException: What :meth:`call` raises.
        """

        def attempt(endpoint: Endpoint, attempt_deadline: Deadline) -> MessageStream[Request, Response]:
            server = self._server(endpoint)
            return self._open_on(endpoint, server, method, server.auth_token.get(attempt_deadline), attempt_deadline)

        return call_with_failover(self._endpoints, attempt, self.deadline(timeout), Effect.NONE, is_answered=False)

    def speaks_http2(self, endpoint: Endpoint) -> bool | None:
        """Return whether a server uses HTTP/2, as far as its connections have shown: see
        :attr:`~getc.grpc.channel.Channel.speaks_http2`."""
        return self._server(endpoint).channel.speaks_http2

    def read_stream(
        self,
        method: Method[Request, Response],
        request: Request,
        timeout: Timeout | Deadline = DEFAULT_TIMEOUT,
        *,
        needs_leader: bool = True,
    ) -> Generator[Response, None, None]:
        """Call an RPC that streams the response to one read, and yield the parts of it.

        Until the first part was received the next server is tried as by :meth:`call`; later an error is raised.
        Flow control stops the server while the parts are not consumed.  Closing the generator cancels the stream.

        Args:
            method: The RPC.
            request: The request.
            timeout: Seconds for each part, or the end of all; None for no limit; left out for the client's default.
            needs_leader: Let a member without a leader end the stream.

        Raises:
            NotSupported: The server does not have the RPC, which is remembered for some minutes.
            EtcException: What :meth:`call` raises.
        """

        def attempt(
            endpoint: Endpoint, attempt_deadline: Deadline
        ) -> tuple[MessageStream[Request, Response], Response | None]:
            server = self._server(endpoint)
            if not server.supports(method):
                raise NotSupported(f'{server.url} does not support {method.path}: it needs a newer version')
            for is_last in (*[False] * MAX_REFUSALS, True):
                token = server.auth_token.get(attempt_deadline)
                stream = self._open_on(endpoint, server, method, token, attempt_deadline, needs_leader=needs_leader)
                try:
                    stream.send(request)
                    stream.finish()
                    return stream, stream.receive(attempt_deadline)
                except Unauthorized:
                    stream.cancel()
                    if is_last or server.auth_token.current == token:
                        raise  # the token was not refused
                except BaseException as error:
                    stream.cancel()
                    if isinstance(error, NotSupported):
                        server.mark_unsupported(method)
                    raise
            raise AssertionError('unreachable')

        deadline = timeout if isinstance(timeout, Deadline) else self.deadline(timeout)
        stream, part = call_with_failover(self._endpoints, attempt, deadline, Effect.NONE)
        with stream:
            while part is not None:
                yield part
                # With half of the time left for a part, there is time to read the rest from another server.
                part_by = timeout.fraction(1 / 2) if isinstance(timeout, Deadline) else self.deadline(timeout)
                wait = part_by.remaining()
                try:
                    part = stream.receive(part_by)
                except TimedOut as error:
                    if wait >= MIN_ATTEMPT_TIMEOUT:
                        stream.report_silent(error)
                    raise

    def _open_on(
        self,
        endpoint: Endpoint,
        server: Server,
        method: Method[Request, Response],
        token: Metadata,
        deadline: Deadline,
        *,
        needs_leader: bool = True,
    ) -> MessageStream[Request, Response]:
        metadata = (HAS_LEADER, *token) if needs_leader else token
        stream = server.channel.stream(method.path, deadline, is_write=not method.reads, metadata=metadata)
        health = StreamHealth(self._endpoints, endpoint, server, token)
        return MessageStream(method, stream, health, [value.decode() for _, value in token])

    def server_count(self) -> int:
        """Return the number of servers."""
        return len(self._endpoints)

    def switch_server(self) -> None:
        """Switch to the next server, because the current one answers with stale data."""
        self._endpoints.switch()

    def deadline(self, timeout: Timeout) -> Deadline:
        """Return the deadline for the ``timeout`` of a call."""
        return Deadline(self._timeout) if timeout is DEFAULT_TIMEOUT else Deadline.after(timeout)

    def clear(self) -> None:
        """Close connections that are not in use.  Does not block."""
        for server in self._servers.values():
            server.channel.close_idle()

    def close(self) -> None:
        """End every call with ClientClosed and close all connections.  Does not block."""
        self._is_closed = True
        for server in (*self._servers.values(), *self._retired):
            server.channel.close()

    def _server(self, endpoint: Endpoint) -> Server:
        self._check_open()
        server = self._servers.get(id(endpoint))
        if server is None:
            server = self._servers[id(endpoint)] = Server(endpoint, self._contexts)
        return server

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')

    def _on_endpoints_changed(self) -> None:
        """Close the connections to removed endpoints when their unary calls have ended."""
        self._retired[:] = [server for server in self._retired if not server.channel.is_idle]
        current = {id(endpoint) for endpoint in self._endpoints}
        for key in self._servers.keys() - current:
            server = self._servers.pop(key)
            server.channel.retire()
            if not server.channel.is_idle:
                self._retired.append(server)


def _close_soon(servers: dict[int, Server], retired: list[Server]) -> None:
    """Close the connections of a client that was dropped without having been closed."""
    for server in (*servers.values(), *retired):
        server.channel.close_soon()
