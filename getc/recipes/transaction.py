"""Transactions: several checks and writes in one request, applied together or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from inspect import getattr_static
from types import TracebackType

from getc.operations import Delete, Get, Put, text_of
from getc.results import EtcdResult
from getc.transactions import Check, Guard, Guarded, Transaction, TransactionResult

__all__ = ['TransactionBuilder']


class _State(Enum):
    NEW = 'its with block was not entered yet'
    OPEN = 'its with block is not over'
    LEFT = 'its with block was left by an exception, so nothing was sent'
    REFUSED = 'it was not applied, or its response was not received'
    APPLIED = 'it was applied'


class TransactionBuilder:
    """Collects checks and operations, and applies them together.  :meth:`getc.Client.transaction` returns it.

    The transaction is sent in one request at the end of its ``with`` block, after one request for each distinct TTL.
    Nothing is sent if the block raises.  All its changes have one index: no other client sees a part of them.

    Each operation has the conditions of the client's method of the same name: ``create`` needs that the node does not
    exist, ``update``, ``delete`` and ``get`` that it does, and ``set`` that it is not a directory.  If a condition does
    not hold, the end of the block raises the error of the first one, and nothing was written.  The conditions are about
    the state before the transaction; its operations are values only, not directories.

    Not sent at all, with a ValueError: a transaction that writes a node twice, or a node and one below it, or that has
    more than 128 operations or compares.

    Args:
        commit: Executes the transaction.
        guard: See :meth:`getc.Client.transaction`.

    Example::

        etcd = getc.etcd('http://127.0.0.1:2379', api='v3')
        with etcd.transaction() as t:
            t.check('/world/closed', exists=False)
            t.set('/world/score', '12')
            t.create('/world/events/9', 'goal')
        print(t.index)
    """

    def __init__(
        self, commit: Callable[[Transaction], TransactionResult], guard: Guarded | Guard | None = None
    ) -> None:
        if guard is not None and not isinstance(guard, Guard):
            if getattr_static(guard, 'guard', None) is None:  # does not read the property, which may raise NodeLost
                raise TypeError(
                    'guard must be a Keeper, a Lock, read or write of an RWLock, a Semaphore, a Candidacy, a Term, '
                    f'or the guard of one, not {type(guard).__name__}'
                )
            guard = guard.guard
        self._commit = commit
        self._transaction = Transaction(guard=guard)
        self._state = _State.NEW
        self._result = TransactionResult(0)

    # -- conditions

    def check(
        self,
        key: str,
        *,
        index: int | None = None,
        value: str | bytes | None = None,
        exists: bool | None = None,
    ) -> None:
        """Apply the transaction only if a node meets all conditions that are given.  No I/O.

        Args:
            key: The node.
            index: It has this ``modified_index``; 0: it is not a value.
            value: It has this value.
            exists: True: it is a value.  False: there is no node.

        Raises:
            ValueError: No condition is given, or the conditions contradict each other.

        At the end of the block:

        * :class:`~getc.TestFailed`: the node has another index or value;
        * :class:`~getc.KeyNotFound`: the node does not exist;
        * :class:`~getc.NodeExist`: the node exists.
        """
        if isinstance(value, bytes):
            value = text_of(value)
        check = Check(key, exists, value, index)
        self._check_open()
        self._transaction = replace(self._transaction, checks=(*self._transaction.checks, check))

    # -- operations

    def set(
        self,
        key: str,
        value: str | bytes,
        *,
        ttl: int | None = None,
        prev_value: str | bytes | None = None,
        prev_index: int | None = None,
    ) -> None:
        """Write a node, whether it exists or not, as :meth:`getc.Client.set` does.  No I/O.

        Args:
            key: The node.
            value: The value, text or bytes.
            ttl: Whole seconds until the node expires, 0 or more; None for no TTL.
            prev_value: The value that the node must have.
            prev_index: The ``modified_index`` that the node must have.
        """
        self._put(key, value, ttl, None, prev_value, prev_index)

    def create(self, key: str, value: str | bytes, *, ttl: int | None = None) -> None:
        """Write a node that does not exist, as :meth:`getc.Client.create` does.  No I/O.

        Args:
            key: The node.
            value: The value, text or bytes.
            ttl: Whole seconds until the node expires, 0 or more; None for no TTL.
        """
        self._put(key, value, ttl, False)

    def update(
        self,
        key: str,
        value: str | bytes,
        *,
        ttl: int | None = None,
        prev_value: str | bytes | None = None,
        prev_index: int | None = None,
    ) -> None:
        """Write a node that exists, as :meth:`getc.Client.update` does.  No I/O.

        Args:
            key: The node.
            value: The value, text or bytes.
            ttl: Whole seconds until the node expires, 0 or more; None for no TTL.
            prev_value: The value that the node must have.
            prev_index: The ``modified_index`` that the node must have.
        """
        self._put(key, value, ttl, True, prev_value, prev_index)

    def delete(self, key: str, *, prev_value: str | bytes | None = None, prev_index: int | None = None) -> None:
        """Delete a node that is a value, as :meth:`getc.Client.delete` does.  No I/O.

        Args:
            key: The node.
            prev_value: The value that the node must have.
            prev_index: The ``modified_index`` that the node must have.
        """
        if isinstance(prev_value, bytes):
            prev_value = text_of(prev_value)
        self._add(Delete(key, prev_value=prev_value, prev_index=prev_index))

    def get(self, key: str) -> None:
        """Read a node that is a value, at the index of the transaction.  No I/O.

        The result is in ``results``, without the TTL of the node.  A transaction may read a node and write it later,
        but not the other way round.

        Args:
            key: The node, which must exist.
        """
        self._add(Get(key))

    def _put(
        self,
        key: str,
        value: str | bytes,
        ttl: int | None,
        prev_exist: bool | None,
        prev_value: str | bytes | None = None,
        prev_index: int | None = None,
    ) -> None:
        if isinstance(value, bytes):
            value = text_of(value)
        if isinstance(prev_value, bytes):
            prev_value = text_of(prev_value)
        put = Put(key, value, ttl=ttl, prev_value=prev_value, prev_index=prev_index, prev_exist=prev_exist)
        self._add(put)

    def _add(self, operation: Put | Delete | Get) -> None:
        self._check_open()
        self._transaction = replace(self._transaction, operations=(*self._transaction.operations, operation))

    # -- results

    @property
    def index(self) -> int:
        """The index of the transaction, which all nodes that it wrote have.

        If it wrote nothing, the index of the store at which its conditions held; 0 if it was empty and not sent.

        Raises:
            RuntimeError: The transaction was not applied.
        """
        return self._applied().etcd_index

    @property
    def results(self) -> tuple[EtcdResult, ...]:
        """The result of each operation, in order: :class:`~getc.Set`, :class:`~getc.Created`, :class:`~getc.Got`, ...

        Raises:
            RuntimeError: The transaction was not applied.
        """
        return self._applied().results

    def _applied(self) -> TransactionResult:
        if self._state is not _State.APPLIED:
            raise RuntimeError(f'the transaction has no result: {self._state.value}')
        return self._result

    # -- the block

    def __enter__(self) -> TransactionBuilder:
        if self._state is not _State.NEW:
            raise RuntimeError('a transaction has one with block: call etcd.transaction() again for another one')
        self._state = _State.OPEN
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._state = _State.LEFT
        if kind is not None:
            return
        self._state = _State.REFUSED
        if self._transaction != Transaction():
            self._result = self._commit(self._transaction)
        self._state = _State.APPLIED

    def __repr__(self) -> str:
        checks, operations = len(self._transaction.checks), len(self._transaction.operations)
        guard = '' if self._transaction.guard is None else f' guard={self._transaction.guard.key}'
        return f'<getc.TransactionBuilder {self._state.name} checks={checks} operations={operations}{guard}>'

    def _check_open(self) -> None:
        if self._state is not _State.OPEN:
            raise RuntimeError(
                f'checks and operations belong into the with block of the transaction: {self._state.value}'
            )
