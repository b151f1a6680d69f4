"""mirror: a part of the tree as a mapping in this process, kept as it is in etcd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from gevent.event import Event

from getc.backends.base import Backend
from getc.daemons.follower import Follower
from getc.daemons.options import check_callback
from getc.errors import ClientClosed, TimedOut
from getc.net.client_log import ClientLog
from getc.operations import WatchSpec
from getc.paths import is_below
from getc.results import Deleted, EtcdResult, Got, Value
from getc.timing import Deadline

__all__ = ['Mirror', 'OnUpdate']

OnUpdate = Callable[[tuple[EtcdResult, ...]], object]
"""Called with the changes of one whole revision, after the mirror shows them."""

Answer = TypeVar('Answer')


class Mirror(Follower, Mapping[str, str]):
    """The values at and below a node: a read-only mapping from key to text.  :meth:`getc.Client.mirror` makes it.

    Reading it does no I/O and does not switch: between two switches it does not change.  It changes by whole revisions
    of etcd, so what was written by one transaction is never seen by half.  While the connection is lost it shows what
    was there last, and ``is_stale`` says so.  After history was lost the whole difference is taken in at once.

    Another thread may look at it, ``mirror[key]``, ``key in mirror`` or ``len(mirror)``; going over it there is a
    RuntimeError, for it could change meanwhile.

    Attributes:
        key: The node.
    """

    def __init__(self, log: ClientLog, backend: Backend, key: str, *, on_update: OnUpdate | None = None) -> None:
        check_callback('on_update', on_update, is_optional=True)
        spec = WatchSpec(key, recursive=True)
        super().__init__(log, backend, spec, f'mirror {spec.key}')
        self._tell_update = on_update
        self._nodes: dict[str, Value] = {}
        self._waiting: set[Event] = set()

    @property
    def nodes(self) -> Mapping[str, Value]:
        """The nodes by their keys: a read-only view that follows."""
        self._home.check()
        return MappingProxyType(self._nodes)

    def wait(self, predicate: Callable[[Mirror], Answer], timeout: float | None = None) -> Answer:
        """Wait until the predicate says something true of the mirror, and return what it says.

        It is asked at once, and after each change; what is true for one revision only may be missed.

        Args:
            predicate: Called with the mirror, in this greenlet.
            timeout: Seconds; None for no limit.

        Raises:
            TimedOut: It did not become true in time.
            ClientClosed: The mirror was stopped, or this is a forked child.
        """
        deadline = Deadline.after(timeout)
        self._home.check()
        changed = Event()
        self._waiting.add(changed)
        try:
            while not (answer := predicate(self)):
                if self.is_stopped:
                    what = "is our parent's, not this forked child's" if self._home.in_forked_child else 'was stopped'
                    raise ClientClosed(f'{self.name} {what}')
                if not changed.wait(deadline.timeout_left()):
                    state = f'; it is {self.state.name}' if self.is_stale else ''
                    what = f'{self.name} did not come to what was waited for within {deadline.timeout:g} s{state}'
                    raise TimedOut(what)
                changed.clear()
            return answer
        finally:
            self._waiting.discard(changed)

    # -- the mapping

    def __getitem__(self, key: str) -> str:
        return self._nodes[key].value

    def __iter__(self) -> Iterator[str]:
        self._home.check()
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, key: object) -> bool:
        return key in self._nodes

    __eq__ = object.__eq__  # it is one mirror, whatever another mapping holds
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f'<getc.Mirror {self.key}[{len(self)}] {self.state.name} index={self.index}>'

    # -- following

    def _on_snapshot(self, found: Sequence[Got]) -> None:
        self._take(found)

    def _on_created(self) -> None:
        pass  # it has started when it shows what etcd had then

    def _on_revision(self, results: Sequence[EtcdResult]) -> None:
        self._take(results)
        self._tell(results)

    def _on_difference(self, results: Sequence[EtcdResult]) -> None:
        self._take(results)
        self._tell(results)

    def _take(self, results: Sequence[EtcdResult]) -> None:
        # no switch in here: a revision is seen whole
        for result in results:
            if isinstance(result.node, Value):
                self._nodes[result.key] = result.node
            elif self._nodes.pop(result.key, None) is None and isinstance(result, Deleted):
                for key in [key for key in self._nodes if is_below(key, result.key)]:
                    del self._nodes[key]
        self._wake()

    def _tell(self, results: Sequence[EtcdResult]) -> None:
        if self._tell_update is not None:
            self._call_soon(self._tell_update, tuple(results))

    def _wake(self) -> None:
        for changed in self._waiting:
            changed.set()

    def _on_stop(self, deadline: Deadline) -> None:
        super()._on_stop(deadline)
        self._wake()
