"""Everything that getc raises.

Three questions are answered by the class alone.  Did the server say no?  Then it is an
:class:`EtcdError`, one subclass per code.  Was there no answer?  Then it is a
:class:`ConnectionError`.  Was the answer not etcd's?  Then it is an :class:`HTTPError` or a
:class:`ProtocolError`.  Whether a write may have happened all the same, every error says itself:
``maybe_applied``.

The codes from 100 on are those of etcd's v2 error page.  Statuses of v3 that mean the same have the same classes; the
others keep the code that gRPC gives them.  Sources: etcd 3.5, ``api/v2error/error.go`` and
``api/v3rpc/rpctypes/error.go``.
"""

from __future__ import annotations

import builtins
from typing import Final

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
    'chain',
    'error_of',
]

MOST_EARLIER: Final = 10
"""Attempts that an error names."""


class EtcException(Exception):
    """The base of everything that getc raises.

    Attributes:
        maybe_applied: True if it ended a write that may have happened, or may happen yet; False if
            that write certainly did and does not, or if it was a read.
        endpoint: The server that was asked, as ``scheme://host:port`` without credentials; None
            where no server was involved.
        earlier: What earlier attempts of the same call met, the latest first, each with its server; empty where there
            was one attempt, or all of them met the same.  Also part of the text.
        is_outage: True if it is a sign that the server is down: silence, or a connection that could not be made or
            broke.  False for whatever a server said, and for a wait that was in vain.
    """

    maybe_applied: bool = False
    endpoint: str | None = None
    is_outage: bool = False
    earlier: tuple[str, ...] = ()

    def __init__(self, *args: object, maybe_applied: bool | None = None, endpoint: str | None = None) -> None:
        super().__init__(*args)
        if maybe_applied is not None:
            self.maybe_applied = maybe_applied
        if endpoint is not None:
            self.endpoint = endpoint

    def __str__(self) -> str:
        if not self.earlier:
            return self._text()
        return f'{self._with_endpoint()}; before that: {"; ".join(self.earlier)}'

    def _text(self) -> str:
        return super().__str__()

    def _with_endpoint(self) -> str:
        text = self._text()
        return text if self.endpoint is None or self.endpoint in text else f'{self.endpoint}: {text}'


def chain(error: EtcException, previous: EtcException) -> None:
    """Have the error of the last attempt name what the attempts before it met, and hold on to them."""
    met = dict.fromkeys([previous._with_endpoint(), *previous.earlier])
    met.pop(error._with_endpoint(), None)
    error.earlier = tuple(met)[:MOST_EARLIER]
    link: BaseException | None = previous
    while link is not None:
        if link is error:
            return  # one error that was raised again: a chain of it would have no end
        link = link.__cause__ or link.__context__
    if error.__cause__ is None:
        error.__cause__ = previous
    else:
        error.__context__ = previous


class EtcdError(EtcException):
    """The server understood the request and said no.

    Nothing was written, but for a few kinds that a server may answer after it has proposed the write,
    and where another server may have done what this one refuses: ``maybe_applied`` tells.

    Attributes:
        message: What the server says of the code, such as ``'Key not found'``.
        cause: What it says of this request, mostly the key; ``''`` where it says nothing.
        index: The server's index when it answered, or None.
        errno: The code.
        hint: What to do about it, which getc adds to the text; ``''`` where the code says enough.
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
    """No node has this key."""

    errno = 100


class TestFailed(EtcdError):
    """A ``prev_value`` or ``prev_index`` did not match.  The cause names the condition only."""

    __test__ = False  # not a test, whatever pytest thinks of the name
    errno = 101


class NotFile(EtcdError):
    """The key is a directory where a value is needed."""

    errno = 102


class NotDir(EtcdError):
    """The key, or one above it, is a value where a directory is needed."""

    errno = 104


class NodeExist(EtcdError):
    """The key is taken."""

    errno = 105


class RootROnly(EtcdError):
    """The root cannot be written or deleted."""

    errno = 107


class DirNotEmpty(EtcdError):
    """The directory has nodes below it, and ``recursive`` was not given."""

    errno = 108


class Unauthorized(EtcdError):
    """The user may not do this, or the credentials are wrong."""

    errno = 110


class PrevValueRequired(EtcdError):
    """An empty ``prevValue`` reached the server (getc refuses it before that)."""

    errno = 201


class TTLNaN(EtcdError):
    """The server did not take the TTL for a number."""

    errno = 202


class IndexNaN(EtcdError):
    """The server did not take the index for a number."""

    errno = 203


class InvalidField(EtcdError):
    """The server did not take an option."""

    errno = 209


class InvalidForm(EtcdError):
    """The server could not read the request's form."""

    errno = 210


class RefreshValue(EtcdError):
    """A refresh keeps the value: giving one is an error."""

    errno = 211


class RefreshTTLRequired(EtcdError):
    """A refresh needs a TTL."""

    errno = 212


class RaftInternal(EtcdError):
    """The cluster failed inside.

    A write may have happened all the same: ``maybe_applied`` is False for reads only.
    """

    errno = 300
    maybe_applied = True


class LeaderElect(EtcdError):
    """The cluster was electing a leader.

    A write may have happened all the same: ``maybe_applied`` is False for reads only.
    """

    errno = 301
    maybe_applied = True


class WatcherCleared(EtcdError):
    """The server dropped the watcher, as it does when it recovers from a snapshot."""

    errno = 400


class EventIndexCleared(EtcdError):
    """The history asked for is gone: list again and go on from there (on v3: compacted)."""

    errno = 401


class InvalidArgument(EtcdError):
    """etcd v3 did not take a part of the request."""

    errno = 3


class NotFound(EtcdError):
    """etcd v3 has no such lease, member, or other thing but a key (see :class:`KeyNotFound`)."""

    errno = 5


class LeaseNotFound(NotFound):
    """The lease is not there, or not any more."""


class AlreadyExists(EtcdError):
    """etcd v3 has it already."""

    errno = 6


class PermissionDenied(Unauthorized):
    """The user is who it says, and may not do this."""

    errno = 7


class ResourceExhausted(EtcdError):
    """etcd v3 has no room, or no time, for this."""

    errno = 8


class NoSpace(ResourceExhausted):
    """The database is as large as its quota allows; see ``maintenance.alarm``.

    etcd says so as well to a write that it has just done, when that made the database too large (its
    ``quotaApplierV3``): ``maybe_applied`` is True for writes.
    """


class TooManyRequests(ResourceExhausted):
    """The server is behind with what it has taken already."""


class FailedPrecondition(EtcdError):
    """etcd v3 is not in the state that this needs."""

    errno = 9


class OutOfRange(EtcdError):
    """A number is past what etcd v3 takes."""

    errno = 11


class FutureRevision(OutOfRange):
    """The revision is still to come: the server is behind, or another one."""


class Unavailable(EtcdError):
    """etcd v3 could not finish it now.  A write may have happened all the same, if ``maybe_applied``."""

    errno = 14
    is_outage = True


class NoLeader(Unavailable):
    """The server has no leader: it is cut off, or there is an election.

    Nothing was written, unless it ended a stream on which something was under way.
    """


_SUBCLASSES = EtcdError.__subclasses__()
_BY_CODE: dict[int, type[EtcdError]] = {subclass.errno: subclass for subclass in _SUBCLASSES}


def error_of(
    code: int,
    message: str,
    cause: str = '',
    index: int | None = None,
    *,
    endpoint: str | None = None,
) -> EtcdError:
    """The error of a server's code; a plain :class:`EtcdError` that keeps a code nobody knows."""
    return _BY_CODE.get(code, EtcdError)(message, cause, index, errno=code, endpoint=endpoint)


class HTTPError(EtcException):
    """An answer that is not etcd's: a proxy's 503 page, a redirect, a login form.

    Attributes:
        status_code: The HTTP status.
        message: What it says, as far as that may be shown.
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
    """Bytes that break HTTP, JSON or one of getc's bounds."""


class ResponseTooLarge(ProtocolError):
    """An answer is larger than getc's bound of 16 MiB.  It was not read.

    The server is well, and would answer the same again.

    Attributes:
        size: Bytes of the answer, as far as they are known; else 0.
        index: The server's index when it answered, or None.
        succeeded: What the answer says of a transaction; None where it says nothing.  What etcd answers to any other
            write was done.
    """

    size: int = 0
    index: int | None = None
    succeeded: bool | None = None


class ConnectionError(EtcException, builtins.ConnectionError):
    """There was no answer."""

    is_outage = True


class ConnectionRefused(ConnectionError, builtins.ConnectionRefusedError):
    """Nobody listens there.  Nothing was sent."""


class TimedOut(ConnectionError, builtins.TimeoutError):
    """No answer came within the timeout.

    From ``wait`` and ``changes.get`` it is no sign of a fault: a server watched, and nothing changed.  Where no server
    watched they raise another :class:`ConnectionError`.
    """


class NodeLost(EtcException):
    """The keeper does not own its node now: another process may."""


class Overtaken(NodeLost):
    """Another owner has the keeper's node."""


class NotSupported(EtcException):
    """This server or API cannot do it.  The message says what would."""


class ClientClosed(EtcException):
    """The client was closed before or during the call."""
