"""Contenders: a queue of kept keys ordered by create revision, on which locks, elections and semaphores are built.

Every contender creates a key with a random name in the directory of the queue.  The one that was created first is the
owner; the others wait for the deletion of a key before theirs.  Nothing can be created before an existing key, so at
any revision of etcd one contender is first, and stays first until its key is gone.

Go's ``concurrency.Mutex`` and ``Election``, ``etcdctl lock`` and ``etcdctl elect`` use the same keys: they order all
keys below the directory by create revision.  Sources: ``client/v3/concurrency`` of etcd 3.5; etcd#11456 and #11777 (why
the own key is checked with each query), etcd3#1107 (why a watch starts at the revision of the answer).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from gevent.event import Event
from gevent.hub import get_hub

from getc import timing
from getc.backends.base import KeptNode
from getc.daemons.greenlets import DaemonGreenlets
from getc.errors import ClientClosed, EtcException, NodeLost
from getc.recipes.contender_key import ContenderKey, EarlierKey
from getc.recipes.contender_queue import ContenderQueue, ContenderState
from getc.recipes.detached import DetachedRequest
from getc.recipes.removals import Removals
from getc.results import PredecessorResult
from getc.retry import is_transient
from getc.timing import Backoff, Deadline
from getc.transactions import Guard

__all__ = ['Contender', 'ContenderQueue', 'ContenderState']

OWN_WATCH_DELAY: Final = 0.1
"""Seconds after which the key of an owner is watched: short critical sections do without."""

HELD: Final = (ContenderState.HELD, ContenderState.SUSPECT)

_Result = TypeVar('_Result')


class Contender:
    """One place in a queue: joins, waits until it is first, is renewed, and leaves.  For one use.

    How a recipe uses it:

    * :meth:`acquire` blocks until the contender is first, and returns its token.  After that :meth:`ensure`,
      :meth:`remaining`, :attr:`guard` and :attr:`state` perform no I/O.
    * Whatever happens, call :meth:`start_leaving`, which does not block, or :meth:`leave`, which waits for etcd.  Both
      may be called twice.  After an exception ``acquire`` has called it already.
    * A recipe that waits for something else than the first place calls :meth:`join` instead, then :meth:`wait_until`,
      :meth:`query` and :meth:`hold`, in a ``try`` that ends with ``start_leaving``.  A NodeLost there means that the
      key is gone: :meth:`leave_lost_key`, then join again.
    * ``listeners`` are called with the contender after each change of the state of an owner: SUSPECT, HELD again,
      LOST, LEAVING.  They must not block, switch or raise.
    * :attr:`node` is the kept key; ``node.update`` writes another value (an election's ``proclaim``).

    A contender that is lost while it waits takes another key at the end of the queue, within the same ``acquire``.  One
    that is lost while it is held stays LOST; its key may still exist, and leaving deletes it.

    A kill of the caller leaves no key behind: the removal goes on in a greenlet of its own.  What etcd does not answer
    is repeated for one TTL.  When the client closes, contenders leave, and waiting raises ClientClosed.  In a
    forked child ``ensure`` raises NodeLost, waiting raises ClientClosed, and leaving does nothing.

    Args:
        queue: The queue.

    Attributes:
        queue: The same.
        greenlets: The greenlets that remove keys.
        listeners: Functions to call, see above.
        answer: The last answer with the earlier keys; None before the first one.
    """

    def __init__(self, queue: ContenderQueue) -> None:
        self.queue = queue
        self.greenlets = DaemonGreenlets(queue.name)
        self.greenlets.affinity.check(queue.name)  # binds it to this thread
        self.listeners: list[Callable[[Contender], object]] = []
        self.answer: PredecessorResult | None = None
        self._state = ContenderState.OUT
        self._key: ContenderKey | None = None
        self._last_key: ContenderKey | None = None  # the one with which the contender leaves
        self._wake = Event()
        self._is_closed = False  # the client was closed
        self._is_idle = Event()  # cleared while a write of the calling greenlet is in flight
        self._is_idle.set()
        self._removals = Removals(self.greenlets, self._finish_if_left)
        self._own_watch_timer: Any = None
        self._watch_backoff = Backoff()

    # -- state; no I/O

    @property
    def in_forked_child(self) -> bool:
        """True in a child process that was forked after the contender was created."""
        return self.greenlets.affinity.in_forked_child

    @property
    def state(self) -> ContenderState:
        """The state, correct even if no timer has run; OUT in a forked child."""
        if self.in_forked_child:
            return ContenderState.OUT
        return ContenderState.LOST if self._state in HELD and not self._time_left() else self._state

    @property
    def node(self) -> KeptNode | None:
        """The kept key; None before it was created and after it was removed."""
        return None if self._key is None else self._key.node

    @property
    def key(self) -> str | None:
        """The key; None before the contender has joined and after it has left."""
        return None if self._key is None else self._key.key

    @property
    def token(self) -> int | None:
        """The create revision of the key; None while the contender is not certainly held."""
        node = self.node
        return node.token if node is not None and self.remaining() else None

    def remaining(self) -> float:
        """Return the seconds for which the contender is certainly held without another renewal, or 0.0."""
        return self._time_left() if self._state in HELD and not self.in_forked_child else 0.0

    def ensure(self) -> int:
        """Return the token, or raise NodeLost if the contender is not certainly held now."""
        return self._held_node().token

    @property
    def guard(self) -> Guard:
        """The condition that the contender still exists, for a transaction.  Raises NodeLost as :meth:`ensure` does."""
        return self._held_node().guard

    def loss(self) -> NodeLost:
        """Return the error that says why the contender is not held."""
        key = self._last_key if self._state is ContenderState.LEAVING else self._key
        cause = None if key is None else key.loss
        if self.in_forked_child:
            reason = 'it belongs to the parent of this forked process'
        elif self._is_closed:
            reason = 'the client was closed'
        elif cause is not None:
            reason = str(cause)
        elif self._state in HELD:
            reason = f'it was not renewed within its TTL of {self.queue.ttl} s'
        else:
            reason = self._state.value
        error = NodeLost(f'{self.queue.name} is not held: {reason}', key=self.queue.directory)
        error.__cause__ = cause
        return error

    def _held_node(self) -> KeptNode:
        node = self.node
        if node is None or not self.remaining():
            raise self.loss()
        return node

    def _time_left(self) -> float:
        node = self.node
        return 0.0 if node is None else max(0.0, node.lost_at - timing.now_with_suspend())

    # -- joining and waiting

    def acquire(self, deadline: Deadline, *, may_wait: bool = True) -> int | None:
        """Join the queue, and wait until the contender is first.  Blocks until the deadline at most.

        Args:
            deadline: The end of the wait.
            may_wait: False makes one attempt, which ends at the deadline, and removes the key if others are first.

        Returns:
            The token; None if others are first and ``may_wait`` is False.

        Raises:
            TimedOut: The contender was not first in time.  Its key is deleted.
            ClientClosed: The client was closed.
            EtcException: etcd refuses, for example with NotDir because a value exists at the key of the queue.
        """
        backoff = Backoff()
        try:
            while True:
                try:
                    answer = self.join(deadline)
                    while len(answer.earlier) >= self.queue.limit:
                        if not may_wait:
                            self.leave(deadline)
                            return None
                        self._wait_for_earlier(answer, deadline)
                        answer = self.query(deadline)
                    return self.hold()
                except NodeLost:
                    self.leave_lost_key(deadline)
                    self.sleep(backoff.next_delay(), deadline)
        except BaseException:
            self.start_leaving()
            raise

    def enter(self) -> None:
        """End with the client from now on; the state is WAITING.  Does not block.  :meth:`join` does it as well.

        Raises:
            ClientClosed: The client was closed.
        """
        self._check()
        self._state = ContenderState.WAITING
        self.queue.context.daemons.add_task(self)

    def join(self, deadline: Deadline) -> PredecessorResult:
        """Create a key at the end of the queue, and return the earlier keys.  Blocks.

        A request without an answer is repeated with the same key: a create-only write of a random name cannot be
        applied twice.

        Raises:
            NodeLost: The key is gone again.
            EtcException: As :meth:`acquire`.
        """
        self.enter()
        self._key = ContenderKey(self.queue, self._on_key_changed)
        answer = self._repeat(self._create, deadline)
        if answer is None:
            return self.query(deadline)
        self.answer = answer
        return answer

    def query(self, deadline: Deadline) -> PredecessorResult:
        """Read the earlier keys at the current revision, if the own key still exists.  Blocks.

        Raises:
            NodeLost: The own key is gone.
            EtcException: As :meth:`acquire`.
        """
        answer = self.answer = self._repeat(self._find_earlier, deadline)
        return answer

    def hold(self) -> int:
        """Make the contender, whose turn it is, HELD, and return the token.  Does not block.

        Raises:
            NodeLost: It was not renewed in time.
            ClientClosed: The client was closed.
        """
        self._check()
        node = self.node
        assert node is not None
        self._state = ContenderState.HELD
        if not self._time_left():
            raise self.loss()
        self._own_watch_timer = get_hub().loop.timer(OWN_WATCH_DELAY, ref=False)
        self._own_watch_timer.start(self._watch_own_key)
        return node.token

    def wait_until(self, condition: Callable[[], object], deadline: Deadline) -> bool:
        """Block until the condition holds, and return True; or False at the deadline.

        The condition is evaluated now and after each :meth:`wake`.  It must not block.

        Raises:
            NodeLost: The own key is gone.
            ClientClosed: The client was closed.
        """
        while True:
            self._wake.clear()
            self._check()
            if condition():
                return True
            if not self._wake.wait(deadline.timeout_left()):
                self._check()
                return bool(condition())

    def wake(self) -> None:
        """Let :meth:`wait_until` evaluate its condition.  Does not block."""
        self._wake.set()

    def sleep(self, seconds: float, deadline: Deadline) -> None:
        """Block for some seconds, or until the deadline.  Raises as :meth:`wait_until`."""
        end = deadline.fraction(1.0, at_most=seconds)
        self.wait_until(end.has_passed, end)

    def timed_out(self, deadline: Deadline, cause: EtcException | None = None) -> EtcException:
        """Return the error of an acquire whose deadline has passed: it names the contender that is first."""
        return self.queue.timed_out(deadline, self.answer, cause)

    def _repeat(self, request: Callable[[Deadline], _Result], deadline: Deadline) -> _Result:
        """Send a request until it is answered: the place in the queue is worth more than a quick error."""
        backoff = Backoff()
        while True:
            self._check()
            try:
                result = request(self.queue.call_deadline(deadline))
            except EtcException as error:
                self._check()
                if not is_transient(error):
                    raise
                if deadline.has_passed():
                    raise self.timed_out(deadline, error) from error
                text, subject = f'no answer, repeating the request: {error}', self.queue.name
                self.queue.context.log.note(logging.WARNING, text, subject=subject, key=(type(error), error.endpoint))
            else:
                self._check()
                return result
            self.sleep(backoff.next_delay(), deadline)

    def _create(self, deadline: Deadline) -> PredecessorResult | None:
        assert self._key is not None
        self._is_idle.clear()
        try:
            return self._key.create(deadline)
        finally:
            self._is_idle.set()

    def _find_earlier(self, deadline: Deadline) -> PredecessorResult:
        assert self._key is not None
        query = DetachedRequest(self.greenlets.spawn, partial(self._key.find_earlier, deadline), self.wake)
        self.wait_until(query.is_done, Deadline(None))
        return query.result()

    def _wait_for_earlier(self, answer: PredecessorResult, deadline: Deadline) -> None:
        """Block until the contender of this answer has to query again."""
        assert self._key is not None and self._key.backend is not None
        earlier = EarlierKey(self.wake)
        watch = self.queue.watch_earlier(self._key.backend, answer, earlier)
        try:
            if not self.wait_until(earlier.is_over, deadline):
                raise self.timed_out(deadline)
        finally:
            if not self.in_forked_child:
                watch.close()
        if earlier.is_deleted:
            self._watch_backoff.reset()
        else:
            self.sleep(self._watch_backoff.next_delay(), deadline)

    def _check(self) -> None:
        """Raise if the contender must not go on."""
        if self.in_forked_child:
            raise ClientClosed(f'{self.queue.name} belongs to the parent of this forked process')
        if self._is_closed:
            raise ClientClosed('the client was closed')
        if self._key is not None and self._key.loss is not None:
            raise self.loss()

    # -- leaving

    def start_leaving(self) -> None:
        """Renew the key no more, and delete it in the background.  Does not block; may be called twice."""
        if self.in_forked_child or self._state in (ContenderState.OUT, ContenderState.LEAVING):
            return
        self._removals.start(self._take_key(ContenderState.LEAVING))
        self._finish_if_left()

    def leave(self, deadline: Deadline) -> NodeLost | None:
        """Delete the key, and block until etcd has answered; until the deadline at most.

        Without an answer the deletion goes on in the background.

        Returns:
            Why the key was gone before, if it was; else None.

        Raises:
            EtcException: etcd refuses, for example with PermissionDenied: the key exists until its TTL has passed, or
                on v3 for as long as other keys of this client are on its lease.
        """
        if self.in_forked_child:
            return None
        if self._state not in (ContenderState.OUT, ContenderState.LEAVING):
            self._remove_now(self._take_key(ContenderState.LEAVING), deadline)
        self._removals.wait(deadline)
        return None if self._last_key is None else self._last_key.loss

    def leave_lost_key(self, deadline: Deadline) -> None:
        """Delete a key that was lost, or the contender would wait behind itself; then it can join again.  Blocks.

        Raises:
            EtcException: As :meth:`leave`; TimedOut at the deadline.
        """
        self._removals.start(self._take_key(ContenderState.WAITING))
        self._removals.wait(deadline)
        if not self._removals.is_empty:
            raise self.timed_out(deadline)
        self._check()

    def _take_key(self, state: ContenderState) -> ContenderKey | None:
        self._set_state(state)
        if self._own_watch_timer is not None:
            self._own_watch_timer.close()
            self._own_watch_timer = None
        self._last_key, self._key = self._key, None
        return self._last_key

    def _remove_now(self, key: ContenderKey | None, deadline: Deadline) -> None:
        """Delete the key in this greenlet, and go on in the background if that fails or the greenlet is killed."""
        is_removed = False
        self._is_idle.clear()
        try:
            is_removed = key is None or not key.may_exist or key.try_remove(self.queue.call_deadline(deadline))
        finally:
            self._is_idle.set()
            if not is_removed:
                self._removals.start(key)
            self._finish_if_left()
        if key is not None and key.refusal is not None:
            raise key.refusal

    def _finish_if_left(self) -> None:
        if self._state is ContenderState.LEAVING and self._removals.is_empty:
            self._state = ContenderState.OUT
            self.queue.context.daemons.discard_task(self)

    # -- ``ClientTask``

    def stop_begin(self, deadline: Deadline) -> None:
        """Leave because the client closes.  A greenlet that waits gets ClientClosed."""
        self._is_closed = True
        self._wake.set()
        if self._is_idle.is_set():
            self.start_leaving()
        else:  # the greenlet whose write is in flight leaves after the answer
            self.greenlets.spawn(self._wait_until_idle, deadline)

    def _wait_until_idle(self, deadline: Deadline) -> None:
        self._is_idle.wait(deadline.timeout_left())

    def on_forked(self) -> None:
        """Wake the greenlet that waits, in a forked child."""
        self._wake.set()

    # -- renewals

    def _watch_own_key(self) -> None:
        if self.node is not None and self.remaining():
            self.node.watch()

    def _on_key_changed(self, key: ContenderKey, state: ContenderState) -> None:
        """A renewal was acknowledged, an attempt failed, or the key was lost."""
        if key is not self._key:
            return
        if state is ContenderState.LOST:
            self._wake.set()
        if self._state in HELD and self._state is not state:
            self._set_state(state)

    def _set_state(self, state: ContenderState) -> None:
        was_held, self._state = self._state in HELD, state
        for listener in list(self.listeners) if was_held else ():
            listener(self)
