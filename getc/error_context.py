"""What is added to an error on its way to the caller: errors of earlier attempts, and the facts of one call."""

from __future__ import annotations

from copy import copy
from typing import Final, TypeVar

from getc.errors import EtcException, text_of_attempt

__all__ = ['chain_attempts', 'copy_error']

MAX_EARLIER: Final = 10
"""Earlier attempts of a call that an error names at most."""

_Error = TypeVar('_Error', bound=EtcException)


def chain_attempts(error: EtcException, previous: EtcException) -> None:
    """Add the errors of the attempts before the last one to the error of the last attempt.

    Args:
        error: The error of the last attempt; its ``earlier`` and its ``__cause__`` or ``__context__`` are set.
        previous: The error of the attempt before, with its own ``earlier``.
    """
    earlier = dict.fromkeys([text_of_attempt(previous), *previous.earlier])
    earlier.pop(text_of_attempt(error), None)
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
