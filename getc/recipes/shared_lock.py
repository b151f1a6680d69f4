"""A lock that several greenlets hold at the same time, each with a contender of its own."""

from __future__ import annotations

from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from gevent import getcurrent

from getc.errors import EtcException
from getc.recipes.contender_lock import ContenderLock
from getc.recipes.contenders import Contender, ContenderQueue
from getc.timing import Deadline

__all__ = ['SharedLock']


class SharedLock(ContenderLock):
    """A lock that several greenlets may hold at the same time.

    Each greenlet has a contender of its own: the state, the token, the guard, ``ensure`` and ``release`` are those of
    the greenlet that uses them.

    Args:
        key: The key of the lock, in normal form.
        queue: The queue of the contenders.
    """

    _not_held: ClassVar[str] = 'by a greenlet that does not hold it'

    def __init__(self, key: str, queue: ContenderQueue) -> None:
        super().__init__(key, queue)
        self._holders: dict[Any, Contender] = {}  # by greenlet
        self._last: WeakKeyDictionary[Any, Contender] = WeakKeyDictionary()  # by greenlet, also after release

    @property
    def _latest(self) -> Contender | None:
        return self._last.get(getcurrent())

    @property
    def _held_now(self) -> Contender | None:
        return self._holders.get(getcurrent())

    def _is_used_by(self, greenlet: Any) -> bool:
        """Return True if the greenlet holds the lock."""
        contender = self._holders.get(greenlet)
        return contender is not None and not contender.in_forked_child

    def _acquire(self, deadline: Deadline, *, may_wait: bool) -> int | None:
        self._context.backend  # noqa: B018  raises if the client is closed or used in another thread
        current = getcurrent()
        if self._is_used_by(current):
            raise RuntimeError(f'this greenlet holds {self._queue.name} already: the lock is not re-entrant')
        contender = self._last[current] = Contender(self._queue)
        token = contender.acquire(deadline, may_wait=may_wait)
        if token is not None:
            contender.listeners.append(self._on_change)
            self._holders[current] = contender
        return token

    def _forget(self, contender: Contender) -> None:
        del self._holders[getcurrent()]

    def _not_free(self, deadline: Deadline) -> EtcException:
        latest = self._latest
        return self._queue.timed_out(deadline, None if latest is None else latest.answer)
