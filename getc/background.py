"""What goes on in the background: nodes that are kept, changes that are told, parts of the tree that are at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from getc.backends.base import Backend
from getc.daemons.changes import Changes
from getc.daemons.keeper import Keeper
from getc.daemons.mirror import Mirror, OnUpdate
from getc.daemons.options import KeepOptions, OnConflict, Resync, WatchOptions
from getc.daemons.registry import DaemonRegistry
from getc.daemons.watcher import Watcher
from getc.net.client_log import ClientLog
from getc.results import EtcdResult
from getc.timing import Deadline
from getc.tree import Tree

__all__ = ['Background']

_Function = TypeVar('_Function', bound=Callable[[EtcdResult], Any])


class Background(Tree):
    """A tree with daemons, which are begun here and end with it.

    Args:
        backend: What does it.
        timeout: Seconds that a call may take in all, unless it is given its own; None for no limit.
        log: The log of the client.

    Attributes:
        log: The same, for the daemons.
    """

    def __init__(self, backend: Backend, *, timeout: float | None = 10.0, log: ClientLog | None = None) -> None:
        super().__init__(backend, timeout=timeout)
        self.log = log if log is not None else ClientLog()
        self._daemons = DaemonRegistry(self.log)

    def keep_node(
        self,
        key: str,
        value: str | bytes | None = None,
        *,
        ttl: int = 10,
        on_conflict: OnConflict = 'replace',
        alive: Callable[[], object] | None = None,
        on_lost: Callable[[Keeper], object] | None = None,
        on_restored: Callable[[Keeper], object] | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> Keeper:
        """Keep a node alive for as long as this process is well, and return its :class:`~getc.Keeper`.

        The node is renewed at a third of its TTL.  After an outage, or when somebody deleted it, it is
        written again.  It is never taken back from another owner by force.

        Blocks until the node is there.  An etcd that does not answer is tried again and again; a
        greenlet that is killed while it waits leaves no node.

        Args:
            key: The node.
            value: Its text; None for ``pid@host``.
            ttl: Whole seconds, 1 or more, after which the node ends if this process does.
            on_conflict: What to do at the start about a node with a TTL that is there already:
                ``'replace'`` takes it over (most likely it is the predecessor's), ``'wait'`` waits until
                it is gone, ``'raise'`` raises NodeExist.
            alive: Called before each renewal.  While it returns False, raises, or takes longer than a sixth of the
                TTL, the node is away: for a process that runs but does not work.
            on_lost: Called with the keeper when the node is not certainly ours any more: before etcd can
                give it to another.
            on_restored: Called with the keeper when it is ours again.
            wait: False returns at once; the keeper is STARTING.
            timeout: Seconds to wait at most; None for no limit.

        Raises:
            NodeExist: There is one without a TTL; or one with a TTL, and ``on_conflict='raise'``.
            NotFile: It is a directory.
            TimedOut: It was not possible in time, and nothing is kept; with ``maybe_applied`` the node may come for
                its TTL, from a server that was slow.
        """
        deadline = Deadline.after(timeout)
        self._check_open()
        keeper = Keeper(
            self.log,
            self._backend,
            key,
            value,
            KeepOptions(ttl=ttl, on_conflict=on_conflict, alive=alive, on_lost=on_lost, on_restored=on_restored),
        )
        self._daemons.start(keeper, wait=wait, deadline=deadline)
        return keeper

    @overload
    def on_change(
        self,
        key: str,
        callback: Callable[[EtcdResult], object],
        *,
        recursive: bool = ...,
        initial: bool = ...,
        index: int | None = ...,
        on_resync: Callable[[Watcher], object] | None = ...,
        resync: Resync = ...,
        wait: bool = ...,
        timeout: float | None = ...,
    ) -> Watcher: ...

    @overload
    def on_change(
        self,
        key: str,
        callback: None = None,
        *,
        recursive: bool = ...,
        initial: bool = ...,
        index: int | None = ...,
        on_resync: Callable[[Watcher], object] | None = ...,
        resync: Resync = ...,
        wait: bool = ...,
        timeout: float | None = ...,
    ) -> Callable[[_Function], _Function]: ...

    def on_change(
        self,
        key: str,
        callback: Callable[[EtcdResult], object] | None = None,
        *,
        recursive: bool = True,
        initial: bool = False,
        index: int | None = None,
        on_resync: Callable[[Watcher], object] | None = None,
        resync: Resync = 'diff',
        wait: bool = True,
        timeout: float | None = None,
    ) -> Watcher | Callable[[_Function], _Function]:
        """Call a function for each change of a part of the tree, and return the :class:`~getc.Watcher`.

        Changes come in order, each exactly once, one call at a time, in a greenlet of their own; what the
        function raises is logged.  Every change after this returned is told.

        Where history was lost (a long outage, a restored or an empty store), what is there is compared
        with what was known, and the difference is told as results with ``resync=True``.

        Without a function it is a decorator, which gives the function the attribute ``watcher``::

            @etcd.on_change('/cfg')
            def reload(result): ...

        Args:
            key: The node, which need not exist.
            callback: Called with each :class:`~getc.EtcdResult`.
            recursive: Follow every node below it, too.
            initial: First tell what is there: one :class:`~getc.Got` for each value, in the order of the keys.
            index: Begin with the changes at this index instead of now.
            on_resync: Called with the watcher after a difference was told.
            resync: ``'notify'`` remembers and compares nothing and only calls ``on_resync``.
            wait: False returns at once; the watcher is STARTING.
            timeout: Seconds to wait for the start at most; None for no limit.

        Raises:
            TimedOut: It did not start in time.
        """
        if callback is None:

            def decorate(function: _Function) -> _Function:
                watcher = self.on_change(
                    key,
                    function,
                    recursive=recursive,
                    initial=initial,
                    index=index,
                    on_resync=on_resync,
                    resync=resync,
                    wait=wait,
                    timeout=timeout,
                )
                function.watcher = watcher  # type: ignore[attr-defined]
                return function

            return decorate
        deadline = Deadline.after(timeout)
        self._check_open()
        watcher = Watcher(
            self.log,
            self._backend,
            key,
            callback,
            WatchOptions(recursive=recursive, initial=initial, index=index, on_resync=on_resync, resync=resync),
        )
        self._daemons.start(watcher, wait=wait, deadline=deadline)
        return watcher

    def changes(
        self,
        key: str,
        *,
        recursive: bool = True,
        initial: bool = False,
        index: int | None = None,
        timeout: float | None = None,
    ) -> Changes:
        """Follow a part of the tree like :meth:`on_change`, as an iterator::

            with etcd.changes('/cfg') as changes:
                for result in changes: ...

        Args:
            key: The node, which need not exist.
            recursive: Follow every node below it, too.
            initial: First what is there: one :class:`~getc.Got` for each value, in the order of the keys.
            index: Begin with the changes at this index instead of now.
            timeout: Seconds to wait for the start at most; None for no limit.

        Raises:
            TimedOut: It did not start in time.
        """
        deadline = Deadline.after(timeout)
        self._check_open()
        changes = Changes(self.log, self._backend, key, WatchOptions(recursive=recursive, initial=initial, index=index))
        self._daemons.start(changes.watcher, wait=True, deadline=deadline)
        return changes

    def mirror(
        self, key: str, *, on_update: OnUpdate | None = None, wait: bool = True, timeout: float | None = None
    ) -> Mirror:
        """Keep the values at and below a node at hand, and return the :class:`~getc.Mirror`: a mapping that follows::

            servers = etcd.mirror('/servers')
            for key, address in servers.items(): ...

        It shows all that was there when this returned, and from then on every change, by whole revisions.
        :meth:`~getc.Mirror.wait` waits until it is as it should be.

        Args:
            key: The node, which need not exist.
            on_update: Called with the changes of one revision (a tuple of :class:`~getc.EtcdResult`), after the mirror
                shows them; in order, one call at a time, in a greenlet of its own.
            wait: False returns at once; the mirror is empty and STARTING.
            timeout: Seconds to wait for the start at most; None for no limit.

        Raises:
            TimedOut: It did not start in time.
        """
        deadline = Deadline.after(timeout)
        self._check_open()
        mirror = Mirror(self.log, self._backend, key, on_update=on_update)
        self._daemons.start(mirror, wait=wait, deadline=deadline)
        return mirror

    # -- how it is done

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._daemons.reset_in_child(self.log)
