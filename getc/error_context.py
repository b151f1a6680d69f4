"""Creates errors from codes, and adds earlier attempts, ``maybe_applied`` and the endpoint to errors."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Final, TypeVar

from getc.errors import EtcdError, EtcException, PermissionDenied, Unauthorized

__all__ = ['chain_attempts', 'copy_error', 'error_from_code']

MAX_EARLIER: Final = 10
"""Maximum number of earlier attempts of a call that an error names."""

CLASSES: Final[Mapping[int, type[EtcdError]]] = {
    **{each.errno: each for each in EtcdError.__subclasses__()},
    PermissionDenied.errno: PermissionDenied,
    16: Unauthorized,  # gRPC's UNAUTHENTICATED
}
"""The exception class of each error code of etcd v2 and each status code of gRPC."""

_Error = TypeVar('_Error', bound=EtcException)


def error_from_code(
    code: int,
    message: str,
    cause: str = '',
    index: int | None = None,
    *,
    endpoint: str | None = None,
) -> EtcdError:
    """Return the exception for an error code of etcd v2, or a status code of gRPC.

    An unknown code gives a plain :class:`EtcdError` with that code.
    """
    return CLASSES.get(code, EtcdError)(message, cause, index, errno=code, endpoint=endpoint)


def chain_attempts(error: EtcException, previous: EtcException) -> None:
    """Add the errors of the attempts before the last one to the error of the last attempt.

    Args:
        error: The error of the last attempt; its ``earlier`` and its ``__cause__`` or ``__context__`` are set.
        previous: The error of the attempt before, with its own ``earlier``.
    """
    earlier = dict.fromkeys([previous._text_of_attempt(), *previous.earlier])
    earlier.pop(error._text_of_attempt(), None)
    error.earlier = tuple(earlier)[:MAX_EARLIER]
    link: BaseException | None = previous
    while link is not None:
        if link is error:
            return  # the same error was raised again: chaining it would make a cycle
        link = link.__cause__ or link.__context__
    if error.__cause__ is None:
        error.__cause__ = previous
    else:
        error.__context__ = previous


def copy_error(error: _Error, *, maybe_applied: bool | None = None, endpoint: str | None = None) -> _Error:
    """Return a copy of an error that other callers hold as well, with the facts of one call.

    Args:
        error: The error to copy, without its traceback, cause and context.
        maybe_applied: Replaces that of the error; None keeps it.
        endpoint: Replaces that of the error; None keeps it.
    """
    twin = copy(error)
    if maybe_applied is not None:
        twin.maybe_applied = maybe_applied
    if endpoint is not None:
        twin.endpoint = endpoint
    return twin
