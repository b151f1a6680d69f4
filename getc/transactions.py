"""Transactions: the conditions and operations that one request applies together, and their results.

All is validated when it is created, before any I/O.  No ``repr`` shows a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, NamedTuple, Protocol

from getc.errors import NotSupported, RootROnly, TestFailed
from getc.operations import MAX_INDEX, Delete, Get, Operation, Put, Query, check_int, check_text
from getc.paths import ROOT, ancestors, join, normalize
from getc.results import EtcdResult, Node, strip_namespace

__all__ = [
    'MAX_TRANSACTION_SIZE',
    'AnyOperation',
    'Check',
    'Conflict',
    'Guard',
    'Guarded',
    'Snapshot',
    'SnapshotRead',
    'Transaction',
    'TransactionResult',
    'Version',
    'no_transactions_on_v2',
    'strip_transaction_namespace',
    'transaction_in_namespace',
]

MAX_TRANSACTION_SIZE: Final = 128
"""Compares, and operations, of one transaction.  Source: etcd 3.5, ``--max-txn-ops``, whose default it is."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The condition that a kept node still belongs to the owner that kept it when the guard was read.

    A guard holds for one ownership: never again once the node was deleted, written by another client, or acquired
    again, also by the same owner.  Renewals and updates of the owner do not affect it.

    Attributes:
        key: The node.
        created_index: The index at which the node was created.
        lease_id: The lease that the node has to be on (v3); 0 if the creation alone proves the ownership.
        is_ours: Returns whether a node, which was created at that index, still belongs to the owner, where there are no
            leases (memory); None if the creation alone proves it.
    """

    key: str
    created_index: int
    lease_id: int = 0
    is_ours: Callable[[Node], bool] | None = field(default=None, repr=False, compare=False)


class Guarded(Protocol):
    """An owner of a node: a keeper, a lock, ..."""

    @property
    def guard(self) -> Guard:
        """The condition that the ownership lasts.  Raises NodeLost if it does not.  No I/O."""


@dataclass(frozen=True, slots=True)
class Check:
    """A condition on a node that the transaction need not write.

    Attributes:
        key: The node.
        exists: True if the node must be a value, False if it must not exist.
        value: The value that the node must have.
        index: The ``modified_index`` that the node must have; 0 if it must not be a value.
        max_index: The node must not have been written after this index; it may be missing.
    """

    key: str
    exists: bool | None = None
    value: str | None = field(default=None, repr=False)
    index: int | None = None
    max_index: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))
        if self.key == ROOT:
            raise ValueError('cannot check the root: it has no value')
        if self.exists is not None and not isinstance(self.exists, bool):
            raise TypeError(f'exists must be a bool, not {type(self.exists).__name__}')
        if self.value is not None:
            check_text('value', self.value)
        if self.index is not None:
            check_int('index', self.index, 0, MAX_INDEX)
        if (self.exists, self.value, self.index, self.max_index) == (None, None, None, None):
            raise ValueError(f'the check of {self.key} has no condition: give index, value or exists')
        if self.exists is False and (self.value is not None or self.index):
            raise ValueError(
                f'the check of {self.key} can never hold: a node that does not exist has no value or index'
            )
        if self.index == 0 and (self.value is not None or self.exists):
            raise ValueError(f'the check of {self.key} can never hold: index 0 means that the node does not exist')


@dataclass(frozen=True, slots=True)
class Transaction:
    """Operations that are applied together, at one index, if all conditions hold; else nothing is written.

    The conditions are the guard, the checks, and those that each operation has by itself: ``create`` needs that the
    node does not exist, ``update``, ``delete`` and ``get`` that it is a value, and so on.

    Attributes:
        checks: Conditions.
        operations: Puts and deletes of values, each of another node, and gets of values.
        guard: The ownership that must last, or None.
        refetch: If a check does not hold, these nodes are read at the same index, and :class:`Conflict` is raised.
    """

    checks: tuple[Check, ...] = ()
    operations: tuple[Put | Delete | Get, ...] = ()
    guard: Guard | None = None
    refetch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        written: set[str] = set()
        for operation in self.operations:
            key = operation.key
            if key == ROOT:
                if operation.is_write:
                    raise RootROnly('Root is read only', ROOT)
                raise ValueError('cannot read the root in a transaction: it has no value')
            if key in written:
                what = 'written twice' if operation.is_write else 'read after it was written'
                raise ValueError(f'{key} is {what} in one transaction')
            if operation.is_write:
                written.add(key)
        for key in written:
            for ancestor in ancestors(key):
                if ancestor in written:
                    raise ValueError(
                        f'{ancestor} and {key} are both written in one transaction: one is below the other'
                    )

    @property
    def is_write(self) -> bool:
        """True if an operation is a write."""
        return any(operation.is_write for operation in self.operations)

    @property
    def keys(self) -> set[str]:
        """The keys of all checks and operations, and of the guard."""
        keys = {item.key for item in (*self.checks, *self.operations)}
        return keys if self.guard is None else keys | {self.guard.key}

    @property
    def ttls(self) -> list[int]:
        """The TTLs of the operations, in seconds, each once."""
        puts = (operation for operation in self.operations if isinstance(operation, Put))
        return list(dict.fromkeys(put.ttl for put in puts if put.ttl is not None))


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """What a transaction did.

    Attributes:
        etcd_index: The index of the transaction, which all nodes that it wrote have; the store's index if it wrote
            nothing.
        results: The result of each operation, in order.
    """

    etcd_index: int
    results: tuple[EtcdResult, ...] = ()


class Version(NamedTuple):
    """A value at an index.

    Attributes:
        value: The value as text.
        modified_index: The index of the last change.
        created_index: The index of the creation.
    """

    value: str
    modified_index: int
    created_index: int


class Conflict(TestFailed):
    """A check of a transaction with ``refetch`` does not hold.  Its ``index`` is that of ``versions``.

    Attributes:
        versions: The nodes of ``refetch``, in order; None for one that is not a value.
    """

    versions: tuple[Version | None, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotRead:
    """Read a value at an index.

    Attributes:
        key: The node.
        index: The index; None for the current one.
    """

    is_write: ClassVar[bool] = False

    key: str
    index: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'key', normalize(self.key))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a :class:`SnapshotRead` has found.

    Attributes:
        etcd_index: The index that was read.
        version: The value; None if the node is not a value.
        is_directory: The node is a directory.
    """

    etcd_index: int
    version: Version | None = None
    is_directory: bool = False


AnyOperation = Operation | Query | Transaction | SnapshotRead
"""Everything that a backend executes."""


def no_transactions_on_v2() -> NotSupported:
    """Make the error of a transaction on etcd v2, which compares and writes one node at a time."""
    return NotSupported(
        'etcd v2 has no transactions: compare and write one node with prev_index, '
        'and put the fencing token into its value, as examples/zones/world.py does; or use etcd v3'
    )


def transaction_in_namespace(namespace: str, transaction: Transaction) -> Transaction:
    """Return the same transaction on the keys inside a namespace."""
    guard = transaction.guard
    return Transaction(
        tuple(replace(check, key=join(namespace, check.key)) for check in transaction.checks),
        tuple(replace(each, key=join(namespace, each.key)) for each in transaction.operations),
        None if guard is None else replace(guard, key=join(namespace, guard.key)),
        tuple(join(namespace, key) for key in transaction.refetch),
    )


def strip_transaction_namespace(result: TransactionResult, namespace: str) -> TransactionResult:
    """Return the same result with keys relative to a namespace."""
    return replace(result, results=tuple(strip_namespace(each, namespace) for each in result.results))
