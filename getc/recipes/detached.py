"""A request in a greenlet of its own, which a kill of its caller does not cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import gevent

__all__ = ['DetachedRequest']

_Result = TypeVar('_Result')


class DetachedRequest(Generic[_Result]):
    """A request that runs to its end, even if the greenlet that waits for it is killed.

    A read-only transaction that is cancelled crashes some servers of etcd, such as 3.5.1 and 3.5.3 (etcd#14110).

    Args:
        spawn: Starts the greenlet.
        request: The request.
        on_done: Called when it has ended.  The function must not block or raise.

    Attributes:
        greenlet: The greenlet.
    """

    __slots__ = ('_error', '_on_done', '_request', '_results', 'greenlet')

    def __init__(
        self,
        spawn: Callable[[Callable[[], None]], gevent.Greenlet[..., None]],
        request: Callable[[], _Result],
        on_done: Callable[[], object],
    ) -> None:
        self._request = request
        self._on_done = on_done
        self._results: list[_Result] = []
        self._error: Exception | None = None
        self.greenlet = spawn(self._run)

    def is_done(self) -> bool:
        """Return True if the request has ended."""
        return bool(self._results) or self._error is not None

    def result(self) -> _Result:
        """Return what the request has returned, or raise what it has raised.  Once."""
        error, self._error = self._error, None
        if error is None:
            return self._results.pop()
        try:
            raise error
        finally:
            del error  # breaks the cycle of this frame, the error and its traceback

    def _run(self) -> None:
        try:
            self._results.append(self._request())
        except Exception as error:
            self._error = error
        self._on_done()
