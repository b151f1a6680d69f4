"""Compares of transactions, and the error of a transaction whose compares failed.

The failure half of a transaction reads what may be in the way; the error follows from that.
"""

from __future__ import annotations

from collections.abc import Sequence

from getc import paths
from getc.backends.tree.codec.keyspace import decode, directory_range, encode
from getc.backends.tree.codec.responses import RANGE, results_of_txn
from getc.errors import EtcdError, KeyNotFound, NodeExist, NotDir, NotFile, TestFailed
from getc.operations import Append, Delete, Put
from getc.v3.schema.kv import Compare, RangeRequest, RequestOp, TxnResponse
from getc.v3.schema.mvccpb import KeyValue

__all__ = [
    'conditions',
    'differences',
    'error_from_failure',
    'failure_reads',
    'failure_results',
    'is_absent',
    'is_present',
    'missing_node_error',
]

Kind = Compare.CompareTarget


def is_absent(key: bytes, range_end: bytes = b'') -> Compare:
    """Compare: the key does not exist, or no key of the range does."""
    return Compare(key=key, range_end=range_end, target=Kind.CREATE, create_revision=0)


def is_present(key: bytes) -> Compare:
    """Compare: the key exists."""
    return Compare(key=key, target=Kind.VERSION, result=Compare.CompareResult.GREATER, version=0)


def conditions(operation: Put | Delete) -> list[Compare]:
    """Compare: the node exists as a value, and has the ``prev_value`` and ``prev_index`` of the operation."""
    key = encode(operation.key)
    compare = [is_present(key)]
    if operation.prev_value is not None:
        compare.append(Compare(key=key, target=Kind.VALUE, value=encode(operation.prev_value)))
    if operation.prev_index is not None:
        compare.append(Compare(key=key, target=Kind.MOD, mod_revision=operation.prev_index))
    return compare


def failure_reads(key: str, *, is_strict: bool = True, keys_only: bool = False) -> list[RequestOp]:
    """Return the reads of a failure half: the ancestors of a node, the first key below it, the node itself.

    Args:
        key: The node.
        is_strict: Read the ancestors.  The server demands the permission for all reads, even if the compares succeed.
        keys_only: Leave out the value of the node.
    """
    ancestors = [encode(ancestor) for ancestor in paths.ancestors(key)] if is_strict else []
    ranges = [RangeRequest(key=raw, keys_only=True) for raw in ancestors]
    first, end = directory_range(key)
    ranges.append(RangeRequest(key=first, range_end=end, limit=1, keys_only=True))
    ranges.append(RangeRequest(key=encode(key), keys_only=keys_only))
    return [RequestOp(request_range=request) for request in ranges]


def failure_results(key: str, response: TxnResponse, *, is_strict: bool = True) -> list[Sequence[KeyValue]]:
    """Return what each of the :func:`failure_reads` of a node has found.

    Raises:
        ProtocolError: The response has another shape.
    """
    count = (len(paths.ancestors(key)) if is_strict else 0) + 2
    return [found.kvs for found in results_of_txn(response, *[RANGE] * count)]


def error_from_failure(operation: Put | Append | Delete, response: TxnResponse, *, is_strict: bool = True) -> EtcdError:
    """Make the error of a transaction whose compares failed, from what its :func:`failure_reads` have found.

    Raises:
        ProtocolError: The response has another shape.
    """
    *above, inside, itself = failure_results(operation.key, response, is_strict=is_strict)
    index = response.header.revision
    for kvs in above:
        if kvs:
            return NotDir('Not a directory', decode(kvs[0].key), index)
    is_create = isinstance(operation, Put) and operation.prev_exist is False
    if is_create and (inside or itself):
        return NodeExist('Key already exists', operation.key, index)
    if isinstance(operation, Append):
        return NotDir('Not a directory', operation.key, index)
    if inside:
        return NotFile('Not a file', operation.key, index)
    if not itself:
        return KeyNotFound('Key not found', operation.key, index)
    return TestFailed('Compare failed', differences(operation, itself[0]), index)


def missing_node_error(key: str, above: Sequence[Sequence[KeyValue]], index: int) -> EtcdError:
    """Make the error for a node that does not exist: NotDir if an ancestor is a value, else KeyNotFound."""
    for kvs in above:
        if kvs:
            return NotDir('Not a directory', decode(kvs[0].key), index)
    return KeyNotFound('Key not found', key, index)


def differences(operation: Put | Delete, kv: KeyValue) -> str:
    """Name the conditions that are not met, without values."""
    causes = []
    if operation.prev_value is not None and encode(operation.prev_value) != kv.value:
        causes.append('prev_value differs')
    if operation.prev_index is not None and operation.prev_index != kv.mod_revision:
        causes.append(f'prev_index differs: {operation.prev_index} != {kv.mod_revision}')
    return ', '.join(causes)
