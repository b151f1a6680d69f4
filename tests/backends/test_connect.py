"""Which backend a URL means, and which options make sense with it."""

from __future__ import annotations

from typing import Any

import pytest

import getc
from getc.backends.autodetect import AutoBackend
from getc.backends.connect import open_backend
from getc.backends.memory.backend import MemoryBackend
from getc.backends.namespace import Namespaced
from getc.backends.tree.backend import TreeV3
from getc.backends.v2.backend import KeysV2
from getc.testing import EtcdServer

URL = 'http://127.0.0.1:1'


@pytest.mark.parametrize(
    ('url', 'options', 'kind', 'api'),
    [
        (URL, {}, AutoBackend, None),
        (URL, {'api': 'v3'}, TreeV3, 'v3'),
        (URL, {'api': 'v2'}, KeysV2, 'v2'),
        ('memory://', {}, MemoryBackend, 'memory'),
        (URL, {'namespace': '/a', 'api': 'v3'}, Namespaced, 'v3'),
        (URL, {'namespace': '/'}, AutoBackend, None),
        ('memory://', {'namespace': 'a'}, Namespaced, 'memory'),
    ],
)
def test_url_and_api_say_which_backend_it_is(url: str, options: Any, kind: type, api: str | None) -> None:
    """Without any I/O: nobody listens there."""
    opened = open_backend(url, **options)
    assert type(opened.backend) is kind
    assert (opened.backend.api, opened.urls) == (api, (url,))
    assert (opened.v3 is None) == url.startswith('memory')
    opened.backend.close()


def test_urls_are_without_credentials() -> None:
    """They are shown in messages."""
    opened = open_backend(['http://ann:secret@10.0.0.1:2379', 'http://10.0.0.2:2379'])
    assert opened.urls == ('http://10.0.0.1:2379', 'http://10.0.0.2:2379')
    opened.backend.close()


@pytest.mark.parametrize(
    ('url', 'options', 'error', 'message'),
    [
        (URL, {'api': 'v4'}, ValueError, "api is 'v2', 'v3' or None"),
        (URL, {'username': 'ann'}, ValueError, 'both username and password'),
        (URL, {'password': 'secret'}, ValueError, 'both username and password'),
        (URL, {'timeout': -1}, ValueError, 'at least 0'),
        (URL, {'timeout': '1'}, TypeError, 'seconds'),
        (URL, {'namespace': '/a/../b'}, ValueError, 'segment'),
        ('memory://', {'api': 'v3'}, ValueError, 'speaks no API'),
        ('memory://', {'username': 'ann', 'password': 'secret'}, ValueError, 'no users'),
        ('memory://', {'ca': 'ca.pem'}, ValueError, 'no certificates'),
        ('ftp://127.0.0.1', {}, ValueError, 'unknown scheme'),
        ('', {}, ValueError, 'no URL'),
        (None, {}, TypeError, 'is not iterable'),
    ],
)
def test_option_that_makes_no_sense_is_refused(url: Any, options: Any, error: type[Exception], message: str) -> None:
    """And no secret is in the message."""
    with pytest.raises(error, match=message) as caught:
        open_backend(url, **options)
    assert 'secret' not in str(caught.value)


def test_strict_is_the_trees_on_v3_and_nobody_elses(etcd_server: EtcdServer) -> None:
    """Without it a write asks nothing of what is above, so it can hide behind a value."""
    with getc.etcd(etcd_server.url, strict=False) as lax, getc.etcd(etcd_server.url) as strict:
        strict.set('/a', '1')
        with pytest.raises(getc.NotDir):
            strict.set('/a/b', '1')
        assert lax.set('/a/b', '1').value == '1'
        assert strict.get('/a/b').value == '1'


def test_v3_as_it_is_and_the_tree_share_one_connection(etcd_server: EtcdServer) -> None:
    """Under one end."""
    with getc.etcd(etcd_server.url) as client:
        client.set('/a', '1')
        assert client.v3.kv.range(b'/a').kvs[0].value == b'1'
        v3 = client.v3
    with pytest.raises(getc.ClientClosed):
        v3.kv.range(b'/a')
