"""Run a function whenever this process is the leader."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import get_hub

from getc.daemons.failures import report_failure
from getc.daemons.handle import DaemonHandle
from getc.daemons.options import check_callback
from getc.errors import NodeLost
from getc.recipes.base import RecipeHost
from getc.recipes.campaign import Campaign, CandidacyState
from getc.recipes.contender_lock import check_recipe_key
from getc.recipes.contenders import Contender
from getc.recipes.interrupts import LeadershipLost
from getc.renewal import safety_margin
from getc.timing import Deadline
from getc.transactions import Guard

__all__ = ['LeaderLoop', 'Term']


class Term:
    """A term of a leader: the argument of the function of :meth:`getc.Client.run_while_leader`."""

    __slots__ = ('_contender', '_loss')

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._loss: NodeLost | None = None  # why the term is over

    @property
    def token(self) -> int | None:
        """The fencing token, which grows with each leader; None once the term is not certainly going on."""
        return self._contender.token

    def ensure(self) -> int:
        """Return the fencing token if the term is certainly going on now.  Performs no I/O.

        Correct from the first instruction after the process was paused.

        Raises:
            NodeLost: The term is over, or not certainly going on.
        """
        self._check()
        return self._contender.ensure()

    def remaining(self) -> float:
        """Return the seconds for which the term certainly goes on without another renewal, or 0.0.  No I/O."""
        return self._contender.remaining()

    @property
    def guard(self) -> Guard:
        """The condition that the term goes on, for ``etcd.transaction(guard=term)``.  Reading it performs no I/O.

        Raises:
            NodeLost: As :meth:`ensure`.
        """
        self._check()
        return self._contender.guard

    def _check(self) -> None:
        if self._loss is not None:
            raise self._loss.with_traceback(None)

    def __repr__(self) -> str:
        return f'<getc.recipes.Term {self._contender.queue.directory} token={self.token}>'


class LeaderLoop(DaemonHandle):
    """Runs a function whenever this process is the leader.  :meth:`getc.Client.run_while_leader` returns it.

    ``stop()`` kills the function as a loss does, waits until it has ended, and then deletes the key.  A function that
    has not ended at the timeout is killed again; its key then exists until its TTL has passed.

    Also a context manager: leaving the block stops the loop.  In a forked child the loop is STOPPED.

    Args:
        host: The client.
        key: The key of the election.
        function: Called with the term.
        value: The value of this candidate.
        ttl: Whole seconds, 1 or more.
        grace: Seconds between the kill and the end of the term.
        pause: Seconds between the end of the function and the next campaign.
        on_overrun: Called with the term if the function outlives it, or None.

    Raises:
        TypeError, ValueError: An argument is invalid.
    """

    __slots__ = ()

    _daemon: _LoopDaemon

    def __init__(
        self,
        host: RecipeHost,
        key: str,
        function: Callable[[Term], object],
        value: str | bytes | None = None,
        *,
        ttl: int = 10,
        grace: float | None = None,
        pause: float = 1.0,
        on_overrun: Callable[[Term], object] | None = None,
    ) -> None:
        key, text = check_recipe_key(key, value, ttl)
        check_callback('function', function)
        check_callback('on_overrun', on_overrun, is_optional=True)
        grace = ttl / 10 if grace is None else _seconds('grace', grace)
        longest = ttl * 2 / 3 - safety_margin(ttl)
        if grace >= longest:
            raise ValueError(
                f'grace must be less than {longest:.2f} s with a TTL of {ttl} s, not {grace:g}: '
                'that long does a term certainly last when its key is renewed'
            )
        seconds = _seconds('pause', pause)
        super().__init__(_LoopDaemon(host, key, text, ttl, function, grace, seconds, on_overrun))

    @property
    def state(self) -> CandidacyState:
        """The state of the candidate, correct immediately after the process was paused; STOPPED in a forked child."""
        return self._daemon.state

    @property
    def term(self) -> Term | None:
        """The term for which the function runs; None while it does not run, and in a forked child."""
        return None if self._daemon.in_forked_child else self._daemon.term

    @property
    def value(self) -> str:
        """The value of this candidate."""
        return self._daemon.queue.value

    @property
    def ttl(self) -> int:
        """The requested TTL in seconds."""
        return self._daemon.queue.ttl

    def __repr__(self) -> str:
        return f'<getc.LeaderLoop {self.key} {self.state.name} ttl={self.ttl}>'


class _LoopDaemon(Campaign):
    """The daemon of a :class:`LeaderLoop`.

    While the function runs, no attempt is in flight: the next campaign begins after its end.

    Attributes:
        term: The term for which the function runs, or None.
    """

    __slots__ = ('_function', '_grace', '_is_struck', '_on_overrun', '_pause', '_runner', '_timer', 'term')

    def __init__(
        self,
        host: RecipeHost,
        key: str,
        value: str,
        ttl: int,
        function: Callable[[Term], object],
        grace: float,
        pause: float,
        on_overrun: Callable[[Term], object] | None,
    ) -> None:
        super().__init__(host._recipe_context, key, value, ttl, f'run_while_leader {key}')
        self.term: Term | None = None
        self._function = function
        self._grace = grace
        self._pause = pause
        self._on_overrun = on_overrun
        self._runner: gevent.Greenlet[..., None] | None = None
        self._is_struck = False  # the function was killed
        self._timer: Any = None

    # -- a term

    def _on_elected(self, contender: Contender) -> None:
        if self._is_stopped:
            return
        self.queue.context.daemons.discard_task(contender)  # this daemon ends it, after the function
        term = self.term = Term(contender)
        self._is_struck = False
        runner = self._runner = self.greenlets.spawn(self._run, term)
        runner.rawlink(lambda _: self._on_returned(contender))
        self._watch_end(contender)

    def _run(self, term: Term) -> None:
        try:
            self._function(term)
        except (Exception, gevent.Timeout):
            report_failure('%s: %s: the function %r raised', self.log.label, self.name, self._function)

    def _watch_end(self, contender: Contender) -> None:
        """Kill the function ``grace`` seconds before the end of the term, which renewals move."""
        left = contender.remaining() - self._grace
        if left > 0:
            self._start_timer(left, self._watch_end, contender)
        else:
            self._strike('was not renewed in time')

    def _strike(self, reason: str) -> None:
        self._is_struck = True
        if self._runner is not None:
            self._runner.kill(LeadershipLost(f'the leadership of {self.key} {reason}'), block=False)

    def _on_lost(self, contender: Contender) -> None:
        if self._runner is None or self.term is None:
            self.retry.schedule(0)
            return
        self.term._loss = contender.loss()
        if self._is_struck:
            self._report_overrun(self.term)
        else:
            self._strike(f'was lost: {self.term._loss}')
            self._start_timer(self._grace, self._report_overrun, self.term)
        contender.start_leaving()

    def _report_overrun(self, term: Term) -> None:
        self._stop_timer()
        text = 'the function still runs, and another process may be the leader: %r'
        self.log_event(logging.CRITICAL, text, self._function)
        if self._on_overrun is not None:
            self.callbacks.post(self._on_overrun, term)

    def _on_returned(self, contender: Contender) -> None:
        """The function has returned, has raised, or was killed."""
        self._stop_timer()
        self._runner = self.term = None
        contender.start_leaving()
        self.retry.schedule(0 if self._is_struck else self._pause)

    def _start_timer(self, seconds: float, function: Callable[..., object], *args: object) -> None:
        self._stop_timer()
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(function, *args)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    # -- stop

    def _on_stop(self, deadline: Deadline) -> None:
        runner, contender = self._runner, self.contender
        if runner is None or contender is None:
            super()._on_stop(deadline)
            return
        self._wake()
        if runner is not gevent.getcurrent():  # else the key is deleted when the function returns
            self._strike('is given up: the loop was stopped')
            self.greenlets.spawn(self._finish, runner, contender, deadline)

    def _finish(self, runner: gevent.Greenlet[..., None], contender: Contender, deadline: Deadline) -> None:
        """Delete the key once the function has ended."""
        try:
            runner.join(timeout=deadline.timeout_left())
        finally:  # also if this greenlet is killed at the deadline
            if not runner.dead:
                text = 'the function still runs after the loop was stopped; the key is left to its TTL of %d s: %r'
                self.log_event(logging.CRITICAL, text, self.queue.ttl, self._function)
                if contender.node is not None:
                    contender.node.abandon()
        if runner.dead:
            self._leave(contender, deadline)


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{name} must be a number of seconds, not {type(value).__name__}')
    if not 0 <= value < float('inf'):
        raise ValueError(f'{name} must be 0 or more seconds, not {value}')
    return float(value)
