"""Interrupt a greenlet when what it holds is lost."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from gevent import GreenletExit, getcurrent
from gevent.hub import get_hub

from getc.recipes.contenders import Contender, ContenderState

__all__ = ['Interruption', 'LeadershipLost', 'LockInterrupt']


class LockInterrupt(BaseException):
    """Thrown into the greenlet of a ``with lock.interrupting():`` block when the lock is lost.

    A BaseException, so that ``except Exception`` in the block does not swallow it.  The end of the block replaces it
    with :class:`~getc.NodeLost`.
    """


class LeadershipLost(GreenletExit):
    """Thrown into the function of :meth:`getc.Client.run_while_leader` when its term ends before the function does.

    A GreenletExit, which ``except Exception`` in the function does not swallow.  ``finally`` blocks run.
    """


class Interruption:
    """A context manager that interrupts its block when a contender is lost: the block ends with NodeLost.

    So does it when another greenlet lets the contender leave, as one does that closes the client.

    The block is interrupted where it switches to other greenlets, like by ``gevent.Timeout``: code that does not switch
    runs on.  Nothing is thrown after the block.

    Args:
        contender: The contender, which is held.
    """

    __slots__ = ('_callback', '_contender', '_greenlet', '_interrupt')

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._greenlet: Any = None
        self._interrupt: LockInterrupt | None = None
        self._callback: Any = None

    def __enter__(self) -> int:
        """Return the token.

        Raises:
            NodeLost: The contender is not certainly held.
            RuntimeError: The block was entered before.
        """
        token = self._contender.ensure()
        if self._interrupt is not None:
            raise RuntimeError('a block of interrupting() is entered once: call interrupting() for each block')
        self._greenlet = getcurrent()
        self._interrupt = LockInterrupt(f'{self._contender.queue.name} was lost')
        self._contender.listeners.append(self._on_change)
        return token

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._contender.listeners.remove(self._on_change)
        if self._callback is not None:
            self._callback.stop()
        self._greenlet = None
        if error is not None and error is self._interrupt:
            raise self._contender.loss() from error

    def _on_change(self, contender: Contender) -> None:
        is_released = contender.state is ContenderState.LEAVING and getcurrent() is not self._greenlet
        if (is_released or contender.state is ContenderState.LOST) and self._callback is None:
            self._callback = get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self._greenlet is not None and not self._greenlet.dead:
            self._greenlet.throw(self._interrupt)
