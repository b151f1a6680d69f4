"""What the locks have in common: acquire and release, the state of the owner, losses."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from getc.daemons.callbacks import CallbackQueue
from getc.daemons.greenlets import DaemonGreenlets
from getc.daemons.options import KeepOptions, check_callback, value_of_owner
from getc.errors import EtcException, NodeLost
from getc.net.affinity import Unpicklable
from getc.operations import Put
from getc.options import STOP_TIMEOUT
from getc.paths import ROOT
from getc.recipes.contenders import Contender, ContenderQueue, ContenderState
from getc.recipes.interrupts import Interruption
from getc.results import Value
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.transactions import Guard

__all__ = ['ContenderLock', 'check_recipe_key']

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


class ContenderLock(Unpicklable):
    """Base of the locks: what is held is the contender of a greenlet.

    A subclass says which contender that is, and which greenlet may contend when.  The constructor performs no I/O.

    Args:
        key: The key of the lock, in normal form.
        queue: The queue of the contenders.
    """

    _not_held: ClassVar[str] = 'without being held'

    def __init__(self, key: str, queue: ContenderQueue) -> None:
        self._key = key
        self._queue = queue
        self._context = queue.context
        self._on_lost: list[Callable[[Any], object]] = []
        self._callbacks: CallbackQueue | None = None

    # -- what a subclass defines; no I/O except for ``_acquire``

    @property
    @abstractmethod
    def _latest(self) -> Contender | None:
        """The contender that ``state`` is about."""

    @property
    @abstractmethod
    def _held_now(self) -> Contender | None:
        """The contender that was acquired, and not released."""

    @abstractmethod
    def _acquire(self, deadline: Deadline, *, may_wait: bool) -> int | None:
        """Wait until a contender is held; None if that takes a wait and ``may_wait`` is False.  Blocks."""

    @abstractmethod
    def _forget(self, contender: Contender) -> None:
        """Take note that the contender that was held leaves."""

    @abstractmethod
    def _not_free(self, deadline: Deadline) -> EtcException:
        """Return the error of an acquire that was not successful in time."""

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
        """The state: OUT, WAITING, HELD, SUSPECT, LOST or LEAVING.

        Of the greenlets that use one lock, it is the state of the one whose turn it is.  Correct immediately after the
        process was paused.  OUT in a forked child.
        """
        return ContenderState.OUT if self._latest is None else self._latest.state

    @property
    def token(self) -> int | None:
        """The fencing token, which grows with each owner; None while the lock is not certainly held.

        It is the index at which the contender's key was created, on v3 the create revision.  It is comparable with
        tokens of other getc owners, and with create revisions of other keys of the queue, not with the
        ``Header().Revision`` of Go's Mutex.
        """
        return None if self._held_now is None else self._held_now.token

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
        return 0.0 if self._held_now is None else self._held_now.remaining()

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
        does not stop it.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            RuntimeError: The lock is not held, or this is not the thread of the client.
            NodeLost: The lock was lost before.  No other owner's key was touched.
            EtcException: etcd refuses to delete the key, for example with PermissionDenied.
        """
        deadline = Deadline.after(timeout)
        contender = self._held_now
        if contender is None:
            raise RuntimeError(f'{self._queue.name} is released {self._not_held}')
        contender.greenlets.affinity.check(self._queue.name)
        loss = contender.loss() if contender.state is ContenderState.LOST or contender.in_forked_child else None
        self._forget(contender)
        gone = contender.leave(deadline)
        if loss is None and gone is not None:
            loss = NodeLost(f'{self._queue.name} was lost before it was released: {gone}', key=self._key)
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
        runs on.  After the block nothing is thrown.  The block is interrupted, too, when another greenlet releases the
        lock or closes the client.

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
        return f'<getc.{type(self).__name__} {self._key} {self.state.name} ttl={self.ttl}>'

    # -- internals

    def _owner(self) -> Contender:
        contender = self._held_now
        if contender is None:
            raise NodeLost(f'{self._queue.name} is not held: {self.state.value}', key=self._key)
        return contender

    def _on_change(self, contender: Contender) -> None:
        if contender.state is ContenderState.LOST and self._on_lost:
            if self._callbacks is None:
                self._callbacks = CallbackQueue(DaemonGreenlets(self._queue.name), self._context.log)
            for function in self._on_lost:
                self._callbacks.post(function, self)
