"""The daemons of one client: starts them, and stops all of them when the client closes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import gevent

from getc.daemons.base import Daemon
from getc.daemons.greenlets import KILL_GRACE, DaemonGreenlets
from getc.daemons.handle import DaemonHandle
from getc.daemons.monitor import DaemonMonitor
from getc.net.client_log import ClientLog
from getc.timing import Deadline

__all__ = ['ClientTask', 'DaemonRegistry']


class ClientTask(Protocol):
    """Something that ends with its client without being a daemon, such as a lock that is held.

    Attributes:
        greenlets: Its greenlets, which are killed when they do not end in time.
    """

    __slots__ = ()

    @property
    def greenlets(self) -> DaemonGreenlets: ...

    def stop_begin(self, deadline: Deadline) -> None:
        """End because the client closes: spawn what needs I/O, which ends before the deadline.  Does not block."""

    def on_forked(self) -> None:
        """Wake the greenlets that wait in a forked child, where the task belongs to the parent.  Does not block."""


class DaemonRegistry:
    """Starts daemons, keeps a list of those that run, and stops them together.

    Iterating over a registry yields its running daemons in the order of their starts.  A daemon that stops, for
    whatever reason, leaves the registry.

    Args:
        log: The log of the client.
        keeps_alive: An object that lives at least as long as the daemons, or None.

    Attributes:
        log: The same; daemons write to it.
    """

    def __init__(self, log: ClientLog, keeps_alive: object = None) -> None:
        self.log = log
        self._keeps_alive = keeps_alive  # each daemon has a reference to the registry
        self._daemons: dict[Daemon, None] = {}
        self._tasks: dict[ClientTask, None] = {}
        self._on_finished: Callable[[Daemon], None] | None = None  # `_discard`, one object for all daemons
        self._monitor = DaemonMonitor(log, self._has_daemons)

    def start(self, handle: DaemonHandle, *, wait: bool, deadline: Deadline) -> None:
        """Start a daemon.

        Args:
            handle: A new keeper, watcher or mirror.
            wait: True blocks until the daemon has started; False returns at once.
            deadline: The end of the wait.

        Raises:
            TimedOut: The daemon did not start before the deadline, and was stopped.
            ClientClosed: The daemon was stopped during the wait.
            EtcException: The server refused.  The daemon was stopped.
            RuntimeError: This is not the thread of the client.
        """
        daemon = handle._daemon
        if self._on_finished is None:  # not in __init__: a client without daemons is freed without a garbage collection
            self._on_finished = self._discard
        daemon.start(self._on_finished)
        self._daemons[daemon] = None
        self._monitor.add(daemon)
        if wait:
            daemon.wait_started(deadline)
            self._monitor.discard(daemon)

    def add_task(self, task: ClientTask) -> None:
        """End the task when the client closes."""
        self._tasks[task] = None

    def discard_task(self, task: ClientTask) -> None:
        """Forget a task that has ended."""
        self._tasks.pop(task, None)

    def stop_all(self, deadline: Deadline) -> None:
        """Stop all daemons and tasks at the same time, and kill what still runs at the deadline.

        Blocks until the deadline at most, and ``KILL_GRACE`` seconds more if something was killed.
        """
        daemons = list(self._daemons)
        tasks = list(self._tasks)
        ending: list[Daemon | ClientTask] = [*daemons, *tasks]
        for each in ending:
            each.stop_begin(deadline)
        killed = []
        try:
            for each in ending:
                each.greenlets.join(deadline)
        finally:  # also when the caller is killed or has a gevent.Timeout of its own
            for daemon in daemons:
                killed += daemon.kill()
            for task in tasks:
                killed += task.greenlets.kill()
            self._monitor.close()
        if killed:
            gevent.joinall(killed, timeout=KILL_GRACE)

    def reset_in_child(self, log: ClientLog) -> None:
        """Drop the daemons of the parent process after a fork, which have no effect in the child.

        Args:
            log: The log of the client in the child.
        """
        self.log = log
        self._daemons = {}
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task.on_forked()
        self._monitor.close()
        self._monitor = DaemonMonitor(log, self._has_daemons)

    def __iter__(self) -> Iterator[Daemon]:
        return iter(self._daemons)

    def __len__(self) -> int:
        return len(self._daemons)

    def _discard(self, daemon: Daemon) -> None:
        self._daemons.pop(daemon, None)
        self._monitor.discard(daemon)

    def _has_daemons(self) -> bool:
        return bool(self._daemons)
