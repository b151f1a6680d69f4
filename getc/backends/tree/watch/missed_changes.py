"""Detects watches that have missed a change of which the client knows otherwise: by its own reads and writes.

A stream of watches may be well and carry nothing, as behind ``etcd grpc-proxy`` with authentication after etcd was
restarted.  A call that returns a node with a higher index than the watch of that node has come to is evidence, unless
the change is just on its way.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from gevent.hub import get_hub

from getc.net.affinity import ThreadAffinity, close_watcher
from getc.paths import ROOT
from getc.results import Directory, EtcdResult, Node

__all__ = ['MissedChanges']

PATIENCE: Final = 1.5
"""Seconds for a change to arrive by its watch.  Twice, for this process may not have run."""


class _Source(Protocol):
    """A watch that is shared by its followers."""

    @property
    def key(self) -> str: ...

    def lacks(self, node: Node) -> bool:
        """True if the watch should deliver the last change of this node, and nothing of it has arrived."""

    def on_missed(self, index: int) -> None: ...


class MissedChanges:
    """Compares what calls return with what watches have delivered.

    Attributes:
        sources: The watches, by the key that they follow.
    """

    def __init__(self) -> None:
        self.sources: dict[str, dict[_Source, None]] = {}
        self._awaited: dict[_Source, Any] = {}  # the timer of each that may have missed something
        self._home = ThreadAffinity()

    def add(self, source: _Source) -> None:
        """Compare the changes of this watch from now on."""
        self.sources.setdefault(source.key, {})[source] = None

    def remove(self, source: _Source) -> None:
        """The watch is over.  May be called twice."""
        sources = self.sources.get(source.key)
        if sources is not None:
            sources.pop(source, None)
            if not sources:
                del self.sources[source.key]
        timer = self._awaited.pop(source, None)
        if timer is not None:
            close_watcher(timer)

    def compare(self, result: EtcdResult) -> None:
        """A call has returned this.  Does not block."""
        node: Node = result.node
        if isinstance(node, Directory):
            node = max(node.leaves(), key=_index_of, default=node)
        path = node.key
        while True:  # up to the root, without a list of the paths: this is part of every call
            for source in self.sources.get(path, ()):
                if source not in self._awaited and source.lacks(node):
                    self._await(source, node, 2)
            if path == ROOT:
                return
            path = path[: path.rindex('/')] or ROOT

    def _await(self, source: _Source, node: Node, times: int) -> None:
        timer = self._awaited[source] = get_hub().loop.timer(PATIENCE, ref=False)
        timer.start(self._on_due, source, node, times - 1)

    def _on_due(self, source: _Source, node: Node, times: int) -> None:
        close_watcher(self._awaited.pop(source))
        if self._home.in_forked_child or not source.lacks(node):
            return
        if times:
            self._await(source, node, times)
        else:
            source.on_missed(node.modified_index)


def _index_of(node: Node) -> int:
    return node.modified_index
