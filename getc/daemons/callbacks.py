"""Calls user callbacks in order, outside of getc's own greenlets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import gevent
from gevent.event import Event

from getc import timing
from getc.daemons.failures import report_failure
from getc.daemons.greenlets import DaemonGreenlets
from getc.net.client_log import ClientLog
from getc.timing import Deadline

__all__ = ['CallbackQueue']

MAX_BUSY_SECONDS: Final = 0.01
"""Seconds after which callbacks that do not block yield to other greenlets."""

_Call = tuple[Callable[..., object], tuple[object, ...]]
"""A function and its arguments."""


class CallbackQueue:
    """Calls functions one at a time, in the order in which they were posted.

    The calls run in a greenlet that ends when the queue is empty.  An exception of a function is logged and does not
    prevent the calls after it; neither does a kill of the function's greenlet.  The length of a queue is the number of
    calls that have not begun.

    Args:
        greenlets: Runs the greenlet.
        log: The log of the client.
        on_empty: A function that must not block or raise, called after the last posted call has returned.
    """

    __slots__ = ('_barriers', '_calls', '_greenlets', '_is_closed', '_log', '_on_empty', '_running')

    def __init__(
        self, greenlets: DaemonGreenlets, log: ClientLog, on_empty: Callable[[], object] | None = None
    ) -> None:
        self._greenlets = greenlets
        self._log = log
        self._on_empty = on_empty
        self._calls: deque[_Call] | tuple[()] = ()  # an empty deque takes 0.7 kB
        self._running: gevent.Greenlet[..., None] | None = None
        self._is_closed = False
        self._barriers: Sequence[Event] = ()  # set when the calls before them have returned, or by `close`

    def __len__(self) -> int:
        return len(self._calls)

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Call a function after those posted before.  Does not block; does nothing once the queue is closed."""
        if self._is_closed or self._greenlets.affinity.in_forked_child:
            return
        if not isinstance(self._calls, deque):
            self._calls = deque()
        self._calls.append((function, args))
        if self._running is None or self._running.ready():  # ready: it was killed before it ran
            self._running = self._greenlets.spawn(self._run)

    @property
    def is_caller(self) -> bool:
        """True if the current greenlet runs the calls."""
        return self._running is not None and self._running is gevent.getcurrent()

    def wait_for_posted(self, deadline: Deadline) -> bool:
        """Wait until the calls that were posted before have returned, or the queue was closed.  Blocks.

        Returns:
            False at the deadline.
        """
        if self._is_closed or (self._running is None and not self._calls):
            return True
        returned = Event()
        self._barriers = [*self._barriers, returned]
        call = returned.set
        self.post(call)
        try:
            return bool(returned.wait(deadline.timeout_left())) or returned.is_set()
        finally:
            self._barriers = [each for each in self._barriers if each is not returned]
            # Without those that were given up, the length of the queue shows how far the callbacks are behind.
            if not returned.is_set() and isinstance(self._calls, deque):
                self._calls = deque(each for each in self._calls if each[0] is not call) or ()

    def close(self) -> None:
        """Drop the calls that have not begun, and accept no others."""
        self._is_closed = True
        self._calls = ()
        for barrier in self._barriers:
            barrier.set()

    def _run(self) -> None:
        began = timing.now()
        try:
            while isinstance(self._calls, deque) and not self._greenlets.affinity.in_forked_child:
                function, args = self._calls.popleft()
                if not self._calls:
                    self._calls = ()
                try:
                    function(*args)
                except (Exception, gevent.Timeout):
                    report_failure('%s: %s: the callback %r raised', self._log.label, self._greenlets.name, function)
                if self._calls and timing.now() - began > MAX_BUSY_SECONDS:
                    gevent.sleep(0)
                    began = timing.now()
        finally:  # also when a callback was killed, and this greenlet with it
            self._running = None
            if self._greenlets.affinity.in_forked_child:
                self._calls = ()
            elif self._calls:
                self._running = self._greenlets.spawn(self._run)
            elif not self._is_closed and self._on_empty is not None:
                self._on_empty()
