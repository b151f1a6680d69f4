"""``append``: nodes with names in order of creation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import getc


def test_append_creates_a_node_with_a_numeric_name(client: getc.Client) -> None:
    """The name is a number of 20 digits; the directory is created."""
    result = client.append('/q', '1')
    assert type(result) is getc.Created
    assert re.fullmatch('/q/[0-9]{20}', result.key)
    assert result.value == '1'
    assert result.is_new
    assert result.prev_node is None
    assert client.get(result.key).node == result.node


def test_append_names_sort_in_order_of_creation(client: getc.Client) -> None:
    """Other writes in between do not matter."""
    keys = []
    for number in range(12):
        keys.append(client.append('/q', str(number)).key)
        client.set('/elsewhere', str(number))
    assert keys == sorted(keys)
    listing = client.get('/q', sorted=True)
    assert [node.key for node in listing.nodes] == keys
    assert listing.values == tuple(str(number) for number in range(12))


@pytest.mark.v3_differs('the name is the last known revision + 1 on v3')
def test_append_uses_the_index_as_name(client: getc.Client) -> None:
    """On v2 the number is the index of the write."""
    client.append('/q', '1')
    result = client.append('/q', '2')
    assert int(result.key.rpartition('/')[2]) == result.created_index


def test_append_does_not_reuse_a_name_after_delete(client: getc.Client) -> None:
    first = client.append('/q', '1')
    client.delete(first.key)
    assert client.append('/q', '2').key > first.key


def test_append_creates_a_directory_when_dir(client: getc.Client) -> None:
    result = client.append('/q', dir=True)
    assert isinstance(result.node, getc.Directory)
    client.set(f'{result.key}/a', '1')
    assert client.get(result.key).values == ('1',)


def test_append_sets_the_ttl(client: getc.Client) -> None:
    result = client.append('/q', '1', ttl=60)
    assert result.ttl == 60
    assert result.expiration is not None
    assert 0 < (client.get(result.key).ttl or 0) <= 60


def test_append_raises_not_dir_when_the_key_is_a_value(client: getc.Client) -> None:
    """Nothing can be appended to a value or below one: error 104."""
    client.set('/a', '1')
    for key in ('/a', '/a/b'):
        with pytest.raises(getc.NotDir) as caught:
            client.append(key, '2')
        assert caught.value.cause == '/a'


@pytest.mark.whole_tree
def test_append_accepts_the_root(client: getc.Client) -> None:
    result = client.append('/', '1')
    assert re.fullmatch('/[0-9]{20}', result.key)


def test_append_accepts_a_hidden_directory(client: getc.Client) -> None:
    result = client.append('/_q', '1')
    assert client.get('/_q').nodes == (result.node,)


def test_concurrent_appends_get_different_names(client: getc.Client, spawn: Callable[..., Any]) -> None:
    appending = [spawn(client.append, '/q', str(number)) for number in range(20)]
    results = [greenlet.get(timeout=30) for greenlet in appending]
    assert len({result.key for result in results}) == 20
    in_order = sorted(results, key=lambda result: result.created_index)
    assert [result.key for result in in_order] == sorted(result.key for result in results)
    assert set(client.get('/q').values) == {str(number) for number in range(20)}


@pytest.mark.v3_differs('a PUT event is Set on v3, because events do not have the operation')
def test_wait_sees_an_append_when_recursive(client: getc.Client) -> None:
    """An append is a Created of a node below the directory."""
    appended = client.append('/q', '1')
    seen = client.wait('/q', appended.modified_index, recursive=True, timeout=10)
    assert type(seen) is getc.Created
    assert seen.node == appended.node
    assert seen.is_new
