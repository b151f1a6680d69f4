"""A lock across processes, with a fencing token."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from gevent import getcurrent

from getc.daemons.callbacks import CallbackQueue
from getc.daemons.greenlets import DaemonGreenlets
from getc.daemons.options import KeepOptions, check_callback, value_of_owner
from getc.errors import EtcException, NodeLost
from getc.net.affinity import Unpicklable
from getc.operations import Put
from getc.options import STOP_TIMEOUT
from getc.paths import ROOT
from getc.recipes.base import RecipeHost
from getc.recipes.contenders import Contender, ContenderQueue, ContenderState
from getc.recipes.interrupts import Interruption
from getc.results import Value
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.transactions import Guard

__all__ = ['Lock', 'check_recipe_key']

_Callback = TypeVar('_Callback', bound=Callable[..., object])


def check_recipe_key(key: str, value: str | bytes | None, ttl: int) -> tuple[str, str]:
    """Validate the key, the value and the TTL of a recipe; return the key in normal form, and the value as text.

    Raises:
        TypeError, ValueError: An argument is invalid.
    """
    KeepOptions(ttl=ttl)
    put = Put(key, value_of_owner(value), ttl=ttl)
    if put.key == ROOT:
        raise ValueError('a recipe cannot use the root: give the key of a node below it')
    return put.key, put.value or ''


class _Turn(NamedTuple):
    """The place of a greenlet among the greenlets that use one lock object."""

    greenlet: Any
    contender: Contender


class Lock(Unpicklable):
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
        self._key, text = check_recipe_key(key, value, ttl)
        self._context = host._recipe_context
        self._queue = ContenderQueue(self._context, f'lock {self._key}', self._key, text, ttl)
        self._turns: deque[_Turn] = deque()  # the first one contends in etcd, or holds the lock
        self._held: Contender | None = None
        self._last: Contender | None = None  # the one that had the latest turn
        self._on_lost: list[Callable[[Lock], object]] = []
        self._callbacks: CallbackQueue | None = None

    # -- state; no I/O

    @property
    def key(self) -> str:
        """The key of the lock."""
        return self._key

    @property
    def value(self) -> str:
        """The value of this contender's key."""
        return self._queue.value

    @property
    def ttl(self) -> int:
        """The requested TTL in seconds."""
        return self._queue.ttl

    @property
    def state(self) -> ContenderState:
        """The state of the greenlet whose turn it is: OUT, WAITING, HELD, SUSPECT, LOST or LEAVING.

        Correct immediately after the process was paused.  OUT in a forked child.
        """
        return ContenderState.OUT if self._last is None else self._last.state

    @property
    def token(self) -> int | None:
        """The fencing token, which grows with each owner; None while the lock is not certainly held.

        It is the index at which the contender's key was created, on v3 the create revision.  It is comparable with
        tokens of other getc owners, and with create revisions of other keys of the queue, not with the
        ``Header().Revision`` of Go's Mutex.
        """
        return None if self._held is None else self._held.token

    def ensure(self) -> int:
        """Return the fencing token if the lock is certainly held now.  Performs no I/O.

        Correct from the first instruction after the process was paused.

        Raises:
            NodeLost: The lock is not held, or not certainly.
        """
        return self._owner().ensure()

    def remaining(self) -> float:
        """Return the seconds for which the lock is certainly held without another renewal, or 0.0.

        Performs no I/O.  Returns 0.0 in a forked child.
        """
        return 0.0 if self._held is None else self._held.remaining()

    @property
    def guard(self) -> Guard:
        """The condition that this owner still holds the lock, for ``etcd.transaction(guard=lock)``.

        etcd checks it with the write itself, so no clock is involved.  Reading it performs no I/O.

        Raises:
            NodeLost: The lock is not held, or not certainly.
        """
        return self._owner().guard

    # -- acquiring and releasing

    def acquire(self, timeout: float | None = None) -> int:
        """Wait for the lock, and return the fencing token.  Blocks.

        If the greenlet is killed or struck by a ``gevent.Timeout`` while it waits, no key is left behind.

        Args:
            timeout: Seconds; None for no limit, 0 for one attempt, which may take the timeout of the client.

        Raises:
            TimedOut: The lock was not free in time; the error names the owner.  No key is left behind.
            RuntimeError: This greenlet holds the lock already.
            NotDir: A value exists at the key of the lock, or above it.
            ClientClosed: The client was closed.
            EtcException: etcd refuses.
        """
        deadline = Deadline.after(timeout)
        if timeout is None or timeout > 0:
            token = self._acquire(deadline, may_wait=True)
        else:
            token = self._acquire(self._context.deadline(), may_wait=False)
        if token is None:
            raise self._not_free(deadline)
        return token

    def try_acquire(self) -> int | None:
        """Return the fencing token if the lock is free now, else None.  Blocks for the client's timeout at most.

        Raises:
            TimedOut: etcd has not answered.  No key is left behind.
            RuntimeError: This greenlet holds the lock already.
            EtcException: As :meth:`acquire`.
        """
        return self._acquire(self._context.deadline(), may_wait=False)

    def release(self, timeout: float | None = STOP_TIMEOUT) -> None:
        """Release the lock.  Blocks until etcd has deleted the key, or the timeout.

        A missing answer is not an error: the deletion is repeated in the background, and a greenlet that is killed here
        does not stop it.  Any greenlet may release the lock.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            RuntimeError: The lock is not held.
            NodeLost: The lock was lost before.  No other owner's key was touched.
            EtcException: etcd refuses to delete the key, for example with PermissionDenied.
        """
        deadline = Deadline.after(timeout)
        contender = self._held
        if contender is None:
            raise RuntimeError(f'lock {self._key} is released without being held')
        loss = contender.loss() if contender.state is ContenderState.LOST or contender.in_forked_child else None
        self._held = None
        self._end_turn(contender)
        gone = contender.leave(deadline)
        if loss is None and gone is not None:
            loss = NodeLost(f'lock {self._key} was lost before it was released: {gone}', key=self._key)
            loss.__cause__ = gone
        if loss is not None:
            raise loss

    def __enter__(self) -> int:
        """Wait for the lock without a limit, and return the fencing token."""
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock.  Raises NodeLost after a loss, unless the block has raised something."""
        if error is None:
            self.release()
            return
        try:
            self.release()
        except (EtcException, RuntimeError) as hidden:
            self._context.log.note(
                logging.INFO, f'at the end of a block that raised: {hidden}', subject=self._queue.name
            )

    # -- losses

    def interrupting(self) -> Interruption:
        """Return a context manager that interrupts its block when the lock is lost; its value is the token.

        Use it inside of the lock: ``with lock, lock.interrupting() as token: ...``.  NodeLost is raised from the block
        at the time at which the lock counts as lost, before etcd can give it to another owner.  In the block, a
        :class:`~getc.recipes.LockInterrupt` is thrown into this greenlet where it switches; code that does not switch
        runs on.  After the block nothing is thrown.

        Raises:
            NodeLost: On entry, if the lock is not certainly held.
        """
        return Interruption(self._owner())

    def on_lost(self, function: _Callback) -> _Callback:
        """Call a function with the lock whenever it is lost while it is held; return the function: also a decorator.

        The function is called in a greenlet of its own, one call at a time.  An exception of it is logged.

        Raises:
            TypeError: This is not a function.
        """
        check_callback('on_lost', function)
        self._on_lost.append(function)
        return function

    # -- the queue

    def contenders(self, timeout: Timeout = DEFAULT_TIMEOUT) -> tuple[Value, ...]:
        """Read the keys of all contenders with their values, the owner first.  Blocks; one linearizable read.

        Keys of other programs below the lock are included: they take part in the queue.

        Args:
            timeout: Seconds; None for no limit, omitted for the timeout of the client.
        """
        return self._queue.contenders(self._context.deadline(timeout))

    def __repr__(self) -> str:
        return f'<getc.Lock {self._key} {self.state.name} ttl={self.ttl}>'

    # -- internals

    def _owner(self) -> Contender:
        if self._held is None:
            raise NodeLost(f'lock {self._key} is not held: {self.state.value}', key=self._key)
        return self._held

    def _acquire(self, deadline: Deadline, *, may_wait: bool) -> int | None:
        """Wait for the turn of this greenlet, then for the lock; None if it is not free and ``may_wait`` is False."""
        if self._turns and self._turns[0].contender.in_forked_child:
            self._held = None  # it belongs to the parent
            self._turns.clear()
        self._context.backend  # noqa: B018  raises if the client is closed or used in another thread
        current = getcurrent()
        if any(turn.greenlet is current for turn in self._turns):
            raise RuntimeError(f'this greenlet holds lock {self._key} already: the lock is not re-entrant')
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

    def _on_change(self, contender: Contender) -> None:
        if contender.state is ContenderState.LOST and self._on_lost:
            if self._callbacks is None:
                self._callbacks = CallbackQueue(DaemonGreenlets(self._queue.name), self._context.log)
            for function in self._on_lost:
                self._callbacks.post(function, self)
