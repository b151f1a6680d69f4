"""Values that are too large for a response: errors of reads, and results of writes that replaced such a value."""

from __future__ import annotations

from dataclasses import replace

from getc.backends.tree.codec.delete import result_of_delete
from getc.backends.tree.codec.directory_lease import is_refused_for_lease
from getc.backends.tree.codec.keyspace import TTL, encode
from getc.backends.tree.codec.txn_failure import error_from_failure, failure_reads
from getc.backends.tree.codec.write import result_of_put
from getc.errors import EtcException, ResponseTooLarge
from getc.grpc.framing import MAX_MESSAGE
from getc.operations import Delete, Put
from getc.results import EtcdResult, Node
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, RangeRequest, TxnRequest

__all__ = ['read_previous_node', 'result_of_write', 'too_large_value']


def too_large_value(key: str, cause: ResponseTooLarge) -> ResponseTooLarge:
    """Make the error for a read of a node whose value is too large."""
    text = (
        f'the value of {{key}} is too large to be read: a response has {MAX_MESSAGE} bytes at most.  Write or delete it'
    )
    error = ResponseTooLarge(text, endpoint=cause.endpoint, key=key)
    error.size, error.index = cause.size, cause.index
    return error


def result_of_write(
    rpc: RpcClient, write: Put | Delete, error: ResponseTooLarge, ttl: TTL, deadline: Deadline, *, is_strict: bool
) -> EtcdResult | None:
    """Return the result of a write whose response was not read, because the previous value in it is too large.

    The beginning of the response says whether the write was applied, and at which revision.  ``prev_node`` is None.
    Returns None if only the lease of a directory above the node explains that the write was refused.

    Args:
        rpc: Calls etcd.
        write: The operation.
        error: The error of its transaction.
        ttl: The TTL of the node.
        deadline: The end of the call.
        is_strict: See :class:`~getc.backends.tree.backend.TreeV3`.

    Raises:
        EtcdError: The compares failed.
        ResponseTooLarge: The response does not say whether the write was applied.
    """
    if error.succeeded is None or error.index is None or error.index < 1:
        raise error
    if not error.succeeded:
        reads = TxnRequest(success=failure_reads(write.key, is_strict=is_strict, keys_only=True))
        response = rpc.call(KV.Txn, reads, deadline, is_write=False)
        if isinstance(write, Put) and is_refused_for_lease(write, response, is_strict=is_strict):
            return None
        raise error_from_failure(write, response, is_strict=is_strict) from error
    prev_node, term = read_previous_node(rpc, write.key, error.index, deadline)
    if isinstance(write, Put):
        result = result_of_put(write, prev_node, error.index, term, ttl)
    else:
        result = result_of_delete(write, prev_node, error.index, term)
    return replace(result, prev_node=None)


def read_previous_node(rpc: RpcClient, key: str, index: int, deadline: Deadline) -> tuple[Node, int]:
    """Read the node before the write at an index, without its value, and the raft term.

    The indices of the node and the term are 0 if they cannot be read: the write was applied all the same.
    """
    request = RangeRequest(key=encode(key), revision=index - 1, keys_only=True)
    try:
        found = rpc.call(KV.Range, request, deadline)
    except EtcException:  # such as a compaction since
        return Node(key), 0
    if not found.kvs:
        return Node(key), 0
    return Node(key, found.kvs[0].mod_revision, found.kvs[0].create_revision), found.header.raft_term
