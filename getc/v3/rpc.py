"""How an RPC is called: by one server after the other, with a token where etcd wants one, and with getc's errors."""

from __future__ import annotations

import weakref
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from getc.error_context import copy_error
from getc.errors import ClientClosed, EtcException, LeaseNotFound
from getc.grpc.call import GrpcError, OversizedAnswer
from getc.grpc.channel import Channel, Metadata
from getc.net.endpoint import Endpoint
from getc.net.failover import call_with_failover
from getc.net.selector import EndpointSelector
from getc.net.tls import TLSContexts
from getc.redact import secrets_of
from getc.retry import Effect, is_overdue
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.v3.auth_token import Tokens
from getc.v3.messages import parse, too_large
from getc.v3.schema.table import Method
from getc.v3.status_errors import error_of_status
from getc.v3.stream import MessageStream

__all__ = ['RpcClient']

Request = TypeVar('Request', bound=Message)
Response = TypeVar('Response', bound=Message)
Result = TypeVar('Result')

HAS_LEADER: Final = (b'hasleader', b'true')
"""A member that is cut off from its leader ends such a stream, where it would otherwise fall silent."""

MAX_TOKEN_REFUSALS: Final = 2
"""How often the token of a call is replaced: users that are switched off and on again refuse one, and then none."""


class _Server:
    """One server: its channel, and who we are there."""

    def __init__(self, endpoint: Endpoint, contexts: TLSContexts | None) -> None:
        self.url = endpoint.url
        self.channel = Channel(endpoint, contexts if endpoint.is_secure else None)
        self.tokens = Tokens(self.channel)


class _Witness:
    """Tells what is learnt from a stream to whom it may concern."""

    __slots__ = ('_endpoint', '_endpoints', '_server', '_token')

    def __init__(self, endpoints: EndpointSelector, endpoint: Endpoint, server: _Server, token: Metadata) -> None:
        self._endpoints = endpoints
        self._endpoint = endpoint
        self._server = server
        self._token = token

    def on_served(self) -> None:
        self._endpoints.mark_up(self._endpoint)

    def on_failed(self, reason: EtcException | None) -> None:
        self._endpoints.mark_down(self._endpoint, reason)

    def on_error(self, error: EtcException) -> None:
        self._endpoints.record_error(self._endpoint, error)

    def on_refused(self, refused: GrpcError) -> None:
        self._server.tokens.is_refused(self._token, refused)

    def ask(self, method: Method[Request, Response], request: Request, deadline: Deadline) -> Response:
        return _ask(self._server, method, request.SerializeToString(), deadline, deadline, writes=False, once=False)


class RpcClient:
    """The RPCs of one etcd.

    Args:
        endpoints: Its servers, with the credentials; shared by all parts of a client, which learn from each other.
        contexts: The TLS contexts of ``https`` endpoints, or None without such.
        timeout: Seconds that a call may take in all, unless it is given its own; None for no limit.
    """

    def __init__(
        self,
        endpoints: EndpointSelector,
        contexts: TLSContexts | None = None,
        *,
        timeout: float | None = 10.0,
    ) -> None:
        self._endpoints = endpoints
        self._contexts = contexts
        Deadline.after(timeout)  # refuses what is no timeout
        self._timeout = timeout
        self._servers: dict[Endpoint, _Server] = {}
        self._is_closed = False
        weakref.finalize(self, _close_soon, self._servers).atexit = False

    def call(
        self,
        method: Method[Request, Response],
        request: Request | bytes,
        timeout: Timeout | Deadline = DEFAULT_TIMEOUT,
        *,
        is_write: bool | None = None,
    ) -> Response:
        """Call a unary RPC and return its response.  Blocks until the timeout at most.

        A server that does not take the call is passed over for the next one.  One that may have taken it is, too,
        unless the call could then be applied twice.

        Args:
            method: What to call.
            request: What to send, or its bytes.
            timeout: Seconds for all of it, or their end; None for no limit; left out for the client's default.
            is_write: Whether this request changes something, where the method alone does not tell.

        Raises:
            EtcdError: etcd says no.
            ConnectionError: No answer; ``maybe_applied`` says whether a write may have happened.
            HTTPError, ProtocolError: The answer is not etcd's.
            ResponseTooLarge: The answer is larger than 16 MiB.
            NotSupported: This etcd does not know the RPC.
            ClientClosed: The client was closed, before or meanwhile.
        """
        packed = request if isinstance(request, bytes) else request.SerializeToString()
        writes = not method.reads if is_write is None else is_write
        effect = Effect.NONE if not writes else Effect.IDEMPOTENT if method.idempotent else Effect.NON_IDEMPOTENT
        deadline = timeout if isinstance(timeout, Deadline) else self.deadline(timeout)
        may_repeat = not writes or method.idempotent

        def ask(endpoint: Endpoint, share: Deadline) -> Response:
            # What must not happen twice cannot move on once it was sent: nothing is kept for others.
            answer_by = share if may_repeat else deadline
            return _ask(self._server(endpoint), method, packed, answer_by, share, writes, not may_repeat)

        return call_with_failover(self._endpoints, ask, deadline, effect)

    def ask(
        self, endpoint: Endpoint, method: Method[Request, Response], request: Request, deadline: Deadline
    ) -> Response:
        """Call one server and no other, for a read.  Raises what :meth:`call` does."""
        return _ask(self._server(endpoint), method, request.SerializeToString(), deadline, deadline, False, False)

    def open(
        self, method: Method[Request, Response], timeout: Timeout = DEFAULT_TIMEOUT
    ) -> MessageStream[Request, Response]:
        """Open a stream of an RPC.  The server ends it when it has no leader.

        Blocks until the timeout at most, if there is no connection.  Raises what :meth:`call` does.
        """

        def start(endpoint: Endpoint, share: Deadline) -> MessageStream[Request, Response]:
            server = self._server(endpoint)
            token = server.tokens.get(share)
            metadata = (HAS_LEADER, *token)
            stream = server.channel.stream(method.path, share, is_write=not method.reads, metadata=metadata)
            witness = _Witness(self._endpoints, endpoint, server, token)
            return MessageStream(method, stream, witness, [value.decode() for _, value in token])

        return call_with_failover(self._endpoints, start, self.deadline(timeout), Effect.NONE, is_answered=False)

    @property
    def servers(self) -> int:
        """The number of servers."""
        return len(self._endpoints)

    def turn(self) -> None:
        """Call another server first from now on: the current one answers, but cannot be right."""
        self._endpoints.switch()

    def deadline(self, timeout: Timeout) -> Deadline:
        """The deadline that a call's ``timeout`` means."""
        return Deadline(self._timeout) if timeout is DEFAULT_TIMEOUT else Deadline.after(timeout)

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

    def _server(self, endpoint: Endpoint) -> _Server:
        if self._is_closed:
            raise ClientClosed('the client is closed')
        server = self._servers.get(endpoint)
        if server is None:
            server = self._servers[endpoint] = _Server(endpoint, self._contexts)
        return server


def _ask(
    server: _Server,
    method: Method[Request, Response],
    packed: bytes,
    deadline: Deadline,
    connect_by: Deadline,
    writes: bool,
    once: bool,
) -> Response:
    channel = server.channel
    by = connect_by
    refusals = 0
    while True:
        try:
            token = server.tokens.get(by)
            answer = channel.unary(
                method.path, packed, deadline, is_write=writes, metadata=token, connect_by=by, once=once
            )
            return parse(method, answer, server.url, writes=writes)
        except GrpcError as refused:
            if refusals == MAX_TOKEN_REFUSALS or not server.tokens.is_refused(token, refused):
                raise _refusal(server, method, packed, token, writes, refused) from None
        except OversizedAnswer as error:
            raise too_large(method, error.answer, server.url, writes=writes) from None
        except EtcException as error:
            if method.waits and error.maybe_applied and is_overdue(error):
                error.is_outage = False  # it was to wait, and did so in vain
            if error.maybe_applied or not (refusals and method.waits):
                raise
            raise copy_error(error, maybe_applied=True) from error.__cause__  # by the attempt that was refused
        by = deadline
        refusals += 1


def _refusal(
    server: _Server, method: Method[Any, Any], packed: bytes, token: Metadata, writes: bool, refused: GrpcError
) -> EtcException:
    secrets = [value.decode() for _, value in token] + list(secrets_of(method.request.FromString(packed)))
    error = error_of_status(refused.status, method.path, is_write=writes, url=server.url, secrets=secrets)
    if method.waits and not isinstance(error, LeaseNotFound):
        error = copy_error(error, maybe_applied=True)
    if method.waits and is_overdue(error):
        error.is_outage = False
    return error


def _close_soon(servers: dict[Endpoint, _Server]) -> None:
    """Nobody can call any more: the client was dropped without an end.  Its connections would stay for ever."""
    for server in servers.values():
        server.channel.close_soon()
