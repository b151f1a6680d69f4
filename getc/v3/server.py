"""One etcd server: its channel, its auth token, and unary calls to it."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from getc import timing
from getc.error_context import copy_error
from getc.errors import EtcException, LeaseNotFound
from getc.grpc.call import GrpcError, OversizedResponse
from getc.grpc.channel import Channel, Metadata
from getc.net.endpoint import Endpoint
from getc.net.tls import TLSContexts
from getc.redact import secrets_of
from getc.retry import is_overdue
from getc.timing import Deadline
from getc.v3.auth_token import MAX_REFUSALS, AuthToken
from getc.v3.messages import parse, too_large
from getc.v3.schema.table import Method
from getc.v3.status_errors import error_of_status

__all__ = ['Server']

UNSUPPORTED_FOR: Final = 300.0
"""Seconds after which an RPC that the server did not have is tried again: the server may be a newer one by then."""

Request = TypeVar('Request', bound=Message)
Response = TypeVar('Response', bound=Message)


class Server:
    """One etcd server.

    Args:
        endpoint: Its address, with the credentials.
        contexts: The TLS contexts of ``https`` endpoints, or None without such.

    Attributes:
        url: Its URL, for errors.
        channel: Its gRPC channel.
        auth_token: Its auth token.
        is_grpc_proxy: It is an ``etcd grpc-proxy``, as a watch stream has shown.
    """

    def __init__(self, endpoint: Endpoint, contexts: TLSContexts | None) -> None:
        self.url = endpoint.url
        self.channel = Channel(endpoint, contexts if endpoint.is_secure else None)
        self.auth_token = AuthToken(self.channel)
        self.is_grpc_proxy = False
        self._unsupported: dict[str, float] = {}  # for the path of each such RPC the time until which it is so

    def supports(self, method: Method[Any, Any]) -> bool:
        """Return False if the server has answered lately that it does not have this RPC."""
        return self._unsupported.get(method.path, 0.0) <= timing.now()

    def mark_unsupported(self, method: Method[Any, Any]) -> None:
        """Remember for ``UNSUPPORTED_FOR`` seconds that the server does not have this RPC."""
        self._unsupported[method.path] = timing.now() + UNSUPPORTED_FOR

    def call(
        self,
        method: Method[Request, Response],
        request: bytes,
        deadline: Deadline,
        connect_by: Deadline,
        is_write: bool = False,
        needs_settings: bool = False,
    ) -> Response:
        """Call a unary RPC; with a new token, up to ``MAX_REFUSALS`` times, if the server refuses the token.

        Args:
            method: The RPC.
            request: The encoded request.
            deadline: The end of the call.
            connect_by: The end of connecting and of getting a token.
            is_write: The request may change something.
            needs_settings: Send the request on a new connection only after the SETTINGS of the server were received.

        Raises:
            EtcException: Why the call failed; ``maybe_applied`` says whether a write may have happened.
        """
        by = connect_by
        refusals = 0
        while True:
            try:
                current = self.auth_token.current
                token = self.auth_token.get(by) if current is None else current
                response = self.channel.unary(
                    method.path,
                    request,
                    deadline,
                    is_write=is_write,
                    metadata=token,
                    connect_by=by,
                    needs_settings=needs_settings,
                )
                return parse(method, response, self.url, is_write=is_write)
            except GrpcError as refused:
                if refusals == MAX_REFUSALS or not self.auth_token.invalidate(token, refused):
                    raise _error_of(self.url, method, request, token, is_write, refused) from None
            except OversizedResponse as error:
                raise too_large(method, error.message, self.url, is_write=is_write) from None
            except EtcException as error:
                if method.waits and error.maybe_applied and is_overdue(error):
                    error.is_outage = False  # the RPC waits for an event, which did not happen in time
                if error.maybe_applied or not (refusals and method.waits):
                    raise
                raise copy_error(error, maybe_applied=True) from error.__cause__  # by the attempt that was refused
            by = deadline
            refusals += 1


def _error_of(
    url: str, method: Method[Any, Any], request: bytes, token: Metadata, is_write: bool, refused: GrpcError
) -> EtcException:
    secrets = [value.decode() for _, value in token] + list(secrets_of(method.request.FromString(request)))
    error = error_of_status(refused.status, method.path, is_write=is_write, url=url, secrets=secrets)
    if method.waits and not isinstance(error, LeaseNotFound):
        error = copy_error(error, maybe_applied=True)
    if method.waits and is_overdue(error):
        error.is_outage = False
    return error
