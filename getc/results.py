"""Nodes, and the results of operations and watches that contain them.

All classes are immutable, comparable and picklable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from getc._dataclasses import fast_init
from getc.paths import ROOT, is_below, strip_prefix

__all__ = [
    'ComparedThenDeleted',
    'ComparedThenSwapped',
    'ContendersResult',
    'Created',
    'Deleted',
    'Directory',
    'EtcdResult',
    'Expired',
    'Got',
    'Node',
    'PredecessorResult',
    'Set',
    'Updated',
    'Value',
    'strip_contenders_namespace',
    'strip_namespace',
    'strip_predecessor_namespace',
]


@fast_init
@dataclass(frozen=True, slots=True, repr=False)
class Node:
    """A node of the tree.  Subclasses have a value or child nodes; a plain Node stands for a deleted value.

    Attributes:
        key: The key path in normal form.
        modified_index: The index of the last change.
        created_index: The index of the creation, which distinguishes successive nodes of the same key.
        ttl: Whole seconds until the node expires, rounded up; 0 if it has expired and is not removed yet; None for no
            TTL.
        expiration: The time at which the node expires, by the clock of the server (UTC), or None.
    """

    key: str
    modified_index: int = 0
    created_index: int = 0
    ttl: int | None = None
    expiration: datetime | None = None

    @property
    def index(self) -> int:
        """The index of the last change, the same as ``modified_index``."""
        return self.modified_index

    def _label(self) -> str:
        return self.key

    def __repr__(self) -> str:
        ttl = '' if self.ttl is None else f' ttl={self.ttl}'
        return (
            f'<getc.{type(self).__name__} {self._label()} '
            f'modified_index={self.modified_index} created_index={self.created_index}{ttl}>'
        )


@fast_init
@dataclass(frozen=True, slots=True, repr=False)
class Value(Node):
    """A node with a value.

    Attributes:
        value: The value as text; bytes that are not UTF-8 are surrogate-escaped.
    """

    value: str = ''

    @property
    def raw_value(self) -> bytes:
        """The value as bytes, as etcd stores it."""
        return self.value.encode('utf-8', 'surrogateescape')

    def json(self) -> Any:
        """Return the value parsed as JSON.

        Raises:
            ValueError: The value is not JSON; the message contains the key, not the value.
        """
        try:
            return json.loads(self.value)
        except RecursionError:
            what = 'nested too deep'
        except ValueError as error:
            what = getattr(error, 'msg', 'no number')
        raise ValueError(f'the value of {self.key} is not JSON: {what}')

    def _label(self) -> str:
        return f'{self.key}={self.value!r}'


@fast_init
@dataclass(frozen=True, slots=True, repr=False)
class Directory(Node):
    """A node that contains nodes.

    Attributes:
        nodes: The child nodes that were read; after a recursive read, child directories have their nodes, too.
    """

    nodes: tuple[Node, ...] = ()

    @property
    def values(self) -> tuple[str, ...]:
        """The values of the child nodes that have one, in the order of ``nodes``."""
        return tuple(node.value for node in self.nodes if isinstance(node, Value))

    def leaves(self) -> Iterator[Value]:
        """Yield every value in the directory and in the directories below it, depth first."""
        for node in self.nodes:
            if isinstance(node, Value):
                yield node
            elif isinstance(node, Directory):
                yield from node.leaves()

    def _label(self) -> str:
        return f'{self.key}[{len(self.nodes)}]'


@fast_init
@dataclass(frozen=True, slots=True, repr=False)
class EtcdResult:
    """The result of an operation, or a change that a watch reports.

    The attributes of the node are attributes of the result as well: ``result.key``, ``result.value``, ...

    Attributes:
        node: The node after the operation.
        prev_node: The node before the operation, if the server returns it.
        etcd_index: The index of the store when the server responded.
        raft_index: The index of the cluster's Raft log; 0 on v3.
        raft_term: The Raft term of the cluster.
        is_new: The node did not exist before.
        resync: The change was computed by a daemon from a comparison, after history was lost.
    """

    node: Node
    prev_node: Node | None = None
    etcd_index: int = 0
    raft_index: int = 0
    raft_term: int = 0
    is_new: bool = False
    resync: bool = False

    @property
    def key(self) -> str:
        """The key of the node."""
        return self.node.key

    @property
    def value(self) -> str | None:
        """The value of the node; None for a deleted node and for a directory."""
        return self.node.value if isinstance(self.node, Value) else None

    @property
    def raw_value(self) -> bytes | None:
        """The value of the node as bytes; None for a deleted node and for a directory."""
        return self.node.raw_value if isinstance(self.node, Value) else None

    def json(self) -> Any:
        """Return the value of the node parsed as JSON.

        Raises:
            ValueError: The value is not JSON, or the node has no value; the message contains the key, not the value.
        """
        if not isinstance(self.node, Value):
            raise ValueError(f'{self.key} has no value that could be JSON: it is a directory, or was deleted')
        return self.node.json()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The child nodes of a directory; empty for other nodes."""
        return self.node.nodes if isinstance(self.node, Directory) else ()

    @property
    def values(self) -> tuple[str, ...]:
        """The values of the child nodes of a directory; empty for other nodes."""
        return self.node.values if isinstance(self.node, Directory) else ()

    @property
    def ttl(self) -> int | None:
        """Whole seconds until the node expires, or None."""
        return self.node.ttl

    @property
    def expiration(self) -> datetime | None:
        """The time at which the node expires, by the clock of the server, or None."""
        return self.node.expiration

    @property
    def index(self) -> int:
        """The index of the last change of the node, the same as ``modified_index``."""
        return self.node.modified_index

    @property
    def modified_index(self) -> int:
        """The index of the last change of the node."""
        return self.node.modified_index

    @property
    def created_index(self) -> int:
        """The index of the creation of the node."""
        return self.node.created_index

    def __repr__(self) -> str:
        prev_node = '' if self.prev_node is None else f' prev_node={self.prev_node!r}'
        flags = ' resync=True' if self.resync else ''
        return f'<getc.{type(self).__name__} {self.node!r}{prev_node} etcd_index={self.etcd_index}{flags}>'


class Got(EtcdResult):
    """The node was read."""

    __slots__ = ()


class Set(EtcdResult):
    """The node was written, by ``set`` or as one of the subclasses says."""

    __slots__ = ()


class Created(Set):
    """The node was created."""

    __slots__ = ()


class Updated(Set):
    """The node existed and was written."""

    __slots__ = ()


class ComparedThenSwapped(Set):
    """The node was written because ``prev_value`` or ``prev_index`` matched."""

    __slots__ = ()


class Deleted(EtcdResult):
    """The node was deleted, by ``delete`` or as one of the subclasses says."""

    __slots__ = ()


class Expired(Deleted):
    """The node expired."""

    __slots__ = ()


class ComparedThenDeleted(Deleted):
    """The node was deleted because ``prev_value`` or ``prev_index`` matched."""

    __slots__ = ()


ACTIONS: Final[dict[str, type[EtcdResult]]] = {
    'get': Got,
    'set': Set,
    'create': Created,
    'update': Updated,
    'compareAndSwap': ComparedThenSwapped,
    'delete': Deleted,
    'expire': Expired,
    'compareAndDelete': ComparedThenDeleted,
}
"""The result class of each action of etcd v2.  Source: etcd 3.5, ``server/etcdserver/api/v2store/store.go``."""


@dataclass(frozen=True, slots=True)
class PredecessorResult:
    """The keys of a directory that were created before a key of this client.

    Attributes:
        index: The index of the store at which this holds.
        earlier: The earlier keys, the nearest first: as many as were requested at most.  Keys of other programs may be
            no normal paths.  Their ``modified_index`` is that of their last change.
        first: The first of all earlier keys, with its value; None if there is none.
        is_first_permanent: ``first`` has no TTL.
    """

    index: int
    earlier: tuple[Node, ...] = ()
    first: Value | None = None
    is_first_permanent: bool = False

    @property
    def nearest(self) -> Node | None:
        """The last of the earlier keys; None if there is none."""
        return self.earlier[0] if self.earlier else None

    @property
    def etcd_index(self) -> int:
        """The index of the store, the same as ``index``."""
        return self.index


@dataclass(frozen=True, slots=True)
class ContendersResult:
    """Every key of a directory with its value, in the order of creation.

    Attributes:
        index: The index of the store at which this holds.
        values: The keys.  Keys of other programs may be no normal paths.
    """

    index: int
    values: tuple[Value, ...] = ()

    @property
    def etcd_index(self) -> int:
        """The index of the store, the same as ``index``."""
        return self.index


_Node = TypeVar('_Node', bound=Node)


def strip_contenders_namespace(result: ContendersResult, namespace: str) -> ContendersResult:
    """Return a result with the namespace removed from all keys."""
    return replace(result, values=tuple(_strip_key(value, namespace) for value in result.values))


def strip_predecessor_namespace(result: PredecessorResult, namespace: str) -> PredecessorResult:
    """Return a result with the namespace removed from all keys."""
    first = None if result.first is None else _strip_key(result.first, namespace)
    return replace(result, earlier=tuple(_strip_key(node, namespace) for node in result.earlier), first=first)


def _strip_key(node: _Node, namespace: str) -> _Node:
    return replace(node, key=strip_prefix(namespace, node.key))


def strip_namespace(result: EtcdResult, namespace: str) -> EtcdResult:
    """Return a result with the namespace, a normal key path, removed from the keys of all nodes."""
    prev_node = None if result.prev_node is None else _strip(result.prev_node, namespace)
    return replace(result, node=_strip(result.node, namespace), prev_node=prev_node)


def _strip(node: Node, namespace: str) -> Node:
    # A deleted directory above the namespace contained the namespace: its key becomes the root.
    key = strip_prefix(namespace, node.key) if is_below(node.key, namespace) else ROOT
    if isinstance(node, Directory):
        return replace(node, key=key, nodes=tuple(_strip(child, namespace) for child in node.nodes))
    return replace(node, key=key)
