"""Usernames and passwords, on real etcds of both APIs."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

import getc
from getc.daemons.keeper import KeeperState
from getc.daemons.watcher import WatcherState
from getc.errors import Unauthorized
from getc.v3.schema.authpb import Permission
from tests.support.auth_servers import PASSWORD, AuthServer, ForbiddenServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Call = Callable[[getc.Client], object]

CALLS: dict[str, Call] = {
    'get': lambda client: client.get('/open/a'),
    'set': lambda client: client.set('/open/a', '1'),
    'append': lambda client: client.append('/open', '1'),
    'delete': lambda client: client.delete('/open/a'),
    'wait': lambda client: client.wait('/open/a', timeout=60),
    'ready': lambda client: client.ready(60),
    'keep_node': lambda client: client.keep_node('/open/a', ttl=60),
    'on_change': lambda client: client.on_change('/open', print),
    'changes': lambda client: client.changes('/open'),
    'mirror': lambda client: client.mirror('/open'),
}


def test_user_with_the_password_can_call_everything(auth_server: AuthServer, wait_until: Callable[..., None]) -> None:
    auth_server.enable_auth()
    client = auth_server.login()
    seen: list[str | None] = []
    client.on_change('/open', lambda result: seen.append(result.value))
    keeper = client.keep_node('/open/kept', 'k', ttl=5)
    servers = client.mirror('/open')
    client.set('/open/a', '1')
    wait_until(lambda: seen == ['k', '1'] and dict(servers) == {'/open/kept': 'k', '/open/a': '1'})
    assert keeper.state is KeeperState.KEPT


def test_wrong_credentials_raise_at_once(auth_server: AuthServer, forbidden: ForbiddenServer) -> None:
    """Calls and daemons raise at once: they try no other endpoint, and do not retry."""
    auth_server.enable_auth()
    for name, password in (('root', 'wrong pony'), ('nobody', PASSWORD)):
        client = auth_server.login(name, password, url=[auth_server.server.url, forbidden.url], timeout=None)
        for call in CALLS.values():
            with gevent.Timeout(60), pytest.raises(Unauthorized, match=r'(?i)password|credentials') as caught:
                call(client)
            assert caught.value.endpoint == auth_server.server.url
            assert not {'pony', 'horse'}.intersection(str(caught.value).split())
    assert forbidden.connections == 0


def test_read_only_user_gets_unauthorized_when_writing(auth_server: AuthServer) -> None:
    auth_server.enable_auth()
    auth_server.login().set('/open/a', '1')
    reader = auth_server.login('reader', strict=False)
    assert reader.get('/open/a').value == '1'
    for call in ('set', 'append', 'keep_node'):
        with pytest.raises(Unauthorized):
            CALLS[call](reader)


def test_ready_needs_no_permission_on_v3(auth_server: AuthServer) -> None:
    """On v2 it needs the permission to read the root: etcd refuses wrong credentials in the same way."""
    auth_server.enable_auth()
    auth_server.login().ready()
    reader = auth_server.login('reader')
    if auth_server.api == 'v3':
        reader.ready()
    else:
        with pytest.raises(Unauthorized, match='Insufficient credentials'):
            reader.ready()


def test_client_without_username_gets_unauthorized_when_auth_is_enabled(auth_server: AuthServer) -> None:
    """Also a client that was created before authentication was enabled."""
    client = auth_server.login(None)
    client.set('/open/a', '1')
    auth_server.enable_auth()
    for call in CALLS.values():
        with pytest.raises(Unauthorized):
            call(client)


def test_daemons_lose_nothing_when_auth_is_enabled(auth_server: AuthServer, wait_until: Callable[..., None]) -> None:
    """The clients have credentials, and their daemons started before authentication was enabled.

    The kept node is never deleted, each change is delivered once, and daemons can be started afterwards.
    """
    client, other = auth_server.login(), auth_server.login()
    seen: list[tuple[str, str | None]] = []

    def note(result: getc.EtcdResult) -> None:
        seen.append((type(result).__name__, result.value))

    keeper = client.keep_node('/open/kept', 'k', ttl=9)
    other.on_change('/open', note)
    servers = client.mirror('/open')
    auth_server.enable_auth()
    remaining_before = keeper.remaining()
    client.set('/open/a', '1')
    later: list[str | None] = []
    other.on_change('/open', lambda result: later.append(result.value))
    client.on_change('/open/b', lambda result: later.append(result.value), recursive=False)
    client.set('/open/b', '2')
    wait_until(lambda: dict(servers) == {'/open/kept': 'k', '/open/a': '1', '/open/b': '2'} and later == ['2', '2'])
    wait_until(lambda: keeper.remaining() > remaining_before)  # it was renewed since
    assert keeper.state is KeeperState.KEPT
    assert [value for _, value in seen] == ['1', '2']


def test_daemons_authenticate_again_when_the_server_restarts(
    v3_auth_server: AuthServer, wait_until: Callable[..., None]
) -> None:
    """Calls, renewals and watches get new tokens, also watches with ``resync='notify'``."""
    v3_auth_server.enable_auth()
    client = v3_auth_server.login()
    seen: list[str | None] = []
    watchers = [
        client.on_change('/open', lambda result: seen.append(result.value), resync=resync, recursive=recursive)
        for resync, recursive in (('diff', True), ('notify', True), ('notify', False))
    ]
    keeper = client.keep_node('/kept', ttl=9)
    v3_auth_server.server.restart()
    wait_until(lambda: all(watcher.state is WatcherState.LIVE for watcher in watchers))
    before = keeper.remaining()
    v3_auth_server.login().set('/open/a', '1')
    wait_until(lambda: seen == ['1', '1'])
    client.on_change('/open', lambda result: seen.append(result.value))
    client.set('/open/a', '2')
    wait_until(lambda: seen.count('2') == 3)
    wait_until(lambda: keeper.remaining() > before)
    assert keeper.state is KeeperState.KEPT


def test_watch_starts_when_the_token_of_its_stream_is_invalid(
    v3_auth_server: AuthServer, wait_until: Callable[..., None]
) -> None:
    """The connection stays open, and so does the earlier watch on the stream."""
    v3_auth_server.enable_auth()
    client, root = v3_auth_server.login(), v3_auth_server.login()
    seen: list[str] = []
    client.on_change('/a', lambda result: seen.append(result.key))
    root.v3.auth.disable()
    root.v3.auth.enable()
    client.on_change('/b', lambda result: seen.append(result.key))
    for key in ('/a', '/b', '/a', '/b'):
        root.set(key, '1')
    wait_until(lambda: sorted(seen) == ['/a', '/a', '/b', '/b'])


def test_daemons_report_a_changed_password_and_recover(
    v3_auth_server: AuthServer, wait_until: Callable[..., None]
) -> None:
    """Daemons that have started keep retrying, and report the error."""
    v3_auth_server.enable_auth()
    root, client = v3_auth_server.login(), v3_auth_server.login()
    client.set('/open/a', '1')
    keeper = client.keep_node('/open/kept', ttl=2)
    watcher = client.on_change('/open', lambda result: None)
    root.v3.auth.user_add('other', PASSWORD)
    root.v3.auth.user_grant_role('other', 'root')
    other = v3_auth_server.login('other')
    other.v3.auth.user_change_password('root', 'another')
    with pytest.raises(Unauthorized):
        client.get('/open/a')
    v3_auth_server.server.restart()
    wait_until(lambda: isinstance(watcher.last_error, Unauthorized) and keeper.state is KeeperState.LOST)
    other.v3.auth.user_change_password('root', PASSWORD)
    wait_until(lambda: watcher.state is WatcherState.LIVE and keeper.state is KeeperState.KEPT)


@pytest.mark.parametrize('name', ['get', 'set', 'append', 'delete', 'wait', 'keep_node', 'on_change', 'mirror'])
def test_permission_denied_names_the_key_and_the_remedy(auth_server: AuthServer, name: str) -> None:
    """etcd's message has neither.  A write also reads the keys above its key."""
    auth_server.enable_auth()
    auth_server.login().set('/closed/a', '1')
    call = {
        'get': lambda client: client.get('/closed/a'),
        'set': lambda client: client.set('/closed/a', '1'),
        'append': lambda client: client.append('/closed', '1'),
        'delete': lambda client: client.delete('/closed/a'),
        'wait': lambda client: client.wait('/closed/a', timeout=30),
        'keep_node': lambda client: client.keep_node('/closed/a', ttl=60),
        'on_change': lambda client: client.on_change('/closed/a', print),
        'mirror': lambda client: client.mirror('/closed/a'),
    }[name]
    with pytest.raises(Unauthorized, match=r'/closed(/a)?\b') as caught:
        call(auth_server.login('reader'))
    if auth_server.api == 'v3':
        assert isinstance(caught.value, getc.PermissionDenied)
        assert 'strict=False' in str(caught.value)


def test_transaction_needs_permission_for_each_of_its_keys(v3_auth_server: AuthServer) -> None:
    """With ``strict=False`` for nothing above its nodes."""
    v3_auth_server.enable_auth()
    root = v3_auth_server.login()
    root.set('/open/a', '1')
    root.v3.auth.role_grant_permission('reading', b'/open', range_end=b'/open0', perm_type=Permission.Type.READWRITE)
    user = v3_auth_server.login('reader', strict=False)
    with user.transaction() as t:
        t.check('/open/a', value='1')
        t.set('/open/b', '2')
    assert root.get('/open/b').index == t.index
    assert user.atomically(lambda stm: stm.set('/open/c', stm.get('/open/b').value or '')) is None
    assert root.get('/open/c').value == '2'
    with pytest.raises(getc.PermissionDenied, match='a role for each key of the transaction') as caught:
        with user.transaction() as t:
            t.set('/open/b', '3')
            t.check('/closed/a', exists=False)
    assert caught.value.maybe_applied is False
    assert root.get('/open/b').value == '2'
