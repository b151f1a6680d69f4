"""Exceptions of getc.

The class of an exception says what happened:

* :class:`EtcdError`: the server refused the request; one subclass per error code.
* :class:`ConnectionError`: there was no response.
* :class:`HTTPError`, :class:`ProtocolError`: the response did not come from etcd, or violates the protocol.

``maybe_applied`` says for each exception whether a write may have been applied all the same.

Codes from 100 on are those of etcd's v2 API.  Errors of v3 with the same meaning have the same classes; the others
have the code of their gRPC status.  Sources: etcd 3.5, ``api/v2error/error.go`` and ``api/v3rpc/rpctypes/error.go``.
"""

from __future__ import annotations

import builtins

__all__ = [
    'AlreadyExists',
    'ClientClosed',
    'ConnectionError',
    'ConnectionRefused',
    'DirNotEmpty',
    'EtcException',
    'EtcdError',
    'EventIndexCleared',
    'FailedPrecondition',
    'FutureRevision',
    'HTTPError',
    'IndexNaN',
    'InvalidArgument',
    'InvalidField',
    'InvalidForm',
    'KeyNotFound',
    'LeaderElect',
    'LeaseNotFound',
    'NoLeader',
    'NoSpace',
    'NodeExist',
    'NodeLost',
    'NotDir',
    'NotFile',
    'NotFound',
    'NotSupported',
    'OutOfRange',
    'Overtaken',
    'PermissionDenied',
    'PrevValueRequired',
    'ProtocolError',
    'RaftInternal',
    'RefreshTTLRequired',
    'RefreshValue',
    'ResourceExhausted',
    'ResponseTooLarge',
    'RootROnly',
    'TTLNaN',
    'TestFailed',
    'TimedOut',
    'TooManyRequests',
    'Unauthorized',
    'Unavailable',
    'WatcherCleared',
]


class EtcException(Exception):
    """Base class of every exception that getc raises.

    Attributes:
        maybe_applied: True if the failed call is a write that may have been applied or may still be applied; False if
            the write was certainly not applied, and for reads.
        endpoint: The server that was called, as ``scheme://host:port`` without credentials; None if no server was
            involved.
        earlier: Errors of earlier attempts of the same call, the latest first, each with its endpoint.  Empty after a
            single attempt, or if all attempts failed in the same way.  They are part of the text.
        is_outage: True if the error indicates that the server is down: no response, or a connection that could not be
            made or broke.  False for refusals, and for a ``wait`` without a change.
        key: The key that the error is about, as the caller knows it; None if unknown.  The text in ``args`` has
            ``{key}`` in its place.  An :class:`EtcdError` has a ``cause`` instead.
    """

    maybe_applied: bool = False
    endpoint: str | None = None
    key: str | None = None
    is_outage: bool = False
    earlier: tuple[str, ...] = ()

    def __init__(
        self,
        *args: object,
        maybe_applied: bool | None = None,
        endpoint: str | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(*args)
        if maybe_applied is not None:
            self.maybe_applied = maybe_applied
        if endpoint is not None:
            self.endpoint = endpoint
        if key is not None:
            self.key = key

    def __str__(self) -> str:
        if not self.earlier:
            return self._text()
        return f'{self._text_of_attempt()}; before that: {"; ".join(self.earlier)}'

    def __repr__(self) -> str:
        return super().__repr__() if self.key is None else f'{type(self).__name__}({self._text()!r})'

    def _text(self) -> str:
        text = super().__str__()
        return text if self.key is None else text.replace('{key}', self.key)

    def _text_of_attempt(self) -> str:
        """Return the text with the endpoint, without the errors of earlier attempts."""
        text = self._text()
        return text if self.endpoint is None or self.endpoint in text else f'{self.endpoint}: {text}'


class EtcdError(EtcException):
    """The server refused the request.

    Nothing was written, with two exceptions, for which ``maybe_applied`` is True: a few errors can be returned after
    the write was proposed to the cluster, and an earlier attempt may have reached another server.

    Attributes:
        message: The server's text for the code, for example ``'Key not found'``.
        cause: The server's text for this request, usually the key; ``''`` if there is none.
        index: The server's index when it responded, or None.
        errno: The error code.
        hint: What to do about the error, added to the text by getc; ``''`` if the code is enough.
    """

    errno: int = 0
    hint: str = ''

    def __init__(
        self,
        message: str = '',
        cause: str = '',
        index: int | None = None,
        *,
        errno: int | None = None,
        maybe_applied: bool | None = None,
        endpoint: str | None = None,
    ) -> None:
        super().__init__(message, cause, index, maybe_applied=maybe_applied, endpoint=endpoint)
        self.message = message
        self.cause = cause
        self.index = index
        if errno is not None:
            self.errno = errno

    def _text(self) -> str:
        text = f'[{self.errno}] {self.message}'
        if self.cause:
            text = f'{text} ({self.cause})'
        return f'{text}: {self.hint}' if self.hint else text


class KeyNotFound(EtcdError):
    """The key does not exist."""

    errno = 100


class TestFailed(EtcdError):
    """``prev_value`` or ``prev_index`` does not match.  ``cause`` names the condition only, never a value."""

    __test__ = False  # else pytest collects it
    errno = 101


class NotFile(EtcdError):
    """The key is a directory, and the operation needs a value."""

    errno = 102


class NotDir(EtcdError):
    """The key, or an ancestor of it, is a value, and the operation needs a directory."""

    errno = 104


class NodeExist(EtcdError):
    """The key exists already."""

    errno = 105


class RootROnly(EtcdError):
    """The root cannot be written or deleted."""

    errno = 107


class DirNotEmpty(EtcdError):
    """The directory is not empty, and ``recursive`` was not given."""

    errno = 108


class Unauthorized(EtcdError):
    """The credentials are wrong, or the user lacks a permission."""

    errno = 110


class PrevValueRequired(EtcdError):
    """The server received an empty ``prevValue`` (getc raises ValueError before sending one)."""

    errno = 201


class TTLNaN(EtcdError):
    """The server could not parse the TTL as a number."""

    errno = 202


class IndexNaN(EtcdError):
    """The server could not parse the index as a number."""

    errno = 203


class InvalidField(EtcdError):
    """The server rejected an option of the request."""

    errno = 209


class InvalidForm(EtcdError):
    """The server could not parse the form of the request."""

    errno = 210


class RefreshValue(EtcdError):
    """A refresh was given a value: a refresh keeps the value."""

    errno = 211


class RefreshTTLRequired(EtcdError):
    """A refresh was given no TTL."""

    errno = 212


class RaftInternal(EtcdError):
    """The cluster reported an internal error.

    A write may have been applied: ``maybe_applied`` is False for reads only.
    """

    errno = 300
    maybe_applied = True


class LeaderElect(EtcdError):
    """The cluster was electing a leader.

    A write may have been applied: ``maybe_applied`` is False for reads only.
    """

    errno = 301
    maybe_applied = True


class WatcherCleared(EtcdError):
    """The server ended the watch, as it does when it recovers from a snapshot."""

    errno = 400


class EventIndexCleared(EtcdError):
    """The requested history is gone (on v3: compacted).  List the keys again and watch from that index on."""

    errno = 401


class InvalidArgument(EtcdError):
    """etcd v3 rejected an argument of the request."""

    errno = 3


class NotFound(EtcdError):
    """A lease, member, user or role does not exist on etcd v3.  For keys see :class:`KeyNotFound`."""

    errno = 5


class LeaseNotFound(NotFound):
    """The lease does not exist: it has expired, was revoked, or was never granted."""


class AlreadyExists(EtcdError):
    """A lease, member, user or role exists already on etcd v3."""

    errno = 6


class PermissionDenied(Unauthorized):
    """The user is authenticated and lacks the permission for this request."""

    errno = 7


class ResourceExhausted(EtcdError):
    """etcd v3 has reached a limit."""

    errno = 8


class NoSpace(ResourceExhausted):
    """The database has reached its quota; see ``maintenance.alarm``.

    ``maybe_applied`` is True for writes: etcd returns this error also for the write that was applied and made the
    database exceed its quota.  Source: etcd 3.5, ``quotaApplierV3``.
    """


class TooManyRequests(ResourceExhausted):
    """The server has too many requests in flight and rejected this one."""


class FailedPrecondition(EtcdError):
    """etcd v3 is not in the state that the request needs, for example because authentication is not enabled."""

    errno = 9


class OutOfRange(EtcdError):
    """A number is outside the range that etcd v3 accepts."""

    errno = 11


class FutureRevision(OutOfRange):
    """The requested revision does not exist yet: the server lags behind, or is a member of another cluster."""


class Unavailable(EtcdError):
    """etcd v3 could not complete the request at the moment.  ``maybe_applied`` says whether a write may be applied."""

    errno = 14
    is_outage = True


class NoLeader(Unavailable):
    """The server has no leader: it is partitioned from the cluster, or an election is running.

    Nothing was written, unless the error ended a stream with requests in flight.
    """


class HTTPError(EtcException):
    """An HTTP response that does not come from etcd: a proxy's 503 page, a redirect, a login form.

    Attributes:
        status_code: The HTTP status.
        message: An excerpt of the response, without secrets.
    """

    def __init__(
        self,
        status_code: int,
        message: str = '',
        *,
        maybe_applied: bool | None = None,
        endpoint: str | None = None,
    ) -> None:
        super().__init__(status_code, message, maybe_applied=maybe_applied, endpoint=endpoint)
        self.status_code = status_code
        self.message = message
        self.is_outage = status_code >= 500 or status_code in (408, 499)

    def _text(self) -> str:
        return f'HTTP {self.status_code}: {self.message}' if self.message else f'HTTP {self.status_code}'


class ProtocolError(EtcException):
    """A response violates HTTP, HTTP/2, gRPC, JSON or one of getc's limits."""


class ResponseTooLarge(ProtocolError):
    """A response exceeds getc's limit of 16 MiB and was not read.

    The server is healthy; the same request would get the same response.

    Attributes:
        size: Bytes of the response as far as known, else 0.
        index: The server's index when it responded, or None.
        succeeded: Whether the conditions of a transaction held; None if unknown.  Any other write was applied.
    """

    size: int = 0
    index: int | None = None
    succeeded: bool | None = None


class ConnectionError(EtcException, builtins.ConnectionError):
    """There was no response."""

    is_outage = True


class ConnectionRefused(ConnectionError, builtins.ConnectionRefusedError):
    """The server refused the connection.  Nothing was sent."""


class TimedOut(ConnectionError, builtins.TimeoutError):
    """There was no response within the timeout.

    From ``wait`` and ``changes.get`` it does not indicate a fault: a server watched the key, and nothing changed.
    Where no server watched the key these raise another :class:`ConnectionError`.
    """


class NodeLost(EtcException):
    """A keeper does not own its node at the moment, or a lock is not held: another process may own it."""


class Overtaken(NodeLost):
    """Another owner has the keeper's node."""


class NotSupported(EtcException):
    """This server or API cannot do what was requested.  The message names an alternative."""


class ClientClosed(EtcException):
    """The client was closed before or during the call."""
