"""Who we are to etcd's servers.  Source: etcd 3.5, ``server/auth``: a simple token is known to one server only."""

from __future__ import annotations

from gevent.event import AsyncResult

from getc.error_context import copy_error
from getc.errors import EtcException, TimedOut
from getc.grpc.call import GrpcError
from getc.grpc.channel import Channel, Metadata
from getc.net.endpoint import Endpoint
from getc.redact import REDACTED
from getc.timing import Deadline
from getc.v3.messages import parse
from getc.v3.schema.auth import Auth, AuthenticateRequest
from getc.v3.status_errors import error_of_status, is_stale_token, wants_no_token

__all__ = ['Tokens']


class _Secret(bytes):
    """What no program's report of its local variables shows."""

    def __repr__(self) -> str:
        return REDACTED


class Tokens:
    """The token of one server, asked for once for all who wait.

    The credentials are those of the channel's endpoint; without such there is no token, and nothing is asked.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._token: Metadata | None = None if channel.endpoint.username is not None else ()
        self._asking: AsyncResult[EtcException | None] | None = None

    def get(self, deadline: Deadline) -> Metadata:
        """The token as metadata of a call; empty where etcd wants none.  Blocks until the deadline at most.

        Raises:
            Unauthorized: The credentials are wrong.
            ConnectionError: No answer.
        """
        while self._token is None:
            if self._asking is None:
                return self._asked_for(deadline)
            asking = self._asking
            asking.wait(deadline.timeout_left())
            if not asking.ready():
                url = self._channel.endpoint.url
                raise TimedOut(f'no token from {url} within {deadline.timeout:g} s', endpoint=url)
            error = asking.get(block=False)
            if error is not None:
                raise copy_error(error)  # which the one who asked raises
        return self._token

    def is_refused(self, token: Metadata, refused: GrpcError) -> bool:
        """True if this was for the token, which is forgotten, and another may do.

        The call was not applied, but for one that waits (:class:`~getc.v3.schema.table.Method`).
        """
        if self._channel.endpoint.username is None or not is_stale_token(refused.status):
            return False
        if self._token == token:
            self._token = None
        return True

    def _asked_for(self, deadline: Deadline) -> Metadata:
        """Ask for one, and tell all who wait for it what came of that."""
        asking = self._asking = AsyncResult()
        met: EtcException | None = None
        try:
            token = self._token = self._authenticate(deadline)
            return token
        except TimedOut:
            raise  # the others may have more time
        except EtcException as error:
            met = copy_error(error)  # whoever asked says in its own what became of its own call
            raise
        finally:
            self._asking = None
            asking.set(met)  # also if this greenlet was killed: another one asks

    def _authenticate(self, deadline: Deadline) -> Metadata:
        method, endpoint = Auth.Authenticate, self._channel.endpoint
        try:
            answer = self._channel.unary(method.path, _request_of(endpoint), deadline, is_write=False)
        except GrpcError as refused:
            if wants_no_token(refused.status):
                return ()
            # Local variables are in some reports: no secret is in one.
            error = error_of_status(
                refused.status, method.path, is_write=False, url=endpoint.url, secrets=endpoint.secrets
            )
            raise error from None
        except BaseException as error:
            raise error.with_traceback(None)  # noqa: B904  the same error: its frames hold the password
        return ((b'token', _Secret(parse(method, answer, endpoint.url, writes=False).token.encode())),)


def _request_of(endpoint: Endpoint) -> bytes:
    return AuthenticateRequest(name=endpoint.username or '', password=endpoint.password or '').SerializeToString()
