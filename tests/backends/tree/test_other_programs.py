"""The tree on etcd v3 and other programs: what they read, what they write, and users with few permissions."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gevent
import pytest

import getc
from getc.testing import EtcdBinary, EtcdServer, wait_until
from getc.v3.ranges import prefix_end

pytestmark = pytest.mark.timeout(300)

LONG = 30.0


@pytest.fixture
def client(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    """A client of an empty store."""
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


# -- etcdctl

Etcdctl = Callable[..., bytes]


@pytest.fixture
def etcdctl(etcd_server: EtcdServer) -> Etcdctl:
    """Runs etcdctl and returns its output."""
    path = Path(etcd_server.binary.path).with_name('etcdctl')
    if not os.access(path, os.X_OK):
        pytest.skip(f'there is no etcdctl beside {etcd_server.binary.path}')

    def run(*arguments: str | bytes) -> bytes:
        command = [str(path), f'--endpoints={etcd_server.url}', *arguments]
        return subprocess.run(command, env={'ETCDCTL_API': '3'}, check=True, capture_output=True, timeout=LONG).stdout

    return run


def test_etcdctl_sees_plain_keys_and_values(client: getc.Client, etcdctl: Etcdctl) -> None:
    """The key of a node is its path, its value its text, and nothing else is stored."""
    client.set('/servers/a', 'Grüße')
    client.set('/servers/b', '10.0.0.8:7000', ttl=60)
    client.set('/container', dir=True)
    jobs = client.append('/jobs', 'first').key
    keys = etcdctl('get', '', '--prefix', '--keys-only').decode().split()
    assert keys == ['/container/', jobs, '/servers/a', '/servers/b']
    assert etcdctl('get', '/servers/a', '--print-value-only') == 'Grüße\n'.encode()
    assert etcdctl('get', '/container/', '--print-value-only') == b'\n'
    found = json.loads(etcdctl('get', '/servers/b', '-w', 'json'))
    assert found['kvs'][0]['lease'] > 0
    client.delete('/servers', recursive=True)
    assert etcdctl('get', '/servers', '--prefix') == b''


def test_keys_that_etcdctl_writes_are_in_the_tree(client: getc.Client, etcdctl: Etcdctl) -> None:
    """With their revisions, and watchers are notified."""
    start = client.set('/other', 'x').etcd_index
    etcdctl('put', '/cfg/rate', '20')
    etcdctl('put', '/cfg/rate', '30')
    etcdctl('del', '/cfg/rate')
    seen = [client.wait('/cfg', start + step, recursive=True, timeout=LONG) for step in (1, 2, 3)]
    assert [(type(result), result.value, result.is_new) for result in seen] == [
        (getc.Set, '20', True),
        (getc.Set, '30', False),
        (getc.Deleted, None, False),
    ]
    etcdctl('put', '/cfg/rate', '40')
    assert client.get('/cfg').values == ('40',)
    lease = etcdctl('lease', 'grant', '300').split()[1].decode()
    etcdctl('put', '/cfg/rate', '50', f'--lease={lease}')
    assert 290 < client.get('/cfg/rate').ttl <= 300  # type: ignore[operator]
    etcdctl('lease', 'revoke', lease)
    assert type(client.wait('/cfg/rate', start + 6, timeout=LONG)) is getc.Expired


# -- keys and values that getc does not write


def put(client: getc.Client, **pairs: bytes) -> None:
    for key, value in pairs.items():
        client.v3.kv.put(key.encode(), value)


def keys_of(directory: getc.EtcdResult | getc.Node) -> list[str]:
    return [node.key for node in directory.nodes]


ODD = [
    b'noslash',
    b'no/slash',
    b'//x',
    b'/a//b',
    b'/a//',
    b'/.',
    b'/a/.',
    b'/a/../b',
    b'/..',
    b'/a/\0',
    b'/',
    b'a',
    b'\xff',
]


def test_keys_that_are_not_paths_are_left_alone(client: getc.Client) -> None:
    """They are neither listed nor reported."""
    start = client.set('/a/z', 'ours').etcd_index
    for raw in ODD:
        client.v3.kv.put(raw, b'other')
    assert keys_of(client.get('/')) == ['/a']
    assert keys_of(client.get('/', recursive=True)) == ['/a']
    assert keys_of(client.get('/a', recursive=True)) == ['/a/z']
    last = client.set('/a/z', 'again').etcd_index
    for key in ('/', '/a'):
        assert client.wait(key, start + 1, recursive=True, timeout=LONG).modified_index == last
    client.delete('/a', recursive=True)
    left = {kv.key for kv in client.v3.kv.range(b'\0', range_end=b'\0', keys_only=True).kvs}
    assert left == {raw for raw in ODD if not raw.startswith(b'/a/')}


def test_directory_of_keys_that_are_not_paths_exists_and_is_empty(client: getc.Client) -> None:
    """A value in its place would hide them; a recursive delete removes them."""
    client.v3.kv.put(b'/a//b', b'other')
    assert client.get('/a').nodes == ()
    with pytest.raises(getc.NotFile):
        client.set('/a', '1')
    with pytest.raises(getc.DirNotEmpty):
        client.delete('/a', dir=True)
    client.delete('/a', recursive=True)
    assert client.set('/a', '1').is_new


def test_bytes_that_are_not_utf8_are_read_and_written_unchanged(client: getc.Client) -> None:
    """In keys and in values: escaped in text."""
    start = client.set('/other', 'x').etcd_index
    client.v3.kv.put(b'/bin/\xff\xfe', b'\x00\x80\xff')
    listing = client.get('/bin', recursive=True)
    (node,) = listing.nodes
    assert isinstance(node, getc.Value)
    assert (node.key, node.value, node.raw_value) == ('/bin/\udcff\udcfe', '\x00\udc80\udcff', b'\x00\x80\xff')
    seen = client.wait('/bin', start + 1, recursive=True, timeout=LONG)
    assert (seen.key, seen.value) == (node.key, node.value)
    assert client.get(node.key).value == node.value
    client.set(node.key, node.value + '!', prev_value=node.value)
    assert client.v3.kv.range(b'/bin/\xff\xfe').kvs[0].value == b'\x00\x80\xff!'
    client.set('/copy', node.value)
    assert client.v3.kv.range(b'/copy').kvs[0].value == b'\x00\x80\xff'
    client.delete(node.key)
    assert not client.v3.kv.range(b'/bin/\xff\xfe').kvs


def test_value_with_keys_below_it_is_read_as_a_value(client: getc.Client) -> None:
    """The keys below can be read by their own paths; a recursive delete removes all."""
    put(client, **{'/a': b'value', '/a/b': b'below', '/a/c/d': b'deep'})
    for recursive in (False, True):
        assert client.get('/a', recursive=recursive).value == 'value'
        (node,) = client.get('/', recursive=recursive).nodes
        assert isinstance(node, getc.Value)
    assert client.get('/a/b').value == 'below'
    assert keys_of(client.get('/a/c')) == ['/a/c/d']
    assert client.update('/a', 'other').value == 'other'
    with pytest.raises(getc.NotFile):
        client.set('/a', 'again')
    with pytest.raises(getc.NotDir):
        client.set('/a/b', 'again')
    assert client.update('/a/b', 'again').value == 'again'
    gone = client.delete('/a', recursive=True)
    assert gone.prev_node is not None and gone.prev_node.key == '/a'
    with pytest.raises(getc.KeyNotFound):
        client.get('/a/c/d')


def test_delete_of_a_value_leaves_the_keys_below_it(client: getc.Client) -> None:
    """They make a directory then; also with ``dir``, if a marker is there."""
    put(client, **{'/a': b'value', '/a/b': b'below'})
    client.delete('/a')
    assert keys_of(client.get('/a')) == ['/a/b']
    put(client, **{'/e': b'value', '/e/': b''})
    assert isinstance(client.delete('/e', dir=True).prev_node, getc.Value)
    assert isinstance(client.get('/e').node, getc.Directory)
    client.delete('/e', dir=True)
    with pytest.raises(getc.KeyNotFound):
        client.get('/e')


def test_marker_alone_is_an_empty_directory(client: getc.Client) -> None:
    """Whatever its value; the indices of the directory are those of the marker."""
    revision = client.v3.kv.put(b'/d/', b'what?').header.revision
    made = client.get('/d')
    assert isinstance(made.node, getc.Directory)
    assert (made.nodes, made.created_index, made.modified_index) == ((), revision, revision)
    assert keys_of(client.get('/')) == ['/d']
    for refused in (lambda: client.set('/d', '1'), lambda: client.delete('/d'), lambda: client.set('/d', dir=True)):
        with pytest.raises(getc.NotFile):
            refused()
    client.set('/d/a', '1')
    client.delete('/d/a')
    assert client.get('/d').nodes == ()  # its marker is there
    client.delete('/d', dir=True)
    assert client.get('/').nodes == ()


def test_keys_of_10_kb_work_in_every_operation(client: getc.Client) -> None:
    deep = '/' + '/'.join(['x' * 500] * 20)
    for key in ('/' + 'x' * 10_000, deep):
        start = client.create(key, '1').etcd_index
        assert client.get(key).value == '1'
        client.update(key, '2', prev_value='1')
        assert client.wait(key, start + 1, timeout=LONG).value == '2'
        assert client.append('/' + key.split('/')[1] + '-q', 'job').value == 'job'
        client.delete(key)


def test_lease_that_another_program_granted_is_the_ttl(client: getc.Client) -> None:
    """A refresh with the same TTL keeps it alive."""
    lease = client.v3.lease.grant(500).ID
    client.v3.kv.put(b'/a', b'1', lease=lease)
    got = client.get('/a')
    assert got.ttl is not None and 490 < got.ttl <= 500
    assert got.expiration is not None
    assert client.refresh('/a', ttl=500).modified_index == got.modified_index
    assert client.v3.kv.range(b'/a').kvs[0].lease == lease


def test_hidden_nodes_are_neither_listed_nor_reported_above_them(client: getc.Client) -> None:
    """They can be read, listed and watched themselves."""
    start = client.set('/d/_h', '1').etcd_index
    client.set('/d/_i/x', '2')
    client.set('/d/a', '3')
    for recursive in (False, True):
        assert keys_of(client.get('/d', recursive=recursive)) == ['/d/a']
    assert client.get('/d/_h').value == '1'
    assert keys_of(client.get('/d/_i')) == ['/d/_i/x']
    assert client.wait('/d', start, recursive=True, timeout=LONG).key == '/d/a'
    assert client.wait('/d/_i', start, recursive=True, timeout=LONG).key == '/d/_i/x'
    assert client.wait('/d/_h', start, timeout=LONG).value == '1'


# -- users with few permissions

PASSWORD = 'pa55word'


@pytest.fixture(scope='module')
def server_with_users(etcd_binary: EtcdBinary) -> Iterator[EtcdServer]:
    """An etcd with a user ``app``, who has the permission for all keys that begin with ``/app/``."""
    with EtcdServer(binary=etcd_binary.path) as server, getc.etcd(server.url, api='v3') as admin:
        auth = admin.v3.auth
        for user, role in (('root', 'root'), ('app', 'app')):
            auth.user_add(user, PASSWORD)
            auth.role_add(role)
            auth.user_grant_role(user, role)
        auth.role_grant_permission('app', b'/app/', range_end=prefix_end(b'/app/'))
        auth.enable()
        yield server


def user(server: EtcdServer, **options: Any) -> getc.Client:
    return getc.etcd(server.url, api='v3', username='app', password=PASSWORD, **options)


@pytest.fixture
def app(server_with_users: EtcdServer) -> Iterator[getc.Client]:
    """A client of that user, without the checks that need more permissions."""
    with user(server_with_users, strict=False) as app:
        with closing(getc.etcd(server_with_users.url, api='v3', username='root', password=PASSWORD)) as root:
            root.v3.kv.delete_range(b'\0', range_end=b'\0')
        yield app


def test_user_of_a_prefix_may_use_every_operation_when_not_strict(app: getc.Client) -> None:
    app.set('/app/a', '1')
    app.create('/app/d/b', '1')
    app.update('/app/a', '2', prev_value='1')
    app.set('/app/e', dir=True)
    app.append('/app/q', 'x')
    app.append('/app/q', 'y')
    app.set('/app/t', '1', ttl=60)
    app.refresh('/app/t', ttl=60)
    app.refresh('/app/t', ttl=90)
    assert app.get('/app/a').value == '2'
    assert app.get('/app/t').ttl in (89, 90)
    assert keys_of(app.get('/app/d')) == ['/app/d/b']
    assert keys_of(app.get('/app')) == ['/app/a', '/app/d', '/app/e', '/app/q', '/app/t']
    assert len(app.get('/app', recursive=True).nodes[3].nodes) == 2
    app.delete('/app/a')
    app.delete('/app/e', dir=True)
    app.delete('/app/d', recursive=True)
    assert keys_of(app.get('/app')) == ['/app/q', '/app/t']


def test_user_of_a_prefix_gets_the_same_errors_when_not_strict(app: getc.Client) -> None:
    """As far as the permissions allow."""
    app.set('/app/d/a', '1')
    for error, call in (
        (getc.KeyNotFound, lambda: app.get('/app/none')),
        (getc.KeyNotFound, lambda: app.update('/app/none', '1')),
        (getc.KeyNotFound, lambda: app.delete('/app/none')),
        (getc.KeyNotFound, lambda: app.delete('/app/none', recursive=True)),
        (getc.KeyNotFound, lambda: app.delete('/app/none', dir=True)),
        (getc.NodeExist, lambda: app.create('/app/d/a', '1')),
        (getc.TestFailed, lambda: app.update('/app/d/a', '1', prev_value='2')),
        (getc.NotFile, lambda: app.update('/app/d', '1')),
        (getc.NotFile, lambda: app.delete('/app/d')),
        (getc.DirNotEmpty, lambda: app.delete('/app/d', dir=True)),
        (getc.PermissionDenied, lambda: app.set('/other', '1')),
        (getc.PermissionDenied, lambda: app.get('/other')),
        (getc.PermissionDenied, lambda: app.get('/')),
        (getc.PermissionDenied, lambda: app.delete('/app', recursive=True)),
    ):
        with pytest.raises(error):
            call()
    app.delete('/app/d', recursive=True)
    with pytest.raises(getc.KeyNotFound):
        app.get('/app')


def test_user_of_a_prefix_keeps_and_watches_nodes_in_it(app: getc.Client) -> None:
    """The range of the watch leaves out the key above the prefix, for which the user has no permission."""
    seen: list[tuple[str, str | None]] = []
    app.set('/app/cfg', '1')
    watcher = app.on_change('/app', lambda result: seen.append((result.key, result.value)), initial=True)
    keeper = app.keep_node('/app/servers/a', 'here', ttl=5)
    wait_until(lambda: len(seen) == 2)
    keeper.stop()
    wait_until(lambda: len(seen) == 3)
    watcher.stop()
    assert seen == [('/app/cfg', '1'), ('/app/servers/a', 'here'), ('/app/servers/a', None)]


def test_user_of_a_prefix_is_denied_when_strict(server_with_users: EtcdServer, app: getc.Client) -> None:
    """The checks read the ancestors; nothing is written."""
    with user(server_with_users) as strict:
        for call in (
            lambda: strict.set('/app/a', '1'),
            lambda: strict.create('/app/a', '1'),
            lambda: strict.append('/app/q', '1'),
            lambda: strict.delete('/app/a'),
            lambda: strict.get('/app'),
            lambda: strict.get('/app/none'),
        ):
            with pytest.raises(getc.PermissionDenied):
                call()
    with pytest.raises(getc.KeyNotFound):
        app.get('/app')


def test_wrong_password_is_unauthorized(server_with_users: EtcdServer) -> None:
    """Not a timeout, and it is not retried for ever."""
    with getc.etcd(server_with_users.url, api='v3', username='app', password='wrong') as client:
        with pytest.raises(getc.Unauthorized):
            client.get('/app/a')
    with getc.etcd(server_with_users.url, username='app', password=PASSWORD, strict=False) as client:
        greenlets = [gevent.spawn(client.set, '/app/a', str(at)) for at in range(5)]
        gevent.joinall(greenlets, raise_error=True)
        assert client.api == 'v3'
