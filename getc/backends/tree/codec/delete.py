"""Deletes: one transaction each, and its result."""

from __future__ import annotations

from getc import paths
from getc.backends.tree.codec.keyspace import (
    check_depth,
    deleted_node,
    descendants_range,
    directory_range,
    encode,
    marker,
    value_of,
)
from getc.backends.tree.codec.responses import DELETE, RANGE, TXN, malformed, results_of_txn
from getc.backends.tree.codec.txn_failure import (
    conditions,
    error_from_failure,
    failure_reads,
    failure_results,
    is_absent,
    is_present,
    missing_node_error,
)
from getc.errors import DirNotEmpty, RootROnly
from getc.operations import Delete
from getc.paths import ROOT
from getc.results import ComparedThenDeleted, Deleted, Directory, EtcdResult, Node
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import DeleteRangeRequest, DeleteRangeResponse, RangeRequest, RequestOp, TxnRequest, TxnResponse
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['parse_delete', 'result_of_delete', 'txn_of_delete']


def txn_of_delete(delete: Delete, *, is_strict: bool = True) -> TxnRequest:
    """Return the transaction of a delete.

    Args:
        delete: The operation.
        is_strict: Read the ancestors, to say why nothing was deleted.

    Raises:
        RootROnly: The root cannot be deleted.
        NotSupported: The key has too many segments.
    """
    check_depth(delete.key)
    if delete.key == ROOT:
        raise RootROnly('Root is read only', ROOT)
    if _is_of_value(delete):
        return _txn_of_value(delete, is_strict)
    return _txn_of_tree(delete, is_strict) if delete.recursive else _txn_of_directory(delete, is_strict)


def parse_delete(delete: Delete, response: TxnResponse, *, is_strict: bool = True) -> EtcdResult:
    """Return the result of a delete.

    Raises:
        EtcdError: The compares failed, or nothing was there.
        ProtocolError: The response has another shape.
    """
    if _is_of_value(delete):
        if not response.succeeded:
            raise error_from_failure(delete, response, is_strict=is_strict)
        return _parse_value(delete, response.header, *results_of_txn(response, DELETE))
    parse = _parse_tree if delete.recursive else _parse_directory
    return parse(delete, response, is_strict)


def _is_of_value(delete: Delete) -> bool:
    """True if only a value may be deleted: its conditions are about values, also of a recursive delete."""
    return delete.is_compared or not (delete.dir or delete.recursive)


def _delete(key: bytes, range_end: bytes = b'', *, prev_kv: bool = False) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv))


def _previous(deleted: DeleteRangeResponse) -> KeyValue:
    """Return the key-value that was deleted."""
    if not deleted.prev_kvs:
        raise malformed('the response to a delete lacks the deleted value', is_write=True)
    kv: KeyValue = deleted.prev_kvs[0]
    return kv


# -- a value


def _txn_of_value(delete: Delete, is_strict: bool) -> TxnRequest:
    success = [_delete(encode(delete.key), prev_kv=True)]
    failure = failure_reads(delete.key, is_strict=is_strict)
    return TxnRequest(compare=conditions(delete), success=success, failure=failure)


def _parse_value(delete: Delete, header: ResponseHeader, deleted: DeleteRangeResponse) -> EtcdResult:
    prev_node = value_of(delete.key, _previous(deleted))
    return result_of_delete(delete, prev_node, header.revision, header.raft_term)


def result_of_delete(delete: Delete, prev_node: Node, index: int, term: int) -> EtcdResult:
    """Return the result of a delete of a value.

    Args:
        delete: The operation.
        prev_node: The value that was deleted.
        index: The index of the delete.
        term: The raft term.
    """
    kind = ComparedThenDeleted if delete.is_compared else Deleted
    return kind(deleted_node(delete.key, index, prev_node.created_index), prev_node, index, 0, term)


# -- a value, or an empty directory


def _txn_of_directory(delete: Delete, is_strict: bool) -> TxnRequest:
    """Delete the value; else the marker if the directory is empty; else read why not."""
    key, inside = encode(delete.key), marker(delete.key)
    first, end = descendants_range(delete.key)
    if_empty = TxnRequest(
        compare=[is_present(inside), is_absent(first, end)],
        success=[_delete(inside, prev_kv=True)],
        failure=failure_reads(delete.key, is_strict=is_strict),
    )
    return TxnRequest(
        compare=[is_present(key)], success=[_delete(key, prev_kv=True)], failure=[RequestOp(request_txn=if_empty)]
    )


def _parse_directory(delete: Delete, response: TxnResponse, is_strict: bool) -> EtcdResult:
    header = response.header
    if response.succeeded:
        return _parse_value(delete, header, *results_of_txn(response, DELETE))
    (if_empty,) = results_of_txn(response, TXN)
    if if_empty.succeeded:
        kv = _previous(*results_of_txn(if_empty, DELETE))
        return _directory_deleted(delete, header, Directory(delete.key, kv.mod_revision, kv.create_revision))
    *above, inside, _ = failure_results(delete.key, if_empty, is_strict=is_strict)
    if inside:
        raise DirNotEmpty('Directory not empty', delete.key, header.revision)
    raise missing_node_error(delete.key, above, header.revision)


# -- a value or a directory with all keys below it


def _txn_of_tree(delete: Delete, is_strict: bool) -> TxnRequest:
    """Delete the node and all keys below it, and read the ancestors, to say why nothing was deleted."""
    ancestors = paths.ancestors(delete.key) if is_strict else []
    reads = [encode(ancestor) for ancestor in ancestors] + [marker(delete.key)]
    return TxnRequest(
        success=[
            *(RequestOp(request_range=RangeRequest(key=key, keys_only=True)) for key in reads),
            _delete(encode(delete.key), prev_kv=True),
            _delete(*directory_range(delete.key)),
        ]
    )


def _parse_tree(delete: Delete, response: TxnResponse, is_strict: bool) -> EtcdResult:
    count = (len(paths.ancestors(delete.key)) if is_strict else 0) + 1
    *above, mark, itself, inside = results_of_txn(response, *[RANGE] * count, DELETE, DELETE)
    header = response.header
    if itself.deleted:
        return _parse_value(delete, header, itself)
    if inside.deleted:
        indices = (mark.kvs[0].mod_revision, mark.kvs[0].create_revision) if mark.kvs else (0, 0)
        return _directory_deleted(delete, header, Directory(delete.key, *indices))
    raise missing_node_error(delete.key, [found.kvs for found in above], header.revision)


def _directory_deleted(delete: Delete, header: ResponseHeader, prev_node: Node) -> EtcdResult:
    node = Directory(delete.key, header.revision, prev_node.created_index)
    return Deleted(node, prev_node, header.revision, 0, header.raft_term)
