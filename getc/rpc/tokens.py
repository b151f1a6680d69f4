"""Who we are to etcd's servers.  Source: etcd 3.5, ``server/auth``: a simple token is known to one server only."""

from __future__ import annotations

from gevent.lock import BoundedSemaphore

from getc.errors import TimedOut
from getc.rpc.messages import unpacked
from getc.timing import Deadline
from getc.transport.calls import RefusedCall
from getc.transport.channel import Channel, Metadata
from getc.wire.schema.auth import Auth, AuthenticateRequest
from getc.wire.statuses import error_of_status, is_stale_token, wants_no_token

__all__ = ['Tokens']


class Tokens:
    """The token of one server, asked for once for all who wait.

    The credentials are those of the channel's endpoint; without such there is no token, and nothing is asked.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._token: Metadata | None = None if channel.endpoint.username is not None else ()
        self._asking = BoundedSemaphore(1)

    def get(self, deadline: Deadline) -> Metadata:
        """The token as metadata of a call; empty where etcd wants none.  Blocks until the deadline at most.

        Raises:
            Unauthorized: The credentials are wrong.
            ConnectionError: No answer.
        """
        if self._token is not None:
            return self._token
        if not self._asking.acquire(timeout=deadline.timeout_left()):
            url = self._channel.endpoint.url
            raise TimedOut(f'no token from {url} within {deadline.timeout:g} s', endpoint=url)
        try:
            if self._token is None:
                self._token = self._authenticate(deadline)
            return self._token
        finally:
            self._asking.release()

    def is_refused(self, token: Metadata, refused: RefusedCall) -> bool:
        """True if this was for the token, which is forgotten, and another may do.  The call was not applied."""
        if self._channel.endpoint.username is None or not is_stale_token(refused.status):
            return False
        if self._token == token:
            self._token = None
        return True

    def _authenticate(self, deadline: Deadline) -> Metadata:
        method, endpoint = Auth.Authenticate, self._channel.endpoint
        request = AuthenticateRequest(name=endpoint.username or '', password=endpoint.password or '')
        try:
            answer = self._channel.unary(method.path, request.SerializeToString(), deadline, is_write=False)
        except RefusedCall as refused:
            if wants_no_token(refused.status):
                return ()
            raise error_of_status(refused.status, method.path, is_write=False, url=endpoint.url) from None
        return ((b'token', unpacked(method, answer, endpoint.url, writes=False).token.encode()),)
