"""gRPC statuses of etcd as the errors of getc.

What an error means is in its text as much as in its code: etcd has some seventy texts for a dozen codes.  Those that
mean the same as a code of v2 have that one's class.  Source: etcd 3.5, ``api/v3rpc/rpctypes/error.go``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from getc.error_codes import error_from_code
from getc.error_context import copy_error
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

__all__ = ['error_of_status', 'is_stale_token', 'wants_no_token']

CANCELLED: Final = 1
DEADLINE_EXCEEDED: Final = 4
UNIMPLEMENTED: Final = 12
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

ETCD: Final = 'etcdserver: '

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

GAVE_UP_TEXTS: Final = frozenset({'context deadline exceeded', 'context canceled'})
"""With these etcd gives up, too, under code 2 as often as not."""

BY_CODE: Final[dict[int, type[EtcdError]]] = {7: PermissionDenied, UNAUTHENTICATED: Unauthorized}

NOT_HERE: Final = frozenset(
    {
        'cluster version not found during downgrade',
        'not capable',
        'rpc not supported for learner',
        'unhealthy cluster',
    }
)
"""With these a healthy member refuses what another member may be able to serve."""

NOT_APPLIED_TEXTS: Final = NOT_HERE | {'no leader', 'too many requests'}
"""These a server says before it does anything."""

UNKNOWN_CODES: Final = frozenset({2, 10, 13, 15})
"""Unknown, aborted, internal, data loss: the server does not say how far it went."""

TOO_LONG: Final = 'grpc: received message larger than max'
"""So the server's gRPC begins when it takes no request of that length."""

TOO_LARGE_TO_SEND: Final = 'grpc: trying to send message larger than max'
"""So the server's gRPC begins when its own answer is too large: past 2 GiB.  What was asked was done."""

STALE_TOKEN: Final = frozenset({'invalid auth token', 'revision of auth store is old', 'user name is empty'})
"""What a server says to a token that it does not know (any more), or to none."""

NO_AUTH: Final = 'authentication is not enabled'


def error_of_status(
    status: Status, path: str, *, is_write: bool, url: str | None = None, secrets: Iterable[str] = ()
) -> EtcException:
    """The error for a status other than OK.

    Args:
        status: What came.
        path: The RPC.
        is_write: It changes something.
        url: The server.
        secrets: What the server was told, and may not repeat.
    """
    text = status.message.removeprefix(ETCD)
    if text not in BY_TEXT and text not in GAVE_UP_TEXTS:
        text = redact(text, secrets)
    error: EtcException
    if status.code == UNIMPLEMENTED:
        error = NotSupported(f'this etcd does not know {path}: it needs a newer one ({text})')
    elif status.code in (DEADLINE_EXCEEDED, CANCELLED) or text in GAVE_UP_TEXTS:
        error = TimedOut(f'{url} gave up on {path}: {text}')
    elif text.startswith(TOO_LARGE_TO_SEND):
        error = ResponseTooLarge(f'{url} has an answer to {path} that is larger than gRPC can send: {text}')
    elif text in BY_TEXT:
        kind = BY_TEXT[text]
        error = kind(text, errno=kind.errno or status.code)
    elif status.code in BY_CODE:
        error = BY_CODE[status.code](text, errno=status.code)
    elif status.code in UNKNOWN_CODES or status.code > UNAUTHENTICATED:  # what nobody knows counts as unknown
        error = RaftInternal(text, errno=status.code)
    else:
        error = error_from_code(status.code, text)
    if text in NOT_HERE:
        error.is_outage = False
    return copy_error(error, maybe_applied=is_write and _may_be_done(error, text), endpoint=url)


def _may_be_done(error: EtcException, text: str) -> bool:
    """True if a server may say this of a write that it has done, or has begun to do."""
    if text in NOT_APPLIED_TEXTS or text.startswith(TOO_LONG):
        return False
    unclear = (TimedOut, Unavailable, LeaderElect, RaftInternal, ResourceExhausted, ResponseTooLarge)
    return isinstance(error, unclear)


def is_stale_token(status: Status) -> bool:
    """True if another token, or one at all, might be taken.  The call was not applied."""
    return status.code == UNAUTHENTICATED or status.message.removeprefix(ETCD) in STALE_TOKEN


def wants_no_token(status: Status) -> bool:
    """True if the server has no users: it answers without a token."""
    return status.message.removeprefix(ETCD) == NO_AUTH
