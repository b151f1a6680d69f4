"""``etcd.v3.auth``: users, roles and permissions, each test on its own server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import getc
from getc.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    NotSupported,
    PermissionDenied,
    Unauthorized,
)
from getc.testing import EtcdServer
from getc.v3 import schema
from getc.v3.auth import Auth
from getc.v3.schema.authpb import Permission

SERVICE = schema.Auth

PASSWORD = 'correct horse'


@pytest.fixture
def anyone(own_server: EtcdServer) -> Iterator[getc.Client]:
    """A client without credentials."""
    with getc.etcd(own_server.url) as client:
        yield client


@pytest.fixture
def auth(anyone: getc.Client) -> Auth:
    return anyone.v3.auth


@pytest.fixture
def login(own_server: EtcdServer) -> Iterator[Callable[..., getc.Client]]:
    """Return a function that opens a client with credentials, which is closed after the test."""
    made: list[getc.Client] = []

    def login(name: str, password: str = PASSWORD) -> getc.Client:
        made.append(getc.etcd(own_server.url, username=name, password=password))
        return made[-1]

    yield login
    for client in made:
        client.close()


@pytest.fixture
def root(auth: Auth, login: Callable[..., getc.Client]) -> getc.Client:
    """The first user, with auth enabled.  ``reader`` may read below ``/open/``."""
    auth.user_add('root', PASSWORD)
    auth.role_add('root')
    auth.user_grant_role('root', 'root')
    auth.user_add('reader', PASSWORD)
    auth.role_add('reading')
    auth.role_grant_permission('reading', b'/open/', range_end=b'/open0', perm_type=Permission.Type.READ)
    auth.user_grant_role('reader', 'reading')
    auth.enable()
    return login('root')


# -- users and roles


def test_users_are_added_listed_changed_and_deleted(auth: Auth) -> None:
    auth.user_add('a', PASSWORD)
    auth.user_add('b', no_password=True)
    assert sorted(auth.user_list().users) == ['a', 'b']
    auth.user_change_password('a', 'another')
    auth.user_delete('b')
    assert list(auth.user_list().users) == ['a']
    with pytest.raises(AlreadyExists, match='already exists'):
        auth.user_add('a', PASSWORD)
    with pytest.raises(NotFound, match='user name not found'):
        auth.user_delete('b')


def test_roles_are_added_listed_and_deleted(auth: Auth) -> None:
    auth.role_add('r')
    assert list(auth.role_list().roles) == ['r']
    with pytest.raises(AlreadyExists, match='already exists'):
        auth.role_add('r')
    auth.role_delete('r')
    assert list(auth.role_list().roles) == []
    with pytest.raises(NotFound, match='role name not found'):
        auth.role_get('r')


def test_users_have_roles(auth: Auth) -> None:
    auth.user_add('a', PASSWORD)
    auth.role_add('r')
    auth.user_grant_role('a', 'r')
    assert list(auth.user_get('a').roles) == ['r']
    auth.user_revoke_role('a', 'r')
    assert list(auth.user_get('a').roles) == []
    with pytest.raises(FailedPrecondition, match='not granted'):
        auth.user_revoke_role('a', 'r')


def test_roles_have_permissions(auth: Auth) -> None:
    auth.role_add('r')
    auth.role_grant_permission('r', b'/a')
    auth.role_grant_permission('r', b'/b/', range_end=b'/b0', perm_type=Permission.Type.WRITE)
    assert [(given.permType, given.key, given.range_end) for given in auth.role_get('r').perm] == [
        (Permission.Type.READWRITE, b'/a', b''),
        (Permission.Type.WRITE, b'/b/', b'/b0'),
    ]
    auth.role_revoke_permission('r', b'/b/', range_end=b'/b0')
    assert [given.key for given in auth.role_get('r').perm] == [b'/a']


def test_enable_needs_a_root_user(auth: Auth) -> None:
    with pytest.raises(FailedPrecondition, match='root user does not exist'):
        auth.enable()


def test_authenticate_raises_when_auth_is_disabled(auth: Auth) -> None:
    with pytest.raises(FailedPrecondition, match='not enabled'):
        auth.authenticate('a', PASSWORD)


# -- with auth enabled


def test_status_returns_whether_auth_is_enabled(auth: Auth, own_server: EtcdServer, root: getc.Client) -> None:
    if own_server.binary.version < (3, 5):
        with pytest.raises(NotSupported, match='AuthStatus'):
            root.v3.auth.status()
        return
    assert root.v3.auth.status().enabled
    root.v3.auth.disable()
    assert not auth.status().enabled


def test_authenticate_returns_a_token(root: getc.Client, auth: Auth) -> None:
    assert auth.authenticate('reader', PASSWORD).token
    with pytest.raises(Unauthorized) as caught:
        auth.authenticate('reader', 'wrong horse')
    assert 'horse' not in str(caught.value)


def test_everything_is_permitted_after_disable(root: getc.Client, anyone: getc.Client) -> None:
    with pytest.raises(Unauthorized):
        anyone.v3.kv.put(b'/a', b'')
    root.v3.auth.disable()
    anyone.v3.kv.put(b'/a', b'')
    assert root.v3.kv.range(b'/a').count == 1


def test_user_has_the_permissions_of_its_roles(root: getc.Client, login: Callable[..., getc.Client]) -> None:
    reader = login('reader')
    root.v3.kv.put(b'/open/a', b'one')
    assert reader.v3.kv.range(b'/open/a').kvs[0].value == b'one'
    for forbidden in (
        lambda: reader.v3.kv.put(b'/open/a', b'two'),
        lambda: reader.v3.kv.range(b'/closed'),
        lambda: reader.v3.kv.range(b'/open/', range_end=b'/p'),
        lambda: reader.v3.auth.user_list(),
    ):
        with pytest.raises(PermissionDenied):
            forbidden()


def test_wrong_credentials_raise_unauthorized(root: getc.Client, login: Callable[..., getc.Client]) -> None:
    for client in (login('reader', 'wrong'), login('nobody')):
        with pytest.raises(Unauthorized):
            client.v3.kv.range(b'/open/a')
        with pytest.raises(Unauthorized):
            client.v3.watch.create(b'/open/a')


# -- watches


def test_refused_watch_does_not_affect_the_others(root: getc.Client, login: Callable[..., getc.Client]) -> None:
    reader = login('reader')
    with reader.v3.watch.create(b'/open/', range_end=b'/open0') as watching:
        for _ in range(2):
            with pytest.raises(PermissionDenied):
                reader.v3.watch.create(b'/closed')
        root.v3.kv.put(b'/open/a', b'one')
        assert watching.receive(30).events[0].kv.value == b'one'
        with reader.v3.watch.create(b'/open/b') as another:
            root.v3.kv.put(b'/open/b', b'two')
            assert another.receive(30).events[0].kv.value == b'two'


def test_watch_without_credentials_is_refused(root: getc.Client, anyone: getc.Client) -> None:
    with pytest.raises(Unauthorized):
        anyone.v3.watch.create(b'/open/a', timeout=30)


@pytest.mark.parametrize('lost', ['changed', 'disabled'])
def test_watch_is_created_after_the_token_of_the_stream_became_stale(
    root: getc.Client, login: Callable[..., getc.Client], lost: str
) -> None:
    """A server forgets a token, for example after some minutes without a call; a stream keeps its token."""
    reader = login('reader')
    with reader.v3.watch.create(b'/open/a') as before:
        if lost == 'changed':
            root.v3.auth.user_change_password('reader', PASSWORD)
        else:
            root.v3.auth.disable()
            root.v3.auth.enable()
        with reader.v3.watch.create(b'/open/b') as after:
            root.v3.kv.put(b'/open/a', b'one')
            root.v3.kv.put(b'/open/b', b'two')
            assert before.receive(30).events[0].kv.value == b'one'
            assert after.receive(30).events[0].kv.value == b'two'


def test_watch_is_created_after_auth_was_enabled(
    auth: Auth, anyone: getc.Client, login: Callable[..., getc.Client]
) -> None:
    """The stream was opened without a token."""
    auth.user_add('root', PASSWORD)
    auth.role_add('root')
    auth.user_grant_role('root', 'root')
    root = login('root')
    root.v3.watch.create(b'/a').cancel()
    root.v3.auth.enable()
    with root.v3.watch.create(b'/a') as watching:
        root.v3.kv.put(b'/a', b'one')
        assert watching.receive(30).events[0].kv.value == b'one'


# -- leases


def test_leases_are_renewed_with_credentials(root: getc.Client, login: Callable[..., getc.Client]) -> None:
    reader = login('reader')
    granted = reader.v3.lease.grant(60).ID
    assert reader.v3.lease.keep_alive(granted).TTL == 60


def test_refused_campaign_has_maybe_applied(root: getc.Client, auth: Auth, login: Callable[..., getc.Client]) -> None:
    """The server has written the key of the candidate when it detects that the user may not read the others."""
    lease = root.v3.lease.grant(600).ID
    key = b'name/%x' % lease
    root.v3.auth.role_grant_permission('reading', key, perm_type=Permission.Type.READWRITE)
    with pytest.raises(PermissionDenied) as caught:
        login('reader').v3.election.campaign(b'name', lease=lease)
    assert caught.value.maybe_applied
    assert root.v3.kv.range(key).count == 1


@pytest.mark.parametrize('what', ['lock', 'campaign'])
@pytest.mark.parametrize('change', ['permission', 'password'])
def test_refused_lock_request_stays_in_the_queue(
    root: getc.Client,
    login: Callable[..., getc.Client],
    spawn: Callable[..., Any],
    wait_until: Any,
    what: str,
    change: str,
) -> None:
    """Its permissions changed meanwhile, and the server may not delete the key without a user."""
    everything = {'range_end': b'name0', 'perm_type': Permission.Type.READWRITE}
    root.v3.auth.role_grant_permission('reading', b'name/', **everything)
    mine, theirs = root.v3.lease.grant(600).ID, root.v3.lease.grant(600).ID
    calls = {'lock': lambda v3: v3.lock.lock, 'campaign': lambda v3: v3.election.campaign}
    calls[what](root.v3)(b'name', lease=mine)
    waiting = spawn(calls[what](login('reader').v3), b'name', lease=theirs, timeout=60)
    wait_until(lambda: root.v3.kv.range(b'name/', range_end=b'name0').count == 2)
    gevent.sleep(0.3)  # its server watches the one before it by now
    if change == 'permission':
        root.v3.auth.role_revoke_permission('reading', b'name/', range_end=b'name0')
    else:
        root.v3.auth.user_change_password('reader', 'another')
    root.v3.lease.revoke(mine)
    with pytest.raises(Unauthorized) as caught:
        waiting.get()
    assert caught.value.maybe_applied
    assert [kv.lease for kv in root.v3.kv.range(b'name/', range_end=b'name0').kvs] == [theirs]


def test_names_and_roles_are_checked_by_the_server(auth: Auth) -> None:
    with pytest.raises(getc.EtcdError, match='user name is empty'):
        auth.user_add('', PASSWORD)
    with pytest.raises(InvalidArgument, match='role name is empty'):
        auth.role_add('')


def test_password_is_not_in_texts(root: getc.Client, login: Callable[..., Any]) -> None:
    reader = login('reader')
    with pytest.raises(PermissionDenied) as caught:
        reader.v3.kv.put(b'/a', b'')
    for text in (repr(reader), reader.url, str(caught.value), repr(caught.value)):
        assert 'horse' not in text
