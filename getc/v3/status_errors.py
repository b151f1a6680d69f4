"""Maps gRPC statuses of etcd to the errors of getc.

The text of a status matters as much as its code: etcd has some seventy texts for a dozen codes.  A status with the
meaning of a v2 error code has the class of that code.  Source: etcd 3.4 to 3.7, ``api/v3rpc/rpctypes/error.go``; a
test compares the texts here with those of each line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from getc.error_context import copy_error, error_from_code
from getc.errors import (
    AlreadyExists,
    EtcdError,
    EtcException,
    EventIndexCleared,
    FailedPrecondition,
    FutureRevision,
    InvalidArgument,
    LeaderElect,
    LeaseNotFound,
    NoLeader,
    NoSpace,
    NotFound,
    NotSupported,
    OutOfRange,
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

TEXT_PREFIX: Final = 'etcdserver: '

TEXTS: Final[dict[type[EtcdError], tuple[str, ...]]] = {
    AlreadyExists: (
        'lease already exists',
        'member ID already exist',
        'Peer URLs already exists',
        'role name already exists',
        'user name already exists',
    ),
    EventIndexCleared: ('mvcc: required revision has been compacted',),
    FailedPrecondition: (
        'authentication is not enabled',
        'bad leader transferee',
        'can only promote a learner member',
        'can only promote a learner member which is in sync with leader',
        'cluster has a downgrade job in progress',
        'cluster ID mismatch',
        'election: not leader',
        'no inflight downgrade job',
        'not leader',
        'permission is not granted to the role',
        're-configuration failed due to not enough started members',
        'role is not granted to the user',
        'root user does not exist',
        'root user does not have root role',
        'too many learner members in cluster',
    ),
    FutureRevision: ('mvcc: required revision is a future revision',),
    InvalidArgument: (
        'duplicate key given in txn request',
        'given member URLs are invalid',
        'invalid auth management',
        'invalid client api version',
        'invalid downgrade target version',
        'invalid sort option',
        'key is not provided',
        'key not found',
        'lease is provided',
        'permission not given',
        'request is too large',
        'role name is empty',
        'too many operations in txn request',
        'value is provided',
        'wrong downgrade target version format',
    ),
    LeaderElect: ('leader changed',),
    LeaseNotFound: ('requested lease not found',),
    NoLeader: ('no leader',),
    NoSpace: ('mvcc: database space exceeded',),
    NotFound: ('election: no leader', 'member not found', 'role name not found', 'user name not found'),
    OutOfRange: ('too large lease TTL',),
    PermissionDenied: ('permission denied',),
    RaftInternal: ('corrupt cluster',),
    TooManyRequests: ('too many requests',),
    Unauthorized: (
        'authentication failed, invalid user ID or password',
        'invalid auth token',
        'revision of auth store is old',
        'user name is empty',
    ),
    Unavailable: (
        'cluster version not found during downgrade',
        'not capable',
        'request timed out',
        'request timed out, possibly due to connection lost',
        'request timed out, possibly due to previous leader failure',
        'request timed out, waiting for the applied index took too long',
        'rpc not supported for learner',
        'server stopped',
        'unhealthy cluster',
    ),
}
"""The texts of etcd for each error.

The class depends on the text alone.  The code varies: etcd 3.6 moved texts from one code to another, the server sends
some with code 2 (those that it takes from the client's side of its package), and its locks and elections send all so.
"""

BY_TEXT: Final[dict[str, type[EtcdError]]] = {text: kind for kind, texts in TEXTS.items() for text in texts}

TIMEOUT_TEXTS: Final = frozenset(
    {'context canceled', 'context deadline exceeded', 'request canceled', 'watch canceled'}
)
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

MESSAGE_TOO_LARGE: Final = re.compile(r'(?:.*: )?trying to send message larger than max \(\d+ vs\. (\d+)\)')
"""The text if a message is too large to send: the response of etcd, of which the call was applied; or the request,
from ``etcd grpc-proxy`` to etcd."""

MAX_RESPONSE: Final = 2**31 - 1
"""The limit of etcd for responses.  Source: etcd 3.5, ``server/etcdserver/api/v3rpc/grpc.go``, ``maxSendBytes``."""

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
    text = status.message.removeprefix(TEXT_PREFIX)
    if text not in BY_TEXT and text not in TIMEOUT_TEXTS:
        text = redact(text, secrets)
    error: EtcException
    if status.code == UNIMPLEMENTED:
        error = NotSupported(f'this etcd does not support {path}: it needs a newer version ({text})')
    elif status.code in (DEADLINE_EXCEEDED, CANCELLED) or text in TIMEOUT_TEXTS:
        error = TimedOut(f'{path} timed out on {url}: {text}')
    elif _is_too_large_for_proxy(text):
        hint = 'raise --max-send-bytes of etcd grpc-proxy'
        error = ResourceExhausted(f'the request is larger than a proxy may send to etcd: {hint} ({text})')
    elif MESSAGE_TOO_LARGE.match(text):
        error = ResponseTooLarge(f'the response of {url} to {path} is larger than gRPC can send: {text}')
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
    if text in NOT_APPLIED_TEXTS or text.startswith(REQUEST_TOO_LARGE) or _is_too_large_for_proxy(text):
        return False
    ambiguous = (TimedOut, Unavailable, LeaderElect, RaftInternal, ResourceExhausted, ResponseTooLarge)
    return isinstance(error, ambiguous)


def _is_too_large_for_proxy(text: str) -> bool:
    found = MESSAGE_TOO_LARGE.match(text)
    return found is not None and int(found[1]) < MAX_RESPONSE


def is_stale_token(status: Status) -> bool:
    """Return True if the call may succeed with another token, or with a token.  The call was not applied."""
    return status.code == UNAUTHENTICATED or status.message.removeprefix(TEXT_PREFIX) in STALE_TOKEN_TEXTS


def is_auth_disabled(status: Status) -> bool:
    """Return True if authentication is disabled on the server, so that no token is needed."""
    return status.message.removeprefix(TEXT_PREFIX) == AUTH_DISABLED
