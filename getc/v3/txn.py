"""Transactions written as comparisons and operations.

Example::

    etcd = getc.etcd('http://127.0.0.1:2379')
    etcd.v3.kv.when(value(b'/leader') == b'a', version(b'/lock') > 0).then(
        put(b'/leader', b'b'), get(b'/lock')
    ).otherwise(get(b'/leader')).commit()
"""

from __future__ import annotations

from typing import Any

from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.messages import build
from getc.v3.rpc import RpcClient
from getc.v3.schema import kv as schema
from getc.v3.schema.kv import Compare, RequestOp, TxnRequest

__all__ = [
    'Target',
    'Txn',
    'create_revision',
    'delete',
    'get',
    'is_write',
    'lease',
    'mod_revision',
    'nested',
    'put',
    'value',
    'version',
]

Result = Compare.CompareResult
Kind = Compare.CompareTarget


class Target:
    """A field of a key in a comparison: ``value(b'k') == b'v'`` returns a ``Compare``.

    With a ``range_end`` the comparison has to hold for every key of the range.
    """

    __hash__ = None  # type: ignore[assignment]  # == returns a message: not usable as a dict key

    def __init__(self, key: bytes, range_end: bytes, kind: Kind, field: str) -> None:
        self._fields = {'key': key, 'range_end': range_end, 'target': kind}
        self._field = field

    def _compare(self, result: Result, other: Any) -> Compare:
        return build(Compare, **self._fields, result=result, **{self._field: other})

    def __eq__(self, other: object) -> Compare:  # type: ignore[override]
        return self._compare(Result.EQUAL, other)

    def __ne__(self, other: object) -> Compare:  # type: ignore[override]
        return self._compare(Result.NOT_EQUAL, other)

    def __gt__(self, other: bytes | int) -> Compare:
        return self._compare(Result.GREATER, other)

    def __lt__(self, other: bytes | int) -> Compare:
        return self._compare(Result.LESS, other)


def value(key: bytes, range_end: bytes = b'') -> Target:
    """Compare the value of the key."""
    return Target(key, range_end, Kind.VALUE, 'value')


def version(key: bytes, range_end: bytes = b'') -> Target:
    """Compare the number of puts since the key was created; 0 if the key does not exist."""
    return Target(key, range_end, Kind.VERSION, 'version')


def create_revision(key: bytes, range_end: bytes = b'') -> Target:
    """Compare the revision at which the key was created; 0 if the key does not exist."""
    return Target(key, range_end, Kind.CREATE, 'create_revision')


def mod_revision(key: bytes, range_end: bytes = b'') -> Target:
    """Compare the revision at which the key was last written; 0 if the key does not exist."""
    return Target(key, range_end, Kind.MOD, 'mod_revision')


def lease(key: bytes, range_end: bytes = b'') -> Target:
    """Compare the lease of the key; 0 if it has none."""
    return Target(key, range_end, Kind.LEASE, 'lease')


def get(key: bytes, **options: Any) -> RequestOp:
    """Return a read operation; the options are those of ``kv.range``."""
    return RequestOp(request_range=build(schema.RangeRequest, key=key, **options))


def put(key: bytes, value: bytes, **options: Any) -> RequestOp:
    """Return a write operation; the options are those of ``kv.put``."""
    return RequestOp(request_put=build(schema.PutRequest, key=key, value=value, **options))


def delete(key: bytes, **options: Any) -> RequestOp:
    """Return a delete operation; the options are those of ``kv.delete_range``."""
    return RequestOp(request_delete_range=build(schema.DeleteRangeRequest, key=key, **options))


def nested(txn: Txn) -> RequestOp:
    """Return an operation that executes another transaction."""
    return RequestOp(request_txn=txn.request)


class Txn:
    """A transaction under construction, from ``kv.when``.  ``then`` and ``otherwise`` return the same object.

    Attributes:
        request: The request so far.
    """

    def __init__(self, rpc: RpcClient, compare: tuple[Compare, ...]) -> None:
        self.request = TxnRequest(compare=compare)
        self._rpc = rpc

    def then(self, *operations: RequestOp) -> Txn:
        """Add operations to execute if all comparisons hold."""
        self.request.success.extend(operations)  # type: ignore[attr-defined]
        return self

    def otherwise(self, *operations: RequestOp) -> Txn:
        """Add operations to execute if a comparison does not hold."""
        self.request.failure.extend(operations)  # type: ignore[attr-defined]
        return self

    def commit(self, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.TxnResponse:
        """Execute the transaction; ``succeeded`` of the response is True if all comparisons held.

        Raises like ``kv.txn``.
        """
        return self._rpc.call(schema.KV.Txn, self.request, timeout, is_write=is_write(self.request))


def is_write(txn: TxnRequest) -> bool:
    """Return True if a transaction has an operation other than a read."""
    for operation in (*txn.success, *txn.failure):
        if operation.WhichOneof('request') == 'request_txn':
            if is_write(operation.request_txn):
                return True
        elif operation.WhichOneof('request') != 'request_range':
            return True
    return False
