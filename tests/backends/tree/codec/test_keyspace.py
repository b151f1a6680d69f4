"""Nodes as keys, and keys as nodes: what other programs write, too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getc import paths
from getc.backends.tree.codec.keyspace import (
    MAX_SEGMENTS,
    below,
    check_depth,
    decode,
    descendants_range,
    encode,
    marker,
    node_of,
    subtree_range,
)
from getc.errors import NotSupported

raw_keys = st.lists(st.sampled_from([b'/', b'.', b'a', b'\0', b'\xff', b'-', '\u00e9'.encode()]), max_size=8).map(
    b''.join
)
names = st.text(st.characters(exclude_characters='\0/', exclude_categories=['Cs']), min_size=1, max_size=4)
path_texts = st.lists(names.filter(lambda name: name not in ('.', '..')), min_size=1, max_size=4).map(
    lambda segments: '/' + '/'.join(segments)
)


@pytest.mark.parametrize(
    ('raw', 'node'),
    [
        (b'/a', ('/a', False)),
        (b'/a/', ('/a', True)),
        (b'/a/b', ('/a/b', False)),
        (b'/a b/%41', ('/a b/%41', False)),
        (b'/.a', ('/.a', False)),
        (b'/...', ('/...', False)),
        (b'/\xff', ('/\udcff', False)),
        ('/\u00e9'.encode(), ('/\u00e9', False)),
    ],
)
def test_key_stands_for_a_node_when_it_is_a_normal_path(raw: bytes, node: tuple[str, bool]) -> None:
    """As a value, or, with a slash at the end, as a directory's marker."""
    assert node_of(raw) == node


@pytest.mark.parametrize(
    'raw', [b'', b'a', b'a/b', b'/', b'//', b'//x', b'/a//b', b'/a//', b'/.', b'/a/..', b'/a/./b', b'/../', b'/a\0']
)
def test_key_stands_for_nothing_when_no_path_is_like_it(raw: bytes) -> None:
    """Without a slash in front, with an empty segment, with dots, or with a NUL."""
    assert node_of(raw) is None


@given(raw=raw_keys)
def test_node_of_any_key_is_normal_and_leads_back_to_it(raw: bytes) -> None:
    """Or there is none."""
    found = node_of(raw)
    if found is not None:
        key, is_marker = found
        assert paths.normalize(key) == key != '/'
        assert (marker(key) if is_marker else encode(key)) == raw


@given(key=path_texts)
def test_every_node_has_a_key_of_its_own_and_a_marker(key: str) -> None:
    """Both lead back to it."""
    assert node_of(encode(key)) == (key, False)
    assert node_of(marker(key)) == (key, True)


@given(raw=st.binary(max_size=20))
def test_bytes_come_back_from_text_whatever_they_are(raw: bytes) -> None:
    """What is no UTF-8 is escaped."""
    assert encode(decode(raw)) == raw


@given(key=path_texts, other=path_texts)
def test_ranges_hold_what_is_below_a_node_and_no_other_node(key: str, other: str) -> None:
    """The marker is in the range of all below, and not in that of what is deeper."""
    first, end = below(key)
    assert (first <= encode(other) < end) == paths.is_below(other, key)
    assert first <= marker(key) < end
    first, end = descendants_range(key)
    assert (first <= encode(other) < end) == paths.is_below(other, key)
    assert not first <= marker(key) < end


@given(key=path_texts, other=path_texts)
def test_whole_range_holds_a_node_and_all_below_it(key: str, other: str) -> None:
    """Others may be in it."""
    first, end = subtree_range(key)
    assert first <= encode(key) < end
    if paths.is_below(other, key):
        assert first <= encode(other) < end


def test_ranges_of_the_root_are_all_that_begins_with_a_slash() -> None:
    """From the first to the last."""
    assert below('/') == subtree_range('/') == (b'/', b'0')


def test_depth_is_refused_from_127_segments_on() -> None:
    """A transaction has no room for more."""
    deepest = '/a' * MAX_SEGMENTS
    check_depth(deepest)
    check_depth('/')
    with pytest.raises(NotSupported, match='126 segments at most, not 127'):
        check_depth(deepest + '/a')
