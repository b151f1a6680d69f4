"""The client: which etcd it is of, how that is reached, and an end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

from getc.backends.base import Backend
from getc.backends.connect import OpenBackend, open_backend
from getc.background import Background
from getc.connection_listeners import ConnectionListeners
from getc.errors import NotSupported
from getc.net.selector import ConnectionState
from getc.paths import ROOT
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.v3 import V3

__all__ = ['Client', 'etcd']


DEFAULT_URL: Final = 'http://127.0.0.1:2379'

_numbers = count(1)  # tells the clients of a program apart in its log

_StateListener = TypeVar('_StateListener', bound=Callable[[ConnectionState], Any])


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
        timeout: Seconds that a call may take in all, unless it is given its own; None for no limit.  It is not for
            ``keep_node``, ``on_change``, ``changes``, ``mirror`` and ``wait``: these wait until etcd is there, without
            a limit unless they are given their own ``timeout``.
        username: For etcd's authentication; may stand in the URL instead.
        password: The same.
        ca: Path of a PEM file of the authorities to trust; None for the system's.  It, ``cert`` and ``key`` are read
            again for a new connection when they have changed.
        cert: Path of a PEM file of the client's certificate.
        key: Path of a PEM file of the certificate's key; None if it is in ``cert``.
        verify: False accepts any certificate.  Whoever is in between can then read and change all.
        namespace: A path put in front of every key and taken off every result.
        strict: Make sure, with each write on v3, that no value is above the node and no directory in its place.  False
            is for users who may not read above their part of the tree, and leaves the check out.

    Raises:
        TypeError, ValueError: An option makes no sense.
        OSError: A file of ``ca``, ``cert`` or ``key`` cannot be used.
        NotSupported: This version of getc does not speak that API.

    Example::

        etcd = getc.etcd('http://10.0.0.1:2379,http://10.0.0.2:2379')
        etcd.set('/hello', 'Hello, world')
        etcd.get('/hello').value
    """
    states = ConnectionListeners()
    number = next(_numbers)
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
        on_state=states.weak_notify(),
        label=f'etcd client {number}',
    )
    return Client(
        opened.backend, url=opened.urls[0], v3=opened.v3, timeout=timeout, states=states, number=number, opened=opened
    )


class Client(Background):
    """A client of one etcd.  :func:`getc.etcd` makes it.

    Every method blocks the calling greenlet until it has its result, an error, or no time left.
    Any number of greenlets of one thread may use a client at a time: the first thread that does.  In a child that was
    forked off it opens connections of its own, and none of its daemons go on there.

    All of them raise an :class:`~getc.errors.EtcException`, whose ``maybe_applied`` says whether a write may have
    happened all the same:

    * :class:`~getc.errors.EtcdError`, one subclass per code: the server says no;
    * :class:`~getc.errors.ConnectionError`, mostly its kind :class:`~getc.errors.TimedOut`: there was no answer;
    * :class:`~getc.errors.HTTPError`, :class:`~getc.errors.ProtocolError`: the answer was not etcd's;
    * :class:`~getc.errors.NotSupported`: this API cannot do it;
    * :class:`~getc.errors.ClientClosed`.

    And, before any I/O:

    * :class:`TypeError`, :class:`ValueError`: bad arguments;
    * :class:`RuntimeError`: this is another thread than the one that uses the client.

    Also a context manager: leaving it closes it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        url: str,
        v3: V3 | None = None,
        timeout: float | None = 10.0,
        states: ConnectionListeners | None = None,
        number: int | None = None,
        opened: OpenBackend | None = None,
    ) -> None:
        super().__init__(backend, timeout=timeout, log=None if opened is None else opened.log)
        self._states = states if states is not None else ConnectionListeners()
        self._url = url
        self._number = number
        self._opened = opened
        self._v3 = v3

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
        self._enter()
        if self._v3 is None:
            raise NotSupported('a store in memory has no RPCs: they need an etcd, http:// or https://')
        return self._v3

    def on_state(self, listener: _StateListener) -> _StateListener:
        """Have a function called with each new :class:`~getc.ConnectionState`, and return it: also a decorator.

        CONNECTED: a call was answered, after none was.  SUSPENDED: every server has failed.  It is learnt from calls,
        those of daemons too; a client that makes none learns nothing.  A store in memory has no states.

        Args:
            listener: Called in a greenlet of its own; what it raises is logged.

        Raises:
            TypeError: It is no function.
        """
        if not callable(listener):
            raise TypeError(f'on_state takes a function, not {type(listener).__name__}')
        self._enter()
        self._states.add(listener)
        return listener

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
        self._enter()
        self._backend.clear()
        if self._v3 is not None:
            self._v3.clear()

    def close(self, timeout: float | None = 5.0) -> None:
        """Stop all daemons (kept nodes are deleted), end all waiting, drop all connections.

        Afterwards every call raises ClientClosed; closing again does nothing.  May be called from a
        callback.  In a forked child it ends what was begun there, and nothing of its parent's.

        Args:
            timeout: Seconds to spend on it at most, even if etcd is dead; None for no limit.
        """
        deadline = Deadline.after(timeout)
        self._enter()
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._daemons.stop_all(deadline)
        finally:
            self._backend.close()
            if self._v3 is not None:
                self._v3.close()
            self._end_waiting()
            self.log.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        parts = [] if self._number is None else [str(self._number)]  # as in the log
        opened = self._opened
        parts.append(self.url if opened is None else ','.join(opened.urls))
        parts.append(self.api or 'api not chosen yet')
        if opened is not None and len(opened.urls) > 1 and (url := opened.in_use()) is not None:
            parts.append(f'in_use={url}')
        if opened is not None and opened.namespace != ROOT:
            parts.append(f'namespace={opened.namespace}')
        if self._is_closed:
            parts.append('closed')
        return f'<getc.Client {" ".join(parts)}>'

    # -- how it is done

    def _begin_anew(self) -> None:
        if self._opened is not None:
            opened = self._opened = self._opened.reopen()
            self._backend, self._v3, self.log = opened.backend, opened.v3, opened.log
        super()._begin_anew()


for _base in Client.__mro__[1:3]:  # a TypeError names a method as its users know it: Client.get(), not Tree.get()
    for _name, _member in vars(_base).items():
        if inspect.isfunction(_member):
            _member.__qualname__ = f'Client.{_name}'
