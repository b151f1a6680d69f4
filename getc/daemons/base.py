"""What all daemons share: attempts that are made until one succeeds, callbacks in order, and an end.

A daemon is a state machine.  While nothing happens it has no greenlet, only a timer perhaps: each
attempt and each series of callbacks runs in a greenlet that ends when its work is done.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TypeVar

import gevent
from gevent.event import Event

from getc import timing
from getc.daemons.failures import report_failure
from getc.error_context import copy_error
from getc.errors import ClientClosed, EtcdError, EtcException, TimedOut
from getc.net.affinity import ThreadAffinity, Unpicklable
from getc.net.client_log import ClientLog
from getc.operations import WatchSpec, explain
from getc.retry import is_transient
from getc.timing import Backoff, Deadline

__all__ = ['Daemon', 'event_of']

CLEANUP_TIMEOUT: Final = 1.0
"""Seconds that a killed greenlet has for its own ``finally``."""

REFUSED_CAP: Final = 10.0
"""Seconds between attempts, at most, while each is refused, or meets what would only be repeated."""

MAX_BUSY_SECONDS: Final = 0.01
"""Seconds after which callbacks that do not block let others run."""

_Self = TypeVar('_Self', bound='Daemon')

_Call = tuple[Callable[..., object], tuple[object, ...]]
"""A callback, and with what it is called."""


def event_of(arg: object) -> object:
    """What makes two arguments of a log line the same event: of errors their type and server, not their text."""
    return (type(arg), arg.endpoint) if isinstance(arg, EtcException) else arg


class Daemon(Unpicklable):
    """Something that goes on in the background until it is stopped.

    Also a context manager: leaving it stops it.

    It belongs to the process and the thread of its client.  In a child that was forked off it has ended.

    Attributes:
        key: The node that it is about.
        name: What it does, for logs.
        last_error: The latest trouble, or None; it stays after the trouble has passed.
    """

    key: str

    __slots__ = (  # there are thousands
        '__weakref__',
        '_attempting',
        '_backoff',
        '_calling',
        '_calls',
        '_finished',
        '_home',
        '_is_starting',
        '_is_stopped',
        '_log',
        '_next_delay',
        '_on_finished',
        '_refusal',
        '_settled',
        '_stopping',
        '_tasks',
        '_timer',
        'last_error',
        'name',
    )

    def __init__(self, log: ClientLog, name: str) -> None:
        self.name = name
        self.last_error: EtcException | None = None
        self._log = log
        self._on_finished: Callable[[Daemon], object] | None = None
        self._home = ThreadAffinity()
        self._backoff = Backoff()
        self._is_starting = True
        self._is_stopped = False
        self._settled = Event()  # started, refused, or stopped
        self._refusal: EtcException | None = None
        self._finished = Event()
        self._tasks: set[gevent.Greenlet[..., None]] = set()
        self._timer: Any = None
        self._attempting: gevent.Greenlet[..., None] | None = None
        self._next_delay: float | None = None  # until another attempt, as asked for during one
        self._calls: deque[_Call] | tuple[()] = ()  # an empty deque takes 0.7 kB
        self._calling: gevent.Greenlet[..., None] | None = None
        self._stopping: Callable[[], object] | None = None

    # -- the end

    @property
    def is_starting(self) -> bool:
        """True until it has started, was refused, or was stopped."""
        return self._is_starting and not self._settled.is_set()

    @property
    def is_stopped(self) -> bool:
        """True as soon as it was told to stop, and in a forked child."""
        return self._is_stopped or self._home.in_forked_child

    def stop(self, timeout: float | None = 5.0) -> None:
        """End it.  When this returns no callback runs or will run; a second call does nothing.

        Blocks until what is under way has ended, for ``timeout`` seconds at most (None: no limit);
        a callback still running then is killed.  May be called from a callback, which goes on.

        Raises:
            TypeError, ValueError: The timeout is no number of seconds.
            RuntimeError: This is another thread than its client's.
        """
        deadline = Deadline.after(timeout)
        if self._home.in_forked_child:
            return
        self._home.check()
        self.stop_begin(deadline)
        self.stop_wait(deadline)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it is stopped, for ``timeout`` seconds at most (None: no limit).  True if it is."""
        deadline = Deadline.after(timeout)
        if self._home.in_forked_child:
            return True
        self._home.check()
        return self._finished.wait(deadline.timeout_left())

    def stop_begin(self, deadline: Deadline) -> None:
        """The first half of :meth:`stop`, which does not block.  For its owner."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._calls = ()
        self._cancel_timer()
        self._on_stop(deadline)
        self._settled.set()
        if self._stopping is not None:
            self._stopping()

    def stop_wait(self, deadline: Deadline) -> None:
        """The second half of :meth:`stop`: wait for what is under way, and kill it at the deadline."""
        current = gevent.getcurrent()
        try:
            while tasks := [task for task in self._tasks if task is not current]:
                if deadline.has_passed():
                    break
                gevent.joinall(tasks, timeout=deadline.timeout_left())
        finally:
            tasks = [task for task in self._tasks if task is not current]
            gevent.killall(tasks, block=False)
            self._finished.set()
            if self._on_finished is not None:
                self._on_finished(self)
        gevent.joinall(tasks, timeout=CLEANUP_TIMEOUT)

    def on_stopping(self, callback: Callable[[], object]) -> None:
        """Have it called as soon as this begins to stop.  It must not block or raise.  For its owner."""
        self._stopping = callback

    def stop_soon(self) -> None:
        """Stop in the background: for whoever has no time to wait."""
        deadline = Deadline(5.0)
        self.stop_begin(deadline)
        gevent.spawn(self.stop_wait, deadline).name = f'getc end of {self.name}'

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _on_stop(self, deadline: Deadline) -> None:
        """Let go of everything without blocking; what needs I/O is spawned, and over by the deadline."""
        raise NotImplementedError

    # -- the beginning

    def start(self, on_finished: Callable[[Daemon], object] | None = None) -> None:
        """Make the first attempt in the background.

        Args:
            on_finished: Called with this daemon once it has stopped.  It must not block or raise.
        """
        self._home.check()
        self._on_finished = on_finished
        self._attempt_in(0)

    def wait_started(self, deadline: Deadline) -> None:
        """Wait for the start; who gives up before it (a timeout, a kill) leaves nothing behind.

        Raises:
            TimedOut: It did not start in time; with ``maybe_applied`` something of it may be there, or may come yet.
            EtcException: The server refuses.
        """
        try:
            if not self._settled.wait(deadline.timeout_left()):
                why = 'no answer came yet' if self.last_error is None else str(self.last_error)
                raise TimedOut(f'{self.name} did not start within {deadline.timeout:g} s: {why}')
            if self._refusal is not None:
                raise self._refusal
            if self._is_starting:
                raise ClientClosed(f'{self.name} was stopped before it had started')
        except EtcException as error:
            maybe_applied = error.maybe_applied or self._may_have_written()
            self.stop_soon()
            raise copy_error(error, maybe_applied=maybe_applied) from error.__cause__
        except BaseException:
            self.stop_soon()
            raise

    def _may_have_written(self) -> bool:
        """True if what it has begun to write may be there, or may come yet."""
        return False

    def _started(self) -> None:
        self._is_starting = False
        self._settled.set()

    def _refuse(self, error: EtcException) -> None:
        """Give up before the start."""
        if isinstance(error, EtcdError):
            explain(error, WatchSpec(self.key))
        self.last_error = self._refusal = error
        self.stop_soon()
        self._log_soon(logging.WARNING, 'refused: %s', error)

    def _log_soon(self, level: int, text: str, *args: object) -> None:
        """Write to the log of the client.  Does not block.  Errors of one kind and one server are the same event."""
        key = text, *(event_of(arg) for arg in args)
        self._log.note(level, text % args, subject=self.name, key=key)

    # -- attempts

    def _step(self) -> float | None:
        """Attempt what is to be done next.  Seconds until the next one; None if something will ask for it."""
        raise NotImplementedError

    def _attempt_in(self, delay: float) -> None:
        """Make an attempt after so many seconds, and after the one under way; the latest call counts."""
        self._cancel_timer()
        if self.is_stopped:
            return
        if self._attempting is not None:
            self._next_delay = delay
        elif delay <= 0:
            self._begin_attempt()
        else:
            self._timer = gevent.get_hub().loop.timer(delay)
            self._timer.start(self._begin_attempt)

    def _begin_attempt(self) -> None:
        self._cancel_timer()
        self._next_delay = None
        self._attempting = self._spawn(self._attempt)

    def _attempt(self) -> None:
        if self._home.in_forked_child:
            return
        began = timing.now()
        backoff = self._backoff.next_delay()
        delay: float | None = backoff  # also if this greenlet is killed on the way
        try:
            delay = self._step()
        except EtcException as error:
            delay = max(0.0, began + backoff - timing.now())  # a server that is silent has kept us waiting already
            before, self.last_error = self.last_error, error
            if is_transient(error):
                pass
            elif self._is_starting:
                self._attempting = None  # there is nothing to wait for
                self._refuse(error)
            else:
                delay = self._backoff.next_delay(REFUSED_CAP)
                if str(error) != str(before):
                    self._log_soon(logging.WARNING, 'cannot go on, and is tried again less and less often: %s', error)
        finally:
            self._attempting = None
            if self._next_delay is not None and (delay is None or self._next_delay < delay):
                delay = self._next_delay
            if delay is not None:
                self._attempt_in(delay)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    # -- callbacks

    def _call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Call the user's code after what was asked for before, one call at a time."""
        if not self.is_stopped:
            if not isinstance(self._calls, deque):
                self._calls = deque()
            self._calls.append((callback, args))
            if self._calling is None:
                self._calling = self._spawn(self._make_calls)

    def _make_calls(self) -> None:
        began = timing.now()
        try:
            while isinstance(self._calls, deque) and not self._home.in_forked_child:
                callback, args = self._calls.popleft()
                if not self._calls:
                    self._calls = ()
                try:
                    callback(*args)
                except (Exception, gevent.Timeout):
                    report_failure('%s: %s: the callback %r raised', self._log.label, self.name, callback)
                if self._calls and timing.now() - began > MAX_BUSY_SECONDS:
                    gevent.sleep(0)
                    began = timing.now()
        finally:  # also when a callback was killed, and this greenlet with it
            self._calling = None
            if self._home.in_forked_child:
                self._calls = ()
            elif self._calls:
                self._calling = self._spawn(self._make_calls)
            elif not self._is_stopped:
                self._on_called()

    def _on_called(self) -> None:
        """All callbacks that were asked for were made.  Does not block."""

    # -- greenlets

    def _spawn(self, task: Callable[..., None], *args: object) -> gevent.Greenlet[..., None]:
        """Run a task of this daemon in a greenlet that ends with it."""
        greenlet = gevent.spawn(task, *args)
        greenlet.name = f'getc {self.name}'
        self._tasks.add(greenlet)
        greenlet.rawlink(self._tasks.discard)
        return greenlet
