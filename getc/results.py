"""What comes back: nodes, and the results that hold them.

All of it is immutable, comparable and picklable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from getc._dataclasses import fast_init
from getc.paths import ROOT, is_below, strip_prefix

__all__ = [
    'ComparedThenDeleted',
    'ComparedThenSwapped',
    'Created',
    'Deleted',
    'Directory',
    'EtcdResult',
    'Expired',
    'Got',
    'Node',
    'Set',
    'Updated',
    'Value',
]


@fast_init
@dataclass(frozen=True, slots=True, repr=False)
class Node:
    """A node of the tree.  A plain Node is what is left of a deleted value.

    Attributes:
        key: The normal path.
        modified_index: The index of the last change.
        created_index: The index of the creation: it tells one node of this key from the next.
        ttl: Whole seconds to live, rounded up; 0 if it has expired and is not removed yet; None for no TTL.
        expiration: When it ends by the server's clock (UTC), or None.
    """

    key: str
    modified_index: int = 0
    created_index: int = 0
    ttl: int | None = None
    expiration: datetime | None = None

    @property
    def index(self) -> int:
        """The index of the last change, as ``modified_index``."""
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
    """A node that holds text.

    Attributes:
        value: The text.
    """

    value: str = ''

    @property
    def raw_value(self) -> bytes:
        """The bytes that etcd holds."""
        return self.value.encode('utf-8', 'surrogateescape')

    def json(self) -> Any:
        """The value parsed as JSON.

        Raises:
            ValueError: It is no JSON; the message names the key, not the value.
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
    """A node that holds nodes.

    Attributes:
        nodes: The nodes in it that were asked for: its children, and theirs if recursive.
    """

    nodes: tuple[Node, ...] = ()

    @property
    def values(self) -> tuple[str, ...]:
        """The values of the children that are values, in the order of ``nodes``."""
        return tuple(node.value for node in self.nodes if isinstance(node, Value))

    def leaves(self) -> Iterator[Value]:
        """Every value in this directory and the directories in it, depth first."""
        for node in self.nodes:
            if isinstance(node, Value):
                yield node
            elif isinstance(node, Directory):
                yield from node.leaves()

    def _label(self) -> str:
        return f'{self.key}[{len(self.nodes)}]'


def _relative(node: Node, namespace: str) -> Node:
    key = (
        strip_prefix(namespace, node.key) if is_below(node.key, namespace) else ROOT
    )  # a directory above it is gone, too
    if isinstance(node, Directory):
        return replace(node, key=key, nodes=tuple(_relative(child, namespace) for child in node.nodes))
    return replace(node, key=key)


@fast_init
@dataclass(frozen=True, slots=True, repr=False)
class EtcdResult:
    """What an operation did, or what a watch saw.

    The attributes of the node are the result's own as well: ``result.key``, ``result.value``, ...

    Attributes:
        node: The node as it is now.
        prev_node: The node as it was before, where the server says so.
        etcd_index: The server's index when it answered.
        raft_index: The index in the log of the cluster; 0 on v3.
        raft_term: How many elections there were.
        is_new: The node did not exist before.
        resync: Made up by a daemon from a comparison, after the history was lost.
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
        """The node's key."""
        return self.node.key

    @property
    def value(self) -> str | None:
        """The node's value; None for a deleted node and for a directory."""
        return self.node.value if isinstance(self.node, Value) else None

    @property
    def raw_value(self) -> bytes | None:
        """The bytes of the node's value; None for a deleted node and for a directory."""
        return self.node.raw_value if isinstance(self.node, Value) else None

    def json(self) -> Any:
        """The node's value parsed as JSON.

        Raises:
            ValueError: It is no JSON, or the node has no value; the message names the key, not the value.
        """
        if not isinstance(self.node, Value):
            raise ValueError(f'{self.key} has no value that could be JSON: it is a directory, or was deleted')
        return self.node.json()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of a directory; empty for other nodes."""
        return self.node.nodes if isinstance(self.node, Directory) else ()

    @property
    def values(self) -> tuple[str, ...]:
        """The values of a directory's children; empty for other nodes."""
        return self.node.values if isinstance(self.node, Directory) else ()

    @property
    def ttl(self) -> int | None:
        """The node's whole seconds to live, or None."""
        return self.node.ttl

    @property
    def expiration(self) -> datetime | None:
        """When the node ends, by the server's clock, or None."""
        return self.node.expiration

    @property
    def index(self) -> int:
        """The node's ``modified_index``."""
        return self.node.modified_index

    @property
    def modified_index(self) -> int:
        """The index of the node's last change."""
        return self.node.modified_index

    @property
    def created_index(self) -> int:
        """The index of the node's creation."""
        return self.node.created_index

    def relative_to(self, namespace: str) -> EtcdResult:
        """The same with a normal path taken off every key."""
        prev_node = None if self.prev_node is None else _relative(self.prev_node, namespace)
        return replace(self, node=_relative(self.node, namespace), prev_node=prev_node)

    def __repr__(self) -> str:
        prev_node = '' if self.prev_node is None else f' prev_node={self.prev_node!r}'
        flags = ' resync=True' if self.resync else ''
        return f'<getc.{type(self).__name__} {self.node!r}{prev_node} etcd_index={self.etcd_index}{flags}>'


class Got(EtcdResult):
    """The node was read."""

    __slots__ = ()


class Set(EtcdResult):
    """The node was written: by ``set``, or by one of the kinds of it below."""

    __slots__ = ()


class Created(Set):
    """The node was written where none was."""

    __slots__ = ()


class Updated(Set):
    """The node was written where one was."""

    __slots__ = ()


class ComparedThenSwapped(Set):
    """The node was written because its previous value or index matched."""

    __slots__ = ()


class Deleted(EtcdResult):
    """The node is gone: by ``delete``, or by one of the kinds of it below."""

    __slots__ = ()


class Expired(Deleted):
    """The node is gone because its TTL ran out."""

    __slots__ = ()


class ComparedThenDeleted(Deleted):
    """The node is gone because its previous value or index matched."""

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
"""The result class of each of etcd's actions.  Source: etcd 3.5, ``server/etcdserver/api/v2store/store.go``."""
