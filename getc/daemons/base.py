"""The life cycle of a daemon: start, repeated attempts, callbacks, stop.

A daemon is a state machine.  An idle daemon has no greenlet, at most a timer: each attempt and each series of callbacks
runs in a greenlet of its own, which ends when the work is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent
from gevent.event import Event

from getc.daemons.callbacks import CallbackQueue
from getc.daemons.greenlets import KILL_GRACE, DaemonGreenlets
from getc.daemons.retry_loop import RetryLoop
from getc.error_context import copy_error
from getc.error_hints import add_hint
from getc.errors import ClientClosed, EtcdError, EtcException, TimedOut
from getc.net.client_log import ClientLog
from getc.operations import WatchSpec
from getc.options import STOP_TIMEOUT
from getc.retry import is_transient
from getc.timing import Deadline

__all__ = ['Daemon', 'event_of']


def event_of(arg: object) -> object:
    """Return the deduplication key of a log argument: for errors the type and the endpoint, not the text."""
    return (type(arg), arg.endpoint) if isinstance(arg, EtcException) else arg


class Daemon:
    """A background activity of a client.  Programs use it through a :class:`~getc.daemons.handle.DaemonHandle`.

    A daemon belongs to the process and the thread of its client, and counts as stopped in a forked child.

    Subclasses implement :meth:`_step` and :meth:`_on_stop`.

    Attributes:
        key: The key that the daemon keeps or follows.
        log: The log of the client.
        greenlets: The greenlets of the daemon.
        retry: The loop that runs :meth:`_step`.
        callbacks: The queue in which user callbacks are called.
        last_error: The latest error, or None; a recovery does not reset it to None.
    """

    __slots__ = (  # a program may have 10,000 of them
        '_fatal_error',
        '_finished',
        '_is_awaited',
        '_is_stopped',
        '_never_started',
        '_on_finished',
        '_on_stopping',
        '_start_event',
        'callbacks',
        'greenlets',
        'key',
        'last_error',
        'log',
        'retry',
    )

    def __init__(
        self, log: ClientLog, key: str, name: str, *, on_callbacks_done: Callable[[], object] | None = None
    ) -> None:
        self.key = key
        self.log = log
        self.greenlets = DaemonGreenlets(name)
        self.retry = RetryLoop(self._step, self.greenlets, self._on_attempt_failed)
        self.callbacks = CallbackQueue(self.greenlets, log, on_callbacks_done)
        self.last_error: EtcException | None = None
        self._never_started = True
        self._is_awaited = False  # `wait_started` was called
        self._is_stopped = False
        self._start_event = Event()  # started, failed to start, or stopped
        self._fatal_error: EtcException | None = None
        self._finished = Event()
        self._on_stopping: Callable[[], object] | None = None
        self._on_finished: Callable[[Daemon], object] | None = None

    def _step(self) -> float | None:
        """Make one attempt, as :class:`RetryLoop` runs it."""
        raise NotImplementedError

    def _on_stop(self, deadline: Deadline) -> None:
        """Release everything without blocking; spawn what needs I/O, which ends before the deadline."""
        raise NotImplementedError

    def _may_have_written(self) -> bool:
        """Return True if a write of this daemon may have been applied, or may still be."""
        return False

    # -- state

    @property
    def name(self) -> str:
        """The operation and the key, for logs and errors: as ``keep_node /servers/a``."""
        return self.greenlets.name

    @property
    def in_forked_child(self) -> bool:
        """True in a child process that was forked after the daemon was created."""
        return self.greenlets.affinity.in_forked_child

    @property
    def is_starting(self) -> bool:
        """True until the daemon has started, failed to start, or was stopped."""
        return self._never_started and not self._start_event.is_set()

    @property
    def is_stopped(self) -> bool:
        """True as soon as the daemon begins to stop, and in a forked child."""
        return self._is_stopped or self.in_forked_child

    def log_event(self, level: int, text: str, *args: object) -> None:
        """Write to the log of the client.  Does not block.  Errors of one type and endpoint count as the same event."""
        key = text, *(event_of(arg) for arg in args)
        self.log.note(level, text % args, subject=self.name, key=key)

    def check_thread(self) -> None:
        """Raise RuntimeError in another thread than the client's."""
        self.greenlets.affinity.check(self.greenlets.name)

    # -- start

    def start(self, on_finished: Callable[[Daemon], object] | None = None) -> None:
        """Make the first attempt in the background.

        Args:
            on_finished: Called with this daemon once it has stopped.  The function must not block or raise.

        Raises:
            RuntimeError: This is not the thread of the client.
        """
        self.check_thread()
        self._on_finished = on_finished
        self.retry.schedule(0)

    def wait_started(self, deadline: Deadline) -> None:
        """Block until the daemon has started; stop the daemon if that fails or the caller is killed.

        Raises:
            TimedOut: The daemon did not start before the deadline; ``maybe_applied`` if one of its writes may have been
                applied.
            ClientClosed: The daemon was stopped.
            EtcException: The server refused.
        """
        self._is_awaited = True
        try:
            if not self._start_event.wait(deadline.timeout_left()):
                reason = 'no response yet' if self.last_error is None else str(self.last_error)
                raise TimedOut(f'{self.name} did not start within {deadline.timeout:g} s: {reason}')
            if self._fatal_error is not None:
                raise self._fatal_error
            if self._never_started:
                raise ClientClosed(f'{self.name} was stopped before it had started')
        except EtcException as error:
            maybe_applied = error.maybe_applied or self._may_have_written()
            self.stop_soon()
            raise copy_error(error, maybe_applied=maybe_applied) from error.__cause__
        except BaseException:
            self.stop_soon()
            raise

    def mark_started(self) -> None:
        """Wake the callers of :meth:`wait_started`."""
        self._never_started = False
        self._start_event.set()

    def fail_start(self, error: EtcException) -> None:
        """Stop because the server refuses; :meth:`wait_started` raises the error.  Does not block."""
        if isinstance(error, EtcdError):
            add_hint(error, WatchSpec(self.key))
        self.last_error = self._fatal_error = error
        self.stop_soon()
        if not self._is_awaited:  # the caller of `wait_started` gets the error
            self.log_event(logging.WARNING, 'did not start: %s', error)

    def _on_attempt_failed(self, error: EtcException) -> None:
        before, self.last_error = self.last_error, error
        if is_transient(error):
            return
        if self._never_started:
            self.fail_start(error)
        elif str(error) != str(before):
            self.log_event(logging.WARNING, 'attempt failed, retrying with back-off: %s', error)

    # -- stop

    def on_stopping(self, function: Callable[[], object]) -> None:
        """Call a function, which must not block or raise, as soon as this daemon begins to stop."""
        self._on_stopping = function

    def stop(self, deadline: Deadline) -> None:
        """Stop, and block until the daemon has stopped: until the deadline at most.  Does nothing in a forked child.

        Raises:
            RuntimeError: This is not the thread of the client.
        """
        if self.in_forked_child:
            return
        self.check_thread()
        self.stop_begin(deadline)
        self.stop_wait(deadline)

    def stop_begin(self, deadline: Deadline) -> None:
        """Begin no further attempt or callback, and release the resources of the daemon.  Does not block."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self.callbacks.close()
        self.retry.close()
        self._on_stop(deadline)
        self._start_event.set()
        if self._on_stopping is not None:
            self._on_stopping()

    def stop_wait(self, deadline: Deadline) -> None:
        """Wait for the greenlets of the daemon, and kill those that are left at the deadline."""
        try:
            self.greenlets.join(deadline)
        finally:
            killed = self.kill()
        gevent.joinall(killed, timeout=KILL_GRACE)

    def kill(self) -> list[gevent.Greenlet[..., None]]:
        """Kill the greenlets that are left after :meth:`stop_begin`, and return them.  Does not block."""
        killed = self.greenlets.kill()
        if not self._finished.is_set():
            self._finished.set()
            if self._on_finished is not None:
                self._on_finished(self)
        return killed

    def stop_soon(self) -> None:
        """Stop in the background.  Does not block."""
        deadline = Deadline(STOP_TIMEOUT)
        self.stop_begin(deadline)
        gevent.spawn(self.stop_wait, deadline).name = f'getc end of {self.name}'

    def join(self, deadline: Deadline) -> bool:
        """Block until the daemon has stopped, and return True; or False at the deadline."""
        if self.in_forked_child:
            return True
        self.check_thread()
        return self._finished.wait(deadline.timeout_left())
