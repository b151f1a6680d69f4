"""A lock across processes, with a fencing token."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from gevent import getcurrent

from getc.errors import EtcException, NodeLost
from getc.recipes.base import RecipeHost
from getc.recipes.contender_lock import ContenderLock, check_recipe_key
from getc.recipes.contenders import Contender, ContenderQueue
from getc.timing import Deadline

__all__ = ['Lock', 'TurnLock']


class _Turn(NamedTuple):
    """The place of a greenlet among the greenlets that use one lock object."""

    greenlet: Any
    contender: Contender


class TurnLock(ContenderLock):
    """A lock whose greenlets take turns, in order: one of them contends in etcd, or holds the lock.

    Any greenlet may release it.

    Args:
        key: The key of the lock, in normal form.
        queue: The queue of the contenders.
    """

    def __init__(self, key: str, queue: ContenderQueue) -> None:
        super().__init__(key, queue)
        self._turns: deque[_Turn] = deque()  # the first one contends in etcd, or holds the lock
        self._held: Contender | None = None
        self._last: Contender | None = None  # the one that had the latest turn

    @property
    def _latest(self) -> Contender | None:
        return self._last

    @property
    def _held_now(self) -> Contender | None:
        return self._held

    def _is_used_by(self, greenlet: Any) -> bool:
        """Return True if the greenlet holds the lock, or waits for it."""
        return any(turn.greenlet is greenlet and not turn.contender.in_forked_child for turn in self._turns)

    def _acquire(self, deadline: Deadline, *, may_wait: bool) -> int | None:
        """Wait for the turn of this greenlet, then for the lock; None if it is not free and ``may_wait`` is False."""
        if self._turns and self._turns[0].contender.in_forked_child:
            self._held = None  # it belongs to the parent
            self._turns.clear()
        self._context.backend  # noqa: B018  raises if the client is closed or used in another thread
        current = getcurrent()
        if self._is_used_by(current):
            raise RuntimeError(f'this greenlet holds {self._queue.name} already: the lock is not re-entrant')
        if self._turns and not may_wait:
            return None
        contender = Contender(self._queue)
        self._turns.append(_Turn(current, contender))
        try:
            if not self._wait_for_turn(contender, deadline):
                raise self._not_free(deadline)
            self._last = contender
            token = contender.acquire(deadline, may_wait=may_wait)
        except BaseException:
            contender.start_leaving()
            self._end_turn(contender)
            raise
        if token is None:
            self._end_turn(contender)
            return None
        contender.listeners.append(self._on_change)
        self._held = contender
        return token

    def _wait_for_turn(self, contender: Contender, deadline: Deadline) -> bool:
        if self._turns[0].contender is contender:
            return True
        contender.enter()
        return contender.wait_until(lambda: self._turns[0].contender is contender, deadline)

    def _end_turn(self, contender: Contender) -> None:
        """Let the next greenlet contend.  Does not block."""
        had_turn = bool(self._turns) and self._turns[0].contender is contender
        self._turns = deque(turn for turn in self._turns if turn.contender is not contender)
        if had_turn and self._turns:
            self._turns[0].contender.wake()

    def _not_free(self, deadline: Deadline) -> EtcException:
        first = self._turns[0] if self._turns else None
        if first is not None and self._held is first.contender:
            cause = NodeLost(f'another greenlet of this process holds it: {first.greenlet!r}')
            return self._queue.timed_out(deadline, None, cause)
        return self._queue.timed_out(deadline, None if self._last is None else self._last.answer)

    def _forget(self, contender: Contender) -> None:
        self._held = None
        self._end_turn(contender)


class Lock(TurnLock):
    """A lock that one process at a time holds, in the order in which they came.

    :meth:`getc.Client.lock` returns it: ``with etcd.lock('/locks/shard-7') as token: ...``.  The owner is the process
    whose key below the lock was created first.  Other processes may use Go's ``concurrency.Mutex``, ``etcdctl lock``,
    or getc.

    An owner that is cut off from etcd, paused or suspended loses the lock after its TTL.  It is notified before etcd
    can give the lock to another owner: :meth:`ensure` raises, :attr:`state` is LOST, :meth:`interrupting` and
    :meth:`on_lost` fire.  What it has sent elsewhere before can still arrive.  To exclude such writes, use
    ``etcd.transaction(guard=lock)``, or let the other store refuse tokens lower than the highest it has seen.

    The lock is not re-entrant.  The greenlets that use one lock object take turns, in order, and contend for each turn
    with one key; two lock objects of one client contend with each other.  Any greenlet may release the lock.

    The constructor performs no I/O.

    Args:
        host: The client.
        key: The key of the lock.  No value can exist there; keys of contenders are created below it.
        value: The value of this contender's key, text or bytes, for people; None for ``pid@host``.
        ttl: Whole seconds, 1 or more, after which the lock is free if this process dies.

    Raises:
        TypeError, ValueError: An argument is invalid.
    """

    def __init__(self, host: RecipeHost, key: str, value: str | bytes | None = None, *, ttl: int = 10) -> None:
        key, text = check_recipe_key(key, value, ttl)
        super().__init__(key, ContenderQueue(host._recipe_context, f'lock {key}', key, text, ttl))
