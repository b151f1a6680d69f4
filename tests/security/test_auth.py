"""Usernames and passwords, on real etcds of both APIs: who has them may, who has not is told at once."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

import getc
from getc.daemons.keeper import KeeperState
from getc.daemons.watcher import WatcherState
from getc.errors import Unauthorized
from tests.security.conftest import PASSWORD, Trap, WithUsers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Call = Callable[[getc.Client], object]

CALLS: dict[str, Call] = {
    'get': lambda client: client.get('/open/a'),
    'set': lambda client: client.set('/open/a', '1'),
    'append': lambda client: client.append('/open', '1'),
    'delete': lambda client: client.delete('/open/a'),
    'wait': lambda client: client.wait('/open/a', timeout=60),
    'ready': lambda client: client.ready(60),
    'keep_node': lambda client: client.keep_node('/open/a', ttl=5),
    'on_change': lambda client: client.on_change('/open', print),
    'changes': lambda client: client.changes('/open'),
    'mirror': lambda client: client.mirror('/open'),
}


def test_who_has_the_password_may_do_all(users: WithUsers, wait_until: Callable[..., None]) -> None:
    """Calls, keepers, watchers and mirrors."""
    users.switch_on()
    client = users.login()
    seen: list[str | None] = []
    client.on_change('/open', lambda result: seen.append(result.value))
    keeper = client.keep_node('/open/kept', 'k', ttl=5)
    servers = client.mirror('/open')
    client.set('/open/a', '1')
    wait_until(lambda: seen == ['k', '1'] and dict(servers) == {'/open/kept': 'k', '/open/a': '1'})
    assert keeper.state is KeeperState.KEPT


def test_wrong_credentials_raise_at_once(users: WithUsers, trap: Trap) -> None:
    """From each call and each daemon: no other server is asked, and nothing is tried again for ever."""
    users.switch_on()
    for name, password in (('root', 'wrong pony'), ('nobody', PASSWORD)):
        client = users.login(name, password, url=[users.server.url, trap.url], timeout=None)
        for call in CALLS.values():
            with gevent.Timeout(60), pytest.raises(Unauthorized, match=r'(?i)password|credentials') as caught:
                call(client)
            assert caught.value.endpoint == users.server.url
            assert not {'pony', 'horse'}.intersection(str(caught.value).split())
    assert trap.visits == 0


def test_who_may_only_read_is_told_so(users: WithUsers) -> None:
    """The password is right, and the user may not do this."""
    users.switch_on()
    users.login().set('/open/a', '1')
    reader = users.login('reader', strict=False)
    assert reader.get('/open/a').value == '1'
    for call in ('set', 'append', 'keep_node'):
        with pytest.raises(Unauthorized):
            CALLS[call](reader)


def test_who_has_no_name_is_told_once_there_are_users(users: WithUsers) -> None:
    """A client that was there before, too."""
    client = users.login(None)
    client.set('/open/a', '1')
    users.switch_on()
    for call in CALLS.values():
        with pytest.raises(Unauthorized):
            call(client)


def test_nothing_is_lost_when_auth_is_switched_on(users: WithUsers, wait_until: Callable[..., None]) -> None:
    """The clients have names; their daemons began when nobody asked for these.

    The kept node never goes, what changes is told once, and what begins later is as good.
    """
    client, other = users.login(), users.login()
    seen: list[tuple[str, str | None]] = []

    def note(result: getc.EtcdResult) -> None:
        seen.append((type(result).__name__, result.value))

    keeper = client.keep_node('/open/kept', 'k', ttl=9)
    other.on_change('/open', note)
    servers = client.mirror('/open')
    users.switch_on()
    begun_at = keeper.remaining()
    client.set('/open/a', '1')
    later: list[str | None] = []
    other.on_change('/open', lambda result: later.append(result.value))
    client.on_change('/open/b', lambda result: later.append(result.value), recursive=False)
    client.set('/open/b', '2')
    wait_until(lambda: dict(servers) == {'/open/kept': 'k', '/open/a': '1', '/open/b': '2'} and later == ['2', '2'])
    wait_until(lambda: keeper.remaining() > begun_at)  # it was renewed since
    assert keeper.state is KeeperState.KEPT
    assert [value for _, value in seen] == ['1', '2']


def test_everything_goes_on_when_the_server_forgets_its_tokens(
    v3_users: WithUsers, wait_until: Callable[..., None]
) -> None:
    """It was restarted: calls, renewals and watches get new ones by themselves, those of ``resync='notify'`` too."""
    v3_users.switch_on()
    client = v3_users.login()
    seen: list[str | None] = []
    watchers = [
        client.on_change('/open', lambda result: seen.append(result.value), resync=resync, recursive=recursive)
        for resync, recursive in (('diff', True), ('notify', True), ('notify', False))
    ]
    keeper = client.keep_node('/kept', ttl=9)
    v3_users.server.restart()
    wait_until(lambda: all(watcher.state is WatcherState.LIVE for watcher in watchers))
    before = keeper.remaining()
    v3_users.login().set('/open/a', '1')
    wait_until(lambda: seen == ['1', '1'])
    client.on_change('/open', lambda result: seen.append(result.value))
    client.set('/open/a', '2')
    wait_until(lambda: seen.count('2') == 3)
    wait_until(lambda: keeper.remaining() > before)
    assert keeper.state is KeeperState.KEPT


def test_watch_begins_when_the_token_of_the_stream_is_forgotten(
    v3_users: WithUsers, wait_until: Callable[..., None]
) -> None:
    """The connection stays, and so does the watch that was on the stream."""
    v3_users.switch_on()
    client, root = v3_users.login(), v3_users.login()
    seen: list[str] = []
    client.on_change('/a', lambda result: seen.append(result.key))
    root.v3.auth.disable()
    root.v3.auth.enable()
    client.on_change('/b', lambda result: seen.append(result.key))
    for key in ('/a', '/b', '/a', '/b'):
        root.set(key, '1')
    wait_until(lambda: sorted(seen) == ['/a', '/a', '/b', '/b'])


def test_daemons_say_so_when_the_password_was_changed_and_come_back(
    v3_users: WithUsers, wait_until: Callable[..., None]
) -> None:
    """They have begun, so they do not give up; no loss is hidden."""
    v3_users.switch_on()
    root, client = v3_users.login(), v3_users.login()
    client.set('/open/a', '1')
    keeper = client.keep_node('/open/kept', ttl=2)
    watcher = client.on_change('/open', lambda result: None)
    root.v3.auth.user_add('other', PASSWORD)
    root.v3.auth.user_grant_role('other', 'root')
    other = v3_users.login('other')
    other.v3.auth.user_change_password('root', 'another')
    with pytest.raises(Unauthorized):
        client.get('/open/a')
    v3_users.server.restart()
    wait_until(lambda: isinstance(watcher.last_error, Unauthorized) and keeper.state is KeeperState.LOST)
    other.v3.auth.user_change_password('root', PASSWORD)
    wait_until(lambda: watcher.state is WatcherState.LIVE and keeper.state is KeeperState.KEPT)


@pytest.mark.parametrize('name', ['get', 'set', 'append', 'delete', 'wait', 'keep_node', 'on_change', 'mirror'])
def test_permission_denied_names_the_key_and_what_to_do(users: WithUsers, name: str) -> None:
    """The server says neither: and that a write reads the keys above it, nobody expects."""
    users.switch_on()
    users.login().set('/closed/a', '1')
    call = {
        'get': lambda client: client.get('/closed/a'),
        'set': lambda client: client.set('/closed/a', '1'),
        'append': lambda client: client.append('/closed', '1'),
        'delete': lambda client: client.delete('/closed/a'),
        'wait': lambda client: client.wait('/closed/a', timeout=30),
        'keep_node': lambda client: client.keep_node('/closed/a', ttl=5),
        'on_change': lambda client: client.on_change('/closed/a', print),
        'mirror': lambda client: client.mirror('/closed/a'),
    }[name]
    with pytest.raises(Unauthorized, match=r'/closed(/a)?\b') as caught:
        call(users.login('reader'))
    if users.api == 'v3':
        assert isinstance(caught.value, getc.PermissionDenied)
        assert 'strict=False' in str(caught.value)
