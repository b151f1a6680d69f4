"""Values that are too large for an answer: what is said of a node that has one, and of a write that replaced one."""

from __future__ import annotations

from dataclasses import replace

from getc.backends.tree.codec.delete import result_of_delete
from getc.backends.tree.codec.keyspace import encode
from getc.backends.tree.codec.nodes import TTL
from getc.backends.tree.codec.txn_failure import error_from_failure, failure_reads
from getc.backends.tree.codec.write import result_of_put
from getc.errors import EtcException, ResponseTooLarge
from getc.grpc.framing import MAX_MESSAGE
from getc.operations import Delete, Put
from getc.results import EtcdResult, Node
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, RangeRequest, TxnRequest

__all__ = ['node_before', 'result_of_write', 'too_large_value']


def too_large_value(key: str, cause: ResponseTooLarge) -> ResponseTooLarge:
    """The error for a node whose value cannot be read."""
    text = f'the value of {key} is too large to be read: an answer has {MAX_MESSAGE} bytes at most.  Write or delete it'
    error = ResponseTooLarge(text, endpoint=cause.endpoint)
    error.size, error.index = cause.size, cause.index
    return error


def result_of_write(
    rpc: RpcClient, write: Put | Delete, error: ResponseTooLarge, life: TTL, deadline: Deadline, *, is_strict: bool
) -> EtcdResult:
    """What became of a write whose answer was not read: it holds the previous value, which is too large.

    The beginning of the answer says whether it was done, and at which revision.  ``prev_node`` is left out.

    Args:
        rpc: How RPCs are called.
        write: What was to be done.
        error: What its transaction met.
        life: How long the node lives.
        deadline: The end of it all.
        is_strict: Nodes above it may be read.

    Raises:
        EtcdError: It was refused.
        ResponseTooLarge: The answer does not say whether it was done.
    """
    if error.succeeded is None or not error.index:
        raise error
    if not error.succeeded:
        reads = TxnRequest(success=failure_reads(write.key, is_strict=is_strict, keys_only=True))
        raise error_from_failure(write, rpc.call(KV.Txn, reads, deadline, is_write=False)) from error
    before, term = node_before(rpc, write.key, error.index, deadline)
    if isinstance(write, Put):
        result = result_of_put(write, before, error.index, term, life)
    else:
        result = result_of_delete(write, before, error.index, term)
    return replace(result, prev_node=None)


def node_before(rpc: RpcClient, key: str, index: int, deadline: Deadline) -> tuple[Node, int]:
    """The node before the write at this index, without its value, and the term; indices are 0 where nothing says."""
    request = RangeRequest(key=encode(key), revision=index - 1, keys_only=True)
    try:
        found = rpc.call(KV.Range, request, deadline)
        return Node(key, found.kvs[0].mod_revision, found.kvs[0].create_revision), found.header.raft_term
    except (EtcException, IndexError):  # compacted since, or no answer; the write was done all the same
        return Node(key), 0
