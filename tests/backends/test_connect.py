"""open_backend: the backend that the options of a client ask for."""

from __future__ import annotations

from typing import Any

import pytest

import getc
from getc.backends.autodetect import AutoBackend
from getc.backends.connect import OpenBackend, open_backend
from getc.backends.memory.backend import MemoryBackend
from getc.backends.namespace import Namespaced
from getc.backends.tree.backend import TreeV3
from getc.backends.v2.backend import KeysV2
from getc.options import Options
from getc.testing import EtcdServer

URL = 'http://127.0.0.1:1'


def opened_with(**options: Any) -> OpenBackend:
    return open_backend(Options(**options), label='test', on_state=print, on_detected=print)


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
def test_open_backend_chooses_the_backend_by_url_and_api(url: str, options: Any, kind: type, api: str | None) -> None:
    """Without network I/O: no server listens on the port."""
    opened = opened_with(url=url, **options)
    assert type(opened.backend) is kind
    assert opened.backend.api == api
    assert opened.url_in_use() == (None if api is None else url)
    assert (opened.v3 is None) == url.startswith('memory')
    opened.backend.close()


def test_client_that_is_not_strict_writes_below_a_value(etcd_server: EtcdServer) -> None:
    """Its writes do not check the keys above."""
    with getc.etcd(etcd_server.url, strict=False) as lax, getc.etcd(etcd_server.url) as strict:
        strict.set('/a', '1')
        with pytest.raises(getc.NotDir):
            strict.set('/a/b', '1')
        assert lax.set('/a/b', '1').value == '1'
        assert strict.get('/a/b').value == '1'


def test_close_of_a_client_closes_its_v3(etcd_server: EtcdServer) -> None:
    with getc.etcd(etcd_server.url) as client:
        client.set('/a', '1')
        assert client.v3.kv.range(b'/a').kvs[0].value == b'1'
        v3 = client.v3
    with pytest.raises(getc.ClientClosed):
        v3.kv.range(b'/a')


@pytest.mark.parametrize('namespace', [None, '/inside'])
def test_client_replaces_the_detecting_backend_after_the_first_call(
    etcd_server: EtcdServer, namespace: str | None
) -> None:
    """Later calls do not pass through the AutoBackend; a namespace stays in front."""
    with getc.etcd(etcd_server.url, namespace=namespace) as client:
        before: Any = client._backend
        client.set('/a', '1')
        after: Any = client._backend
        assert client.get('/a').value == '1'
    if namespace is not None:
        assert (type(before), type(after)) == (Namespaced, Namespaced)
        before, after = before._backend, after._backend
    assert type(before) is AutoBackend
    assert type(after) in (TreeV3, KeysV2)
