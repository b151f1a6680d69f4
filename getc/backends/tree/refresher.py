"""Refresh a node: give it a TTL and keep its value."""

from __future__ import annotations

from dataclasses import replace

import gevent

from getc import paths
from getc.backends.tree.codec.directory_lease import marker_reads, nearest_lease
from getc.backends.tree.codec.keyspace import encode, value_of
from getc.backends.tree.codec.responses import PUT, RANGE, malformed, results_of_txn
from getc.backends.tree.codec.txn_failure import conditions, error_from_failure, failure_reads
from getc.backends.tree.codec.write import check_put
from getc.backends.tree.directory_ttl import DirectoryTTL
from getc.backends.tree.large_values import too_large_value
from getc.backends.tree.write_leases import WriteLeases
from getc.errors import NotFile, ResponseTooLarge, TestFailed, TimedOut
from getc.operations import Put
from getc.results import ComparedThenSwapped, EtcdResult, Node, Updated, Value
from getc.timing import Backoff, Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import KV, PutRequest, RangeRequest, RequestOp, TxnRequest
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['Refresher']


class Refresher:
    """Refreshes nodes.

    A refresh with the TTL that the node has is a keep-alive of the node's lease: it changes no index and notifies no
    watcher.  A refresh with another TTL writes the old value again, with another lease.  A node that is on the lease of
    the directory that it is in has no TTL of its own.

    Args:
        rpc: Calls etcd.
        leases: Grants and renews leases.
        directories: Refreshes directories.
        is_strict: See :class:`~getc.backends.tree.backend.TreeV3`.
    """

    def __init__(self, rpc: RpcClient, leases: WriteLeases, directories: DirectoryTTL, *, is_strict: bool) -> None:
        self._rpc = rpc
        self._leases = leases
        self._directories = directories
        self._is_strict = is_strict

    def refresh(self, put: Put, deadline: Deadline) -> EtcdResult:
        """Execute a ``Put`` with ``refresh``.  Raises like ``Backend.execute``."""
        assert put.ttl is not None
        check_put(put)
        backoff = Backoff(base=0.005, cap=0.2)
        was_changed = False
        while True:
            try:
                result = self._attempt(put, deadline)
            except TimedOut as error:
                if not was_changed or error.maybe_applied:
                    raise
                text = f'could not refresh {{key}} within {deadline.timeout:g} s: other clients keep writing it'
                raise TimedOut(text, key=put.key) from error
            if result is not None:
                return result
            was_changed = True
            gevent.sleep(min(backoff.next_delay(), max(0.0, deadline.remaining())))

    def _attempt(self, put: Put, deadline: Deadline) -> EtcdResult | None:
        """Read and refresh the node.  Returns None if another client has written it, or it has expired, in between."""
        assert put.ttl is not None
        try:
            kv, joined, header = self._read(put, deadline)
        except NotFile:
            if put.is_compared:
                raise
            return self._directories.change(put, deadline)
        if not (kv.lease not in (0, joined) and put.ttl and self._leases.has_ttl(kv.lease, put.ttl, deadline)):
            try:
                return self._put_again(put, kv, deadline)
            except TestFailed:
                return None
        ttl = self._leases.renew(kv.lease, deadline)
        if ttl is None:
            return None
        return _result(put, value_of(put.key, kv, ttl), value_of(put.key, kv), header)

    def _read(self, put: Put, deadline: Deadline) -> tuple[KeyValue, int, ResponseHeader]:
        """Read the node, and the lease of the directory that it is in.

        Raises the error of the refresh if the node does not meet the conditions.
        """
        directories = paths.ancestors(put.key) if self._is_strict else []
        success = [RequestOp(request_range=RangeRequest(key=encode(put.key))), *marker_reads(directories)]
        failure = failure_reads(put.key, is_strict=self._is_strict)
        txn = TxnRequest(compare=conditions(put), success=success, failure=failure)
        try:
            response = self._rpc.call(KV.Txn, txn, deadline, is_write=False)
        except ResponseTooLarge as error:
            raise too_large_value(put.key, error) from error
        if not response.succeeded:
            raise error_from_failure(put, response, is_strict=self._is_strict)
        found, *markers = results_of_txn(response, *[RANGE] * (1 + len(directories)))
        if not found.kvs or found.kvs[0].mod_revision < 1:
            raise malformed(
                'the compares succeeded, but the response does not contain {key}', is_write=True, key=put.key
            )
        return found.kvs[0], nearest_lease(directories, markers).lease, response.header

    def _put_again(self, put: Put, kv: KeyValue, deadline: Deadline) -> EtcdResult:
        """Put the value again with another lease.  Raises TestFailed if the node has changed since ``kv`` was read."""
        assert put.ttl is not None
        unchanged = Put(put.key, '', prev_exist=True, prev_index=kv.mod_revision)
        with self._leases.lease_for(put.ttl, deadline) as (lease, ttl):
            request = PutRequest(key=encode(put.key), lease=lease, ignore_value=True)
            failure = failure_reads(put.key, is_strict=self._is_strict)
            txn = TxnRequest(compare=conditions(unchanged), success=[RequestOp(request_put=request)], failure=failure)
            response = self._rpc.call(KV.Txn, txn, deadline, is_write=True)
            if not response.succeeded:
                raise error_from_failure(unchanged, response, is_strict=self._is_strict)
            results_of_txn(response, PUT)
        prev_node = value_of(put.key, kv)
        index = response.header.revision
        node = replace(prev_node, modified_index=index, ttl=ttl.ttl, expiration=ttl.expiration)
        return _result(put, node, prev_node, response.header)


def _result(put: Put, node: Value, prev_node: Node, header: ResponseHeader) -> EtcdResult:
    kind = ComparedThenSwapped if put.is_compared else Updated
    return kind(node, prev_node, header.revision, 0, header.raft_term)
