"""The client: the vocabulary, daemons, and an end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Literal, TypeVar, overload

from getc.backends.base import Backend
from getc.backends.opening import open_backend
from getc.daemons.base import Daemon
from getc.daemons.changes import Changes
from getc.daemons.keeper import Keeper, OnConflict
from getc.daemons.mirror import Mirror, OnUpdate
from getc.daemons.watcher import Resync, Watcher
from getc.errors import NotSupported
from getc.model import EtcdResult
from getc.states import StateListeners
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.transport.endpoints import ConnectionState
from getc.tree import Tree
from getc.v3 import V3

__all__ = ['Client', 'etcd']


DEFAULT_URL: Final = 'http://127.0.0.1:2379'


_StateListener = TypeVar('_StateListener', bound=Callable[[ConnectionState], Any])
_Function = TypeVar('_Function', bound=Callable[[EtcdResult], Any])


def etcd(
    url: str | Sequence[str] = DEFAULT_URL,
    *,
    api: Literal['v2', 'v3'] | None = None,
    timeout: float | None = 10.0,
    username: str | None = None,
    password: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    verify: bool = True,
    namespace: str | None = None,
    strict: bool = True,
) -> Client:
    """Return a client of the etcd at ``url``.  Does no I/O: the first call connects.

    Args:
        url: One URL, several separated by commas, or a list; the others are for when one fails.
            ``http`` and ``https`` reach a server; ``memory://NAME`` is a store in this process,
            shared by the clients of that name, ``memory://`` is a private one.
        api: ``'v3'`` or ``'v2'``; None asks the server for its version at the first call: v3 from etcd 3.4 on.  The two
            are separate stores.
        timeout: Seconds that a call may take in all, unless it is given its own; None for no limit.
        username: For etcd's authentication; may stand in the URL instead.
        password: The same.
        ca: Path of a PEM file of the authorities to trust; None for the system's.
        cert: Path of a PEM file of the client's certificate.
        key: Path of a PEM file of the certificate's key; None if it is in ``cert``.
        verify: False accepts any certificate.  Whoever is in between can then read and change all.
        namespace: A path put in front of every key and taken off every result.
        strict: Make sure, with each write on v3, that no value is above the node and no directory in its place.  False
            is for users who may not read above their part of the tree, and leaves the check out.

    Raises:
        TypeError, ValueError: An option makes no sense.
        NotSupported: This version of getc does not speak that API.

    Example::

        etcd = getc.etcd('http://10.0.0.1:2379,http://10.0.0.2:2379')
        etcd.get('/hello').value
    """
    states = StateListeners()
    opened = open_backend(
        url,
        api=api,
        timeout=timeout,
        username=username,
        password=password,
        ca=ca,
        cert=cert,
        key=key,
        verify=verify,
        namespace=namespace,
        strict=strict,
        on_state=states.tell,
    )
    return Client(opened.backend, url=opened.url, v3=opened.v3, timeout=timeout, states=states)


class Client(Tree):
    """A client of one etcd.  :func:`getc.etcd` makes it.

    Every method blocks the calling greenlet until it has its result, an error, or no time left.
    Any number of greenlets of one thread may use a client at a time.

    All of them raise:

    * :class:`~getc.errors.EtcdError`, one subclass per code: the server says no;
    * :class:`~getc.errors.ConnectionError`, mostly its kind :class:`~getc.errors.TimedOut`: there was
      no answer; ``maybe_applied`` says whether a write may have happened;
    * :class:`~getc.errors.HTTPError`, :class:`~getc.errors.ProtocolError`: the answer was not etcd's;
    * :class:`~getc.errors.NotSupported`: this API cannot do it;
    * :class:`~getc.errors.ClientClosed`;
    * :class:`TypeError`, :class:`ValueError`: bad arguments, before any I/O.

    Also a context manager: leaving it closes it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        url: str,
        v3: V3 | None = None,
        timeout: float | None = 10.0,
        states: StateListeners | None = None,
    ) -> None:
        super().__init__(backend, timeout=timeout)
        self._states = states if states is not None else StateListeners()
        self._url = url
        self._v3 = v3
        self._daemons: dict[Daemon, None] = {}  # in the order of their starts, in which they end

    @property
    def url(self) -> str:
        """The first endpoint, without credentials."""
        return self._url

    @property
    def api(self) -> str | None:
        """``'v3'``, ``'v2'`` or ``'memory'``: what is spoken.  None before the first call has asked the server."""
        return self._backend.api

    @property
    def is_closed(self) -> bool:
        """True once it was closed, so that every call raises ClientClosed."""
        return self._is_closed

    @property
    def v3(self) -> V3:
        """etcd v3 as it is: every RPC.  It knows nothing of namespaces, and v2's keys are not there.

        Raises:
            NotSupported: This is a store in memory.
        """
        if self._v3 is None:
            raise NotSupported('a store in memory has no RPCs: they need an etcd, http:// or https://')
        return self._v3

    def on_state(self, listener: _StateListener) -> _StateListener:
        """Have a function called with each new :class:`~getc.ConnectionState`, and return it: also a decorator.

        CONNECTED: a call was answered, after none was.  SUSPENDED: every server has failed.  It is learnt from calls,
        those of daemons too; a client that makes none learns nothing.  A store in memory has no states.

        Args:
            listener: Called in a greenlet of its own; what it raises is printed by gevent, and harms nobody else.

        Raises:
            TypeError: It is no function.
        """
        if not callable(listener):
            raise TypeError(f'on_state takes a function, not {type(listener).__name__}')
        self._states.add(listener)
        return listener

    # -- in the background

    def keep_node(
        self,
        key: str,
        value: str | None = None,
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
            TimedOut: It was not possible in time; nothing is kept.
        """
        deadline = Deadline.after(timeout)
        self._check_open()
        keeper = Keeper(
            self,
            self._backend,
            key,
            value,
            ttl=ttl,
            on_conflict=on_conflict,
            alive=alive,
            on_lost=on_lost,
            on_restored=on_restored,
        )
        self._begin(keeper, wait, deadline)
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
            self,
            self._backend,
            key,
            callback,
            recursive=recursive,
            initial=initial,
            index=index,
            on_resync=on_resync,
            resync=resync,
        )
        self._begin(watcher, wait, deadline)
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
        changes = Changes(self, self._backend, key, recursive=recursive, initial=initial, index=index)
        self._begin(changes.watcher, True, deadline)
        return changes

    def mirror(
        self, key: str, *, on_update: OnUpdate | None = None, wait: bool = True, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> Mirror:
        """Keep the values below a node at hand, and return the :class:`~getc.Mirror`: a mapping that follows::

            servers = etcd.mirror('/servers')
            for key, address in servers.items(): ...

        It shows all that was there when this returned, and from then on every change, by whole revisions.
        :meth:`~getc.Mirror.wait` waits until it is as it should be.

        Args:
            key: The node, which need not exist.
            on_update: Called with the changes of one revision (a tuple of :class:`~getc.EtcdResult`), after the mirror
                shows them; in order, one call at a time, in a greenlet of its own.
            wait: False returns at once; the mirror is empty and STARTING.
            timeout: Seconds to wait for the start at most; None for no limit; left out for the client's.

        Raises:
            TimedOut: It did not start in time.
        """
        deadline = self._deadline(timeout)
        self._check_open()
        mirror = Mirror(self, self._backend, key, on_update=on_update)
        self._begin(mirror, wait, deadline)
        return mirror

    def forget(self, daemon: Daemon) -> None:
        """A daemon of this client has stopped.  For the daemon."""
        self._daemons.pop(daemon, None)

    # -- the client itself

    def ready(self, timeout: Timeout = DEFAULT_TIMEOUT) -> None:
        """Wait until etcd answers a linearizable read: it has a leader and serves.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            EtcException: What the last attempt met.
        """
        self._check_open()
        self._backend.ready(self._deadline(timeout))

    def clear(self) -> None:
        """Drop the connections that are not in use.  Does not block."""
        self._backend.clear()
        if self._v3 is not None:
            self._v3.clear()

    def close(self, timeout: float | None = 5.0) -> None:
        """Stop all daemons (kept nodes are deleted), end all waiting, drop all connections.

        Afterwards every call raises ClientClosed; closing again does nothing.  May be called from a
        callback.

        Args:
            timeout: Seconds to spend on it at most, even if etcd is dead; None for no limit.
        """
        deadline = Deadline.after(timeout)
        if self._is_closed:
            return
        self._is_closed = True
        daemons = list(self._daemons)
        try:
            for daemon in daemons:
                daemon.begin_stop(deadline)
            for daemon in daemons:
                daemon.finish(deadline)
        finally:
            self._backend.close()
            if self._v3 is not None:
                self._v3.close()
            self._end_waiting()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = ' closed' if self._is_closed else ''
        return f'<getc.Client {self.url} {self.api or "api not chosen yet"}{closed}>'

    # -- how it is done

    def _begin(self, daemon: Daemon, wait: bool, deadline: Deadline) -> None:
        self._daemons[daemon] = None
        daemon.start()
        if wait:
            daemon.wait_started(deadline)
