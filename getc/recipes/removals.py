"""Deletes the keys of a contender in the background."""

from __future__ import annotations

from collections.abc import Callable

import gevent

from getc.daemons.greenlets import DaemonGreenlets
from getc.recipes.contender_key import ContenderKey
from getc.timing import Deadline

__all__ = ['Removals']


class Removals:
    """The keys of one contender that are being deleted, each in a greenlet of its own.

    Args:
        greenlets: Runs the greenlets.
        on_removed: Called after each one.  The function must not block or raise.
    """

    __slots__ = ('_greenlets', '_on_removed', '_running')

    def __init__(self, greenlets: DaemonGreenlets, on_removed: Callable[[], object]) -> None:
        self._greenlets = greenlets
        self._on_removed = on_removed
        self._running: dict[ContenderKey, gevent.Greenlet[..., None]] = {}

    @property
    def is_empty(self) -> bool:
        """True if no key is being deleted."""
        return all(greenlet.dead for greenlet in self._running.values())

    def start(self, key: ContenderKey | None) -> None:
        """Delete a key if it may exist.  Does not block."""
        if key is not None and key.may_exist:
            removal = self._running[key] = self._greenlets.spawn(key.remove)
            removal.rawlink(lambda _: self._on_ended(key))

    def wait(self, deadline: Deadline) -> None:
        """Block until the keys are deleted, or the deadline.  Raises the error with which etcd has refused one."""
        keys = list(self._running)
        if keys:
            gevent.joinall(list(self._running.values()), timeout=deadline.timeout_left())
        for key in keys:
            if key.refusal is not None:
                raise key.refusal

    def _on_ended(self, key: ContenderKey) -> None:
        if key.node is not None:
            key.node.abandon()  # also if the greenlet was killed before its first instruction
        self._running.pop(key, None)
        self._on_removed()
