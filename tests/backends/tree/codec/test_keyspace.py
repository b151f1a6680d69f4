"""Nodes as keys, and keys as nodes, also keys that other programs wrote."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getc import paths
from getc.backends.tree.codec.keyspace import (
    MAX_SEGMENTS,
    NO_TTL,
    TTL,
    check_depth,
    decode,
    deleted_node,
    descendants_range,
    directory_range,
    encode,
    marker,
    node_of,
    subtree_range,
    value_of,
)
from getc.errors import NotSupported, ProtocolError
from getc.results import Node, Value
from getc.v3.schema.mvccpb import KeyValue

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
def test_key_is_a_node_when_it_is_a_normal_path(raw: bytes, node: tuple[str, bool]) -> None:
    """As a value, or with a slash at the end as the marker of a directory."""
    assert node_of(raw) == node


@pytest.mark.parametrize(
    'raw', [b'', b'a', b'a/b', b'/', b'//', b'//x', b'/a//b', b'/a//', b'/.', b'/a/..', b'/a/./b', b'/../', b'/a\0']
)
def test_key_is_no_node_when_it_is_not_a_normal_path(raw: bytes) -> None:
    assert node_of(raw) is None


@given(raw=raw_keys)
def test_node_of_any_key_is_normal_and_maps_back_to_the_key(raw: bytes) -> None:
    found = node_of(raw)
    if found is not None:
        key, is_marker = found
        assert paths.normalize(key) == key != '/'
        assert (marker(key) if is_marker else encode(key)) == raw


@given(key=path_texts)
def test_every_node_has_its_own_key_and_marker(key: str) -> None:
    assert node_of(encode(key)) == (key, False)
    assert node_of(marker(key)) == (key, True)


@given(raw=st.binary(max_size=20))
def test_any_bytes_survive_decoding_and_encoding(raw: bytes) -> None:
    assert encode(decode(raw)) == raw


@given(key=path_texts, other=path_texts)
def test_ranges_contain_exactly_the_nodes_below_a_directory(key: str, other: str) -> None:
    """The marker is in the range of the directory, and not in that of its descendants."""
    first, end = directory_range(key)
    assert (first <= encode(other) < end) == paths.is_below(other, key)
    assert first <= marker(key) < end
    first, end = descendants_range(key)
    assert (first <= encode(other) < end) == paths.is_below(other, key)
    assert not first <= marker(key) < end


@given(key=path_texts, other=path_texts)
def test_subtree_range_contains_a_node_and_all_below_it(key: str, other: str) -> None:
    first, end = subtree_range(key)
    assert first <= encode(key) < end
    if paths.is_below(other, key):
        assert first <= encode(other) < end


def test_ranges_of_the_root_contain_all_keys_with_a_leading_slash() -> None:
    assert directory_range('/') == subtree_range('/') == (b'/', b'0')


def test_key_with_127_segments_is_refused() -> None:
    deepest = '/a' * MAX_SEGMENTS
    check_depth(deepest)
    check_depth('/')
    with pytest.raises(NotSupported, match='126 segments at most, not 127'):
        check_depth(deepest + '/a')


# -- nodes

KV = KeyValue(key=b'/a', value=b'\xff1', create_revision=3, mod_revision=5, version=2, lease=7)


def test_value_has_the_revisions_as_indices_and_escaped_text() -> None:
    assert value_of('/a', KV) == Value('/a', 5, 3, None, None, '\udcff1')
    assert value_of('/a', KV).raw_value == b'\xff1'


def test_ttl_has_seconds_and_expiration() -> None:
    ttl = TTL.of(60, 1_000_000.5)
    assert ttl == (60, datetime(1970, 1, 12, 13, 47, 40, 500_000, tzinfo=timezone.utc))
    node = value_of('/a', KV, ttl)
    assert (node.ttl, node.expiration) == ttl
    assert NO_TTL == (None, None)


def test_ttl_may_be_as_long_as_that_of_a_lease() -> None:
    assert TTL.of(9_000_000_000, 1_800_000_000.0).ttl == 9_000_000_000


def test_deleted_node_has_no_value() -> None:
    assert deleted_node('/a', 9, 3) == Node('/a', 9, 3)


@pytest.mark.parametrize('ttl', [-1, 2**63 - 1])
def test_ttl_that_no_lease_has_is_a_protocol_error(ttl: int) -> None:
    with pytest.raises(ProtocolError, match='malformed response of etcd v3: a TTL of'):
        TTL.of(ttl, 1_800_000_000.0)
