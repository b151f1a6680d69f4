"""Why a transaction was refused: its failure half reads what was in the way, and this says what that means."""

from __future__ import annotations

from collections.abc import Sequence

from getc import paths
from getc.backends.tree.codec.keyspace import below, decode, encode
from getc.errors import EtcdError, KeyNotFound, NodeExist, NotDir, NotFile, TestFailed
from getc.operations import Append, Delete, Put
from getc.v3.schema.kv import Compare, RangeRequest, RequestOp, TxnResponse
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['conditions', 'error_from_failure', 'failure_reads', 'is_absent', 'is_there', 'no_such_key']

Kind = Compare.CompareTarget


def is_absent(key: bytes, range_end: bytes = b'') -> Compare:
    """Holds if there is no such key, or none in the range."""
    return Compare(key=key, range_end=range_end, target=Kind.CREATE, create_revision=0)


def is_there(key: bytes) -> Compare:
    """Holds if there is such a key."""
    return Compare(key=key, target=Kind.VERSION, result=Compare.CompareResult.GREATER, version=0)


def conditions(operation: Put | Delete) -> list[Compare]:
    """That the node is a value that is there, and its ``prev_value`` and ``prev_index``."""
    key = encode(operation.key)
    compare = [is_there(key)]
    if operation.prev_value is not None:
        compare.append(Compare(key=key, target=Kind.VALUE, value=encode(operation.prev_value)))
    if operation.prev_index is not None:
        compare.append(Compare(key=key, target=Kind.MOD, mod_revision=operation.prev_index))
    return compare


def failure_reads(key: str, *, is_strict: bool = True, keys_only: bool = False) -> list[RequestOp]:
    """What a failure half reads for :func:`error_from_failure`: the nodes above, something below, the node itself.

    The server asks for the permission to read them, also where nothing fails: so without ``is_strict`` not those above.
    With ``keys_only`` the node's value is left out.
    """
    above = [encode(ancestor) for ancestor in paths.ancestors(key)] if is_strict else []
    ranges = [RangeRequest(key=raw, keys_only=True) for raw in above]
    first, end = below(key)
    ranges.append(RangeRequest(key=first, range_end=end, limit=1, keys_only=True))
    ranges.append(RangeRequest(key=encode(key), keys_only=keys_only))
    return [RequestOp(request_range=found) for found in ranges]


def error_from_failure(operation: Put | Append | Delete, response: TxnResponse) -> EtcdError:
    """The error for a transaction that was refused, by what its failure half found (see :func:`failure_reads`)."""
    found = [operation_response.response_range.kvs for operation_response in response.responses]
    *above, inside, itself = found
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
    return TestFailed('Compare failed', _what_differs(operation, itself), index)


def no_such_key(key: str, above: Sequence[Sequence[KeyValue]], index: int) -> EtcdError:
    """The error for a node that is not there: a value above it tells why it cannot be."""
    for kvs in above:
        if kvs:
            return NotDir('Not a directory', decode(kvs[0].key), index)
    return KeyNotFound('Key not found', key, index)


def _what_differs(operation: Put | Delete, kvs: Sequence[KeyValue]) -> str:
    """The conditions that do not hold; values are not named."""
    causes = []
    if operation.prev_value is not None and encode(operation.prev_value) != kvs[0].value:
        causes.append('prev_value differs')
    if operation.prev_index is not None and operation.prev_index != kvs[0].mod_revision:
        causes.append(f'prev_index differs: {operation.prev_index} != {kvs[0].mod_revision}')
    return ', '.join(causes)
