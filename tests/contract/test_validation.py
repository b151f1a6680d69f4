"""Invalid arguments raise TypeError or ValueError before any I/O.

The client of these tests fails with ConnectionRefused on any I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import getc

Call = Callable[[getc.Client], object]


def test_valid_arguments_reach_the_network(refusing: getc.Client) -> None:
    """The premise of this file."""
    for call in (
        lambda: refusing.get('/a'),
        lambda: refusing.set('/a', '1'),
        lambda: refusing.wait('/a', timeout=10),
        lambda: refusing.append('/a', '1'),
        lambda: refusing.delete('/a'),
    ):
        with pytest.raises(getc.ConnectionRefused) as caught:
            call()
        assert caught.value.maybe_applied is False
        assert isinstance(caught.value, ConnectionRefusedError)


@pytest.mark.parametrize(
    'value', [1, 1.5, True, bytearray(b'x'), ['x'], {'a': 1}, object()], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize('method', ['set', 'create', 'update', 'append'])
def test_value_that_is_not_text_raises_type_error(refusing: getc.Client, method: str, value: Any) -> None:
    """A value is not converted, and the error does not show it."""
    with pytest.raises(TypeError, match=f'value must be str or bytes, not {type(value).__name__}'):
        getattr(refusing, method)('/a', value)


@pytest.mark.parametrize('method', ['set', 'create', 'update', 'append'])
@pytest.mark.parametrize(
    ('args', 'options'), [((), {}), (('x',), {'dir': True}), (('',), {'dir': True}), ((None,), {'dir': False})]
)
def test_value_and_dir_together_or_neither_raise_value_error(
    refusing: getc.Client, method: str, args: tuple[Any, ...], options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match='dir=True'):
        getattr(refusing, method)('/a', *args, **options)


TTL_CALLS: list[Callable[[getc.Client, Any], object]] = [
    lambda client, ttl: client.set('/a', '1', ttl=ttl),
    lambda client, ttl: client.set('/a', dir=True, ttl=ttl),
    lambda client, ttl: client.create('/a', '1', ttl=ttl),
    lambda client, ttl: client.update('/a', '1', ttl=ttl),
    lambda client, ttl: client.append('/a', '1', ttl=ttl),
    lambda client, ttl: client.refresh('/a', ttl=ttl),
    lambda client, ttl: client.set('/a', refresh=True, ttl=ttl),
]


@pytest.mark.parametrize('call', TTL_CALLS)
@pytest.mark.parametrize('ttl', [1.0, 1.5, '1', True, b'1', float('nan')], ids=repr)
def test_ttl_that_is_not_an_int_raises_type_error(
    refusing: getc.Client, call: Callable[[getc.Client, Any], object], ttl: Any
) -> None:
    with pytest.raises(TypeError, match='ttl must be an int'):
        call(refusing, ttl)


@pytest.mark.parametrize('call', TTL_CALLS)
@pytest.mark.parametrize('ttl', [-1, -(10**30), 10**10, 10**30])
def test_ttl_out_of_range_raises_value_error(
    refusing: getc.Client, call: Callable[[getc.Client, Any], object], ttl: int
) -> None:
    """Not negative, and not so great that the server's clock overflows."""
    with pytest.raises(ValueError, match='ttl must be at'):
        call(refusing, ttl)


CONDITION_CALLS: list[Callable[..., object]] = [
    lambda client, **conditions: client.set('/a', '1', **conditions),
    lambda client, **conditions: client.update('/a', '1', **conditions),
    lambda client, **conditions: client.refresh('/a', ttl=1, **conditions),
    lambda client, **conditions: client.delete('/a', **conditions),
]


@pytest.mark.parametrize('call', CONDITION_CALLS)
def test_empty_or_non_text_prev_value_raises(refusing: getc.Client, call: Callable[..., object]) -> None:
    """The server cannot compare with the empty value: ValueError.  Other types raise TypeError."""
    with pytest.raises(ValueError, match='prev_value'):
        call(refusing, prev_value='')
    with pytest.raises(ValueError, match='prev_value'):
        call(refusing, prev_value=b'')
    for wrong in (1, bytearray(b'1'), True):
        with pytest.raises(TypeError, match='prev_value'):
            call(refusing, prev_value=wrong)


@pytest.mark.parametrize('call', CONDITION_CALLS)
def test_zero_or_non_int_prev_index_raises(refusing: getc.Client, call: Callable[..., object]) -> None:
    """The server would ignore an index of 0: ValueError, as for a negative one."""
    for wrong_number in (0, -1):
        with pytest.raises(ValueError, match='prev_index'):
            call(refusing, prev_index=wrong_number)
    for wrong in ('1', 1.0, True):
        with pytest.raises(TypeError, match='prev_index'):
            call(refusing, prev_index=wrong)


@pytest.mark.parametrize('method', ['set', 'update'])
@pytest.mark.parametrize('value', ['x', ''])
def test_refresh_raises_refresh_value_when_a_value_is_given(refusing: getc.Client, method: str, value: str) -> None:
    """Error 211, as the server's, before any I/O."""
    with pytest.raises(getc.RefreshValue) as caught:
        getattr(refusing, method)('/a', value, refresh=True, ttl=5)
    assert (caught.value.errno, caught.value.cause) == (211, '/a')


@pytest.mark.parametrize('method', ['set', 'update'])
def test_refresh_raises_ttl_required_when_none_is_given(refusing: getc.Client, method: str) -> None:
    """Error 212, as the server's, before any I/O."""
    with pytest.raises(getc.RefreshTTLRequired) as caught:
        getattr(refusing, method)('/a', refresh=True)
    assert (caught.value.errno, caught.value.cause) == (212, '/a')


def test_invalid_index_of_wait_raises(refusing: getc.Client) -> None:
    """An index is an int of at least 0."""
    for wrong in ('1', 1.0, True):
        with pytest.raises(TypeError, match='index'):
            refusing.wait('/a', wrong, timeout=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='index'):
        refusing.wait('/a', -1, timeout=1)


CALLS_WITH_A_TIMEOUT: list[Callable[[getc.Client, Any], object]] = [
    lambda client, timeout: client.get('/a', timeout=timeout),
    lambda client, timeout: client.set('/a', '1', timeout=timeout),
    lambda client, timeout: client.create('/a', '1', timeout=timeout),
    lambda client, timeout: client.update('/a', '1', timeout=timeout),
    lambda client, timeout: client.refresh('/a', ttl=1, timeout=timeout),
    lambda client, timeout: client.append('/a', '1', timeout=timeout),
    lambda client, timeout: client.delete('/a', timeout=timeout),
    lambda client, timeout: client.wait('/a', timeout=timeout),
]


@pytest.mark.parametrize('call', CALLS_WITH_A_TIMEOUT)
def test_invalid_timeout_raises(refusing: getc.Client, call: Callable[[getc.Client, Any], object]) -> None:
    """A timeout is a number of seconds of at least 0, or None."""
    for wrong in ('1', True, [1]):
        with pytest.raises(TypeError, match='timeout'):
            call(refusing, wrong)
    for wrong_number in (-1, -0.5, float('nan')):
        with pytest.raises(ValueError, match='timeout'):
            call(refusing, wrong_number)


@pytest.mark.parametrize('method', ['get', 'delete', 'refresh'])
def test_options_are_keyword_only(refusing: getc.Client, method: str) -> None:
    """Only key, value and index may be positional."""
    with pytest.raises(TypeError):
        getattr(refusing, method)('/a', True)


@pytest.mark.parametrize('method', ['set', 'create', 'update', 'append', 'wait'])
def test_options_are_keyword_only_after_the_second(refusing: getc.Client, method: str) -> None:
    """Only key, value and index may be positional."""
    with pytest.raises(TypeError):
        getattr(refusing, method)('/a', None, True)


@pytest.mark.parametrize(
    ('options', 'error'),
    [
        ({'api': 'v1'}, (ValueError, getc.NotSupported)),
        ({'timeout': '1'}, TypeError),
        ({'timeout': -1}, ValueError),
        ({'namespace': '/a/../b'}, ValueError),
        ({'namespace': 1}, TypeError),
        ({'ca': '/ca.pem'}, ValueError),
        ({'cert': '/me.pem', 'key': '/me.key'}, ValueError),
    ],
    ids=str,
)
def test_invalid_option_of_a_client_raises(options: dict[str, Any], error: Any) -> None:
    """Without any I/O."""
    with pytest.raises(error):
        getc.etcd('http://127.0.0.1:1', **options)


@pytest.mark.parametrize(
    'url',
    ['ftp://127.0.0.1', '127.0.0.1:2379', '', 'http://', 'http://127.0.0.1:port', 'http://127.0.0.1:99999', []],
    ids=repr,
)
def test_invalid_url_raises_value_error(url: Any) -> None:
    with pytest.raises(ValueError):
        getc.etcd(url)


def test_certificates_without_an_https_url_raise_value_error() -> None:
    """Nothing would be verified."""
    with pytest.raises(ValueError, match=r'ca= needs an https:// URL, not http://10\.0\.0\.1:2379'):
        getc.etcd('http://10.0.0.1:2379', ca='/etc/ca.pem')


@pytest.mark.parametrize(
    ('url', 'suggestion'),
    [
        ('127.0.0.1:2379', "'127.0.0.1:2379' has no scheme: write 'http://127.0.0.1:2379', or https:// for TLS"),
        ('ann:secret@etcd', "'...@etcd' has no scheme: write 'http://...@etcd', or https:// for TLS"),
        ('http://a,localhost', "'localhost' has no scheme: write 'http://localhost', or https:// for TLS"),
        ('etcd://a', "'etcd://a' has an unknown scheme: write http://, https://, unix://, etcd+srv:// or memory://"),
    ],
)
def test_url_without_a_scheme_gets_a_suggestion(url: str, suggestion: str) -> None:
    """Other clients accept host and port alone."""
    with pytest.raises(ValueError, match=re.escape(suggestion)):
        getc.etcd(url)


@pytest.mark.parametrize('method', ['get', 'set', 'delete', 'wait', 'keep_node', 'on_change', 'mirror', 'close'])
def test_type_error_names_the_public_method(refusing: getc.Client, method: str) -> None:
    """Not a base class."""
    with pytest.raises(TypeError, match=rf'Client\.{method}\(\)'):
        getattr(refusing, method)(nonsense=1)
