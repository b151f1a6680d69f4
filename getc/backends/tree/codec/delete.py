"""Deletes: one transaction each, and what its response means."""

from __future__ import annotations

from getc import paths
from getc.backends.tree.codec.keyspace import below, check_depth, descendants_range, encode, marker
from getc.backends.tree.codec.nodes import deleted_node, value_of
from getc.backends.tree.codec.txn_failure import (
    conditions,
    error_from_failure,
    failure_reads,
    is_absent,
    is_there,
    no_such_key,
)
from getc.errors import DirNotEmpty, RootROnly
from getc.operations import Delete
from getc.paths import ROOT
from getc.results import ComparedThenDeleted, Deleted, Directory, EtcdResult, Node
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import DeleteRangeRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse

__all__ = ['deleted', 'result_of_delete', 'txn_of_delete']


def txn_of_delete(delete: Delete, *, is_strict: bool = True) -> TxnRequest:
    """The transaction of a delete.

    Args:
        delete: What to delete.
        is_strict: Read what is above, to tell why nothing was deleted.

    Raises:
        RootROnly: The root cannot be deleted.
        NotSupported: The key is too deep.
    """
    check_depth(delete.key)
    if delete.key == ROOT:
        raise RootROnly('Root is read only', ROOT)
    if delete.is_compared or not (delete.dir or delete.recursive):
        return _of_value(delete, is_strict)
    return _of_tree(delete, is_strict) if delete.recursive else _of_directory(delete, is_strict)


def deleted(delete: Delete, response: TxnResponse) -> EtcdResult:
    """What a delete did.

    Raises:
        EtcdError: It was refused.
    """
    if delete.is_compared or not (delete.dir or delete.recursive):
        if not response.succeeded:
            raise error_from_failure(delete, response)
        return _value_deleted(delete, response.header, response.responses[0])
    return _tree_deleted(delete, response) if delete.recursive else _directory_deleted(delete, response)


def _delete(key: bytes, range_end: bytes = b'', *, prev_kv: bool = False) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv))


# -- a value


def _of_value(delete: Delete, is_strict: bool) -> TxnRequest:
    success = [_delete(encode(delete.key), prev_kv=True)]
    failure = failure_reads(delete.key, is_strict=is_strict)
    return TxnRequest(compare=conditions(delete), success=success, failure=failure)


def _value_deleted(delete: Delete, header: ResponseHeader, done: object) -> EtcdResult:
    kv = done.response_delete_range.prev_kvs[0]  # type: ignore[attr-defined]
    return result_of_delete(delete, value_of(delete.key, kv), header.revision, header.raft_term)


def result_of_delete(delete: Delete, prev_node: Node, index: int, term: int) -> EtcdResult:
    """The result of a delete of a value, at an index.

    Args:
        delete: What was deleted.
        prev_node: The value that was there before.
        index: The index of the delete.
        term: The election's.
    """
    kind = ComparedThenDeleted if delete.is_compared else Deleted
    return kind(deleted_node(delete.key, index, prev_node.created_index), prev_node, index, 0, term)


# -- a value, or an empty directory


def _of_directory(delete: Delete, is_strict: bool) -> TxnRequest:
    """Delete the value; else the marker if it is all there is; else read why not."""
    key, inside = encode(delete.key), marker(delete.key)
    first, end = descendants_range(delete.key)
    if_empty = TxnRequest(
        compare=[is_there(inside), is_absent(first, end)],
        success=[_delete(inside, prev_kv=True)],
        failure=failure_reads(delete.key, is_strict=is_strict),
    )
    return TxnRequest(
        compare=[is_there(key)], success=[_delete(key, prev_kv=True)], failure=[RequestOp(request_txn=if_empty)]
    )


def _directory_deleted(delete: Delete, response: TxnResponse) -> EtcdResult:
    header = response.header
    if response.succeeded:
        return _value_deleted(delete, header, response.responses[0])
    if_empty = response.responses[0].response_txn
    if if_empty.succeeded:
        kv = if_empty.responses[0].response_delete_range.prev_kvs[0]
        return _gone_directory(delete, header, Directory(delete.key, kv.mod_revision, kv.create_revision))
    *above, inside, _ = (found.response_range.kvs for found in if_empty.responses)
    if inside:
        raise DirNotEmpty('Directory not empty', delete.key, header.revision)
    raise no_such_key(delete.key, above, header.revision)


# -- all of it


def _of_tree(delete: Delete, is_strict: bool) -> TxnRequest:
    """Delete the node and all below it, and read what is above: if nothing was deleted it tells why."""
    above = paths.ancestors(delete.key) if is_strict else []
    reads = [RequestOp(request_range=RangeRequest(key=encode(ancestor), keys_only=True)) for ancestor in above]
    mark = RequestOp(request_range=RangeRequest(key=marker(delete.key), keys_only=True))
    return TxnRequest(success=[*reads, mark, _delete(encode(delete.key), prev_kv=True), _delete(*below(delete.key))])


def _tree_deleted(delete: Delete, response: TxnResponse) -> EtcdResult:
    *reads, mark, itself, inside = response.responses
    header = response.header
    if itself.response_delete_range.deleted:
        return _value_deleted(delete, header, itself)
    if inside.response_delete_range.deleted:
        marks = mark.response_range.kvs
        indices = (marks[0].mod_revision, marks[0].create_revision) if marks else (0, 0)
        return _gone_directory(delete, header, Directory(delete.key, *indices))
    raise no_such_key(delete.key, [found.response_range.kvs for found in reads], header.revision)


def _gone_directory(delete: Delete, header: ResponseHeader, before: Node) -> EtcdResult:
    node = Directory(delete.key, header.revision, before.created_index)
    return Deleted(node, before, header.revision, 0, header.raft_term)
