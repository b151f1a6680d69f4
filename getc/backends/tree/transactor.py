"""Execute transactions of several nodes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

import gevent

from getc.backends.tree.codec.keyspace import TTL, encode, value_of
from getc.backends.tree.codec.transaction import (
    DirectoryLeaseChanged,
    EncodedTransaction,
    parse_snapshot,
    result_of,
    txn_of_snapshot,
)
from getc.backends.tree.directory_leases import DirectoryLeases
from getc.backends.tree.large_values import too_large_value
from getc.backends.tree.write_leases import WriteLeases
from getc.error_context import copy_error
from getc.errors import EtcException, ResponseTooLarge
from getc.operations import Delete, Get, Put
from getc.results import EtcdResult, Node, Value
from getc.timing import Backoff, Deadline
from getc.transactions import Snapshot, SnapshotRead, Transaction, TransactionResult
from getc.v3.rpc import RpcClient
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import KV, RangeRequest

__all__ = ['Transactor']


class Transactor:
    """Executes transactions: one request each, and before it one for each distinct TTL.

    Args:
        rpc: Calls etcd.
        leases: Grants leases.
        directory_leases: Remembers the leases of directories, which nodes without a TTL join.
        is_strict: See :class:`~getc.backends.tree.backend.TreeV3`.
    """

    def __init__(
        self, rpc: RpcClient, leases: WriteLeases, directory_leases: DirectoryLeases, *, is_strict: bool
    ) -> None:
        self._rpc = rpc
        self._leases = leases
        self._directory_leases = directory_leases
        self._is_strict = is_strict

    def execute(self, transaction: Transaction, deadline: Deadline) -> TransactionResult:
        """Execute a ``Transaction``.  Raises like ``Backend.execute``."""
        encoded = self._encode(transaction)  # raises for one that is too large, before leases are granted
        backoff = Backoff(base=0.005, cap=0.2)
        with ExitStack() as stack:
            leases = {ttl: stack.enter_context(self._leases.lease_for(ttl, deadline)) for ttl in transaction.ttls}
            while True:
                try:
                    response = self._rpc.call(KV.Txn, encoded.request(leases), deadline, is_write=transaction.is_write)
                    result = encoded.parse(response, leases)
                except ResponseTooLarge as error:
                    result = self._read_result(transaction, error, leases, deadline)
                except DirectoryLeaseChanged as refused:  # nothing was written
                    for directory, lease in refused.leases.items():
                        self._directory_leases.note(directory, lease)
                    encoded = self._encode(transaction)
                    gevent.sleep(min(backoff.next_delay(), max(0.0, deadline.remaining())))
                    continue
                for lease, _ in leases.values():
                    self._directory_leases.note_role(lease, False)
                return result

    def _encode(self, transaction: Transaction) -> EncodedTransaction:
        leases = self._directory_leases.known
        return EncodedTransaction(transaction, is_strict=self._is_strict, directory_leases=leases)

    def read(self, read: SnapshotRead, deadline: Deadline) -> Snapshot:
        """Execute a ``SnapshotRead``.  Raises like ``Backend.execute``."""
        txn = txn_of_snapshot(read, is_strict=self._is_strict)
        try:
            response = self._rpc.call(KV.Txn, txn, deadline, is_write=False)
        except ResponseTooLarge as error:
            raise too_large_value(read.key, error) from error
        return parse_snapshot(read, response, is_strict=self._is_strict)

    def _read_result(
        self,
        transaction: Transaction,
        error: ResponseTooLarge,
        leases: Mapping[int, tuple[int, TTL]],
        deadline: Deadline,
    ) -> TransactionResult:
        """Return the result of a transaction whose response was not read: the values in it are too large together.

        The beginning of the response says whether the transaction was applied, and at which index.  The previous nodes
        are left out.  What was read is read again, at the same index.

        Raises:
            ResponseTooLarge: The transaction was refused, the response does not say whether it was applied, or a value
                is too large for a response.
        """
        if error.succeeded is False:
            raise copy_error(error, maybe_applied=False) from error
        if error.succeeded is None or error.index is None or error.index < 1:
            raise error
        header = ResponseHeader(revision=error.index)
        before = error.index - transaction.is_write
        results: list[EtcdResult] = []
        for operation in transaction.operations:
            if isinstance(operation, Get):
                value = self._read_value(operation.key, before, error, deadline)
                results.append(result_of(operation, value, header, leases))
            else:
                previous = self._read_previous(operation, before, deadline)
                results.append(replace(result_of(operation, previous, header, leases), prev_node=None))
        return TransactionResult(error.index, tuple(results))

    def _read_value(self, key: str, index: int, cause: ResponseTooLarge, deadline: Deadline) -> Value:
        try:
            found = self._rpc.call(KV.Range, RangeRequest(key=encode(key), revision=index), deadline).kvs
        except EtcException as error:
            failed = too_large_value(key, error) if isinstance(error, ResponseTooLarge) else error
            raise copy_error(failed, maybe_applied=cause.maybe_applied) from error
        if not found:
            raise cause
        return value_of(key, found[0])

    def _read_previous(self, write: Put | Delete, index: int, deadline: Deadline) -> Node | None:
        """Read the node before a write, without its value; its indices are 0 if they cannot be read."""
        try:
            request = RangeRequest(key=encode(write.key), revision=index, keys_only=True)
            found = self._rpc.call(KV.Range, request, deadline).kvs
        except EtcException:  # such as a compaction since: the write was applied all the same
            return Node(write.key)
        if found:
            return Node(write.key, found[0].mod_revision, found[0].create_revision)
        return None if isinstance(write, Put) else Node(write.key)
