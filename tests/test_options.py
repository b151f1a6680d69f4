"""Options: validation, and what the repr shows."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import getc
from getc.options import Options

URL = 'http://127.0.0.1:1'


def test_options_have_the_parameters_and_defaults_of_etcd() -> None:
    parameters = [inspect.signature(function).parameters.values() for function in (Options, getc.etcd)]
    of_options, of_etcd = [
        [(each.name, each.default, each.annotation) for each in signature] for signature in parameters
    ]
    assert of_options == of_etcd


def test_urls_are_without_credentials() -> None:
    options = Options(['http://ann:secret@10.0.0.1:2379', 'http://10.0.0.2'], username='bob', password='hunter2')
    assert options.urls == ('http://10.0.0.1:2379', 'http://10.0.0.2:2379')
    assert [endpoint.username for endpoint in options.endpoints] == ['ann', 'bob']
    assert 'secret' not in repr(options) and 'hunter2' not in repr(options)


@pytest.mark.parametrize(('url', 'name'), [(URL, None), ('memory://', ''), ('memory://game', 'game')])
def test_store_name_is_that_of_a_store_in_memory(url: str, name: str | None) -> None:
    assert Options(url).store_name == name


def test_namespace_is_normalized() -> None:
    assert Options(namespace='a//b/').namespace == '/a/b'
    assert Options().namespace is Options(namespace='/').namespace is None


@pytest.mark.parametrize(
    ('url', 'options', 'error', 'message'),
    [
        (URL, {'api': 'v4'}, ValueError, "api must be 'v2', 'v3' or None, not 'v4'"),
        (URL, {'username': 'ann'}, ValueError, 'both username and password'),
        (URL, {'password': 'secret'}, ValueError, 'both username and password'),
        (URL, {'timeout': -1}, ValueError, 'timeout must be at least 0 s, not -1'),
        (URL, {'timeout': '1'}, TypeError, 'timeout must be a number of seconds or None, not str'),
        (URL, {'namespace': '/a/../b'}, ValueError, 'segment'),
        ('memory://', {'api': 'v3'}, ValueError, 'api= cannot be used with memory://'),
        ('memory://', {'sync': 60}, ValueError, 'sync= cannot be used with memory://'),
        (URL, {'sync': '60'}, TypeError, 'sync must be a number of seconds or None, not str'),
        (URL, {'sync': True}, TypeError, 'sync must be a number of seconds or None, not bool'),
        (URL, {'sync': 0.5}, ValueError, 'sync must be at least 1 s, and finite, not 0.5'),
        (URL, {'sync': float('nan')}, ValueError, 'sync must be at least 1 s, and finite, not nan'),
        (URL, {'sync': float('inf')}, ValueError, 'sync must be at least 1 s, and finite, not inf'),
        ('unix:///a', {'api': 'v2'}, ValueError, 'unix:///a is a unix socket, which API v2 cannot use'),
        ('unix:///a', {'ca': 'ca.pem'}, ValueError, 'ca= needs an https:// URL, not unix:///a'),
        ('etcd+srv://', {}, ValueError, "'etcd.srv://' is invalid: write etcd.srv://DOMAIN"),
        ('etcd+srv://ann:secret@a:1', {}, ValueError, "'etcd.srv://a:1' is invalid"),
        (
            'memory://',
            {'username': 'ann', 'password': 'secret'},
            ValueError,
            'memory:// takes no username, password, ca, cert or key',
        ),
        ('memory://', {'ca': 'ca.pem'}, ValueError, 'memory:// takes no username, password, ca, cert or key'),
        (URL, {'ca': 'ca.pem', 'key': 'key.pem'}, ValueError, 'ca=, key= need an https:// URL, not http://127.0.0.1:1'),
        (URL, {'username': 1, 'password': 'secret'}, TypeError, 'username must be a str, not int'),
        (URL, {'username': 'ann', 'password': b'secret'}, TypeError, 'password must be a str, not bytes'),
        ('https://a', {'ca': 1}, TypeError, r'ca must be the path of a file \(str\), not int'),
        (['memory://x'], {}, ValueError, 'memory:// must be the only URL, given as a str'),
        (f'{URL},memory://x', {}, ValueError, 'memory:// must be the only URL, given as a str'),
        ('ftp://127.0.0.1', {}, ValueError, 'unknown scheme'),
        ('', {}, ValueError, 'no URL'),
        (None, {}, TypeError, 'url must be a str or a list of str, not NoneType'),
        (b'http://a', {}, TypeError, 'url must be a str or a list of str, not bytes'),
    ],
)
def test_options_raise_when_one_is_invalid(url: Any, options: Any, error: type[Exception], message: str) -> None:
    """The message contains no secret."""
    with pytest.raises(error, match=message) as caught:
        Options(url, **options)
    assert 'secret' not in str(caught.value)


def test_options_select_v3_for_a_unix_socket() -> None:
    """Without a request for the version, which could need HTTP/1."""
    assert Options('unix:///run/etcd.sock').api == 'v3'
    options = Options('http://a,unixs:///run/etcd.sock', ca='ca.pem')
    assert (options.api, options.is_secure) == ('v3', True)


def test_options_hold_the_domain_of_an_srv_url() -> None:
    """With the credentials of the URL or of the options, and without endpoints: they are looked up later."""
    options = Options('ETCD+srv://ann:secret@example.com?name=blue', sync=60)
    assert options.srv is not None
    assert (options.srv.domain, options.srv.name, options.srv.username) == ('example.com', 'blue', 'ann')
    assert (options.endpoints, options.urls) == ((), ('etcd+srv://example.com?name=blue',))
    assert (options.is_secure, options.store_name, options.sync) == (True, None, 60)
    assert 'secret' not in repr(options)
