"""Maps gRPC statuses of etcd to the errors of getc.

The text of a status matters as much as its code: etcd has some seventy texts for a dozen codes.  A status with the
meaning of a v2 error code has the class of that code.  Source: etcd 3.5, ``api/v3rpc/rpctypes/error.go``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from getc.error_context import copy_error, error_from_code
from getc.errors import (
    EtcdError,
    EtcException,
    EventIndexCleared,
    FailedPrecondition,
    FutureRevision,
    LeaderElect,
    LeaseNotFound,
    NoLeader,
    NoSpace,
    NotFound,
    NotSupported,
    PermissionDenied,
    RaftInternal,
    ResourceExhausted,
    ResponseTooLarge,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from getc.grpc.framing import Status
from getc.redact import redact

__all__ = ['error_of_status', 'is_auth_disabled', 'is_stale_token']

CANCELLED: Final = 1
DEADLINE_EXCEEDED: Final = 4
UNIMPLEMENTED: Final = 12
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

PREFIX: Final = 'etcdserver: '

BY_TEXT: Final[dict[str, type[EtcdError]]] = {
    'mvcc: required revision has been compacted': EventIndexCleared,
    'mvcc: required revision is a future revision': FutureRevision,
    'mvcc: database space exceeded': NoSpace,
    'requested lease not found': LeaseNotFound,
    'too many requests': TooManyRequests,
    'no leader': NoLeader,
    'leader changed': LeaderElect,
    # etcd 3.6 moved these from code 14 to code 9.  Another member serves what this one cannot.
    'not capable': Unavailable,
    'rpc not supported for learner': Unavailable,
    'cluster version not found during downgrade': Unavailable,
    'authentication failed, invalid user ID or password': Unauthorized,
    'invalid auth token': Unauthorized,
    'permission denied': PermissionDenied,
    'user name is empty': Unauthorized,
    'election: no leader': NotFound,
    'election: not leader': FailedPrecondition,
}

TIMEOUT_TEXTS: Final = frozenset({'context deadline exceeded', 'context canceled'})
"""Texts of a timeout in the server, which often has code 2."""

OTHER_MEMBER_TEXTS: Final = frozenset(
    {
        'cluster version not found during downgrade',
        'not capable',
        'rpc not supported for learner',
        'unhealthy cluster',
    }
)
"""Texts of a healthy member that cannot serve a call which another member may be able to serve."""

NOT_APPLIED_TEXTS: Final = OTHER_MEMBER_TEXTS | {'no leader', 'too many requests'}
"""Texts of calls that a server has refused before it did anything."""

UNKNOWN_CODES: Final = frozenset({2, 10, 13, 15})
"""Unknown, aborted, internal, data loss: the call may have been applied or not."""

REQUEST_TOO_LARGE: Final = 'grpc: received message larger than max'
"""The beginning of the text if the request is too large for the server."""

RESPONSE_TOO_LARGE: Final = 'grpc: trying to send message larger than max'
"""The beginning of the text if the response is too large to send, beyond 2 GiB.  The call was applied."""

STALE_TOKEN_TEXTS: Final = frozenset({'invalid auth token', 'revision of auth store is old', 'user name is empty'})
"""Texts for a token that is not valid on the server (any more), or for a missing one."""

AUTH_DISABLED: Final = 'authentication is not enabled'


def error_of_status(
    status: Status, path: str, *, is_write: bool, url: str | None = None, secrets: Iterable[str] = ()
) -> EtcException:
    """Return the error for a status other than OK.

    Args:
        status: The status.
        path: The path of the RPC.
        is_write: The call may change something.
        url: The server.
        secrets: Texts that the server has received, and that are redacted in the error.
    """
    text = status.message.removeprefix(PREFIX)
    if text not in BY_TEXT and text not in TIMEOUT_TEXTS:
        text = redact(text, secrets)
    error: EtcException
    if status.code == UNIMPLEMENTED:
        error = NotSupported(f'this etcd does not support {path}: it needs a newer version ({text})')
    elif status.code in (DEADLINE_EXCEEDED, CANCELLED) or text in TIMEOUT_TEXTS:
        error = TimedOut(f'{url} gave up on {path}: {text}')
    elif text.startswith(RESPONSE_TOO_LARGE):
        error = ResponseTooLarge(f'{url} has an answer to {path} that is larger than gRPC can send: {text}')
    elif text in BY_TEXT:
        kind = BY_TEXT[text]
        error = kind(text, errno=kind.errno or status.code)
    elif (
        status.code in UNKNOWN_CODES or status.code > UNAUTHENTICATED
    ):  # codes that gRPC does not define count as unknown
        error = RaftInternal(text, errno=status.code)
    else:
        error = error_from_code(status.code, text)
    if text in OTHER_MEMBER_TEXTS:
        error.is_outage = False
    return copy_error(error, maybe_applied=is_write and _may_be_applied(error, text), endpoint=url)


def _may_be_applied(error: EtcException, text: str) -> bool:
    """Return True if a write that ended with this error may have been applied."""
    if text in NOT_APPLIED_TEXTS or text.startswith(REQUEST_TOO_LARGE):
        return False
    ambiguous = (TimedOut, Unavailable, LeaderElect, RaftInternal, ResourceExhausted, ResponseTooLarge)
    return isinstance(error, ambiguous)


def is_stale_token(status: Status) -> bool:
    """Return True if the call may succeed with another token, or with a token.  The call was not applied."""
    return status.code == UNAUTHENTICATED or status.message.removeprefix(PREFIX) in STALE_TOKEN_TEXTS


def is_auth_disabled(status: Status) -> bool:
    """Return True if authentication is disabled on the server, so that no token is needed."""
    return status.message.removeprefix(PREFIX) == AUTH_DISABLED
