"""Software transactional memory: runs a function on one state of the store, and again if that has changed since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn, Protocol, TypeVar, overload

import gevent

from getc.error_context import copy_error
from getc.errors import EtcException, EventIndexCleared, FutureRevision, KeyNotFound, NotSupported, RootROnly, TimedOut
from getc.operations import Delete, Put, text_of
from getc.paths import ROOT, normalize
from getc.results import Got, Value
from getc.retry import is_transient
from getc.timing import Backoff, Deadline
from getc.transactions import Check, Conflict, Snapshot, SnapshotRead, Transaction, TransactionResult, Version

__all__ = ['STM', 'Execute', 'atomically']

MIN_DELAY_BOUND: Final = 0.002
MAX_DELAY_BOUND: Final = 0.1
"""Seconds: the bound of the random delay after the first conflict, and of all delays.

They are short, because a conflict returns the current values, which become outdated while the function waits.
"""

Returned = TypeVar('Returned')


class Execute(Protocol):
    """Executes the reads and the commit of an attempt."""

    @overload
    def __call__(self, operation: Transaction, deadline: Deadline) -> TransactionResult: ...

    @overload
    def __call__(self, operation: SnapshotRead, deadline: Deadline) -> Snapshot: ...


class _SnapshotLost(BaseException):
    """The snapshot of a run is gone: start again.  ``except Exception`` in the function does not catch it."""


class STM:
    """The store as one run of the function of :meth:`getc.Client.atomically` sees it.

    All reads are of one index, that of the first read, and see the writes of the run itself.  Nothing is written before
    the function returns.  The object is of no use after that.
    """

    __slots__ = ('_run',)

    def __init__(self, run: _Run) -> None:
        self._run = run

    @property
    def index(self) -> int:
        """The index of all reads; 0 before the first one."""
        return self._run.index

    def get(self, key: str) -> Got:
        """Return a value, as the function has written it, or else as it was at the index of the first read.

        The first read of a node is one request, unless the previous run has used the node.  The result has no TTL; that
        of a node which the function has written has the index 0.

        Args:
            key: The node.

        Raises:
            KeyNotFound: The node does not exist, or the function has deleted it.
            NotSupported: The node is a directory.
            EtcException: As :meth:`getc.Client.get`.
        """
        run = self._run
        key = run.enter(key)
        put = run.writes.get(key)
        if put is not None:
            version = run.reads.get(key)
            created = 0 if version is None else version.created_index
            return Got(Value(key, 0, created, put.ttl, None, put.value or ''), None, run.index)
        version = None if key in run.writes else run.read(key)
        if version is None:
            raise KeyNotFound('Key not found', key, run.index)
        value = Value(key, version.modified_index, version.created_index, None, None, version.value)
        return Got(value, None, run.index)

    def set(self, key: str, value: str | bytes, *, ttl: int | None = None) -> None:
        """Write a node when the function has returned, whether it exists or not.  No I/O.

        Args:
            key: The node.
            value: The value, text or bytes.
            ttl: Whole seconds until the node expires, 0 or more; None for no TTL.  Each distinct TTL takes one request
                more in each run.
        """
        put = Put(key, text_of(value) if isinstance(value, bytes) else value, ttl=ttl)
        if put.key == ROOT:
            raise RootROnly('Root is read only', ROOT)
        self._run.writes[self._run.enter(put.key)] = put

    def delete(self, key: str) -> None:
        """Delete a node when the function has returned.  Reads the node if it was not read yet.

        Args:
            key: The node, which must exist.

        Raises:
            KeyNotFound: The node does not exist, or the function has deleted it.
            NotSupported: The node is a directory.
        """
        run = self._run
        key = run.enter(key)
        stored = run.read(key)  # also if the function has written the node: etcd deletes what is stored
        if run.writes.get(key, stored) is None:
            raise KeyNotFound('Key not found', key, run.index)
        run.writes[key] = None

    def __repr__(self) -> str:
        run = self._run
        state = ' over' if run.is_over else ''
        return f'<getc.STM index={run.index} reads={len(run.reads)} writes={len(run.writes)}{state}>'


class _Run:
    """What one run of the function has read and written.

    Args:
        execute: Executes operations.
        deadline: The end of all runs.
        index: The index of ``versions``; 0 if there are none.
        versions: Nodes that are known already: those that the previous run used.

    Attributes:
        index: The index of all reads; 0 before the first one.
        reads: The nodes as they were at the index; None for one that was not a value.
        writes: The last write of each node; None for a deletion.
        is_over: The function has returned or raised.
        is_lost: The nodes at the index cannot be read any more.
    """

    def __init__(
        self, execute: Execute, deadline: Deadline, index: int = 0, versions: dict[str, Version | None] | None = None
    ) -> None:
        self._execute = execute
        self._deadline = deadline
        self._known = versions or {}
        self.index = index
        self.reads: dict[str, Version | None] = {}
        self.writes: dict[str, Put | None] = {}
        self.is_over = False
        self.is_lost = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The nodes that were read or written."""
        return tuple(dict.fromkeys([*self.reads, *self.writes]))

    def enter(self, key: str) -> str:
        """Return the normal form of a key, if the run may go on."""
        if self.is_over:
            raise RuntimeError('the function of this STM has returned: each run has its own STM')
        if self.is_lost:
            raise _SnapshotLost
        return normalize(key)

    def read(self, key: str) -> Version | None:
        """Return a node as it was at the index of the first read; None if it was not a value."""
        if key not in self.reads:
            self.reads[key] = self._known[key] if key in self._known else self._read_at_index(key)
        return self.reads[key]

    def _read_at_index(self, key: str) -> Version | None:
        if key == ROOT:
            raise _not_listed(key)
        index = self.index if self.reads or self._known else None  # an empty store in memory has the index 0
        try:
            found = self._execute(SnapshotRead(key, index), self._deadline)
        except (EventIndexCleared, FutureRevision) as error:
            self.is_lost = True
            raise _SnapshotLost from error
        if found.is_directory:
            raise _not_listed(key)
        self.index = found.etcd_index
        return found.version

    def commit(self) -> None:
        """Apply the writes if no node that was used has changed since the first read.

        Raises:
            Conflict: A node has changed.
        """
        operations: list[Put | Delete] = []
        for key, put in self.writes.items():
            if put is not None:
                operations.append(put)
            elif self.reads[key] is not None:
                operations.append(Delete(key))
        if not self.reads and not operations:
            return
        checks = [Check(key, index=0 if found is None else found.modified_index) for key, found in self.reads.items()]
        if self.reads:
            checks += [Check(key, max_index=self.index) for key in self.writes if key not in self.reads]
        refetch = self.keys if checks else ()  # without a check there is no conflict, and no use for these reads
        self._execute(Transaction(tuple(checks), tuple(operations), refetch=refetch), self._deadline)


def _not_listed(key: str) -> NotSupported:
    text = (
        '{key} is a directory, and etcd cannot compare that a directory has not changed: '
        'write a version key with each change below it, and read that'
    )
    return NotSupported(text, key=key)


def atomically(
    execute: Execute, function: Callable[[STM], Returned], deadline: Deadline, *, is_idempotent: bool
) -> Returned:
    """Run a function until its writes are applied; see :meth:`getc.Client.atomically`.

    Args:
        execute: Executes operations.
        function: The function.
        deadline: The end of all attempts.
        is_idempotent: Run the function again after a commit that may have been applied.
    """
    backoff = Backoff(MIN_DELAY_BOUND, MAX_DELAY_BOUND)
    maybe_applied = False
    run = _Run(execute, deadline)
    while True:
        returned: Returned
        try:
            returned, reason = _call(function, run)
        except EtcException as error:
            _raise(error, maybe_applied)
        following = _Run(execute, deadline)
        if reason is None:
            try:
                run.commit()
            except Conflict as error:
                reason = error
                versions = dict(zip(run.keys, error.versions, strict=True))
                following = _Run(execute, deadline, error.index or 0, versions)
            except EtcException as error:
                if not (is_idempotent and error.maybe_applied and is_transient(error)):
                    _raise(error, maybe_applied)
                maybe_applied = True
                reason = error
            else:
                return returned
        delay = backoff.next_delay()
        if delay >= deadline.remaining():
            raise _too_late(deadline, reason, maybe_applied) from reason
        gevent.sleep(delay)
        run = following


def _call(function: Callable[[STM], Returned], run: _Run) -> tuple[Any, BaseException | None]:
    """Call the function.  Return what it returned; or None and the reason why it has to run again."""
    lost: BaseException = _SnapshotLost()
    returned = None
    try:
        returned = function(STM(run))
    except (Exception, _SnapshotLost) as error:
        if not run.is_lost:
            raise
        lost = error
    finally:
        run.is_over = True
    return (None, lost) if run.is_lost else (returned, None)


def _raise(error: EtcException, maybe_applied: bool) -> NoReturn:
    """Raise an error; its ``maybe_applied`` covers the commits of all runs."""
    if maybe_applied and not error.maybe_applied:
        raise copy_error(error, maybe_applied=True) from error
    raise error


def _too_late(deadline: Deadline, reason: BaseException, maybe_applied: bool) -> TimedOut:
    why, key = f'the last attempt was not answered: {reason}', None
    if isinstance(reason, Conflict):
        why, key = 'other clients keep writing {key}', reason.key
    elif isinstance(reason, _SnapshotLost):
        why = 'the store is compacted faster than the function runs'
    text = f'the function was not applied atomically within {deadline.timeout:g} s: {why}'
    return TimedOut(text, maybe_applied=maybe_applied, key=key)
