"""mirror: a read-only mapping of the values below a key, updated as etcd changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from getc.backends.base import Backend
from getc.daemons.callbacks import CallbackQueue
from getc.daemons.follower import Follower
from getc.daemons.follower_handle import FollowerHandle, Waiters
from getc.daemons.options import check_callback
from getc.net.client_log import ClientLog
from getc.operations import WatchSpec
from getc.options import CALL_TIMEOUT
from getc.paths import remove_subtree
from getc.results import Deleted, EtcdResult, Got, Value
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout

__all__ = ['Mirror', 'OnUpdate', 'apply_changes']

OnUpdate = Callable[[tuple[EtcdResult, ...]], object]
"""Called with the changes of one whole revision, after the mirror shows them."""

Answer = TypeVar('Answer')


class Mirror(FollowerHandle, Mapping[str, str]):
    """A read-only mapping from key to text of the values at and below a key.  :meth:`getc.Client.mirror` returns it.

    Reading a mirror performs no I/O and does not yield; a mirror changes only when the greenlet yields.  It changes by
    whole revisions of etcd, so a transaction is never visible in part.  While the connection is lost, the last received
    values are shown, and ``is_stale`` is True.  After history was lost, the whole difference is applied at once.

    Another thread may use ``mirror[key]``, ``key in mirror`` and ``len(mirror)``.  Iteration in another thread raises
    RuntimeError, because the mirror could change meanwhile.
    """

    __slots__ = ('_nodes', '_timeout', '_waiters')

    def __init__(
        self,
        log: ClientLog,
        backend: Backend,
        key: str,
        *,
        on_update: OnUpdate | None = None,
        timeout: float | None = CALL_TIMEOUT,
    ) -> None:
        check_callback('on_update', on_update, is_optional=True)
        spec = WatchSpec(key, recursive=True)
        self._nodes: dict[str, Value] = {}
        self._waiters = Waiters()
        self._timeout = timeout  # of `sync`
        sink = _NodesSink(self._nodes, self._waiters.wake, on_update)
        super().__init__(Follower(log, backend, spec, f'mirror {spec.key}', sink, starts_caught_up=True))
        self._daemon.on_stopping(self._waiters.wake)

    @property
    def nodes(self) -> Mapping[str, Value]:
        """The nodes by their keys: a read-only view, which changes with the mirror.

        Raises:
            RuntimeError: This is not the thread of the client.
        """
        self._daemon.check_thread()
        return MappingProxyType(self._nodes)

    def wait(self, predicate: Callable[[Mirror], Answer], timeout: float | None = None) -> Answer:
        """Block until a predicate of this mirror is true, and return its result.

        The predicate is called at once and after each change, but not for each single revision.

        Args:
            predicate: Called with the mirror, in the calling greenlet.
            timeout: Seconds; None for no limit.

        Raises:
            TimedOut: The predicate did not become true in time.
            ClientClosed: The mirror was stopped, or this is a forked child.
            RuntimeError: This is not the thread of the client.
        """
        return self._waiters.wait(self._daemon, predicate, self, timeout)

    def sync(self, timeout: Timeout = DEFAULT_TIMEOUT) -> int:
        """Block until the mirror shows everything that was written before this call, by any client, to any key.

        The index of etcd is read by a linearizable read, and the watch reports when it has delivered everything up to
        that index.  All greenlets that call ``sync`` at the same time share one read and one report.  Where etcd
        answers progress requests (v3 from 3.4.25 and 3.5.8 on, without ``etcd grpc-proxy``) that takes two round trips;
        else up to a second.  While the mirror is stale or starting, the call waits until it has
        recovered.  Callbacks of ``on_update`` may still be running.

        Args:
            timeout: Seconds; None for no limit, omitted for the timeout of the client.

        Returns:
            The index up to which the mirror shows everything, at least that of every earlier write.

        Raises:
            TimedOut: The mirror did not show everything in time, or etcd did not respond.
            Unauthorized: The user may not read the node.
            ClientClosed: The mirror was stopped, or this is a forked child.
            RuntimeError: This is not the thread of the client.
        """
        deadline = Deadline(self._timeout) if timeout is DEFAULT_TIMEOUT else Deadline.after(timeout)
        return self._daemon.sync(deadline)

    # -- Mapping

    def __getitem__(self, key: str) -> str:
        return self._nodes[key].value

    def __iter__(self) -> Iterator[str]:
        self._daemon.check_thread()
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, key: object) -> bool:
        return key in self._nodes

    __eq__ = object.__eq__  # not by content, which changes
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f'<getc.Mirror {self.key}[{len(self)}] {self.state.name} index={self.index}>'


class _NodesSink:
    """Applies whole revisions to the nodes of a mirror."""

    __slots__ = ('_nodes', '_on_applied', '_on_update')

    def __init__(self, nodes: dict[str, Value], on_applied: Callable[[], object], on_update: OnUpdate | None) -> None:
        self._nodes = nodes
        self._on_applied = on_applied
        self._on_update = on_update

    def on_snapshot(self, found: Sequence[Got], _callbacks: CallbackQueue) -> None:
        self._apply(found)

    def on_changes(self, results: Sequence[EtcdResult], callbacks: CallbackQueue) -> None:
        self._apply(results)
        if self._on_update is not None:
            callbacks.post(self._on_update, tuple(results))

    def on_resync(self, callbacks: CallbackQueue) -> None:
        pass

    def on_caught_up(self, callbacks: CallbackQueue) -> None:
        pass

    def _apply(self, results: Sequence[EtcdResult]) -> None:
        apply_changes(self._nodes, results)
        self._on_applied()


def apply_changes(nodes: dict[str, Value], results: Sequence[EtcdResult]) -> None:
    """Apply the changes of one revision to values by their keys.  Does not switch: they become visible together."""
    for result in results:
        if isinstance(result.node, Value):
            nodes[result.key] = result.node
        elif isinstance(result, Deleted):
            remove_subtree(nodes, result.key)
        else:  # a new directory, perhaps in place of a value
            nodes.pop(result.key, None)
