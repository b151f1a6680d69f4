"""The vocabulary of etcd: each call packed into one operation and handed to a backend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import gevent
from gevent.event import Event

from getc.backends.base import Backend, Watch
from getc.errors import ClientClosed, ConnectionError, EtcdError, EtcException, TimedOut
from getc.net.affinity import ThreadAffinity, Unpicklable
from getc.operations import Append, Delete, Get, Operation, Put, WatchSpec, explain, text_of
from getc.results import EtcdResult
from getc.retry import is_transient
from getc.timing import DEFAULT_TIMEOUT, Backoff, Deadline, Timeout

__all__ = ['Tree']


class Tree(Unpicklable):
    """The nodes of one etcd, and what can be done with them.

    Args:
        backend: What does it.
        timeout: Seconds that a call may take in all, unless it is given its own; None for no limit.
    """

    def __init__(self, backend: Backend, *, timeout: float | None = 10.0) -> None:
        Deadline.after(timeout)  # refuses what is no timeout
        self._backend = backend
        self._timeout = timeout
        self._waiting: set[_FirstChange] = set()
        self._is_closed = False
        self._home = ThreadAffinity()

    # -- reading

    def get(
        self,
        key: str,
        *,
        recursive: bool = False,
        sorted: bool = False,
        quorum: bool | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> EtcdResult:
        """Return the node as a :class:`~getc.Got`.

        Args:
            key: The node.
            recursive: The directories in it too, whole.
            sorted: Nodes in the order of their keys.
            quorum: True for what a majority of the servers agrees on; False for what the asked one
                knows, which may be old; None for the server's default (v2: False).
            timeout: Seconds; None for no limit.

        Raises:
            KeyNotFound: There is no such node.
        """
        return self._execute(Get(key, recursive, sorted, quorum), timeout)

    def wait(
        self,
        key: str,
        index: int | None = None,
        *,
        recursive: bool = False,
        timeout: float | None = None,
    ) -> EtcdResult:
        """Return the first change of the node at or after an index.

        A connection that is lost meanwhile is made again, and nothing in between is missed.

        Args:
            key: The node, which need not exist.
            index: The index; None or 0 for the first change from now on.  To follow every change,
                wait for ``result.modified_index + 1`` each time, or use :meth:`changes`.
            recursive: A change of any node below it, too.
            timeout: Seconds; None for no limit.

        Raises:
            TimedOut: A server watched the node, and no change came in time: no sign of a fault.
            ConnectionError: No server watches the node, so there may have been changes.
            EventIndexCleared: The server's memory does not reach back to the index.
        """
        spec = WatchSpec(key, index, recursive)
        deadline = Deadline.after(timeout)
        backoff = Backoff()
        was_live = False
        met: EtcException | None = None
        watch: Watch | None = None
        while True:
            first, watch = self._first_change(spec, deadline, watch)
            if first.result is not None:
                return first.result
            if first.error is None:
                if first.live_index is None:
                    raise _not_watched(spec.key, deadline, met)
                raise TimedOut(f'no change of {spec.key} within {deadline.timeout:g} s')
            was_live = was_live or first.live_index is not None
            if not is_transient(first.error) or not (was_live or isinstance(first.error, TimedOut)):
                if isinstance(first.error, EtcdError):
                    explain(first.error, spec)
                raise first.error
            if not was_live or deadline.has_passed():
                raise _not_watched(spec.key, deadline, first.error)
            met = first.error
            if first.live_index is not None:
                spec = WatchSpec(key, first.live_index + 1, recursive)
            gevent.sleep(min(backoff.next_delay(), deadline.remaining()))

    # -- writing

    def set(
        self,
        key: str,
        value: str | bytes | None = None,
        *,
        dir: bool = False,
        ttl: int | None = None,
        refresh: bool = False,
        prev_value: str | bytes | None = None,
        prev_index: int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> EtcdResult:
        """Write a node, whether it exists or not, and return a :class:`~getc.Set`.

        With a condition it is a :class:`~getc.ComparedThenSwapped`, and the node must exist.  Without
        one a node that exists is replaced: it gets a new ``created_index`` and loses its TTL.
        Directories above it are made.

        Args:
            key: The node.
            value: Its text; or bytes, which ``raw_value`` reads.  etcd v2 keeps bytes only if they are UTF-8.
            dir: It is a directory; no value then.
            ttl: Whole seconds it lives, 0 or more; None for ever.
            refresh: As :meth:`refresh`; no value then.
            prev_value: Write only if this is its value.
            prev_index: Write only if this is its ``modified_index``.
            timeout: Seconds; None for no limit.

        Raises:
            TestFailed: A condition does not hold.
            KeyNotFound: A condition was given, and there is no such node.
            NotFile: It is a directory.
            NotDir: A value stands where a directory above it is needed.
        """
        if isinstance(value, bytes):
            value = text_of(value)
        if isinstance(prev_value, bytes):
            prev_value = text_of(prev_value)
        prev_exist = True if refresh else None  # without it etcd would make the node anew
        return self._execute(Put(key, value, dir, ttl, refresh, prev_value, prev_index, prev_exist), timeout)

    def create(
        self,
        key: str,
        value: str | bytes | None = None,
        *,
        dir: bool = False,
        ttl: int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> EtcdResult:
        """Write a node that does not exist, and return a :class:`~getc.Created`.

        Args:
            key: The node.
            value: Its text; or bytes, which ``raw_value`` reads.  etcd v2 keeps bytes only if they are UTF-8.
            dir: It is a directory; no value then.
            ttl: Whole seconds it lives, 0 or more; None for ever.
            timeout: Seconds; None for no limit.

        Raises:
            NodeExist: It exists.
            NotDir: A value stands where a directory above it is needed.
        """
        if isinstance(value, bytes):
            value = text_of(value)
        return self._execute(Put(key, value, dir=dir, ttl=ttl, prev_exist=False), timeout)

    def update(
        self,
        key: str,
        value: str | bytes | None = None,
        *,
        dir: bool = False,
        ttl: int | None = None,
        refresh: bool = False,
        prev_value: str | bytes | None = None,
        prev_index: int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> EtcdResult:
        """Write a node that exists, and return an :class:`~getc.Updated`.

        It keeps its ``created_index`` and, without ``ttl``, loses its TTL.  With a condition the
        result is a :class:`~getc.ComparedThenSwapped`.

        Args:
            key: The node.
            value: Its text; or bytes, which ``raw_value`` reads.  etcd v2 keeps bytes only if they are UTF-8.
            dir: It is a directory; no value then.
            ttl: Whole seconds it lives, 0 or more; None for ever.
            refresh: As :meth:`refresh`; no value then.
            prev_value: Write only if this is its value.
            prev_index: Write only if this is its ``modified_index``.
            timeout: Seconds; None for no limit.

        Raises:
            KeyNotFound: It does not exist.
            TestFailed: A condition does not hold.
            NotFile: It is a directory and a value was given.
        """
        if isinstance(value, bytes):
            value = text_of(value)
        if isinstance(prev_value, bytes):
            prev_value = text_of(prev_value)
        put = Put(
            key,
            value,
            dir=dir,
            ttl=ttl,
            refresh=refresh,
            prev_value=prev_value,
            prev_index=prev_index,
            prev_exist=True,
        )
        return self._execute(put, timeout)

    def refresh(
        self,
        key: str,
        *,
        ttl: int,
        prev_value: str | bytes | None = None,
        prev_index: int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> EtcdResult:
        """Give a node a new TTL and keep its value; no watcher is woken.

        Args:
            key: The node.
            ttl: Whole seconds it lives from now, 0 or more.
            prev_value: Only if this is its value.
            prev_index: Only if this is its ``modified_index``.
            timeout: Seconds; None for no limit.

        Raises:
            KeyNotFound: It does not exist.
            TestFailed: A condition does not hold.
            NotFile: It is a directory.
        """
        if isinstance(prev_value, bytes):
            prev_value = text_of(prev_value)
        put = Put(key, ttl=ttl, refresh=True, prev_value=prev_value, prev_index=prev_index, prev_exist=True)
        return self._execute(put, timeout)

    def append(
        self,
        key: str,
        value: str | bytes | None = None,
        *,
        dir: bool = False,
        ttl: int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> EtcdResult:
        """Write a node with a new name into a directory, and return a :class:`~getc.Created`.

        The name is a number of 20 digits; names sort in the order of creation.

        Args:
            key: The directory, which is made if need be.
            value: The node's text, or bytes.
            dir: The node is a directory; no value then.
            ttl: Whole seconds it lives, 0 or more; None for ever.
            timeout: Seconds; None for no limit.

        Raises:
            NotDir: The key, or one above it, is a value.
        """
        if isinstance(value, bytes):
            value = text_of(value)
        return self._execute(Append(key, value, dir=dir, ttl=ttl), timeout)

    def delete(
        self,
        key: str,
        *,
        dir: bool = False,
        recursive: bool = False,
        prev_value: str | bytes | None = None,
        prev_index: int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> EtcdResult:
        """Delete a node, and return a :class:`~getc.Deleted`.

        With a condition the result is a :class:`~getc.ComparedThenDeleted`.

        Args:
            key: The node.
            dir: Also if it is a directory, when that is empty.
            recursive: Also if it is a directory, with all that is in it.
            prev_value: Only if this is its value.
            prev_index: Only if this is its ``modified_index``.
            timeout: Seconds; None for no limit.

        Raises:
            KeyNotFound: There is no such node.
            NotFile: It is a directory, and neither ``dir`` nor ``recursive`` was given.
            DirNotEmpty: There are nodes in it, and ``recursive`` was not given.
            TestFailed: A condition does not hold.
        """
        if isinstance(prev_value, bytes):
            prev_value = text_of(prev_value)
        delete = Delete(key, dir=dir, recursive=recursive, prev_value=prev_value, prev_index=prev_index)
        return self._execute(delete, timeout)

    # -- how it is done

    def _enter(self) -> None:
        """Make sure that we are at home; in a forked child we move in."""
        if self._home.in_forked_child:
            self._home = ThreadAffinity()
            self._begin_anew()
        self._home.check()

    def _begin_anew(self) -> None:
        """In a forked child: what was under way is the parent's."""
        self._waiting = set()

    def _check_open(self) -> None:
        self._enter()
        if self._is_closed:
            raise ClientClosed('the client is closed')

    def _deadline(self, timeout: Timeout) -> Deadline:
        return Deadline(self._timeout) if timeout is DEFAULT_TIMEOUT else Deadline.after(timeout)

    def _execute(self, operation: Operation, timeout: Timeout) -> EtcdResult:
        deadline = self._deadline(timeout)
        self._check_open()
        try:
            return self._backend.execute(operation, deadline)
        except EtcdError as error:
            explain(error, operation)
            raise

    def _first_change(self, spec: WatchSpec, deadline: Deadline, after: Watch | None) -> tuple[_FirstChange, Watch]:
        self._check_open()
        first = _FirstChange()
        self._waiting.add(first)
        watch = self._backend.watch(spec, first, after)
        try:
            first.is_over.wait(deadline.timeout_left())
        finally:
            watch.close()
            self._waiting.discard(first)
        return first, watch

    def _end_waiting(self) -> None:
        for first in self._waiting:
            first.on_ended(ClientClosed('the client was closed'))


def _not_watched(key: str, deadline: Deadline, cause: EtcException | None) -> ConnectionError:
    """The error of a wait without a watch.  A ``TimedOut`` would mean that nothing has changed, which nobody knows."""
    limit = '' if deadline.at == math.inf else f' within {deadline.timeout:g} s'
    reason = 'no server has answered' if cause is None else str(cause)
    endpoint = None if cause is None else cause.endpoint
    error = ConnectionError(f'no watch of {key} was created{limit}: {reason}', endpoint=endpoint)
    if cause is not None:
        error.__cause__ = cause
    return error


class _FirstChange:
    """A listener to one change.

    Attributes:
        is_over: Set when there is a result or an error.
        result: The change, or None.
        error: What ended the watch before one, or None.
        live_index: The index from which on no change is missed; None before the watch was on.
    """

    def __init__(self) -> None:
        self.is_over = Event()
        self.result: EtcdResult | None = None
        self.error: EtcException | None = None
        self.live_index: int | None = None

    def on_live(self, index: int) -> None:
        self.live_index = index

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        if not self.is_over.is_set():
            self.result = results[0]
            self.is_over.set()

    def on_caught_up(self) -> None:
        pass

    def on_ended(self, error: EtcException) -> None:
        if not self.is_over.is_set():
            self.error = error
            self.is_over.set()
