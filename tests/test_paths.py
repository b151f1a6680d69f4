"""Key paths: the normal form, and what is asked of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from getc.paths import (
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

always_the_same = settings(derandomize=True, database=None, deadline=None)
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
def test_normal_has_one_slash_before_each_segment(key: str, expected: str) -> None:
    """Slashes that are missing, doubled or at the end do not matter; dots within a name do not either."""
    assert normalize(key) == expected


@always_the_same
@given(normal_keys)
def test_normal_leaves_a_normal_key_as_it_is(key: str) -> None:
    """Normalising again changes nothing."""
    assert normalize(key) == key
    assert normalize(key + '/') == key
    assert normalize(key[1:]) == key


@always_the_same
@given(normal_keys, normal_keys)
def test_without_undoes_join(directory: str, key: str) -> None:
    """What is put in front of a key can be taken off it; the key is then at or below the directory."""
    inside = join(directory, key)
    assert normalize(inside) == inside
    assert strip_prefix(directory, inside) == key
    assert is_below(inside, directory) == (key != ROOT)


@pytest.mark.parametrize('key', ['/ns2/a', '/n', '/other', '/'])
def test_without_leaves_a_key_outside_as_it_is(key: str) -> None:
    """A key that is not in the directory keeps its name, be it called alike."""
    assert strip_prefix('/ns', key) == key


@always_the_same
@given(normal_keys)
def test_parts_of_a_key_make_the_key(key: str) -> None:
    """Parent and name are the key; the ancestors are the parent, its parent, and so on, below the root."""
    assert child_prefix(parent_of(key)) + basename(key) == key
    above = ancestors(key)
    assert above == sorted(above, key=len)
    assert ROOT not in above
    assert above[-1:] == ([] if parent_of(key) == ROOT else [parent_of(key)])
    assert all(is_below(key, directory) for directory in [ROOT, *above] if key != ROOT)


def test_parts_of_a_key_are_those_of_a_path() -> None:
    """An example of each."""
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
def test_is_below_minds_the_boundary(key: str, directory: str, expected: bool) -> None:
    """A directory is not below itself, and a longer name is no child."""
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
def test_is_hidden_looks_below_the_directory_alone(key: str, directory: str, expected: bool) -> None:
    """A name with an underscore in front hides what is there from the directories above it, not from itself."""
    assert is_hidden(key, directory) is expected
