"""Key paths: the normal form, and the helpers for normal keys."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from getc import paths
from getc.paths import (
    MAX_CACHED_KEY,
    ROOT,
    ancestors,
    basename,
    child_prefix,
    is_below,
    is_hidden,
    join,
    normalize,
    parent_of,
    strip_prefix,
)

always_the_same = settings(derandomize=True, database=None)
segments = st.text(st.characters(exclude_characters='\0/', exclude_categories=['Cs']), min_size=1, max_size=4)
normal_keys = st.lists(segments.filter(lambda segment: segment not in ('.', '..')), max_size=4).map(
    lambda names: ROOT + '/'.join(names)
)


@pytest.mark.parametrize(
    ('key', 'expected'),
    [
        ('', '/'),
        ('/', '/'),
        ('///', '/'),
        ('a', '/a'),
        ('/a/', '/a'),
        ('a//b', '/a/b'),
        ('/a/.b', '/a/.b'),
        ('/a/...', '/a/...'),
        ('/a/b..', '/a/b..'),
        ('/\udcff', '/\udcff'),
    ],
    ids=ascii,
)
def test_normalize_returns_one_slash_before_each_segment(key: str, expected: str) -> None:
    assert normalize(key) == expected


@always_the_same
@given(normal_keys)
def test_normalize_returns_a_normal_key_unchanged(key: str) -> None:
    assert normalize(key) == key
    assert normalize(key + '/') == key
    assert normalize(key[1:]) == key


@always_the_same
@given(normal_keys, normal_keys)
def test_strip_prefix_reverts_join(directory: str, key: str) -> None:
    inside = join(directory, key)
    assert normalize(inside) == inside
    assert strip_prefix(directory, inside) == key
    assert is_below(inside, directory) == (key != ROOT)


@pytest.mark.parametrize('key', ['/ns2/a', '/n', '/other', '/'])
def test_strip_prefix_returns_a_key_outside_the_directory_unchanged(key: str) -> None:
    assert strip_prefix('/ns', key) == key


@always_the_same
@given(normal_keys)
def test_parent_and_basename_make_up_the_key(key: str) -> None:
    """The ancestors are the parent, its parent, and so on, below the root."""
    assert child_prefix(parent_of(key)) + basename(key) == key
    above = ancestors(key)
    assert above == sorted(above, key=len)
    assert ROOT not in above
    assert above[-1:] == ([] if parent_of(key) == ROOT else [parent_of(key)])
    assert all(is_below(key, directory) for directory in [ROOT, *above] if key != ROOT)


def test_parent_basename_and_ancestors_of_examples() -> None:
    assert ancestors('/a/b/c') == ['/a', '/a/b']
    assert (parent_of('/a/b/c'), basename('/a/b/c')) == ('/a/b', 'c')
    assert (parent_of('/a'), basename('/a')) == ('/', 'a')
    assert (parent_of('/'), basename('/'), ancestors('/')) == ('/', '', [])


@pytest.mark.parametrize(
    ('key', 'directory', 'expected'),
    [
        ('/a/b', '/a', True),
        ('/a/b/c', '/a', True),
        ('/a', '/', True),
        ('/a', '/a', False),
        ('/', '/', False),
        ('/ab', '/a', False),
        ('/a-b', '/a', False),
        ('/a', '/a/b', False),
    ],
)
def test_is_below_compares_whole_segments(key: str, directory: str, expected: bool) -> None:
    assert is_below(key, directory) is expected


@pytest.mark.parametrize(
    ('key', 'directory', 'expected'),
    [
        ('/_a', '/', True),
        ('/a/_b', '/', True),
        ('/a/_b/c', '/a', True),
        ('/a_/b_', '/', False),
        ('/_a/b', '/_a', False),
        ('/_a', '/_a', False),
        ('/_a/_b', '/_a', True),
        ('/b/_c', '/a', False),
        ('/', '/', False),
    ],
)
def test_is_hidden_looks_at_the_segments_below_the_directory(key: str, directory: str, expected: bool) -> None:
    assert is_hidden(key, directory) is expected


def test_normalize_does_not_cache_long_keys() -> None:
    """4096 cached keys of up to 1.5 MB each would be too many."""
    key = '/long/' + 'x' * MAX_CACHED_KEY
    before = paths._cached_normal.cache_info()
    assert normalize(key) == normalize(key + '/') == key
    assert paths._cached_normal.cache_info() == before
