"""Keys and values: every text that is valid, and errors before any I/O for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import getc

UNUSUAL_NAMES = [
    'a b',
    ' ',
    'a?b=c',
    'a#b',
    '100%',
    '%2F',
    '%41',
    'a+b',
    'a;b',
    'a&b=c',
    'a=b',
    'a:b@c',
    '"quoted"',
    "it's",
    '<&>',
    '\\',
    'a\\b',
    '[x]',
    '{x}',
    '~',
    '*',
    '-_.!',
    '...',
    '.hidden',
    'ends.',
    'tab\there',
    'line\nbreak',
    'return\r',
    '\x01\x7f',
    'é',
    'e\u0301',
    '鍵',
    '🔑',
    '\u2028',
    'x' * 500,
]


@pytest.mark.parametrize('name', UNUSUAL_NAMES, ids=ascii)
def test_unusual_key_is_written_and_read_unchanged(client: getc.Client, name: str) -> None:
    """Any text is a valid name: it is written, listed, read and deleted unchanged."""
    key = f'/d/{name}'
    assert client.set(key, '1').key == key
    assert [node.key for node in client.get('/d').nodes] == [key]
    assert client.get(key).value == '1'
    assert client.delete(key).key == key
    with pytest.raises(getc.KeyNotFound):
        client.get(key)


@pytest.mark.parametrize('name', ['a b', 'a?b=c', 'a#b', '100%', '%2F', 'a+b', 'a;b', 'é', '🔑'], ids=ascii)
def test_wait_matches_an_unusual_key(client: getc.Client, name: str) -> None:
    """Also a recursive wait on the parent directory."""
    written = client.set(f'/d/{name}', '1')
    assert client.wait(f'/d/{name}', written.etcd_index, timeout=10).key == f'/d/{name}'
    assert client.wait('/d', written.etcd_index, recursive=True, timeout=10).key == f'/d/{name}'


@pytest.mark.parametrize('name', ['a b', 'a?b', 'é/🔑'], ids=ascii)
def test_unusual_key_may_be_a_directory(client: getc.Client, name: str) -> None:
    client.set(f'/{name}', dir=True)
    assert client.append(f'/{name}', '1').key.startswith(f'/{name}/0')
    assert client.delete(f'/{name}', recursive=True).key == f'/{name}'


@pytest.mark.parametrize('key', ['a/b', '/a/b/', '//a/b', '/a//b', 'a//b///', '///a/b'])
def test_key_is_normalised_when_slashes_are_missing_or_doubled(client: getc.Client, key: str) -> None:
    """One leading slash, no double and no trailing one: every method accepts every form."""
    assert client.set(key, '1').key == '/a/b'
    assert client.get(key).key == '/a/b'
    assert client.update(key, '2').key == '/a/b'
    assert client.wait(key, client.get(key).modified_index, timeout=10).key == '/a/b'
    assert client.delete(key).key == '/a/b'


@pytest.mark.parametrize(
    'value',
    [
        '',
        ' ',
        '0',
        'a&b=c',
        'a+b',
        '100%',
        '%41',
        'a;b',
        'é',
        '🔑',
        'line\nbreak\r\n',
        '\x00',
        '\x01\x7f',
        '"\\',
        '<&>',
        '\u2028',
        'true',
        'null',
        '{"a": [1]}',
    ],
    ids=ascii,
)
def test_unusual_value_is_written_and_read_unchanged(client: getc.Client, value: str) -> None:
    """Any text is a valid value, also the empty one."""
    written = client.set('/a', value)
    assert written.value == value
    assert client.get('/a').node == written.node
    assert client.delete('/a').prev_node == written.node


def test_value_of_a_megabyte_is_written_and_read(client: getc.Client) -> None:
    value = 'v€' * (1024 * 256)
    assert len(value.encode()) == 1024 * 1024
    client.set('/big', value)
    assert client.get('/big').value == value


# -- invalid keys and values: the client of these tests fails on any I/O

CALLS_WITH_A_KEY: list[Callable[[getc.Client, Any], object]] = [
    lambda client, key: client.get(key),
    lambda client, key: client.set(key, '1'),
    lambda client, key: client.create(key, '1'),
    lambda client, key: client.update(key, '1'),
    lambda client, key: client.refresh(key, ttl=1),
    lambda client, key: client.append(key, '1'),
    lambda client, key: client.delete(key),
    lambda client, key: client.wait(key, timeout=1),
]


@pytest.mark.parametrize('call', CALLS_WITH_A_KEY)
@pytest.mark.parametrize('key', ['/a\0b', '\0', '.', '/..', '/a/./b', '/a/../b', 'a/..', '/a/.', '/\ud800'], ids=ascii)
def test_key_that_is_not_a_path_raises_value_error(
    refusing: getc.Client, call: Callable[[getc.Client, Any], object], key: str
) -> None:
    """NUL, the segments ``.`` and ``..``, and text that cannot be encoded, before any I/O."""
    with pytest.raises(ValueError, match=r'key|encodable'):
        call(refusing, key)


@pytest.mark.parametrize('call', CALLS_WITH_A_KEY)
@pytest.mark.parametrize('key', [None, b'/a', 1, ['/a']], ids=repr)
def test_key_that_is_not_a_str_raises_type_error(
    refusing: getc.Client, call: Callable[[getc.Client, Any], object], key: Any
) -> None:
    """Before any I/O."""
    with pytest.raises(TypeError, match='key'):
        call(refusing, key)


@pytest.mark.parametrize('text', ['\udcff', 'a\udc80b'], ids=ascii)
@pytest.mark.v3_differs('v3 keeps any bytes')
def test_surrogate_escaped_bytes_are_not_supported(client: getc.Client, backend_under_test: Any, text: str) -> None:
    """etcd v2 supports text only: surrogate escapes raise NotSupported in a key, and on a server in a value."""
    calls = [
        lambda: client.set(f'/{text}', '1'),
        lambda: client.get(f'/{text}'),
        lambda: client.wait(f'/{text}', timeout=1),
    ]
    if backend_under_test.name == 'v2':
        calls += [
            lambda: client.set('/a', text),
            lambda: client.append('/a', text),
            lambda: client.delete('/a', prev_value=text),
        ]
    for call in calls:
        with pytest.raises(getc.NotSupported):
            call()
