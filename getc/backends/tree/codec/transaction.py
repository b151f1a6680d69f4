"""Transactions of several nodes: one transaction of etcd, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from getc.backends.conditions import (
    COMPARED_AGAIN,
    NO_LEASES,
    Compared,
    Fact,
    check_size,
    directory_lease_facts,
    facts_of,
    first_error,
)
from getc.backends.tree.codec.delete import result_of_delete
from getc.backends.tree.codec.keyspace import NO_TTL, TTL, directory_range, encode, marker, value_of
from getc.backends.tree.codec.responses import DELETE, PUT, RANGE, TXN, malformed, results_of_txn
from getc.backends.tree.codec.txn_failure import is_absent, is_present
from getc.backends.tree.codec.write import result_of_put
from getc.errors import EtcException, ProtocolError
from getc.operations import Delete, Get, Put
from getc.results import EtcdResult, Got, Node
from getc.transactions import (
    MAX_TRANSACTION_SIZE,
    Conflict,
    Guard,
    Snapshot,
    SnapshotRead,
    Transaction,
    TransactionResult,
    Version,
)
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['DirectoryLeaseChanged', 'EncodedTransaction', 'parse_snapshot', 'result_of', 'txn_of_snapshot']

Kind: Final = Compare.CompareTarget


class DirectoryLeaseChanged(Exception):
    """A transaction was refused only because the lease of a directory is another one.

    Attributes:
        leases: The lease of each directory that was compared; 0 for none.
    """

    def __init__(self, leases: dict[str, int]) -> None:
        super().__init__(leases)
        self.leases = leases


class EncodedTransaction:
    """A transaction as the request that etcd gets, and the parsing of the response.

    Args:
        transaction: The transaction.
        is_strict: Compare that no ancestor of a written node is a value, that the node is not a directory, and which
            lease it joins.
        directory_leases: The leases of directories, as far as they are known to have one.

    Raises:
        ValueError: The transaction is too large.
    """

    def __init__(
        self, transaction: Transaction, *, is_strict: bool, directory_leases: Mapping[str, int] = NO_LEASES
    ) -> None:
        self._transaction = transaction
        self._is_strict = is_strict
        self._directory_leases = dict(directory_leases) if is_strict else NO_LEASES  # a copy: others note leases
        self._facts = facts_of(transaction, is_strict=is_strict, directory_leases=self._directory_leases)
        check_size(transaction, self._facts)
        # What the failure half reads, so that the error names the first condition that does not hold.
        directories = [fact.key for fact in self._facts if fact.compared is Compared.NO_DIRECTORY]
        self._joins = [fact for fact in self._facts if fact.compared is Compared.DIRECTORY_LEASE]
        others = (Compared.NO_DIRECTORY, Compared.DIRECTORY_LEASE)
        single = (fact.key for fact in self._facts if fact.compared not in others)
        self._keys = list(dict.fromkeys([*single, *transaction.refetch]))
        self._again = [fact for fact in self._facts if fact.compared in COMPARED_AGAIN]
        size = (
            len(self._keys) + len(self._joins) + len(self._again) + bool(self._again)
        )  # the nested transactions have a compare
        values = [fact.key for fact in self._facts if _needs_value(fact, has_refetch=bool(transaction.refetch))]
        more = list(dict.fromkeys([*directories, *values]))  # a value may be missing because it is a directory
        self._directories = more if size + len(more) <= MAX_TRANSACTION_SIZE else directories

    def request(self, leases: Mapping[int, tuple[int, TTL]]) -> TxnRequest:
        """Return the request.

        Args:
            leases: For each TTL the lease of its nodes.
        """
        return TxnRequest(
            compare=[_compare(fact) for fact in self._facts],
            success=[_request_of(each, leases, self._directory_leases) for each in self._transaction.operations],
            failure=self._reads() if self._facts else [],
        )

    def _reads(self) -> list[RequestOp]:
        refetch = set(self._transaction.refetch)
        reads = [RangeRequest(key=encode(key), keys_only=key not in refetch) for key in self._keys]
        reads += [RangeRequest(key=marker(fact.key)) for fact in self._joins]  # with the lease, as in etcd 3.7
        for key in self._directories:
            first, end = directory_range(key)
            reads.append(RangeRequest(key=first, range_end=end, limit=1, keys_only=True))
        compares = [TxnRequest(compare=[_compare(fact)]) for fact in self._again]
        return [
            *(RequestOp(request_range=read) for read in reads),
            *(RequestOp(request_txn=compare) for compare in compares),
        ]

    def parse(self, response: TxnResponse, leases: Mapping[int, tuple[int, TTL]]) -> TransactionResult:
        """Return the result.

        Raises:
            DirectoryLeaseChanged: Another lease has to be joined.
            NodeLost: The guard does not hold.
            EtcdError: Another condition does not hold.
            ProtocolError: The response has another shape.
        """
        transaction = self._transaction
        if not response.succeeded:
            raise self._error(response)
        kinds = [_KINDS[type(operation)] for operation in transaction.operations]
        parts = results_of_txn(response, *kinds, is_write=transaction.is_write)
        header = response.header
        results = []
        for operation, part in zip(transaction.operations, parts, strict=True):
            found = [part.prev_kv] if isinstance(operation, Put) and part.HasField('prev_kv') else []
            if not isinstance(operation, Put):
                found = part.kvs if isinstance(operation, Get) else part.prev_kvs
                if not found:
                    raise malformed('the result for {key} is empty', is_write=transaction.is_write, key=operation.key)
            node = value_of(operation.key, found[0]) if found else None
            results.append(result_of(operation, node, header, leases))
        return TransactionResult(header.revision, tuple(results))

    def _error(self, response: TxnResponse) -> EtcException | DirectoryLeaseChanged:
        kinds = [RANGE] * (len(self._keys) + len(self._joins) + len(self._directories)) + [TXN] * len(self._again)
        parts = results_of_txn(response, *kinds) if self._facts else []
        state = _Found(response.header.revision)
        for key in self._keys:
            state.kvs[key] = next(iter(parts.pop(0).kvs), None)
        markers = {fact.key: next(iter(parts.pop(0).kvs), None) for fact in self._joins}
        for key in self._directories:
            if parts.pop(0).kvs:
                state.directories.add(key)
        for fact in self._again:
            if parts.pop(0).succeeded:
                state.equal.add(fact)
        failed = first_error(self._transaction, state, is_strict=self._is_strict)
        if failed is None:
            leases = {key: 0 if kv is None else kv.lease for key, kv in markers.items()}
            if any(leases[fact.key] != fact.operand for fact in self._joins):
                return DirectoryLeaseChanged(leases)
            return _contradiction(self._transaction)
        error, is_check = failed
        if is_check and self._transaction.refetch:
            return self._conflict(error, state)
        return error

    def _conflict(self, error: EtcException, state: _Found) -> Conflict:
        conflict = Conflict(*error.args)
        conflict.key = error.key
        conflict.versions = tuple(_version_of(state.kvs[key]) for key in self._transaction.refetch)
        return conflict


class _Found:
    """What the failure half of a transaction has found."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.kvs: dict[str, KeyValue | None] = {}
        self.directories: set[str] = set()
        self.equal: set[Fact] = set()

    def modified_index(self, key: str) -> int:
        kv = self.kvs.get(key)
        return 0 if kv is None else kv.mod_revision

    def is_directory(self, key: str) -> bool:
        return key in self.directories

    def has_value(self, key: str, value: str) -> bool:
        return Fact(Compared.VALUE, key, value) in self.equal

    def holds(self, guard: Guard) -> bool:
        kv = self.kvs.get(guard.key)
        if kv is None or kv.create_revision != guard.created_index:
            return False
        return not guard.lease_id or Fact(Compared.LEASE, guard.key, guard.lease_id) in self.equal


def _needs_value(fact: Fact, *, has_refetch: bool) -> bool:
    """Return True if the fact says that the node is a value, unless the index only has to be the same as before."""
    if fact.compared is Compared.INDEX:
        return bool(fact.operand) and not has_refetch
    return fact.compared in (Compared.PRESENT, Compared.VALUE)


def _contradiction(transaction: Transaction) -> ProtocolError:
    return malformed('a compare failed, but every condition holds', is_write=transaction.is_write)


def _version_of(kv: KeyValue | None) -> Version | None:
    if kv is None:
        return None
    return Version(value_of('', kv).value, kv.mod_revision, kv.create_revision)


# -- compares and requests


def _compare(fact: Fact) -> Compare:
    key = encode(fact.key)
    if fact.compared is Compared.PRESENT:
        return is_present(key)
    if fact.compared is Compared.NO_DIRECTORY:
        return is_absent(*directory_range(fact.key))
    if fact.compared is Compared.VALUE:
        return Compare(key=key, target=Kind.VALUE, value=encode(str(fact.operand)))
    number = int(fact.operand)
    if fact.compared is Compared.DIRECTORY_LEASE:
        return Compare(key=marker(fact.key), target=Kind.LEASE, lease=number)
    if fact.compared is Compared.LEASE:
        return Compare(key=key, target=Kind.LEASE, lease=number)
    if fact.compared is Compared.CREATED:
        return Compare(key=key, target=Kind.CREATE, create_revision=number)
    if fact.compared is Compared.INDEX:
        return Compare(key=key, target=Kind.MOD, mod_revision=number)
    return Compare(key=key, target=Kind.MOD, result=Compare.CompareResult.LESS, mod_revision=number + 1)


_KINDS: Final[dict[Any, str]] = {Put: PUT, Delete: DELETE, Get: RANGE}


def _request_of(
    operation: Put | Delete | Get, leases: Mapping[int, tuple[int, TTL]], directory_leases: Mapping[str, int]
) -> RequestOp:
    key = encode(operation.key)
    if isinstance(operation, Get):
        return RequestOp(request_range=RangeRequest(key=key))
    if isinstance(operation, Delete):
        return RequestOp(request_delete_range=DeleteRangeRequest(key=key, prev_kv=True))
    if operation.ttl is not None:
        lease = leases[operation.ttl][0]
    else:
        joined = directory_lease_facts(operation, directory_leases)[-1:] if directory_leases else []
        lease = int(joined[0].operand) if joined else 0
    return RequestOp(request_put=PutRequest(key=key, value=encode(operation.value or ''), lease=lease, prev_kv=True))


def result_of(
    operation: Put | Delete | Get,
    node: Node | None,
    header: ResponseHeader,
    leases: Mapping[int, tuple[int, TTL]],
) -> EtcdResult:
    """Return the result of one operation of a transaction that was applied.

    Args:
        operation: The operation.
        node: The node that was read, or the one before the write; None if there was none.
        header: The header of the response.
        leases: For each TTL the lease of its nodes.
    """
    index, term = header.revision, header.raft_term
    if isinstance(operation, Put):
        ttl = NO_TTL if operation.ttl is None else leases[operation.ttl][1]
        return result_of_put(operation, node, index, term, ttl)
    assert node is not None
    if isinstance(operation, Delete):
        return result_of_delete(operation, node, index, term)
    return Got(node, None, index, 0, term)


# -- reads at an index


def txn_of_snapshot(read: SnapshotRead, *, is_strict: bool) -> TxnRequest:
    """Return the reads of a node at an index, and of the first key below it if ``is_strict``."""
    revision = read.index or 0
    reads = [RangeRequest(key=encode(read.key), revision=revision)]
    if is_strict:
        first, end = directory_range(read.key)
        reads.append(RangeRequest(key=first, range_end=end, revision=revision, limit=1, keys_only=True))
    return TxnRequest(success=[RequestOp(request_range=request) for request in reads])


def parse_snapshot(read: SnapshotRead, response: TxnResponse, *, is_strict: bool) -> Snapshot:
    """Return what was found.

    Raises:
        ProtocolError: The response has another shape.
    """
    itself, *inside = results_of_txn(response, *[RANGE] * (1 + is_strict), is_write=False)
    kv = itself.kvs[0] if itself.kvs else None
    is_directory = kv is None and any(found.kvs for found in inside)
    return Snapshot(read.index or response.header.revision, _version_of(kv), is_directory)
