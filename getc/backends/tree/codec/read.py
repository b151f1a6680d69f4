"""Reads: a node by its key, a directory in pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from getc import paths
from getc.backends.tree.codec.keyspace import (
    AFTER_SLASH,
    MAX_SEGMENTS,
    NO_TTL,
    TTL,
    check_depth,
    directory_range,
    encode,
    node_of,
    value_of,
)
from getc.backends.tree.codec.responses import RANGE, malformed, results_of_txn
from getc.operations import Get
from getc.paths import ROOT
from getc.results import Directory, Node, Value
from getc.v3.schema.kv import RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse
from getc.v3.schema.mvccpb import KeyValue

__all__ = [
    'MAX_CACHED_LENGTH',
    'PAGE',
    'FoundNode',
    'Listing',
    'encode_value_request',
    'encode_value_request_cached',
    'first_key_request',
    'first_page_request',
    'page_request',
    'parse_get',
    'txn_of_get',
    'value_request',
]

PAGE: Final = 5000
"""Maximum number of keys of a page."""

MAX_CACHED_KEYS: Final = 4096
"""Keys whose encoded reads are cached."""

MAX_CACHED_LENGTH: Final = 1000
"""Maximum number of characters of such a key."""


# -- requests


def value_request(key: str, serializable: bool) -> RangeRequest:
    """Return the read of a node as a value."""
    return RangeRequest(key=key.encode('utf-8', 'surrogateescape'), serializable=serializable)


def encode_value_request(key: str, serializable: bool) -> bytes:
    """Return the encoded :func:`value_request`."""
    return value_request(key, serializable).SerializeToString()


encode_value_request_cached = lru_cache(maxsize=MAX_CACHED_KEYS)(encode_value_request)
"""The same, cached, for keys up to ``MAX_CACHED_LENGTH``: most nodes are read again and again."""


def txn_of_get(get: Get, limit: int, *, is_strict: bool = True) -> TxnRequest:
    """Return the reads of a node, its ancestors and the first page below it, at one revision.

    In this order: its ancestors, the node itself (not for the root), and the first page of the keys below it.

    Args:
        get: The operation.
        limit: Keys of the page at most.
        is_strict: Read the ancestors, to say why the node cannot exist.

    Raises:
        NotSupported: The key has too many segments.
    """
    if get.key.count(ROOT) > MAX_SEGMENTS:
        check_depth(get.key)
    serializable = get.quorum is False
    success = []  # filled by loops: comprehensions add frames before Python 3.12
    for ancestor in paths.ancestors(get.key) if is_strict else ():
        raw = ancestor.encode('utf-8', 'surrogateescape')
        success.append(RequestOp(request_range=RangeRequest(key=raw, keys_only=True, serializable=serializable)))
    if get.key != ROOT:
        success.append(RequestOp(request_range=value_request(get.key, serializable)))
    success.append(RequestOp(request_range=first_page_request(get, limit)))
    return TxnRequest(success=success)


def first_page_request(get: Get, limit: int) -> RangeRequest:
    """Return the read of the first page of a directory, with ``limit`` keys at most."""
    first, end = directory_range(get.key)
    return RangeRequest(key=first, range_end=end, limit=limit, serializable=get.quorum is False)


def page_request(get: Get, start: bytes, revision: int, limit: int) -> RangeRequest:
    """Return the read of another page of a directory, from a key on, at the revision of the first page."""
    _, end = directory_range(get.key)
    serializable = get.quorum is False
    return RangeRequest(key=start, range_end=end, limit=limit, revision=revision, serializable=serializable)


def first_key_request(get: Get, start: bytes, revision: int) -> RangeRequest:
    """Return the read of the first key of a page, without its value: used to name a value that is too large."""
    request = page_request(get, start, revision, 1)
    request.keys_only = True
    return request


# -- responses


class FoundNode(NamedTuple):
    """What :func:`txn_of_get` has found.

    Attributes:
        value: The node as a value, or None.
        page: The first page of the keys below it.
        ancestors: For each ancestor its key-value if it is a value.
    """

    value: KeyValue | None
    page: RangeResponse
    ancestors: list[Sequence[KeyValue]]


def parse_get(get: Get, response: TxnResponse, *, is_strict: bool = True) -> FoundNode:
    """Return what a :func:`txn_of_get` has found.

    Raises:
        ProtocolError: The response has another shape.
    """
    count = (get.key.count('/') - 1 if is_strict else 0) + (get.key != ROOT) + 1
    *ancestors, page = results_of_txn(response, *[RANGE] * count, is_write=False)
    itself = ancestors.pop().kvs if get.key != ROOT else ()
    return FoundNode(itself[0] if itself else None, page, [found.kvs for found in ancestors])


class _Entry:
    """A node while its directory is put together: a value, a directory, or both."""

    __slots__ = ('children', 'marker', 'value')

    def __init__(self) -> None:
        self.value: Value | None = None
        self.marker: KeyValue | None = None
        self.children: dict[str, _Entry] = {}


class Listing:
    """Builds a directory from pages of keys.

    Args:
        get: The operation.
    """

    def __init__(self, get: Get) -> None:
        self._get = get
        self._top = _Entry()
        self._prefix = len(paths.child_prefix(get.key))
        self._exists = get.key == ROOT

    @property
    def exists(self) -> bool:
        """True if the directory exists: a key is below it, or its marker is there."""
        return self._exists

    def add_page(self, kvs: Iterable[KeyValue], more: bool) -> bytes | None:
        """Add a page, in the order of its keys.

        Returns:
            The first key of the next page; None if there is none.

        Raises:
            ProtocolError: The page is empty, although more keys follow.
        """
        skip = b''  # the end of a subtree that is not listed
        last = b''
        for kv in kvs:
            last = kv.key
            self._exists = True
            if skip and last < skip:
                continue
            found = node_of(last)
            skip = b'' if found is None else self._add(kv, *found)
        if not more:
            return None
        if not last:
            raise malformed('a page of {key} has no keys, although more keys follow', is_write=False, key=self._get.key)
        return max(skip, last + b'\0')

    def _add(self, kv: KeyValue, key: str, is_marker: bool) -> bytes:
        """Add a key.  Return the end of the subtree whose further keys are not listed, or nothing."""
        path = key[self._prefix :]
        if not path:
            self._top.marker = kv
            return b''
        names = path.split('/')
        hidden = 0
        if not self._get.hidden:
            hidden = next((depth for depth, name in enumerate(names, 1) if name[0] == '_'), 0)
        closed = hidden if self._get.recursive else 1  # depth of the node whose descendants are not listed; 0 for none
        shown = names[: closed - (closed == hidden)] if closed else names
        entry = self._top
        for name in shown:
            entry = entry.children.setdefault(name, _Entry())
        if len(shown) == len(names):
            if is_marker:
                entry.marker = kv
            else:
                entry.value = value_of(key, kv)
        return self._end_of(names[:closed]) if closed and (len(names) > closed or is_marker) else b''

    def _end_of(self, names: list[str]) -> bytes:
        """Return the first key after all descendants of a node in the directory."""
        return encode(paths.child_prefix(self._get.key) + '/'.join(names)) + AFTER_SLASH

    @property
    def lease(self) -> int:
        """The lease of the directory; 0 for none.  Complete once the first page was added."""
        return 0 if self._top.marker is None else self._top.marker.lease

    def directory(self, ttl: TTL = NO_TTL) -> Directory:
        """Return the directory with its TTL, its nodes in the order of their names."""
        return self._directory(self._get.key, self._top, ttl, is_top=True)

    def _directory(self, key: str, entry: _Entry, ttl: TTL = NO_TTL, *, is_top: bool = False) -> Directory:
        nodes: tuple[Node, ...] = ()
        if is_top or self._get.recursive:
            prefix = paths.child_prefix(key)
            nodes = tuple(self._node(prefix + name, child) for name, child in sorted(entry.children.items()))
        kv = entry.marker
        modified, created = (kv.mod_revision, kv.create_revision) if kv is not None else (0, 0)
        return Directory(key, modified, created, ttl.ttl, ttl.expiration, nodes)

    def _node(self, key: str, entry: _Entry) -> Node:
        return entry.value if entry.value is not None else self._directory(key, entry)
