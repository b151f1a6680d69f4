"""A stream that many greenlets share: opened when a greenlet needs it, and again after it was lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from gevent.event import AsyncResult

from getc.error_context import copy_error
from getc.errors import EtcException, TimedOut, Unauthorized
from getc.grpc.stalls import wait_ready
from getc.net.affinity import ThreadAffinity
from getc.timing import Deadline
from getc.v3.shared_attempt import SharedAttempt

__all__ = ['ReopeningStream', 'wait_result']

Result = TypeVar('Result')


class _Stream(Protocol):
    @property
    def is_over(self) -> bool: ...


Shared = TypeVar('Shared', bound=_Stream)


class ReopeningStream(Generic[Shared]):
    """Opens a stream for all greenlets that need it, and another one after that has ended.

    Args:
        open: Opens a stream; blocks until the deadline at most.

    Attributes:
        latest: The stream that was opened last, which may be over; None if there is none, or it was retired.
    """

    def __init__(self, open: Callable[[Deadline], Shared]) -> None:
        self._open = open
        self._affinity = ThreadAffinity()
        self.latest: Shared | None = None
        self._opening: SharedAttempt[Shared] = SharedAttempt('the stream was not opened')

    @property
    def current(self) -> Shared | None:
        """The open stream; None if there is none."""
        return None if self.latest is None or self.latest.is_over else self.latest

    def get(self, deadline: Deadline) -> Shared:
        """Return the open stream.  If there is none, one greenlet opens it and the others wait.

        Raises:
            EtcException: The stream cannot be opened.
        """
        self._affinity.check()
        while (current := self.current) is None:
            opened = self._opening.perform(self._open_latest, deadline)
            if opened is not None:
                return opened
        return current

    def call(self, use: Callable[[Shared], Result], deadline: Deadline) -> Result:
        """Return ``use(stream)``; if it raises Unauthorized, use a new stream once.

        A stream keeps the token that it was opened with, which the server may have forgotten since.  Opening another
        one gets a valid token.
        """
        stream = self.get(deadline)
        try:
            return use(stream)
        except Unauthorized:
            self.retire(stream)
            return use(self.get(deadline))

    def retire(self, stream: Shared) -> None:
        """Open another stream when the next one is needed, if this is the current one."""
        if self.latest is stream:
            self.latest = None

    def _open_latest(self, deadline: Deadline) -> Shared:
        stream = self.latest = self._open(deadline)
        return stream


def wait_result(result: AsyncResult[Result], deadline: Deadline, what: str, *, maybe_applied: bool = False) -> Result:
    """Wait for a result until the deadline at most; raise a copy of its error, which other greenlets may raise, too.

    Args:
        result: The result.
        deadline: The end of the wait.
        what: What has not happened by then, for the error.
        maybe_applied: That of the TimedOut.

    Raises:
        TimedOut: There was no result in time.
    """
    if not wait_ready(result, deadline):
        raise TimedOut(f'{what} within {deadline.timeout:g} s', maybe_applied=maybe_applied)
    if result.exception is not None:
        assert isinstance(result.exception, EtcException)
        raise copy_error(result.exception)
    return result.get(block=False)  # type: ignore[return-value]
