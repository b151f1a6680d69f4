"""Reads as ranges, and directories built from pages of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getc import paths
from getc.backends.tree.codec import read
from getc.backends.tree.codec.read import (
    PAGE,
    Listing,
    first_page_request,
    page_request,
    parse_get,
    txn_of_get,
    value_request,
)
from getc.errors import NotSupported, ProtocolError
from getc.operations import Get
from getc.results import Directory, Node, Value
from getc.v3.schema.kv import ResponseOp
from getc.v3.schema.mvccpb import KeyValue
from tests.backends.tree.codec.messages import does, found, kv, put, response

raw_keys = st.lists(
    st.tuples(
        st.lists(st.sampled_from([b'a', b'a-', b'b', b'_h', b'', b'.', b'\xff', b'a b']), min_size=1, max_size=4),
        st.sampled_from([b'', b'/']),
    ).map(lambda parts: b'/d/' + b'/'.join(parts[0]) + parts[1]),
    unique=True,
    max_size=30,
)


def kvs_of(*raw: bytes) -> list[KeyValue]:
    ordered = sorted(set(raw))
    return [
        KeyValue(key=key, value=key, mod_revision=10 + at, create_revision=1 + at) for at, key in enumerate(ordered)
    ]


def listed(get: Get, kvs: list[KeyValue], size: int = 1000) -> tuple[Directory, int]:
    """The directory, read in pages of this size, and the number of pages."""
    listing, pages = Listing(get), 0
    start: bytes | None = b''
    while start is not None:
        left = [kv for kv in kvs if kv.key >= start]
        start = listing.add_page(left[:size], len(left) > size)
        pages += 1
    return listing.directory(), pages


def shown(node: Node) -> object:
    """A node as its key, a directory as its key and its nodes."""
    return (node.key, [shown(each) for each in node.nodes]) if isinstance(node, Directory) else node.key


# -- requests


def test_get_reads_the_ancestors_the_node_and_a_page_below_it_at_one_revision() -> None:
    txn = txn_of_get(Get('/a/b'), PAGE)
    assert does(txn.success) == [('range', b'/a'), ('range', b'/a/b'), ('range', b'/a/b/', b'/a/b0')]
    assert txn.success[2].request_range.limit == read.PAGE
    assert does(txn_of_get(Get('/a/b'), PAGE, is_strict=False).success) == does(txn.success)[1:]


def test_get_of_the_root_reads_only_a_page_below_it() -> None:
    """The root has no key."""
    assert does(txn_of_get(Get('/'), PAGE).success) == [('range', b'/', b'0')]


@pytest.mark.parametrize(('quorum', 'serializable'), [(None, False), (True, False), (False, True)])
def test_every_read_is_serializable_only_without_quorum(quorum: bool | None, serializable: bool) -> None:
    """The further pages too: they would block while there is no leader."""
    get = Get('/a/b', quorum=quorum)
    requests = [operation.request_range for operation in txn_of_get(get, PAGE).success]
    for request in (
        *requests,
        value_request(get.key, get.quorum is False),
        first_page_request(get, PAGE),
        page_request(get, b'/a/b/x', 7, PAGE),
    ):
        assert request.serializable is serializable


def test_further_pages_are_read_at_the_revision_of_the_first() -> None:
    request = page_request(Get('/a'), b'/a/x', 7, PAGE)
    assert (request.key, request.range_end, request.revision, request.limit) == (b'/a/x', b'/a0', 7, read.PAGE)


def test_get_of_a_key_with_too_many_segments_is_refused() -> None:
    with pytest.raises(NotSupported):
        txn_of_get(Get('/a' * 127), PAGE)


# -- responses


def test_parsed_get_has_the_value_the_page_and_the_ancestors() -> None:
    value, page, above = parse_get(
        Get('/a/b'), response(found(kv('/a')), found(kv('/a/b')), found(kv('/a/b/c')), succeeded=True)
    )
    assert value is not None and value.key == b'/a/b'
    assert [each.key for each in page.kvs] == [b'/a/b/c']
    assert [[each.key for each in kvs] for kvs in above] == [[b'/a']]
    assert parse_get(Get('/a/b'), response(found(), found(), succeeded=True), is_strict=False).value is None
    assert parse_get(Get('/'), response(found(), succeeded=True)).ancestors == []


@pytest.mark.parametrize('results', [[], [found()] * 2, [found()] * 4, [found(), found(), put()]])
def test_malformed_response_is_a_protocol_error(results: list[ResponseOp]) -> None:
    with pytest.raises(ProtocolError, match='malformed response of etcd v3') as caught:
        parse_get(Get('/a/b'), response(*results, succeeded=True))
    assert not caught.value.maybe_applied


TREE = kvs_of(b'/d/', b'/d/a', b'/d/b/', b'/d/c/x', b'/d/c/y/z', b'/d/c-', b'/d/_h', b'/d/_i/x', b'/d/c/_j/x')


def test_listing_has_the_nodes_of_a_directory() -> None:
    """Without hidden ones, and without the nodes of its directories."""
    directory, _ = listed(Get('/d'), TREE)
    assert shown(directory) == ('/d', ['/d/a', ('/d/b', []), ('/d/c', []), '/d/c-'])
    assert (directory.modified_index, directory.created_index) == (10, 1)
    value, marked, implicit, _ = directory.nodes
    assert isinstance(value, Value) and value.value == '/d/a'
    assert marked.created_index > 0
    assert (implicit.modified_index, implicit.created_index) == (0, 0)


def test_recursive_listing_has_all_nodes_below() -> None:
    """Except hidden ones, and all below those."""
    directory, _ = listed(Get('/d', recursive=True), TREE)
    inside = ('/d/c', ['/d/c/x', ('/d/c/y', ['/d/c/y/z'])])
    assert shown(directory) == ('/d', ['/d/a', ('/d/b', []), inside, '/d/c-'])


def test_directory_of_hidden_nodes_is_listed_as_empty() -> None:
    """As on v2."""
    kvs = kvs_of(b'/d/a/_h', b'/d/b/_i/x', b'/d/c/_j/')
    for recursive in (False, True):
        assert shown(listed(Get('/d', recursive=recursive), kvs)[0]) == (
            '/d',
            [('/d/a', []), ('/d/b', []), ('/d/c', [])],
        )


def test_hidden_directory_is_listed_when_it_is_read_itself() -> None:
    directory, _ = listed(Get('/_d'), kvs_of(b'/_d/a', b'/_d/_b'))
    assert shown(directory) == ('/_d', ['/_d/a'])


def test_value_is_listed_as_a_value_when_there_are_keys_below_it() -> None:
    """These keys can be read by their own paths."""
    directory, _ = listed(Get('/d', recursive=True), kvs_of(b'/d/a', b'/d/a/', b'/d/a/b', b'/d/a-'))
    assert shown(directory) == ('/d', ['/d/a', '/d/a-'])
    assert listed(Get('/d'), kvs_of(b'/d/a', b'/d/a/b'))[0].values == ('/d/a',)


def test_keys_that_are_not_paths_are_not_listed_but_make_the_directory_exist() -> None:
    """A recursive delete removes them, so there is something to delete."""
    for recursive in (False, True):
        listing = Listing(Get('/d', recursive=recursive))
        assert listing.add_page(kvs_of(b'/d//x', b'/d/../x', b'/d/a//b'), more=False) is None
        assert listing.exists
        assert listing.directory().nodes == ()
    assert not Listing(Get('/d')).exists
    assert Listing(Get('/')).exists


def test_nodes_are_sorted_by_their_names() -> None:
    """Not by their keys, where a slash sorts after a hyphen."""
    directory, _ = listed(Get('/d'), kvs_of(b'/d/c/x', b'/d/c-', b'/d/c', b'/d/\xff', '/d/\u00e9'.encode()))
    assert [paths.basename(node.key) for node in directory.nodes] == ['c', 'c-', '\u00e9', '\udcff']


@pytest.mark.parametrize('recursive', [False, True])
def test_subtree_that_is_not_listed_is_skipped(recursive: bool) -> None:
    """One page of it at most is read."""
    below = b'/d/_h/' if recursive else b'/d/b/'
    kvs = kvs_of(b'/d/a', *(below + b'%05d' % number for number in range(1000)), b'/d/c')
    directory, pages = listed(Get('/d', recursive=recursive), kvs, size=10)
    assert [node.key for node in directory.nodes] == ['/d/a', '/d/c'] if recursive else ['/d/a', '/d/b', '/d/c']
    assert pages == 2


@given(raw=raw_keys, recursive=st.booleans(), size=st.integers(1, 5))
def test_listing_is_the_same_for_every_page_size(raw: list[bytes], recursive: bool, size: int) -> None:
    kvs = kvs_of(*raw)
    assert listed(Get('/d', recursive=recursive), kvs, size)[0] == listed(Get('/d', recursive=recursive), kvs)[0]


def test_page_without_keys_is_malformed_when_more_keys_follow() -> None:
    """A listing would go on for ever."""
    with pytest.raises(ProtocolError, match='a page of /d has no keys, although more keys follow'):
        Listing(Get('/d')).add_page([], True)
