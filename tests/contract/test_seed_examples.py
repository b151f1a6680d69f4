"""The examples of the document that getc was derived from, unchanged except for the name and Python 3's print."""

from __future__ import annotations

import re
from typing import Any

import gevent
import pytest

import getc


@pytest.fixture
def ttl(backend_under_test: Any) -> int:
    """The 42 seconds of the example, or 2 on a server, where time is real."""
    return 42 if backend_under_test.name == 'memory' else 2


def first_block(etcd: getc.Client, ttl: int) -> None:
    try:
        etcd.set('/etc', 'what!', prev_value='what?', ttl=ttl)
    except getc.TestFailed:
        pass
    if isinstance(etcd.wait('/etc'), getc.Expired):
        print('Expired')


def test_first_example_prints_expired_when_the_value_is_what(
    client: getc.Client,
    backend_under_test: Any,
    ttl: int,
    spawn: Any,
    wait_until: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """/etc is ``what?`` and becomes ``what!`` for some seconds; its expiry is received."""
    client.set('/etc', 'what?')
    running = spawn(first_block, client, ttl)
    wait_until(lambda: client.get('/etc').value == 'what!')
    backend_under_test.pass_time(ttl - 1)
    assert client.get('/etc').value == 'what!'
    backend_under_test.pass_time(2)
    running.get(timeout=60)
    assert capsys.readouterr().out == 'Expired\n'
    with pytest.raises(getc.KeyNotFound):
        client.get('/etc')


def test_first_example_continues_when_the_test_fails(
    client: getc.Client, ttl: int, spawn: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """/etc has another value: TestFailed is caught, and the next change, which is no expiry, is waited for."""
    client.set('/etc', 'something else')
    running = spawn(first_block, client, ttl)
    with gevent.Timeout(60):
        while not running.ready():
            client.set('/etc', 'something else')
            running.join(0.05)
    running.get()
    assert capsys.readouterr().out == ''
    assert client.get('/etc').value == 'something else'


def matches(shown: str, actual: str) -> bool:
    """Compare a text with one that has ellipses."""
    return re.fullmatch('.*'.join(re.escape(part) for part in shown.split('...')), actual) is not None


def test_usage_examples_print_what_the_document_shows(client: getc.Client) -> None:
    """set, get, delete, and the error of a get after it."""
    etcd = client
    assert matches("<getc.Set <getc.Value /hello='Hello, world' ...> ...>", repr(etcd.set('/hello', 'Hello, world')))
    assert matches("<getc.Got <getc.Value /hello='Hello, world' ...> ...>", repr(etcd.get('/hello')))
    deleted = repr(etcd.delete('/hello'))
    assert matches("<getc.Deleted ... prev_node=<getc.Value /hello='Hello, world' ...> ...>", deleted)
    with pytest.raises(getc.errors.KeyNotFound) as caught:
        etcd.get('/hello')
    assert f'{type(caught.value).__module__}.{type(caught.value).__qualname__}' == 'getc.errors.KeyNotFound'
    assert str(caught.value) == '[100] Key not found (/hello)'


def test_usage_examples_distinguish_values_and_directories(client: getc.Client) -> None:
    """With isinstance; dir=True creates a directory."""
    etcd = client
    etcd.set('/etc', 'what?')
    assert isinstance(etcd.get('/etc').node, getc.Value)
    assert matches('<getc.Set <getc.Directory /container[0] ...> ...>', repr(etcd.set('/container', dir=True)))
    assert isinstance(etcd.get('/container').node, getc.Directory)


def test_names_of_the_document_exist() -> None:
    """Every class and method in the document exists in getc."""
    kinds = ('Got', 'Set', 'Deleted', 'Created', 'Updated', 'Expired', 'ComparedThenSwapped', 'ComparedThenDeleted')
    for name in (*kinds, 'EtcdResult', 'Node', 'Value', 'Directory', 'EtcdError', 'TestFailed', 'Client', 'etcd'):
        assert hasattr(getc, name)
    for name in ('get', 'wait', 'set', 'create', 'update', 'append', 'delete', 'keep_node'):
        assert callable(getattr(getc.Client, name))
