"""Stand for election: be the leader of a group of processes, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from getc.daemons.callbacks import CallbackQueue
from getc.daemons.handle import DaemonHandle
from getc.daemons.options import check_callback, value_of_owner
from getc.error_context import copy_error
from getc.errors import NodeLost
from getc.operations import Put
from getc.options import STOP_TIMEOUT
from getc.recipes.base import RecipeContext, RecipeHost
from getc.recipes.campaign import Campaign, CandidacyState
from getc.recipes.contender_lock import check_recipe_key
from getc.recipes.contenders import Contender
from getc.recipes.detached import DetachedRequest
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.transactions import Guard

__all__ = ['Candidacy']

NO_LIMIT: Final = Deadline(None)


class Candidacy(DaemonHandle):
    """A candidate of an election.  :meth:`getc.Client.elect` returns it.

    The candidate whose key below the election was created first is the leader; the others follow in order.  Other
    processes may use Go's ``concurrency.Election``, ``etcdctl elect``, or getc.

    A leader that is cut off from etcd, paused or suspended loses the leadership after its TTL.  It is notified before
    etcd can elect another one: :meth:`ensure` raises, :attr:`state` is LOST, ``on_lost`` is called.  What it has sent
    elsewhere before can still arrive; ``etcd.transaction(guard=candidacy)`` and tokens exclude such writes.  After a
    loss the candidate campaigns again, with a new key at the end of the queue.

    A candidacy belongs to its process: in a forked child it is STOPPED, and the parent remains a candidate.

    Also a context manager: leaving the block stops the candidacy, and deletes its key.

    Args:
        host: The client.
        key: The key of the election.
        value: The value of this candidate.
        ttl: Whole seconds, 1 or more.
        on_elected: Called with the candidacy when it is elected, or None.
        on_lost: Called with the candidacy when the leadership is lost, or None.

    Raises:
        TypeError, ValueError: An argument is invalid.
    """

    __slots__ = ()

    _daemon: _CandidacyDaemon

    def __init__(
        self,
        host: RecipeHost,
        key: str,
        value: str | bytes | None = None,
        *,
        ttl: int = 10,
        on_elected: Callable[[Any], object] | None = None,
        on_lost: Callable[[Any], object] | None = None,
    ) -> None:
        key, text = check_recipe_key(key, value, ttl)
        check_callback('on_elected', on_elected, is_optional=True)
        check_callback('on_lost', on_lost, is_optional=True)
        super().__init__(_CandidacyDaemon(host._recipe_context, key, text, ttl, self, on_elected, on_lost))

    # -- state; no I/O

    @property
    def state(self) -> CandidacyState:
        """The state, correct immediately after the process was paused; STOPPED in a forked child."""
        return self._daemon.state

    @property
    def value(self) -> str:
        """The value of this candidate: that of :meth:`proclaim`, or the first one."""
        return self._daemon.queue.value

    @property
    def ttl(self) -> int:
        """The requested TTL in seconds."""
        return self._daemon.queue.ttl

    @property
    def token(self) -> int | None:
        """The fencing token, which grows with each leader; None while this candidate is not certainly the leader.

        It is the index at which the candidate's key was created, on v3 the create revision.
        """
        contender = self._daemon.contender
        return contender.token if contender is not None and self._daemon.remaining() else None

    def ensure(self) -> int:
        """Return the fencing token if this candidate is certainly the leader now.  Performs no I/O.

        Correct from the first instruction after the process was paused.

        Raises:
            NodeLost: It is not the leader, or not certainly.
        """
        return self._daemon.leading().ensure()

    def remaining(self) -> float:
        """Return the seconds for which this candidate is certainly the leader without another renewal, or 0.0.

        Performs no I/O.  Returns 0.0 in a forked child.
        """
        return self._daemon.remaining()

    @property
    def guard(self) -> Guard:
        """The condition that this candidate is still the leader, for ``etcd.transaction(guard=candidacy)``.

        etcd checks it with the write itself, so no clock is involved.  Reading it performs no I/O.

        Raises:
            NodeLost: This candidate is not the leader, or not certainly.
        """
        return self._daemon.leading().guard

    # -- calls

    def wait_elected(self, timeout: float | None = None) -> int:
        """Block until this candidate is the leader, and return its fencing token.

        Args:
            timeout: Seconds; None for no limit.  At the timeout the candidacy goes on.

        Raises:
            TimedOut: It was not elected in time; the error names the leader.
            ClientClosed: The candidacy was stopped, or this is a forked child.
            EtcException: etcd has refused the candidacy, for example with NotDir because a value exists at its key.
            RuntimeError: This is not the thread of the client.
        """
        return self._daemon.wait_elected(Deadline.after(timeout))

    def proclaim(self, value: str | bytes, timeout: Timeout = DEFAULT_TIMEOUT) -> None:
        """Write another value to the key of the leader.  Blocks until etcd has answered.

        The token remains.  Later keys of this candidate have the new value, too.

        Args:
            value: The value, text or bytes.
            timeout: Seconds; None for no limit, omitted for the timeout of the client.

        Raises:
            TypeError, ValueError: An argument is invalid.
            NodeLost: This candidate is not the leader, or not certainly.  Another candidate's key was not touched.
            TimedOut: etcd has not answered; with ``maybe_applied`` the value may have been written.
            EtcException: etcd refuses.
        """
        if value is None:
            raise TypeError('value must be a str or bytes, not None')
        text = Put(self.key, value_of_owner(value)).value or ''
        self._daemon.proclaim(text, self._daemon.queue.context.deadline(timeout))

    def resign(self, *, rejoin: bool = True, timeout: float | None = STOP_TIMEOUT) -> None:
        """Give up the leadership, or the place in the queue.  Blocks until etcd has deleted the key, or the timeout.

        A missing answer is not an error: the deletion is repeated in the background.  ``on_lost`` is not called.  Does
        nothing once the candidacy was stopped, and in a forked child.

        Args:
            rejoin: True campaigns again, at the end of the queue; False stops the candidacy, as :meth:`stop` does.
            timeout: Seconds; None for no limit.

        Raises:
            TypeError, ValueError: The timeout is invalid.
            EtcException: etcd refuses to delete the key.
            RuntimeError: This is not the thread of the client.
        """
        deadline = Deadline.after(timeout)
        if self._daemon.is_stopped:
            return
        self._daemon.check_thread()
        if rejoin:
            self._daemon.resign(deadline)
        else:
            self._daemon.stop(deadline)

    def __repr__(self) -> str:
        return f'<getc.Candidacy {self.key} {self.state.name} ttl={self.ttl}>'


class _CandidacyDaemon(Campaign):
    """The daemon of a :class:`Candidacy`: calls its functions.

    ``on_elected`` and ``on_lost`` are called in order, each in the greenlet of its own queue.  ``on_lost`` begins at
    the loss, even if ``on_elected`` still runs.  A term that was over before its ``on_elected`` began is left out.
    """

    __slots__ = ('_candidacy', '_losses', '_notified', '_on_elected_function', '_on_lost_function')

    def __init__(
        self,
        context: RecipeContext,
        key: str,
        value: str,
        ttl: int,
        candidacy: Candidacy,
        on_elected: Callable[[Any], object] | None,
        on_lost: Callable[[Any], object] | None,
    ) -> None:
        super().__init__(context, key, value, ttl, f'elect {key}')
        self._candidacy = candidacy
        self._on_elected_function = on_elected
        self._on_lost_function = on_lost
        self._losses = CallbackQueue(self.greenlets, context.log)
        self._notified: Contender | None = None  # the latest one of which the program knows that it was elected

    def proclaim(self, value: str, deadline: Deadline) -> None:
        """Write another value to the key of the leader.  Blocks."""
        self.check_thread()
        contender = self.leading()
        node = contender.node
        assert node is not None
        self.queue.value = value
        # A kill of the caller must not cancel the write: without its answer the index of the node would be unknown.
        sent = DetachedRequest(contender.greenlets.spawn, partial(node.update, value, deadline), lambda: None)
        sent.greenlet.join()
        if not sent.is_done():  # it was killed
            raise copy_error(self._stopped_error(), maybe_applied=True)
        try:
            sent.result()
        except NodeLost as error:
            raise NodeLost(f'{self.name} does not lead: {error}', key=self.key) from error

    def _on_elected(self, contender: Contender) -> None:
        if self._on_elected_function is None:
            self._notified = contender
        else:
            self.callbacks.post(self._call_on_elected, contender)

    def _call_on_elected(self, contender: Contender) -> None:
        assert self._on_elected_function is not None
        self._losses.wait_for_posted(NO_LIMIT)  # the loss before
        if not self._is_stopped and contender is self.contender and contender.remaining():
            self._notified = contender
            self._on_elected_function(self._candidacy)

    def _on_lost(self, contender: Contender) -> None:
        if self._on_lost_function is not None and self._notified is contender:
            self._losses.post(self._on_lost_function, self._candidacy)
        self.retry.schedule(0)

    def _on_stop(self, deadline: Deadline) -> None:
        self._losses.close()
        super()._on_stop(deadline)
