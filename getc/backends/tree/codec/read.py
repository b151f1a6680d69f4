"""Reads: a node by its key, a directory by pages."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from getc import paths
from getc.backends.tree.codec.keyspace import AFTER_SLASH, below, check_depth, encode, node_of
from getc.backends.tree.codec.nodes import value_of
from getc.operations import Get
from getc.paths import ROOT
from getc.results import Directory, Node, Value
from getc.v3.schema.kv import RangeRequest, RequestOp, TxnRequest
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['PAGE', 'Listing', 'first_key_of', 'first_page_of', 'packed_range', 'page_of', 'range_of', 'txn_of_get']

PAGE: Final = 5000
"""Keys that are read at a time, at most."""


def range_of(get: Get) -> RangeRequest:
    """The read of the node as a value."""
    return RangeRequest(key=encode(get.key), serializable=get.quorum is False)


@lru_cache(maxsize=4096)
def packed_range(key: str, serializable: bool) -> bytes:
    """The same, packed, and remembered: most nodes are read again and again."""
    return RangeRequest(key=encode(key), serializable=serializable).SerializeToString()


def txn_of_get(get: Get, limit: int, *, is_strict: bool = True) -> TxnRequest:
    """The reads that tell everything about a node at one revision.

    In this order: the nodes above it, itself (not of the root), and the first page of what is below it.

    Args:
        get: What is asked for.
        limit: Keys of the page.
        is_strict: Also read what is above it, to tell why it cannot be there.

    Raises:
        NotSupported: The key is too deep.
    """
    check_depth(get.key)
    is_old = get.quorum is False
    above = [encode(ancestor) for ancestor in paths.ancestors(get.key)] if is_strict else []
    ranges = [RangeRequest(key=raw, keys_only=True, serializable=is_old) for raw in above]
    if get.key != ROOT:
        ranges.append(range_of(get))
    ranges.append(first_page_of(get, limit))
    return TxnRequest(success=[RequestOp(request_range=request) for request in ranges])


def first_page_of(get: Get, limit: int) -> RangeRequest:
    """The first page of a directory, with so many keys at most."""
    first, end = below(get.key)
    return RangeRequest(key=first, range_end=end, limit=limit, serializable=get.quorum is False)


def page_of(get: Get, start: bytes, revision: int, limit: int) -> RangeRequest:
    """A further page of a directory, as of the revision of the first."""
    _, end = below(get.key)
    is_old = get.quorum is False
    return RangeRequest(key=start, range_end=end, limit=limit, revision=revision, serializable=is_old)


def first_key_of(get: Get, start: bytes, revision: int) -> RangeRequest:
    """The first key of a page, without its value."""
    request = page_of(get, start, revision, 1)
    request.keys_only = True
    return request


class _Child:
    """A node that is being put together: a value, a directory, or both."""

    __slots__ = ('children', 'mark', 'value')

    def __init__(self) -> None:
        self.value: Value | None = None
        self.mark: KeyValue | None = None
        self.children: dict[str, _Child] = {}


class Listing:
    """A directory that is put together from pages of keys.

    Args:
        get: What was asked for.
    """

    def __init__(self, get: Get) -> None:
        self._get = get
        self._top = _Child()
        self._prefix = len(paths.child_prefix(get.key))
        self._is_there = get.key == ROOT

    @property
    def is_there(self) -> bool:
        """True if there is such a directory: something is below it, or its marker is."""
        return self._is_there

    def feed(self, kvs: Iterable[KeyValue], more: bool) -> bytes | None:
        """Take a page, in the order of the keys.  Return where the next one begins; None if there is none."""
        skip = b''  # the end of a subtree that is not looked into
        last = b''
        for kv in kvs:
            last = kv.key
            self._is_there = True
            if skip and last < skip:
                continue
            found = node_of(last)
            skip = b'' if found is None else self._note(kv, *found)
        if not more:
            return None
        return max(skip, last + b'\0')

    def _note(self, kv: KeyValue, key: str, is_marker: bool) -> bytes:
        """Put a key in its place.  Return up to where keys are of no interest, or nothing."""
        path = key[self._prefix :]
        if not path:
            self._top.mark = kv
            return b''
        names = path.split('/')
        hidden = next((depth for depth, name in enumerate(names, 1) if name[0] == '_'), 0)
        closed = hidden if self._get.recursive else 1  # so deep is the node that is not looked into; 0 for none
        shown = names[: closed - (closed == hidden)] if closed else names
        child = self._top
        for name in shown:
            child = child.children.setdefault(name, _Child())
        if len(shown) == len(names):
            if is_marker:
                child.mark = kv
            else:
                child.value = value_of(key, kv)
        return self._end_of(names[:closed]) if closed and (len(names) > closed or is_marker) else b''

    def _end_of(self, names: list[str]) -> bytes:
        """What comes after all that is below a node in the directory."""
        return encode(paths.child_prefix(self._get.key) + '/'.join(names)) + AFTER_SLASH

    def directory(self) -> Directory:
        """The directory, its nodes in the order of their names."""
        return self._directory(self._get.key, self._top, is_top=True)

    def _directory(self, key: str, child: _Child, *, is_top: bool = False) -> Directory:
        nodes: tuple[Node, ...] = ()
        if is_top or self._get.recursive:
            inside = paths.child_prefix(key)
            nodes = tuple(self._node(inside + name, each) for name, each in sorted(child.children.items()))
        modified, created = (child.mark.mod_revision, child.mark.create_revision) if child.mark is not None else (0, 0)
        return Directory(key, modified, created, None, None, nodes)

    def _node(self, key: str, child: _Child) -> Node:
        return child.value if child.value is not None else self._directory(key, child)
