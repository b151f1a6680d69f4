"""Detects watches that have missed a change which the client has seen in the result of a call.

A watch stream may appear healthy and deliver nothing, as behind ``etcd grpc-proxy`` with authentication after etcd was
restarted.  A call that returns a node with a higher index than the position of a watch of that node is evidence, unless
the change is still in flight.
"""

from __future__ import annotations

from typing import Any, Final

from gevent.hub import get_hub

from getc.backends.tree.watch.position import WatchPosition
from getc.net.affinity import ThreadAffinity, close_watcher
from getc.paths import ROOT
from getc.results import Directory, EtcdResult, Node

__all__ = ['MissedChanges']

DELIVERY_TIMEOUT: Final = 1.5
"""Seconds for the watch to deliver a change that a call has returned."""

MAX_CHECKS: Final = 2
"""How often the timeout has to expire: once may mean that this process did not run."""


class MissedChanges:
    """Compares what calls return with what watches have delivered.

    Attributes:
        watches: The watches, by key.
    """

    def __init__(self) -> None:
        self.watches: dict[str, dict[WatchPosition, None]] = {}
        self._timers: dict[WatchPosition, Any] = {}  # one for each watch that may have missed a change
        self._affinity = ThreadAffinity()

    def add(self, watch: WatchPosition) -> None:
        """Check this watch from now on."""
        self.watches.setdefault(watch.spec.key, {})[watch] = None

    def remove(self, watch: WatchPosition) -> None:
        """Stop checking this watch.  May be called twice."""
        watches = self.watches.get(watch.spec.key)
        if watches is not None:
            watches.pop(watch, None)
            if not watches:
                del self.watches[watch.spec.key]
        timer = self._timers.pop(watch, None)
        if timer is not None:
            close_watcher(timer)

    def compare(self, result: EtcdResult) -> None:
        """Compare the result of a call with the watches of its node and of the directories above.  Does not block."""
        node: Node = result.node
        if isinstance(node, Directory):
            node = max(node.leaves(), key=_index_of, default=node)
        path = node.key
        while True:  # up to the root, without a list of the paths: this is part of every call
            for watch in self.watches.get(path, ()):
                if watch not in self._timers and watch.lacks(node):
                    self._start_timer(watch, node, MAX_CHECKS)
            if path == ROOT:
                return
            path = path[: path.rindex('/')] or ROOT

    def _start_timer(self, watch: WatchPosition, node: Node, checks: int) -> None:
        timer = self._timers[watch] = get_hub().loop.timer(DELIVERY_TIMEOUT, ref=False)
        timer.start(self._on_timer, watch, node, checks - 1)

    def _on_timer(self, watch: WatchPosition, node: Node, checks: int) -> None:
        close_watcher(self._timers.pop(watch))
        if self._affinity.in_forked_child or not watch.lacks(node):
            return
        if checks:
            self._start_timer(watch, node, checks)
        else:
            watch.on_missed(node.modified_index)


def _index_of(node: Node) -> int:
    return node.modified_index
