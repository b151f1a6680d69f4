"""Reads as ranges, and directories from pages of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getc import paths
from getc.backends.tree.codec import read
from getc.backends.tree.codec.read import PAGE, Listing, first_page_of, page_of, range_of, txn_of_get
from getc.errors import NotSupported
from getc.operations import Get
from getc.results import Directory, Node, Value
from getc.v3.schema.mvccpb import KeyValue
from tests.backends.tree.codec.messages import does

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
    """The directory, read by pages of a size as a server would give them, and how many there were."""
    listing, pages = Listing(get), 0
    start: bytes | None = b''
    while start is not None:
        left = [kv for kv in kvs if kv.key >= start]
        start = listing.feed(left[:size], len(left) > size)
        pages += 1
    return listing.directory(), pages


def shown(node: Node) -> object:
    """A node as its key, or as its key with what is in it."""
    return (node.key, [shown(each) for each in node.nodes]) if isinstance(node, Directory) else node.key


# -- what is asked


def test_get_reads_what_is_above_the_node_and_a_page_below_at_one_revision() -> None:
    """So that one answer tells all."""
    txn = txn_of_get(Get('/a/b'), PAGE)
    assert does(txn.success) == [('range', b'/a'), ('range', b'/a/b'), ('range', b'/a/b/', b'/a/b0')]
    assert txn.success[2].request_range.limit == read.PAGE
    assert does(txn_of_get(Get('/a/b'), PAGE, is_strict=False).success) == does(txn.success)[1:]


def test_get_of_the_root_reads_only_what_is_below() -> None:
    """It has no key."""
    assert does(txn_of_get(Get('/'), PAGE).success) == [('range', b'/', b'0')]


@pytest.mark.parametrize(('quorum', 'serializable'), [(None, False), (True, False), (False, True)])
def test_every_read_is_local_only_when_no_quorum_is_asked_for(quorum: bool | None, serializable: bool) -> None:
    """The further pages too: they would hang where there is no leader."""
    get = Get('/a/b', quorum=quorum)
    requests = [operation.request_range for operation in txn_of_get(get, PAGE).success]
    for request in (*requests, range_of(get), first_page_of(get, PAGE), page_of(get, b'/a/b/x', 7, PAGE)):
        assert request.serializable is serializable


def test_further_pages_are_read_at_the_revision_of_the_first() -> None:
    """From where it ended, to the end of the directory."""
    request = page_of(Get('/a'), b'/a/x', 7, PAGE)
    assert (request.key, request.range_end, request.revision, request.limit) == (b'/a/x', b'/a0', 7, read.PAGE)


def test_get_of_a_key_too_deep_is_refused() -> None:
    """A transaction has no room for it."""
    with pytest.raises(NotSupported):
        txn_of_get(Get('/a' * 127), PAGE)


# -- what is found

TREE = kvs_of(b'/d/', b'/d/a', b'/d/b/', b'/d/c/x', b'/d/c/y/z', b'/d/c-', b'/d/_h', b'/d/_i/x', b'/d/c/_j/x')


def test_listing_has_the_nodes_of_a_directory() -> None:
    """Those further down are not looked into, hidden ones not shown."""
    directory, _ = listed(Get('/d'), TREE)
    assert shown(directory) == ('/d', ['/d/a', ('/d/b', []), ('/d/c', []), '/d/c-'])
    assert (directory.modified_index, directory.created_index) == (10, 1)
    value, marked, implicit, _ = directory.nodes
    assert isinstance(value, Value) and value.value == '/d/a'
    assert marked.created_index > 0
    assert (implicit.modified_index, implicit.created_index) == (0, 0)


def test_recursive_listing_has_all_below() -> None:
    """But what is hidden, with all below it."""
    directory, _ = listed(Get('/d', recursive=True), TREE)
    inside = ('/d/c', ['/d/c/x', ('/d/c/y', ['/d/c/y/z'])])
    assert shown(directory) == ('/d', ['/d/a', ('/d/b', []), inside, '/d/c-'])


def test_directory_of_hidden_nodes_is_listed_and_empty() -> None:
    """It is there, as on v2."""
    kvs = kvs_of(b'/d/a/_h', b'/d/b/_i/x', b'/d/c/_j/')
    for recursive in (False, True):
        assert shown(listed(Get('/d', recursive=recursive), kvs)[0]) == (
            '/d',
            [('/d/a', []), ('/d/b', []), ('/d/c', [])],
        )


def test_hidden_directory_is_listed_when_it_is_asked_for() -> None:
    """Hidden is what is below it with such a name."""
    directory, _ = listed(Get('/_d'), kvs_of(b'/_d/a', b'/_d/_b'))
    assert shown(directory) == ('/_d', ['/_d/a'])


def test_value_wins_when_there_are_keys_below_it() -> None:
    """These have paths of their own."""
    directory, _ = listed(Get('/d', recursive=True), kvs_of(b'/d/a', b'/d/a/', b'/d/a/b', b'/d/a-'))
    assert shown(directory) == ('/d', ['/d/a', '/d/a-'])
    assert listed(Get('/d'), kvs_of(b'/d/a', b'/d/a/b'))[0].values == ('/d/a',)


def test_keys_that_are_no_path_are_not_listed_but_make_the_directory_be_there() -> None:
    """A recursive delete takes them, so there is something to take."""
    for recursive in (False, True):
        listing = Listing(Get('/d', recursive=recursive))
        assert listing.feed(kvs_of(b'/d//x', b'/d/../x', b'/d/a//b'), more=False) is None
        assert listing.is_there
        assert listing.directory().nodes == ()
    assert not Listing(Get('/d')).is_there
    assert Listing(Get('/')).is_there


def test_names_are_in_the_order_of_their_text() -> None:
    """Not in that of the keys, where a slash comes after a hyphen."""
    directory, _ = listed(Get('/d'), kvs_of(b'/d/c/x', b'/d/c-', b'/d/c', b'/d/\xff', '/d/\u00e9'.encode()))
    assert [paths.basename(node.key) for node in directory.nodes] == ['c', 'c-', '\u00e9', '\udcff']


@pytest.mark.parametrize('recursive', [False, True])
def test_subtree_that_is_not_shown_is_skipped(recursive: bool) -> None:
    """One page of it at most is read: of a child's where only children are listed, of a hidden one's always."""
    below = b'/d/_h/' if recursive else b'/d/b/'
    kvs = kvs_of(b'/d/a', *(below + b'%05d' % number for number in range(1000)), b'/d/c')
    directory, pages = listed(Get('/d', recursive=recursive), kvs, size=10)
    assert [node.key for node in directory.nodes] == ['/d/a', '/d/c'] if recursive else ['/d/a', '/d/b', '/d/c']
    assert pages == 2


@given(raw=raw_keys, recursive=st.booleans(), size=st.integers(1, 5))
def test_listing_is_the_same_whatever_the_size_of_a_page(raw: list[bytes], recursive: bool, size: int) -> None:
    """Nothing is left out or told twice where one page ends."""
    kvs = kvs_of(*raw)
    assert listed(Get('/d', recursive=recursive), kvs, size)[0] == listed(Get('/d', recursive=recursive), kvs)[0]
