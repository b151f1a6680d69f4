"""The auth token of one server: requested when needed, shared by all calls, and replaced when the server refuses it.

etcd's simple tokens are valid on one server only, for some minutes, and until that server restarts (etcd 3.5,
``server/auth``).  Recovery from a stale token, all of it by :meth:`AuthToken.invalidate`:

- A unary call is repeated with a new token (:mod:`getc.v3.server`).
- A stream keeps the token that it was opened with.  If the server ends the stream because of the token,
  :class:`~getc.v3.reopening.ReopeningStream` opens another one.
- A watch stream goes on, and the server only refuses new watches.  :class:`~getc.v3.watch_multiplexer.WatchMultiplexer`
  then checks by a read, which is a unary call, whether a new token helps.
"""

from __future__ import annotations

from typing import Final

from getc.grpc.call import GrpcError
from getc.grpc.channel import Channel, Metadata
from getc.net.endpoint import Endpoint
from getc.redact import REDACTED
from getc.timing import Deadline
from getc.v3.messages import parse
from getc.v3.schema.auth import Auth, AuthenticateRequest
from getc.v3.shared_attempt import SharedAttempt
from getc.v3.status_errors import error_of_status, is_auth_disabled, is_stale_token

__all__ = ['MAX_REFUSALS', 'AuthToken']

MAX_REFUSALS: Final = 2
"""How often the token of a call is replaced: if auth is disabled and enabled again, the server first refuses the token,
and then the call without one."""


class _Secret(bytes):
    """Bytes whose repr is hidden, so that a report of local variables does not contain them."""

    def __repr__(self) -> str:
        return REDACTED


class AuthToken:
    """The auth token of one server.

    The credentials are those of the channel's endpoint.  Without credentials there is no token and no request for one.

    Args:
        channel: The server.

    Attributes:
        current: The token as metadata of a call; empty if etcd needs none; None if it has to be requested.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.current: Metadata | None = None if channel.endpoint.username is not None else ()
        url = channel.endpoint.url
        self._authenticating: SharedAttempt[Metadata] = SharedAttempt(f'no token from {url}', url)

    def get(self, deadline: Deadline) -> Metadata:
        """Return the token as metadata of a call; empty if etcd needs none.  Blocks until the deadline at most.

        One greenlet requests the token, and the others wait for it.

        Raises:
            Unauthorized: The credentials are wrong.
            ConnectionError: The server did not answer.
        """
        while self.current is None:
            token = self._authenticating.perform(self._authenticate, deadline)
            if token is not None:
                return token
        return self.current

    def invalidate(self, token: Metadata, refused: GrpcError) -> bool:
        """Drop the token if this status says that it is stale; return True if the call may succeed with another one.

        The refused call was not applied, except one that waits (:class:`~getc.v3.schema.table.Method`).

        Args:
            token: The token that the call was sent with.
            refused: The status of the call.
        """
        if self._channel.endpoint.username is None or not is_stale_token(refused.status):
            return False
        if self.current == token:
            self.current = None
        return True

    def _authenticate(self, deadline: Deadline) -> Metadata:
        method, endpoint = Auth.Authenticate, self._channel.endpoint
        try:
            response = self._channel.unary(method.path, _request_of(endpoint), deadline, is_write=False)
        except GrpcError as refused:
            if is_auth_disabled(refused.status):
                self.current = ()
                return ()
            # No secret is in a local variable here: some programs log those of every frame.
            raise error_of_status(
                refused.status, method.path, is_write=False, url=endpoint.url, secrets=endpoint.secrets
            ) from None
        except BaseException as error:
            raise error.with_traceback(None)  # noqa: B904  the same error: its frames hold the password
        secret = _Secret(parse(method, response, endpoint.url, is_write=False).token.encode())
        token = self.current = ((b'token', secret),)
        return token


def _request_of(endpoint: Endpoint) -> bytes:
    return AuthenticateRequest(name=endpoint.username or '', password=endpoint.password or '').SerializeToString()
