"""How an RPC is called: by one server after the other, with a token where etcd wants one, and with getc's errors."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from google.protobuf.message import Message

from getc.errors import (
    ClientClosed,
    ConnectionError,
    HTTPError,
    LeaderElect,
    ProtocolError,
    RaftInternal,
    Unavailable,
)
from getc.rpc.messages import unpacked
from getc.rpc.streams import MessageStream
from getc.rpc.tokens import Tokens
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.transport.calls import RefusedCall
from getc.transport.channel import Channel
from getc.transport.endpoints import ConnectionState, Endpoint, Endpoints
from getc.wire.schema.table import Method
from getc.wire.statuses import error_of_status

__all__ = ['Rpc']

Request = TypeVar('Request', bound=Message)
Response = TypeVar('Response', bound=Message)
Result = TypeVar('Result')

UNSERVED: Final = (ConnectionError, HTTPError, ProtocolError, Unavailable, LeaderElect, RaftInternal)
"""What a server does not say no by: another one may do better."""

HAS_LEADER: Final = (b'hasleader', b'true')
"""A member that is cut off from its leader ends such a stream, where it would otherwise fall silent."""


class _Server:
    """One server: its channel, and who we are there."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None) -> None:
        self.url = endpoint.url
        self.channel = Channel(endpoint, context if endpoint.is_secure else None)
        self.tokens = Tokens(self.channel)


class Rpc:
    """The RPCs of one etcd.

    Args:
        endpoints: Its servers, with the credentials.
        context: The TLS context of ``https`` endpoints, or None without such.
        timeout: Seconds that a call may take in all, unless it is given its own; None for no limit.
        on_state: Told of each change of the state; it must not block or raise.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        context: ssl.SSLContext | None = None,
        *,
        timeout: float | None = 10.0,
        on_state: Callable[[ConnectionState], object] | None = None,
    ) -> None:
        self._endpoints = Endpoints(endpoints, on_state=on_state)
        self._context = context
        self._timeout = timeout
        self._servers: dict[Endpoint, _Server] = {}
        self._is_closed = False

    def call(
        self,
        method: Method[Request, Response],
        request: Request | bytes,
        timeout: Timeout = DEFAULT_TIMEOUT,
        *,
        is_write: bool | None = None,
    ) -> Response:
        """Call a unary RPC and return its response.  Blocks until the timeout at most.

        A server that does not take the call is passed over for the next one.  One that may have taken it is, too,
        unless the call could then be applied twice.

        Args:
            method: What to call.
            request: What to send, or its bytes.
            timeout: Seconds for all of it; None for no limit; left out for the client's default.
            is_write: Whether this request changes something, where the method alone does not tell.

        Raises:
            EtcdError: etcd says no.
            ConnectionError: No answer; ``maybe_applied`` says whether a write may have happened.
            HTTPError, ProtocolError: The answer is not etcd's.
            NotSupported: This etcd does not know the RPC.
            ClientClosed: The client was closed, before or meanwhile.
        """
        packed = request if isinstance(request, bytes) else request.SerializeToString()
        writes = not method.reads if is_write is None else is_write

        def ask(server: _Server, deadline: Deadline, connect_by: Deadline) -> Response:
            return self._ask(server, method, packed, deadline, connect_by, writes)

        return self._with_servers(ask, self.deadline(timeout), may_repeat=not writes or method.idempotent)

    def open(
        self, method: Method[Request, Response], timeout: Timeout = DEFAULT_TIMEOUT
    ) -> MessageStream[Request, Response]:
        """Open a stream of an RPC.  The server ends it when it has no leader.

        Blocks until the timeout at most, if there is no connection.  Raises what :meth:`call` does.
        """

        def start(server: _Server, deadline: Deadline, connect_by: Deadline) -> MessageStream[Request, Response]:
            token = server.tokens.get(connect_by)
            metadata = (HAS_LEADER, *token)
            stream = server.channel.stream(method.path, connect_by, is_write=not method.reads, metadata=metadata)
            return MessageStream(method, stream, lambda refused: server.tokens.is_refused(token, refused))

        return self._with_servers(start, self.deadline(timeout), may_repeat=True)

    def deadline(self, timeout: Timeout) -> Deadline:
        """The deadline that a call's ``timeout`` means."""
        return Deadline.after(self._timeout if timeout is DEFAULT_TIMEOUT else timeout)

    def clear(self) -> None:
        """Drop connections that are not in use.  Does not block."""
        for server in self._servers.values():
            server.channel.clear()

    def close(self) -> None:
        """End every call with ClientClosed, and drop all connections.  Does not block."""
        self._is_closed = True
        for server in self._servers.values():
            server.channel.close()

    # -- how it is done

    def _with_servers(
        self, attempt: Callable[[_Server, Deadline, Deadline], Result], deadline: Deadline, *, may_repeat: bool
    ) -> Result:
        """Try each server once, and the first one again: its connection may have been lost long ago."""
        in_turn = self._endpoints.in_turn()
        in_turn.append(in_turn[0])
        was_applied = False  # perhaps, by an attempt before
        for left, endpoint in zip(range(len(in_turn), 0, -1), in_turn, strict=True):
            # An attempt leaves time for the others as far as they could still be asked.
            share = deadline.share(1 / left) if len(self._endpoints) > 1 else deadline
            try:
                result = attempt(self._server(endpoint), share if may_repeat else deadline, share)
            except UNSERVED as error:
                self._endpoints.failed(endpoint)
                was_applied = was_applied or error.maybe_applied
                if left == 1 or deadline.has_passed() or (was_applied and not may_repeat):
                    error.maybe_applied = was_applied
                    raise
            else:
                self._endpoints.served(endpoint)
                return result
        raise AssertionError('the last attempt returns or raises')

    def _server(self, endpoint: Endpoint) -> _Server:
        if self._is_closed:
            raise ClientClosed('the client is closed')
        server = self._servers.get(endpoint)
        if server is None:
            server = self._servers[endpoint] = _Server(endpoint, self._context)
        return server

    def _ask(
        self,
        server: _Server,
        method: Method[Request, Response],
        packed: bytes,
        deadline: Deadline,
        connect_by: Deadline,
        writes: bool,
    ) -> Response:
        channel = server.channel
        channel.ready(connect_by)
        token = server.tokens.get(connect_by)
        try:
            answer = channel.unary(method.path, packed, deadline, is_write=writes, metadata=token)
        except RefusedCall as refused:
            error = error_of_status(refused.status, method.path, is_write=writes, url=server.url)
            if not server.tokens.is_refused(token, refused):
                raise error from None
            try:
                token = server.tokens.get(deadline)
                answer = channel.unary(method.path, packed, deadline, is_write=writes, metadata=token)
            except RefusedCall as again:
                raise error_of_status(again.status, method.path, is_write=writes, url=server.url) from None
        return unpacked(method, answer, server.url, writes=writes)
