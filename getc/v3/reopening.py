"""A stream that many greenlets share: opened when one needs it, and again when it was lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from gevent.event import AsyncResult

from getc.error_context import copy_error
from getc.errors import EtcException, TimedOut
from getc.net.affinity import ThreadAffinity
from getc.timing import Deadline

__all__ = ['ReopeningStream', 'awaited']

Result = TypeVar('Result')


class _Stream(Protocol):
    @property
    def is_over(self) -> bool: ...


Used = TypeVar('Used', bound=_Stream)


class ReopeningStream(Generic[Used]):
    """The stream that is used now.

    Args:
        open: Opens one; blocks until the deadline at most.
    """

    def __init__(self, open: Callable[[Deadline], Used]) -> None:
        self._open = open
        self._home = ThreadAffinity()
        self._current: Used | None = None
        self._opening: AsyncResult[EtcException | None] | None = None

    def get(self, deadline: Deadline) -> Used:
        """The stream, which is not over.  One greenlet opens it, the others wait for that one.

        Raises:
            EtcException: It cannot be opened.
        """
        self._home.check()
        while self._current is None or self._current.is_over:
            if self._opening is None:
                return self._opened(deadline)
            error = awaited(self._opening, deadline, 'the stream was not opened')
            if error is not None:
                raise copy_error(error)
        return self._current

    def leave(self, stream: Used) -> None:
        """Open another one when the next is needed."""
        if self._current is stream:
            self._current = None

    def _opened(self, deadline: Deadline) -> Used:
        opening = self._opening = AsyncResult()
        failed: EtcException | None = None
        try:
            opened = self._current = self._open(deadline)
        except TimedOut:
            raise  # the others may have more time
        except EtcException as error:
            failed = copy_error(error)
            raise
        finally:
            self._opening = None
            opening.set(failed)  # also if this greenlet was killed: another one opens it
        return opened


def awaited(result: AsyncResult[Result], deadline: Deadline, what: str, *, maybe_applied: bool = False) -> Result:
    """Wait for a result until the deadline at most; raise a copy of its error, for others may raise it as well.

    Raises:
        TimedOut: Not in time: ``what``.
    """
    result.wait(deadline.timeout_left())
    if not result.ready():
        raise TimedOut(f'{what} within {deadline.timeout:g} s', maybe_applied=maybe_applied)
    if result.exception is not None:
        assert isinstance(result.exception, EtcException)
        raise copy_error(result.exception)
    return result.get(block=False)  # type: ignore[return-value]
