"""Campaigns: contend for the leadership of an election, again after each loss."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from gevent.event import Event

from getc.backends.base import Backend, Watch, WatchListener
from getc.daemons.base import Daemon
from getc.error_context import copy_error
from getc.errors import ClientClosed, EtcException, NodeLost
from getc.recipes.base import RecipeContext
from getc.recipes.contenders import Contender, ContenderQueue, ContenderState
from getc.results import PredecessorResult
from getc.timing import Deadline

__all__ = ['Campaign', 'CandidacyState', 'ElectionQueue']

NO_LIMIT: Final = Deadline(None)


class CandidacyState(Enum):
    """The state of a candidacy."""

    CAMPAIGNING = 'another candidate is the leader, or the key of this one is being created'
    LEADING = 'this candidate is the leader, and its key cannot have expired'
    SUSPECT = 'this candidate is the leader, and the last attempt to renew its key has failed'
    LOST = 'this candidate was the leader; it has no new key yet, with which it campaigns again'
    STOPPED = 'the candidacy was stopped'


_STATES: Final = {
    ContenderState.HELD: CandidacyState.LEADING,
    ContenderState.SUSPECT: CandidacyState.SUSPECT,
    ContenderState.LOST: CandidacyState.LOST,
}


class ElectionQueue(ContenderQueue):
    """The candidates of an election, in the order in which they came: the first one is the leader.

    Args:
        context: The context of the client.
        directory: The key of the election.
        value: The value of the candidate.
        ttl: The TTL of its key, whole seconds.
        on_waiting: Called when the candidate has its key and others are before it.  It must not block or raise.
    """

    def __init__(
        self, context: RecipeContext, directory: str, value: str, ttl: int, on_waiting: Callable[[], object]
    ) -> None:
        super().__init__(context, f'leadership of {directory}', directory, value, ttl)
        self._on_waiting = on_waiting

    def watch_earlier(self, backend: Backend, answer: PredecessorResult, listener: WatchListener) -> Watch:
        self._on_waiting()
        return super().watch_earlier(backend, answer, listener)


class Campaign(Daemon):
    """Contends for the leadership of an election until it is stopped; after a loss with a new key, at the end.

    A campaign has one key at a time: the next one is created after the deletion of the last one was answered, or after
    its TTL.  The campaign counts as started once its first key exists.

    Subclasses implement :meth:`_on_elected` and :meth:`_on_lost`.

    Args:
        context: The context of the client.
        key: The key of the election, in normal form.
        value: The value of the candidate.
        ttl: The TTL of its key, whole seconds.
        name: The operation and the key, for logs and errors.

    Attributes:
        queue: The candidates.  A new value of it is that of the next key.
        contender: The place in the queue; None before the first attempt.
        is_lost: The leadership was lost, and no new key was created since.
    """

    __slots__ = ('_resigned', '_waiting', 'contender', 'is_lost', 'queue')

    def __init__(self, context: RecipeContext, key: str, value: str, ttl: int, name: str) -> None:
        super().__init__(context.log, key, name)
        self.queue = ElectionQueue(context, key, value, ttl, self._on_waiting)
        self.contender: Contender | None = None
        self.is_lost = False
        self._resigned: Contender | None = None  # on request, so that its greenlet campaigns again
        self._waiting: set[Event] = set()

    def _on_elected(self, contender: Contender) -> None:
        """The contender is the leader from now on.  Must not block, switch or raise."""
        raise NotImplementedError

    def _on_lost(self, contender: Contender) -> None:
        """The contender was the leader, and its key is gone or not provably its own.  As :meth:`_on_elected`.

        Schedules the next attempt, now or later.
        """
        raise NotImplementedError

    # -- state; no I/O

    @property
    def state(self) -> CandidacyState:
        """The state of the candidate, correct even if no timer has run; STOPPED in a forked child."""
        if self.is_stopped:
            return CandidacyState.STOPPED
        if self.is_lost:
            return CandidacyState.LOST
        state = ContenderState.OUT if self.contender is None else self.contender.state
        return _STATES.get(state, CandidacyState.CAMPAIGNING)

    def leading(self) -> Contender:
        """Return the contender that is certainly the leader.

        Raises:
            NodeLost: This candidate is not the leader, or not certainly.
        """
        contender = self.contender
        if self.in_forked_child:
            reason = 'it belongs to the parent of this forked process'
        elif self._is_stopped:
            reason = 'it was stopped'
        elif contender is None or contender.state in (ContenderState.OUT, ContenderState.WAITING):
            reason = 'it campaigns'
        elif contender is self._resigned:
            reason = 'it has resigned'
        else:
            contender.ensure()
            return contender
        raise NodeLost(f'{self.name} does not lead: {reason}', key=self.key)

    def remaining(self) -> float:
        """Return the seconds for which this candidate is certainly the leader without another renewal, or 0.0."""
        return 0.0 if self.contender is None or self.is_stopped else self.contender.remaining()

    def wait_elected(self, deadline: Deadline) -> int:
        """Block until this candidate is the leader, and return its token.

        Raises:
            TimedOut: It was not elected in time.
            ClientClosed: The candidacy was stopped, or this is a forked child.
            EtcException: The server has refused the candidacy.
            RuntimeError: This is not the thread of the client.
        """
        self.check_thread()
        changed = Event()
        self._waiting.add(changed)
        try:
            while not self.is_stopped:
                if self.remaining():
                    return self.leading().ensure()
                if not changed.wait(deadline.timeout_left()):
                    answer = None if self.contender is None else self.contender.answer
                    raise self.queue.timed_out(deadline, answer, None if answer is not None else self.last_error)
                changed.clear()
        finally:
            self._waiting.discard(changed)
        raise self._stopped_error()

    def _stopped_error(self) -> EtcException:
        if self._fatal_error is not None:
            return copy_error(self._fatal_error)
        what = 'belongs to the parent of this forked process' if self.in_forked_child else 'was stopped'
        return ClientClosed(f'{self.name} {what}')

    # -- attempts

    def _step(self) -> float | None:
        """Campaign until this candidate is elected."""
        try:
            if self.contender is not None:
                self.contender.leave(NO_LIMIT)  # for one TTL at most; else the process would wait behind itself
            if self._is_stopped:
                return None
            contender = self.contender = Contender(self.queue)
            try:
                contender.acquire(NO_LIMIT)
            except ClientClosed:
                if contender is self._resigned or self.is_stopped:
                    return 0.0
                raise
            contender.listeners.append(self._on_changed)
            self._on_key_created()
            self._on_elected(contender)
            return None
        finally:
            self._wake()

    def _on_waiting(self) -> None:
        if not self.is_stopped:
            self._on_key_created()

    def _on_key_created(self) -> None:
        self.is_lost = False
        self.retry.backoff.reset()
        if self._never_started:
            self.mark_started()

    def _on_changed(self, contender: Contender) -> None:
        """The state of the leader has changed: SUSPECT, held again, or LOST."""
        if contender is not self.contender or self._is_stopped or contender.state is not ContenderState.LOST:
            return
        self.is_lost = True
        self.last_error = contender.loss()
        self._on_lost(contender)

    def _wake(self) -> None:
        for changed in self._waiting:
            changed.set()

    # -- resigning and stopping

    def resign(self, deadline: Deadline) -> None:
        """Delete the key, and campaign with a new one.  Blocks until etcd has answered; until the deadline at most.

        Without an answer the deletion goes on in the background, and the campaign after it.

        Raises:
            EtcException: etcd refuses to delete the key.
        """
        contender = self.contender
        if contender is None or self.is_stopped:
            return
        self._resigned = contender
        contender.stop_begin(deadline)
        self.retry.schedule(0)
        contender.leave(deadline)

    def _on_stop(self, deadline: Deadline) -> None:
        self._wake()
        contender = self.contender
        self.retry.kill_attempt()  # the contender removes the key
        if contender is not None:
            contender.stop_begin(deadline)
            self.greenlets.spawn(self._leave, contender, deadline)

    def _leave(self, contender: Contender, deadline: Deadline) -> None:
        try:
            contender.leave(deadline)
        except EtcException as error:  # it was logged
            self.last_error = error
