"""Queues of nodes ordered by creation, where a listing of the directory is the only way to read them (v2, memory)."""

from __future__ import annotations

from collections.abc import Callable

from getc.errors import KeyNotFound, NodeLost
from getc.operations import Contenders, Get, Operation, Predecessor
from getc.paths import ROOT, ancestors, is_below, parent_of
from getc.results import ContendersResult, Directory, EtcdResult, Node, PredecessorResult, Value
from getc.timing import Deadline

__all__ = ['lost_contender', 'read_contenders', 'read_predecessor']

Execute = Callable[[Operation, Deadline], EtcdResult]


def lost_contender(key: str) -> NodeLost:
    """Return the error for a contender whose key is gone."""
    return NodeLost('{key} was deleted, or has expired', key=key)


def read_predecessor(execute: Execute, query: Predecessor, deadline: Deadline) -> PredecessorResult:
    """Find the values that were created before the own key, by one linearizable listing.  Blocks.

    Raises:
        NodeLost: The own key is gone.
        EtcException: What ``execute`` raises.
    """
    try:
        found = execute(Get(_common_directory(query), recursive=True, quorum=True, hidden=True), deadline)
    except KeyNotFound:
        raise lost_contender(query.key) from None
    values = sorted(_values_of(found.node), key=_creation)
    if not any(value.key == query.key and value.created_index == query.token for value in values):
        raise lost_contender(query.key)
    earlier = [value for value in values if value.created_index < query.token and is_below(value.key, query.scope)]
    if not earlier:
        return PredecessorResult(found.etcd_index)
    nearest = tuple(
        Node(value.key, value.modified_index, value.created_index) for value in reversed(earlier[-query.limit :])
    )
    return PredecessorResult(found.etcd_index, nearest, earlier[0], earlier[0].ttl is None)


def read_contenders(execute: Execute, query: Contenders, deadline: Deadline) -> ContendersResult:
    """Read the values of a directory in the order of their creation, by one linearizable listing.  Blocks."""
    try:
        found = execute(Get(query.key, recursive=True, quorum=True, hidden=True), deadline)
    except KeyNotFound as error:
        return ContendersResult(error.index or 0)
    return ContendersResult(found.etcd_index, tuple(sorted(_values_of(found.node), key=_creation)))


def _common_directory(query: Predecessor) -> str:
    """Return the deepest directory that contains both the own key and the scope."""
    directory = query.scope
    while directory != ROOT and directory not in ancestors(query.key):
        directory = parent_of(directory)
    return directory


def _values_of(node: Node) -> list[Value]:
    return list(node.leaves()) if isinstance(node, Directory) else []


def _creation(value: Value) -> int:
    return value.created_index
