"""An operation that one greenlet performs for all greenlets that need its result at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from gevent.event import AsyncResult

from getc.error_context import copy_error
from getc.errors import EtcException, TimedOut
from getc.grpc.stalls import wait_ready
from getc.timing import Deadline

__all__ = ['SharedAttempt']

Result = TypeVar('Result')


class SharedAttempt(Generic[Result]):
    """Performs an operation for all greenlets that need it at the same time.

    If the greenlet that performs the operation is killed or runs out of time, another one performs it again.

    Args:
        what: What has not happened after a timeout, for the error.
        endpoint: The server, for the error; None if several are tried.
    """

    def __init__(self, what: str, endpoint: str | None = None) -> None:
        self._what = what
        self._endpoint = endpoint
        self._outcome: AsyncResult[EtcException | None] | None = None  # of the operation in progress

    def perform(self, operation: Callable[[Deadline], Result], deadline: Deadline) -> Result | None:
        """Perform the operation and return its result, or wait until another greenlet has performed it.

        Blocks until the deadline at most.

        Returns:
            The result; None if another greenlet has performed the operation, or has given up.

        Raises:
            TimedOut: The other greenlet was not done in time.
            EtcException: The error of the operation, or a copy of that of the other greenlet.
        """
        outcome = self._outcome
        if outcome is None:
            return self._perform_for_all(operation, deadline)
        if not wait_ready(outcome, deadline):
            raise TimedOut(f'{self._what} within {deadline.timeout:g} s', endpoint=self._endpoint)
        error = outcome.get(block=False)
        if error is not None:
            raise copy_error(error)  # the greenlet that has performed the operation raises the original
        return None

    def _perform_for_all(self, operation: Callable[[Deadline], Result], deadline: Deadline) -> Result:
        outcome = self._outcome = AsyncResult()
        failure: EtcException | None = None
        try:
            return operation(deadline)
        except TimedOut:
            raise  # the others may have more time
        except EtcException as error:
            failure = copy_error(error)  # callers change their own copies
            raise
        finally:
            self._outcome = None
            outcome.set(failure)  # also if this greenlet was killed: another one performs the operation
