"""The client: every verb of etcd, and the daemons."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Protocol, TypeVar, cast, overload

from getc.backends.base import Backend
from getc.backends.connect import OpenBackend, open_backend
from getc.connection_listeners import ConnectionListeners
from getc.daemons.changes import Changes
from getc.daemons.keeper import Keeper
from getc.daemons.mirror import Mirror, OnUpdate
from getc.daemons.options import KeepOptions, OnConflict, Resync, WatchOptions
from getc.daemons.registry import DaemonRegistry
from getc.daemons.watcher import Watcher
from getc.error_hints import add_hint
from getc.errors import ClientClosed, EtcdError, NotSupported
from getc.net.affinity import ThreadAffinity, Unpicklable
from getc.net.selector import ConnectionState
from getc.operations import Append, Delete, Get, Operation, Put, WatchSpec, text_of
from getc.options import CALL_TIMEOUT, DEFAULT_URL, STOP_TIMEOUT, Api, Options
from getc.pending_waits import PendingWaits
from getc.recipes.base import RecipeContext
from getc.recipes.candidacy import Candidacy
from getc.recipes.leader import Leader, OnLeader
from getc.recipes.leader_loop import LeaderLoop, Term
from getc.recipes.lock import Lock
from getc.recipes.rwlock import RWLock
from getc.recipes.stm import STM, atomically
from getc.recipes.transaction import TransactionBuilder
from getc.results import Created, Deleted, EtcdResult, Got, Set
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.transactions import (
    Guard,
    Guarded,
    Snapshot,
    SnapshotRead,
    Transaction,
    TransactionResult,
    no_transactions_on_v2,
)
from getc.v3 import V3

__all__ = ['BackendFactory', 'Client', 'etcd']

_numbers = count(1)  # distinguish the clients of a program in its log

_Function = TypeVar('_Function', bound=Callable[[EtcdResult], Any])
_Returned = TypeVar('_Returned')
_StateListener = TypeVar('_StateListener', bound=Callable[[ConnectionState], Any])


class BackendFactory(Protocol):
    """Opens the backend of a client, as :func:`getc.backends.connect.open_backend` does."""

    def __call__(
        self,
        options: Options,
        *,
        label: str,
        on_state: Callable[[ConnectionState], object],
        on_detected: Callable[[Backend], object],
    ) -> OpenBackend:
        """Return the backend, without network I/O."""


def etcd(
    url: str | Sequence[str] = DEFAULT_URL,
    *,
    api: Api | None = None,
    timeout: float | None = CALL_TIMEOUT,
    username: str | None = None,
    password: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    verify: bool = True,
    namespace: str | None = None,
    strict: bool = True,
    sync: float | None = None,
) -> Client:
    """Return a client of the etcd at ``url``.  Performs no network I/O: the first call connects.

    Args:
        url: One URL, several separated by commas, or a list: the endpoints of one cluster, tried in turn when one
            fails.  Schemes: ``http`` and ``https`` for a server; ``unix:///path`` for the unix socket of a server
            (``unixs`` with TLS; API v3); ``etcd+srv://DOMAIN`` for the servers of the DNS SRV records of a domain
            (``etcd+srv://DOMAIN?name=NAME`` for one of its clusters; needs the extra ``getc[srv]``);
            ``memory://NAME`` for a store in this process that the clients of that name share, ``memory://`` for a
            private store.
        api: ``'v3'`` or ``'v2'``; None detects it from the server at the first call: v3 from etcd 3.4 on, else v2.
            The two APIs have separate stores.
        timeout: Seconds that a call may take in all, unless the call has its own timeout; None for no limit.  It does
            not apply to ``keep_node``, ``on_change``, ``changes``, ``mirror``, ``wait``, ``leader``, ``elect`` and
            ``acquire`` of locks, which wait without a limit unless they are given a timeout, nor to ``atomically``.
        username: The user for etcd's authentication; may be part of the URL instead.
        password: The password of the user.
        ca: Path of a PEM file with the certificate authorities to trust; None for those of the system.  The files of
            ``ca``, ``cert`` and ``key`` are read again for a new connection when they have changed.
        cert: Path of a PEM file with the client certificate.
        key: Path of a PEM file with the key of the client certificate; None if the file of ``cert`` contains it.
        verify: False accepts any server certificate, so that an attacker on the network can read and change all data.
        namespace: A path that is prepended to every key that is sent and removed from every result.
        strict: On v3, check with each write that no ancestor of the key is a value and the key is not a directory.
            False leaves the check out, for users without read permission above their part of the tree.
        sync: Seconds, 1 or more, between two reads of the cluster's members, whose addresses replace those of members
            that have left; None for endpoints that do not change.  :attr:`getc.Client.endpoints` shows the result.

    Raises:
        TypeError, ValueError: An option is invalid.
        OSError: A file of ``ca``, ``cert`` or ``key`` cannot be used.
        ImportError: The URL is ``etcd+srv://``, and dnspython is not installed.

    Example::

        etcd = getc.etcd('http://10.0.0.1:2379,http://10.0.0.2:2379')
        etcd.set('/hello', 'Hello, world')
        etcd.get('/hello').value
    """
    options = Options(url, api, timeout, username, password, ca, cert, key, verify, namespace, strict, sync)
    return Client(options)


class Client(Unpicklable):
    """A client of one etcd, created by :func:`getc.etcd`.

    A method blocks the calling greenlet until it returns, raises or times out.

    A client may be used by any number of greenlets of one thread: the thread that used it first.  In a forked child
    it opens connections of its own; the daemons of the parent do not run there.

    Every method can raise an :class:`~getc.errors.EtcException`, whose ``maybe_applied`` says whether a write may have
    been applied all the same:

    * :class:`~getc.errors.EtcdError`, one subclass per code: the server refused the request;
    * :class:`~getc.errors.ConnectionError`, most often its subclass :class:`~getc.errors.TimedOut`: no response;
    * :class:`~getc.errors.HTTPError`, :class:`~getc.errors.ProtocolError`: a response that does not come from etcd;
    * :class:`~getc.errors.NotSupported`: the API cannot do what was requested;
    * :class:`~getc.errors.ClientClosed`.

    Before any I/O, every method can raise:

    * :class:`TypeError`, :class:`ValueError`: invalid arguments;
    * :class:`RuntimeError`: the call is made in another thread than the one that uses the client.

    A client is a context manager: leaving the block closes it.

    Args:
        options: The options of the client.
        open_backend: Opens the backend; another function for tests.
    """

    def __init__(self, options: Options, open_backend: BackendFactory = open_backend) -> None:
        self._options = options
        self._timeout = options.timeout
        self._number = next(_numbers)
        self._affinity = ThreadAffinity()
        self._listeners = ConnectionListeners()
        self._waits = PendingWaits()
        self._is_closed = False
        self._opened = open_backend(
            options,
            label=f'etcd client {self._number}',
            on_state=self._listeners.weak_notify(),
            on_detected=_weak_setter(self),
        )
        self._backend: Backend = self._opened.backend
        self._daemons = DaemonRegistry(self._opened.log, keeps_alive=self._listeners)

    # -- reading

    def get(
        self,
        key: str,
        *,
        recursive: bool = False,
        sorted: bool = False,
        quorum: bool | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> Got:
        """Read a node, and return a :class:`~getc.Got`.

        Args:
            key: The node.
            recursive: Include the contents of directories in the directory, at any depth.
            sorted: Sort the nodes of a directory by key.
            quorum: True for a linearizable read, which a majority of the members confirms; False for a read of one
                member, which may be outdated; None for the default of the API (v2: False, v3: True).
            timeout: Seconds; None for no limit.

        Raises:
            KeyNotFound: The node does not exist.
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
        """Return the first change of a node at or after an index.  Blocks until there is one.

        A lost connection is replaced, and no change in between is missed.

        Args:
            key: The node, which need not exist.
            index: The index; None or 0 for the first change from now on.  To receive every change, wait for
                ``result.modified_index + 1`` each time, or use :meth:`changes`.
            recursive: Include changes of the nodes below the node.
            timeout: Seconds; None for no limit.

        Raises:
            TimedOut: A server watched the node, and there was no change in time.  This does not indicate a fault.
            ConnectionError: No server watched the node, so changes may have been missed.
            EventIndexCleared: The history of the server does not reach back to the index.
        """
        spec = WatchSpec(key, index, recursive)
        deadline = Deadline.after(timeout)
        self._check_open()
        return self._waits.wait(self._backend, spec, deadline)

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
    ) -> Set:
        """Write a node, whether it exists or not, and return a :class:`~getc.Set`.

        Missing directories above the node are created.  A node that exists is replaced: it gets a new
        ``created_index`` and loses its TTL.

        With ``prev_value`` or ``prev_index`` the node must exist, and the result is a
        :class:`~getc.ComparedThenSwapped`.

        Args:
            key: The node.
            value: The value: text, or bytes, which ``raw_value`` returns.  etcd v2 stores bytes only if they are UTF-8.
            dir: Create a directory, without a value.  It must not exist; :meth:`update` changes the TTL of one that
                does.
            ttl: Whole seconds until the node expires, 0 or more; None for no TTL.  The nodes in a directory expire with
                it; on v3 those with a TTL of their own do not.
            refresh: Keep the value and set the TTL, like :meth:`refresh`.
            prev_value: Write only if this is the value of the node.
            prev_index: Write only if this is the ``modified_index`` of the node.
            timeout: Seconds; None for no limit.

        Raises:
            TestFailed: ``prev_value`` or ``prev_index`` does not match.
            KeyNotFound: ``prev_value`` or ``prev_index`` was given, and the node does not exist.
            NotFile: The node is a directory.
            NotDir: An ancestor of the node is a value.
        """
        if isinstance(value, bytes):
            value = text_of(value)
        if isinstance(prev_value, bytes):
            prev_value = text_of(prev_value)
        prev_exist = True if refresh else None  # without it, etcd v2 would create the node again
        return self._execute(Put(key, value, dir, ttl, refresh, prev_value, prev_index, prev_exist), timeout)

    def create(
        self,
        key: str,
        value: str | bytes | None = None,
        *,
        dir: bool = False,
        ttl: int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> Created:
        """Write a node that does not exist, and return a :class:`~getc.Created`.

        Args:
            key: The node.
            value: The value: text, or bytes, which ``raw_value`` returns.  etcd v2 stores bytes only if they are UTF-8.
            dir: Create a directory, without a value.
            ttl: Whole seconds until the node expires, 0 or more; None for no TTL.  The nodes in a directory expire with
                it; on v3 those with a TTL of their own do not.
            timeout: Seconds; None for no limit.

        Raises:
            NodeExist: The node exists.
            NotDir: An ancestor of the node is a value.
        """
        if isinstance(value, bytes):
            value = text_of(value)
        return cast(Created, self._execute(Put(key, value, dir=dir, ttl=ttl, prev_exist=False), timeout))

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
    ) -> Set:
        """Write a node that exists, and return an :class:`~getc.Updated`.

        The node keeps its ``created_index`` and, without ``ttl``, loses its TTL.  With ``prev_value`` or
        ``prev_index`` the result is a :class:`~getc.ComparedThenSwapped`, which is a :class:`~getc.Set` as well.

        With ``dir=True`` it sets or, without ``ttl``, removes the TTL of a directory.  On v3, another TTL than before
        moves the directory, and the nodes that expire with it, to another lease.  Some 120 nodes are moved in one
        transaction, more in further ones: an error in between has ``maybe_applied``, and the next change of the
        directory by this client moves the rest.  etcd 3.5 on v2 cannot change the TTL of a directory.

        Args:
            key: The node.
            value: The value: text, or bytes, which ``raw_value`` returns.  etcd v2 stores bytes only if they are UTF-8.
            dir: The node is a directory, without a value.  If it is a value, that becomes ``''``.
            ttl: Whole seconds until the node expires, 0 or more; None for no TTL.
            refresh: Keep the value and set the TTL, like :meth:`refresh`.
            prev_value: Write only if this is the value of the node.
            prev_index: Write only if this is the ``modified_index`` of the node.
            timeout: Seconds; None for no limit.

        Raises:
            KeyNotFound: The node does not exist.
            TestFailed: ``prev_value`` or ``prev_index`` does not match.
            NotFile: The node is a directory, and a value, ``prev_value`` or ``prev_index`` was given; or etcd 3.5 on v2
                cannot change it.
        """
        if isinstance(value, bytes):
            value = text_of(value)
        if isinstance(prev_value, bytes):
            prev_value = text_of(prev_value)
        return self._execute(Put(key, value, dir, ttl, refresh, prev_value, prev_index, prev_exist=True), timeout)

    def refresh(
        self,
        key: str,
        *,
        ttl: int,
        prev_value: str | bytes | None = None,
        prev_index: int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> Set:
        """Set the TTL of a node or a directory, and keep its value or its nodes.  Watchers are not notified.

        On v3, another TTL than the node had before is a write of the same value, of which watchers are notified; for a
        directory it is a write of each node that expires with it, as for :meth:`update`.

        Args:
            key: The node.
            ttl: Whole seconds until the node expires, 0 or more.
            prev_value: Refresh only if this is the value of the node.
            prev_index: Refresh only if this is the ``modified_index`` of the node.
            timeout: Seconds; None for no limit.

        Raises:
            KeyNotFound: The node does not exist.
            TestFailed: ``prev_value`` or ``prev_index`` does not match.
            NotFile: The node is a directory, and ``prev_value`` or ``prev_index`` was given; or etcd 3.5 on v2 cannot
                change it.
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
    ) -> Created:
        """Create a node with a generated name in a directory, and return a :class:`~getc.Created`.

        The name is a number of 20 digits; names sort in the order of creation.

        Args:
            key: The directory, which is created if it does not exist.
            value: The value of the node: text, or bytes, which ``raw_value`` returns.
            dir: Create a directory, without a value.
            ttl: Whole seconds until the node expires, 0 or more; None for no TTL.
            timeout: Seconds; None for no limit.

        Raises:
            NotDir: The key, or an ancestor of it, is a value.
        """
        if isinstance(value, bytes):
            value = text_of(value)
        return self._execute(Append(key, value, dir, ttl), timeout)

    def delete(
        self,
        key: str,
        *,
        dir: bool = False,
        recursive: bool = False,
        prev_value: str | bytes | None = None,
        prev_index: int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> Deleted:
        """Delete a node, and return a :class:`~getc.Deleted`.

        With ``prev_value`` or ``prev_index`` the result is a :class:`~getc.ComparedThenDeleted`.

        Args:
            key: The node.
            dir: Also accept an empty directory.
            recursive: Also accept a directory, and delete its contents.
            prev_value: Delete only if this is the value of the node.
            prev_index: Delete only if this is the ``modified_index`` of the node.
            timeout: Seconds; None for no limit.

        Raises:
            KeyNotFound: The node does not exist.
            NotFile: The node is a directory, and neither ``dir`` nor ``recursive`` was given.
            DirNotEmpty: The directory is not empty, and ``recursive`` was not given.
            TestFailed: ``prev_value`` or ``prev_index`` does not match.
        """
        if isinstance(prev_value, bytes):
            prev_value = text_of(prev_value)
        return self._execute(Delete(key, dir, recursive, prev_value, prev_index), timeout)

    # -- transactions

    def transaction(
        self, *, guard: Guarded | Guard | None = None, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> TransactionBuilder:
        """Apply several operations together, or none of them: a :class:`~getc.TransactionBuilder` in a ``with`` block::

            keeper = etcd.keep_node('/world/owner', ttl=10)
            with etcd.transaction(guard=keeper) as t:
                t.check('/world/closed', exists=False)
                t.set('/world/score', '0')
                t.create('/world/players/ann', '10.0.0.7:7000', ttl=60)

        The transaction is sent at the end of the block, which blocks until the response, and not at all if the block
        raises.  After a lost response it is not sent again: the error has ``maybe_applied``.

        etcd v3 and stores in memory have transactions.

        Args:
            guard: An owner of a node, such as a :class:`~getc.Keeper`, or the ``guard`` of one: the transaction is
                applied only if the ownership, as it is now, lasts at that index.  No clock is involved, so this also
                holds after the process was paused.
            timeout: Seconds for the request; None for no limit.

        Raises:
            NodeLost: The owner does not own its node; nothing was sent.
            NotSupported: This is etcd v2; nothing was sent.  At the end of the block if the API was not
                detected before.
            TypeError: The guard has no ``guard``.

        At the end of the block:

        * :class:`~getc.NodeLost`: the ownership did not last; nothing was written.
        * :class:`~getc.TestFailed`, :class:`~getc.KeyNotFound`, :class:`~getc.NodeExist`, :class:`~getc.NotFile`,
          :class:`~getc.NotDir`: the first check or operation whose condition does not hold; nothing was written.
          ``error.key`` is its key.
        * :class:`ValueError`: the transaction is too large; nothing was sent.
        * :class:`~getc.ConnectionError`: no response; with ``maybe_applied`` the transaction may have been applied.
        """
        self._check_open()
        if self.api == 'v2':
            raise no_transactions_on_v2()
        if timeout is not DEFAULT_TIMEOUT:
            Deadline.after(timeout)  # validates the timeout before the block runs
        return TransactionBuilder(partial(self._commit, timeout), guard)

    def atomically(
        self, function: Callable[[STM], _Returned], *, timeout: float | None = 5.0, idempotent: bool = False
    ) -> _Returned:
        """Run a function on one state of the store, apply its writes together, and return what it has returned::

            etcd.set('/gold/ann', '10')

            def trade(stm):
                gold = int(stm.get('/gold/ann').value)
                stm.set('/gold/ann', str(gold - 5))

            etcd.atomically(trade)

        All reads of the function are of one index.  Its writes are applied only if nothing that it has read or written
        has changed since that index; otherwise the function runs again, after a short random delay, on the current
        state.  So it must have no other effects than those through its :class:`~getc.STM`.  What it raises is
        raised here, and nothing is written.

        Isolation: serializable snapshot.  etcd v3 and stores in memory have transactions.

        Args:
            function: Called with an :class:`~getc.STM`.
            timeout: Seconds for all runs; None for no limit.
            idempotent: Run the function again after a lost response, although its writes may have been applied: the
                result must be the same if they are applied twice.

        Raises:
            TimedOut: Other clients kept writing the same nodes.
            ConnectionError: No response; with ``maybe_applied`` the writes may have been applied.
            NotSupported: This is etcd v2, and the function was not called; or the function has read a directory.
            ValueError: The function has read and written too many nodes for one transaction, or a node and one below.
            NotFile, NotDir: A node that the function has written is a directory, or is below a value.
        """
        if not callable(function):
            raise TypeError(f'the function of atomically must be callable, not {type(function).__name__}')
        deadline = Deadline.after(timeout)
        self._check_open()
        if self._backend.detect_api(deadline).api == 'v2':
            raise no_transactions_on_v2()
        return atomically(self._transact, function, deadline, is_idempotent=idempotent)

    # -- daemons

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
        """Keep a node in etcd as long as this process lives, and return its :class:`~getc.Keeper`.

        The node has a TTL, which is renewed after a third of it.  After an outage, or when the node was deleted, it is
        written again.  A node that another owner has taken over is not taken back by force.

        Blocks until the node exists.  If etcd does not respond, the write is attempted again until the timeout.  If the
        greenlet is killed while it waits, no node is left behind.

        Args:
            key: The node.
            value: The value, text or bytes; None for ``pid@host``.
            ttl: Whole seconds, 1 or more, after which the node expires if this process dies.
            on_conflict: What to do at the start with a node that exists and has a TTL: ``'replace'`` takes the node
                over (usually it belongs to the predecessor of this process), ``'wait'`` waits until it is gone,
                ``'raise'`` raises NodeExist.
            alive: Called before each renewal.  The node is removed while it returns False, raises, or takes longer than
                a sixth of the TTL: for a process that runs but does not do its work.
            on_lost: Called with the keeper when the ownership of the node is no longer certain, before etcd can give
                the node to another owner.
            on_restored: Called with the keeper when the node is owned again.
            wait: False returns at once, with a keeper that is STARTING.
            timeout: Seconds to wait for the node; None for no limit.

        Raises:
            NodeExist: The node exists without a TTL, or it exists with a TTL and ``on_conflict`` is ``'raise'``.
            NotFile: The node is a directory.
            TimedOut: The node was not written in time, and is not kept.  With ``maybe_applied`` a slow server may still
                write it, for one TTL.
        """
        options = KeepOptions(ttl=ttl, on_conflict=on_conflict, alive=alive, on_lost=on_lost, on_restored=on_restored)
        deadline = Deadline.after(timeout)
        self._check_open()
        keeper = Keeper(self._daemons.log, self._backend, key, value, options, timeout=self._timeout)
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
        """Call a function for each change of a node and of the nodes below it, and return the :class:`~getc.Watcher`.

        Changes are delivered in order, each exactly once, one call at a time, in a greenlet of the watcher.  An
        exception of the function is logged.  Every change after ``on_change`` has returned is delivered.

        After history was lost (a long outage, a restored or wiped store), the existing nodes are compared with those
        that the watcher remembers, and the difference is delivered as results with ``resync=True``.

        Without a function ``on_change`` is a decorator, which adds the attribute ``watcher`` to the function::

            @etcd.on_change('/cfg')
            def reload(result): ...

        Args:
            key: The node, which need not exist.
            callback: Called with each :class:`~getc.EtcdResult`.
            recursive: Include changes of the nodes below the node.
            initial: First deliver the existing values, one :class:`~getc.Got` each, sorted by key.
            index: Deliver the changes from this index on; None for those from now on.
            on_resync: Called with the watcher after a difference was delivered.
            resync: ``'diff'`` delivers the difference after history was lost; ``'notify'`` remembers no nodes and only
                calls ``on_resync``.
            wait: False returns at once, with a watcher that is STARTING.
            timeout: Seconds to wait for the start; None for no limit.

        Raises:
            TimedOut: The watcher did not start in time.
        """
        options = WatchOptions(recursive=recursive, initial=initial, index=index, on_resync=on_resync, resync=resync)
        start = partial(self._start_watcher, key, options, wait, timeout)
        return partial(_decorate, start) if callback is None else start(callback)

    def changes(
        self,
        key: str,
        *,
        recursive: bool = True,
        initial: bool = False,
        index: int | None = None,
        timeout: float | None = None,
    ) -> Changes:
        """Return an iterator over the changes that :meth:`on_change` would deliver::

            with etcd.changes('/cfg') as changes:
                for result in changes: ...

        Args:
            key: The node, which need not exist.
            recursive: Include changes of the nodes below the node.
            initial: First yield the existing values, one :class:`~getc.Got` each, sorted by key.
            index: Yield the changes from this index on; None for those from now on.
            timeout: Seconds to wait for the start; None for no limit.

        Raises:
            TimedOut: The watcher did not start in time.
        """
        options = WatchOptions(recursive=recursive, initial=initial, index=index)
        deadline = Deadline.after(timeout)
        self._check_open()
        changes = Changes(self._daemons.log, self._backend, key, options)
        self._daemons.start(changes, wait=True, deadline=deadline)
        return changes

    def mirror(
        self, key: str, *, on_update: OnUpdate | None = None, wait: bool = True, timeout: float | None = None
    ) -> Mirror:
        """Return a :class:`~getc.Mirror`: a mapping of the values at and below a node, kept up to date::

            servers = etcd.mirror('/servers')
            for key, address in servers.items(): ...

        It contains all values that existed when ``mirror`` returned, and follows the changes, one whole revision at a
        time.  Reading it performs no I/O.  :meth:`getc.Mirror.wait` waits for a condition.

        Args:
            key: The node, which need not exist.
            on_update: Called with the changes of each revision, a tuple of :class:`~getc.EtcdResult`, after the mirror
                was updated; in order, one call at a time, in a greenlet of the mirror.
            wait: False returns at once, with an empty mirror that is STARTING.
            timeout: Seconds to wait for the start; None for no limit.

        Raises:
            TimedOut: The mirror did not start in time.
        """
        deadline = Deadline.after(timeout)
        self._check_open()
        mirror = Mirror(self._daemons.log, self._backend, key, on_update=on_update, timeout=self._timeout)
        self._daemons.start(mirror, wait=wait, deadline=deadline)
        return mirror

    # -- recipes

    def lock(self, key: str, value: str | bytes | None = None, *, ttl: int = 10) -> Lock:
        """Return a :class:`~getc.Lock`, which one process at a time holds.  Performs no I/O::

            with etcd.lock('/locks/shard-7') as token: ...

        Args:
            key: The key of the lock.  Contenders have keys below it, so a value cannot exist there.
            value: The value of this contender's key, text or bytes, for people; None for ``pid@host``.
            ttl: Whole seconds, 1 or more, after which the lock is free if this process dies.
        """
        return Lock(self, key, value, ttl=ttl)

    def rwlock(self, key: str, value: str | bytes | None = None, *, ttl: int = 10) -> RWLock:
        """Return an :class:`~getc.RWLock`, which many readers or one writer hold.  Performs no I/O::

            with etcd.rwlock('/locks/world').read as token: ...

        Args:
            key: The key of the lock.  Contenders have keys below it, so a value cannot exist there.
            value: The value of the contenders' keys, text or bytes, for people; None for ``pid@host``.
            ttl: Whole seconds, 1 or more, after which the lock is free if this process dies.
        """
        return RWLock(self, key, value, ttl=ttl)

    def elect(
        self,
        key: str,
        value: str | bytes | None = None,
        *,
        ttl: int = 10,
        on_elected: Callable[[Candidacy], object] | None = None,
        on_lost: Callable[[Candidacy], object] | None = None,
        wait: bool = False,
    ) -> Candidacy:
        """Stand for election in the background, and return the :class:`~getc.Candidacy`.

        One candidate at a time is the leader.  After a loss this candidate campaigns again.  Does not block unless
        ``wait`` is True; :meth:`getc.Candidacy.wait_elected` blocks until this candidate is the leader.

        Args:
            key: The key of the election.  Candidates have keys below it, so a value cannot exist there.
            value: The value of this candidate, text or bytes, such as its address; None for ``pid@host``.
            ttl: Whole seconds, 1 or more, after which another candidate is elected if this process dies.
            on_elected: Called with the candidacy each time when it is elected.  The functions are called in order, one
                call at a time, and never after ``stop()`` has returned; an exception is logged.
            on_lost: Called with the candidacy when the leadership is lost, before etcd can elect another candidate,
                even if ``on_elected`` still runs.  Not called after ``resign()`` and ``stop()``.
            wait: True blocks without a limit until this candidate takes part, that is, until its key exists.

        Raises:
            NotDir: With ``wait``: a value exists at the key of the election, or above it.
            EtcException: With ``wait``: etcd refuses.
        """
        self._check_open()
        candidacy = Candidacy(self, key, value, ttl=ttl, on_elected=on_elected, on_lost=on_lost)
        self._daemons.start(candidacy, wait=wait, deadline=Deadline.after(None))
        return candidacy

    def leader(
        self, key: str, on_change: OnLeader | None = None, *, wait: bool = True, timeout: float | None = None
    ) -> Leader:
        """Follow the leader of an election, and return a :class:`~getc.Leader`.  Takes no part in the election.

        Blocks until the leader is known, or that there is none.

        Args:
            key: The key of the election, which need not exist.
            on_change: Called with the leader, a :class:`~getc.Value`, or with None where there is none: once at the
                start, then after each change of the leader or of its value, none of them left out; in order, one call
                at a time, in a greenlet of the object that is returned.
            wait: False returns at once, with an object that is STARTING.
            timeout: Seconds to wait for the start; None for no limit.

        Raises:
            TimedOut: The leader was not known in time.
            EtcException: etcd refuses.
        """
        deadline = Deadline.after(timeout)
        self._check_open()
        leader = Leader(self._daemons.log, self._backend, key, on_change)
        self._daemons.start(leader, wait=wait, deadline=deadline)
        return leader

    def run_while_leader(
        self,
        key: str,
        function: Callable[[Term], object],
        value: str | bytes | None = None,
        *,
        ttl: int = 10,
        grace: float | None = None,
        pause: float = 1.0,
        on_overrun: Callable[[Term], object] | None = None,
    ) -> LeaderLoop:
        """Run a function whenever this process is the leader of an election, and return the loop.  Does not block.

        The function is called with a :class:`~getc.recipes.Term`, in a greenlet of its own.  Before the leadership is
        lost, the greenlet is killed: a :class:`~getc.recipes.LeadershipLost` is raised in the function where it
        switches.  Another process may lead from the end of the term on, whether or not the function has ended by then;
        ``term.ensure()`` and ``transaction(guard=term)`` exclude its late writes.

        When the function returns or raises, this process resigns, and campaigns again after a pause.  An exception is
        logged.

        Args:
            key: The key of the election.  Candidates have keys below it, so a value cannot exist there.
            function: What the leader does.
            value: The value of this candidate, text or bytes, such as its address; None for ``pid@host``.
            ttl: Whole seconds, 1 or more, after which another candidate is elected if this process dies.
            grace: Seconds between the kill and the time at which the term is over, for ``finally`` blocks; None for
                ``ttl / 10``.  With much more, a short outage of etcd ends the term.
            pause: Seconds between the end of the function and the next campaign.
            on_overrun: Called with the term if the function still runs when the term is over, or, if the key was
                deleted or the process was paused, ``grace`` seconds after the kill; that is also logged as CRITICAL.
        """
        self._check_open()
        loop = LeaderLoop(self, key, function, value, ttl=ttl, grace=grace, pause=pause, on_overrun=on_overrun)
        self._daemons.start(loop, wait=False, deadline=Deadline.after(None))
        return loop

    # -- the client itself

    @property
    def url(self) -> str:
        """The URL that the client was opened with, the first one of several, without credentials."""
        return self._options.urls[0]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URLs of the servers that the client uses at the moment, without credentials.

        They change with ``sync=`` and with ``etcd+srv://``, for which they are empty before the first call.
        """
        return self._opened.urls()

    @property
    def api(self) -> str | None:
        """The API in use: ``'v3'``, ``'v2'`` or ``'memory'``; None until the first call has detected it."""
        return self._backend.api

    @property
    def is_closed(self) -> bool:
        """True if the client was closed, so that every call raises ClientClosed."""
        return self._is_closed

    @property
    def v3(self) -> V3:
        """The RPCs of etcd v3, without namespace and without the vocabulary of v2.

        Raises:
            NotSupported: This is a store in memory.
        """
        self._enter()
        if self._opened.v3 is None:
            raise NotSupported('memory:// has no v3 RPCs: connect to a server by http:// or https://')
        return self._opened.v3

    def on_state(self, listener: _StateListener) -> _StateListener:
        """Call a function with each new :class:`~getc.ConnectionState`, and return the function: also a decorator.

        CONNECTED: the first call, or the first since SUSPENDED, was answered.  SUSPENDED: every endpoint has failed.
        The state changes with the calls of the client and of its daemons; an idle client does not notice an outage.  A
        store in memory has no states.

        The function is called as long as the client or one of its daemons exists, and until the client is closed.

        Args:
            listener: Called with each state in order, one call at a time, in a greenlet of its own.  An exception of
                the function is logged.

        Raises:
            TypeError: The listener is not a function.
        """
        if not callable(listener):
            raise TypeError(f'the listener of on_state must be a function, not {type(listener).__name__}')
        self._enter()
        self._listeners.add(listener, self._opened.log)
        return listener

    def ready(self, timeout: Timeout = DEFAULT_TIMEOUT) -> None:
        """Wait until etcd has answered a linearizable read: it has a leader and serves requests.

        On v3 the user needs no permission.  On v2 the user needs the permission to read ``/``: etcd checks it before
        the consensus, and refuses wrong credentials in the same way, so a refusal proves neither.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            Unauthorized: The credentials are wrong; or, on v2, the user may not read ``/``.
            EtcException: The error of the last attempt.
        """
        deadline = Deadline(self._timeout) if timeout is DEFAULT_TIMEOUT else Deadline.after(timeout)
        self._check_open()
        self._backend.ready(deadline)

    def clear(self) -> None:
        """Close the connections that are not in use.  Does not block."""
        self._enter()
        self._opened.clear()

    def close(self, timeout: float | None = STOP_TIMEOUT) -> None:
        """Stop all daemons, which deletes kept nodes, end all calls with ClientClosed, and close all connections.

        Later calls raise ClientClosed; closing again does nothing.  May be called from a callback.  In a forked child
        it closes only what the child opened.

        Args:
            timeout: Seconds that it may take, even if etcd does not respond; None for no limit.  Callbacks that still
                run at the timeout are killed, which may take one second more.
        """
        deadline = Deadline.after(timeout)
        self._enter()
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._daemons.stop_all(deadline)
        finally:
            self._opened.close()
            self._waits.close()
            self._listeners.close()
        self._listeners.join(deadline)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        options = self._options
        if not hasattr(self, '_backend'):  # for error reports with local variables, when the constructor has failed
            return f'<getc.Client {self._number} {",".join(options.urls)} not opened>'
        parts = [str(self._number), ','.join(options.urls), self.api or 'api not detected yet']
        has_choice = len(options.urls) > 1 or self._opened.urls() != options.urls
        if has_choice and (url := self._opened.url_in_use()) is not None:
            parts.append(f'in_use={url}')
        if options.namespace is not None:
            parts.append(f'namespace={options.namespace}')
        if self._is_closed:
            parts.append('closed')
        return f'<getc.Client {" ".join(parts)}>'

    # -- internals

    @property
    def _recipe_context(self) -> RecipeContext:
        return RecipeContext(self._open_backend, self._daemons, self._options)

    def _open_backend(self) -> Backend:
        self._check_open()
        return self._backend

    @overload
    def _execute(self, operation: Get, timeout: Timeout) -> Got: ...

    @overload
    def _execute(self, operation: Put, timeout: Timeout) -> Set: ...

    @overload
    def _execute(self, operation: Append, timeout: Timeout) -> Created: ...

    @overload
    def _execute(self, operation: Delete, timeout: Timeout) -> Deleted: ...

    def _execute(self, operation: Operation, timeout: Timeout) -> Any:
        deadline = Deadline(self._timeout) if timeout is DEFAULT_TIMEOUT else Deadline.after(timeout)
        if self._is_closed or not self._affinity.is_current():
            self._check_open()
        try:
            return self._backend.execute(operation, deadline)
        except EtcdError as error:
            add_hint(error, operation)
            raise

    def _commit(self, timeout: Timeout, transaction: Transaction) -> TransactionResult:
        deadline = Deadline(self._timeout) if timeout is DEFAULT_TIMEOUT else Deadline.after(timeout)
        return self._transact(transaction, deadline)

    @overload
    def _transact(self, operation: Transaction, deadline: Deadline) -> TransactionResult: ...

    @overload
    def _transact(self, operation: SnapshotRead, deadline: Deadline) -> Snapshot: ...

    def _transact(self, operation: Transaction | SnapshotRead, deadline: Deadline) -> Any:
        self._check_open()
        try:
            return self._backend.execute(operation, deadline)
        except EtcdError as error:
            add_hint(error, operation)
            raise

    def _start_watcher(
        self,
        key: str,
        options: WatchOptions,
        wait: bool,
        timeout: float | None,
        callback: Callable[[EtcdResult], object],
    ) -> Watcher:
        deadline = Deadline.after(timeout)
        self._check_open()
        watcher = Watcher(self._daemons.log, self._backend, key, callback, options, timeout=self._timeout)
        self._daemons.start(watcher, wait=wait, deadline=deadline)
        return watcher

    def _check_open(self) -> None:
        if not self._affinity.is_current():
            self._enter()
        if self._is_closed:
            raise ClientClosed('the client is closed')

    def _enter(self) -> None:
        """Check the thread, and in a forked child replace everything that belongs to the parent."""
        if self._affinity.in_forked_child:
            self._affinity = ThreadAffinity()
            self._waits = PendingWaits()
            self._opened = self._opened.reopen()
            self._backend = self._opened.backend
            self._daemons.reset_in_child(self._opened.log)
            self._listeners.reset_in_child(self._opened.log)
        self._affinity.check()
        self._opened.start()


def _decorate(start: Callable[[Callable[[EtcdResult], object]], Watcher], function: _Function) -> _Function:
    function.watcher = start(function)  # type: ignore[attr-defined]
    return function


def _weak_setter(client: Client) -> Callable[[Backend], None]:
    """Return a function that replaces the backend of a client, without a reference that keeps the client alive."""
    reference = weakref.ref(client)

    def set_backend(backend: Backend) -> None:
        client = reference()
        if client is not None:
            client._backend = backend

    return set_backend
