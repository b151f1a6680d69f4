"""Directories with a TTL on etcd v3: RPCs, races with other clients, keys of other programs, broken changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import getc
from getc.backends.tree import directory_leases, directory_ttl
from getc.backends.tree.codec import directory_lease
from getc.testing import EtcdServer, wait_until
from tests.backends.tree.calls import Calls

LONG = 30.0


@pytest.fixture
def client(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    """A client of an empty store."""
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


@pytest.fixture
def other(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    """A second client of the same store."""
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


@pytest.fixture
def calls(client: getc.Client) -> Calls:
    """Records the RPCs of the first client."""
    return Calls(client)


def leases(client: getc.Client, key: str = '/d') -> dict[str, int]:
    """Return the lease of each key in a directory, and of its marker."""
    return {kv.key.decode(): kv.lease for kv in client.v3.kv.scan(f'{key}/'.encode(), range_end=f'{key}0'.encode())}


def lease_of(client: getc.Client, key: str) -> int:
    (kv,) = client.v3.kv.range(key.encode()).kvs
    return int(kv.lease)


def lives(client: getc.Client, lease: int) -> bool:
    return client.v3.lease.time_to_live(lease).TTL > 0


def once(calls: Calls, name: str, act: Callable[[], object], *, number: int = 1) -> None:
    """Act once before the RPC of this name and number."""
    seen = 0

    def before(called: str) -> None:
        nonlocal seen
        seen += called == name
        if called == name and seen == number:
            calls.before = None
            act()

    calls.before = before


# -- writes in the directory


WRITES: list[Callable[[getc.Client, str], Any]] = [
    lambda client, name: client.set(f'/d/sub/{name}', '1'),
    lambda client, name: client.create(f'/d/sub/{name}', '1'),
    lambda client, name: client.set(f'/d/sub/{name}', dir=True),
    lambda client, name: client.append('/d/sub', '1'),
    lambda client, name: client.append('/d', dir=True),
    lambda client, name: client.update('/d/v', '2'),
    lambda client, name: client.set('/d/v', '2', prev_value='1'),
]


@pytest.mark.parametrize('write', WRITES)
def test_second_write_in_a_directory_is_one_transaction(
    client: getc.Client, other: getc.Client, calls: Calls, write: Callable[[getc.Client, str], Any]
) -> None:
    """The first one is refused, reads the markers, and is repeated."""
    other.set('/d/v', '1')
    other.refresh('/d', ttl=60)
    first = write(client, 'a')
    assert calls.names == ['Txn', 'Txn', 'Txn']
    assert first.etcd_index == other.get('/d').etcd_index
    other.set('/d/v', '1')
    write(client, 'b')
    assert calls.names == ['Txn']
    assert set(leases(client).values()) == {lease_of(client, '/d/')}
    assert lease_of(client, '/d/') > 0


def test_write_with_a_ttl_of_its_own_is_not_refused(client: getc.Client, other: getc.Client, calls: Calls) -> None:
    """Its lease is not that of the directory, known or not."""
    other.set('/d', dir=True, ttl=60)
    client.set('/d/a', '1', ttl=60)
    assert calls.names == ['LeaseGrant', 'Txn']
    client.append('/d', '1', ttl=60)
    assert calls.names == ['LeaseGrant', 'Txn']
    assert len(set(leases(client).values())) == 3


def test_write_of_another_directory_is_not_delayed_by_one_that_is_known(client: getc.Client, calls: Calls) -> None:
    client.set('/d', dir=True, ttl=60)
    client.set('/d/a', '1')
    calls.take()
    assert client.set('/e/a', '1').is_new
    assert client.set('/da', '1').is_new
    assert calls.names == ['Txn', 'Txn']
    assert lease_of(client, '/e/a') == lease_of(client, '/da') == 0


@pytest.mark.parametrize('write', WRITES)
def test_error_of_a_write_in_a_directory_is_the_same_as_elsewhere(
    client: getc.Client, calls: Calls, write: Callable[[getc.Client, str], Any]
) -> None:
    client.set('/d', dir=True, ttl=60)
    client.set('/d/known', '1')
    client.v3.kv.put(b'/d', b'a value')
    calls.take()
    with pytest.raises((getc.NotDir, getc.KeyNotFound)) as caught:
        write(client, 'a')
    assert caught.value.cause in ('/d', '/d/v')
    assert calls.names == ['Txn']


@pytest.mark.parametrize('write', WRITES)
def test_remembered_lease_is_read_again_when_it_is_outdated(
    client: getc.Client, other: getc.Client, calls: Calls, write: Callable[[getc.Client, str], Any]
) -> None:
    """The directory was moved to another lease, to none, or was deleted."""
    other.set('/d', dir=True, ttl=60)
    client.set('/d/v', '1')
    other.refresh('/d', ttl=90)
    calls.take()
    write(client, 'a')
    assert calls.names == ['Txn', 'Txn', 'Txn']
    (lease,) = set(leases(client).values())
    assert client.v3.lease.time_to_live(lease).grantedTTL == 90
    other.update('/d', dir=True)
    other.set('/d/v', '1')
    write(client, 'b')
    assert set(leases(client).values()) == {0}
    other.refresh('/d', ttl=60)
    client.set('/d/known', '1')
    other.delete('/d', recursive=True)
    other.set('/d/v', '1')
    write(client, 'c')
    assert set(leases(client).values()) == {0}


def test_nearest_directory_counts(client: getc.Client, other: getc.Client) -> None:
    """Also if it gets its TTL later, and loses it again."""
    client.set('/d', dir=True, ttl=60)
    client.set('/d/e/a', '1')
    other.refresh('/d/e', ttl=90)
    client.set('/d/e/b', '1')
    client.set('/d/c', '1')
    found = leases(client)
    assert found['/d/e/'] == found['/d/e/a'] == found['/d/e/b'] != found['/d/c'] == found['/d/']
    other.update('/d/e', dir=True)
    client.set('/d/e/c', '1')
    assert set(leases(client).values()) == {found['/d/']}


def test_remembered_directories_are_bounded(client: getc.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_leases, 'MAX_KNOWN', 3)
    known = client._backend._directory_leases.known  # type: ignore[attr-defined]
    for number in range(5):
        client.set(f'/d{number}', dir=True, ttl=60)
        client.set(f'/d{number}/a', '1')
    assert list(known) == ['/d2', '/d3', '/d4']
    client.set('/d0/a', '2')
    assert lease_of(client, '/d0/a') == lease_of(client, '/d0/')


def test_directory_in_a_namespace_may_be_above_it(etcd_server: EtcdServer, client: getc.Client) -> None:
    """The root of a namespace is a directory with a TTL like others."""
    with getc.etcd(etcd_server.url, api='v3', namespace='/ns/app') as inside:
        inside.set('/a', '1')
        client.refresh('/ns', ttl=60)
        inside.set('/b', '1')
        assert set(leases(client, '/ns').values()) == {lease_of(client, '/ns/')}
        updated = inside.update('/', dir=True, ttl=90)
        assert (updated.key, updated.ttl, inside.get('/').ttl in (89, 90)) == ('/', 90, True)
        assert lease_of(client, '/ns/app/b') == lease_of(client, '/ns/app/') != lease_of(client, '/ns/')


def test_node_does_not_join_when_not_strict(etcd_server: EtcdServer, client: getc.Client) -> None:
    """The user may have no permission to read the directories."""
    client.set('/d', dir=True, ttl=60)
    with getc.etcd(etcd_server.url, api='v3', strict=False) as lax:
        lax.set('/d/a', '1')
        lax.append('/d/q', '1')
        assert [lease for key, lease in leases(client).items() if key != '/d/'] == [0, 0]
        assert lax.refresh('/d', ttl=90).ttl == 90
        assert lax.update('/d', dir=True).ttl is None


def test_key_of_another_program_stays_until_the_ttl_is_changed(client: getc.Client) -> None:
    """It joins if the other program gives it the lease.  A marker may have a lease of another program as well."""
    client.set('/d', dir=True, ttl=60)
    lease = lease_of(client, '/d/')
    client.v3.kv.put(b'/d/foreign', b'1')
    client.v3.kv.put(b'/d/joined', b'1', lease=lease)
    assert leases(client) == {'/d/': lease, '/d/foreign': 0, '/d/joined': lease}
    client.refresh('/d', ttl=90)
    assert set(leases(client).values()) == {lease_of(client, '/d/')} != {lease}
    foreign = client.v3.lease.grant(60).ID
    client.v3.kv.put(b'/e/', b'kept', lease=foreign)
    client.set('/e/a', '1')
    assert lease_of(client, '/e/a') == foreign
    assert client.get('/e').ttl in (59, 60)
    client.refresh('/e', ttl=90)
    assert client.v3.kv.range(b'/e/').kvs[0].value == b'kept'
    client.v3.lease.revoke(foreign)
    assert client.get('/e').values == ('1',)


# -- reads and refreshes of nodes in the directory


def test_ttl_of_a_node_is_read_after_its_lease_is_known_to_be_its_own(
    client: getc.Client, other: getc.Client, calls: Calls
) -> None:
    """Which takes one call for each lease that another client has granted."""
    other.set('/d', dir=True, ttl=60)
    for name in ('a', 'b'):
        other.set(f'/d/{name}', '1')
    other.set('/d/own', '1', ttl=60)
    assert [client.get(f'/d/{name}').ttl for name in ('a', 'b')] == [None, None]
    assert calls.names == ['Range', 'Txn', 'Range']
    for names in (['Range', 'Txn', 'LeaseTimeToLive'], ['Range', 'LeaseTimeToLive']):
        assert client.get('/d/own').ttl in (59, 60)
        assert calls.names == names
    client.set('/d/mine', '1', ttl=60)
    calls.take()
    assert client.get('/d/mine').ttl in (59, 60)
    assert calls.names == ['Range', 'LeaseTimeToLive']


def test_node_has_no_ttl_of_its_own_when_its_directory_is_moved_meanwhile(
    client: getc.Client, other: getc.Client, calls: Calls
) -> None:
    """The markers are read as they were when the node was read."""
    other.set('/d', dir=True, ttl=60)
    other.set('/d/a', '1')
    once(calls, 'Txn', lambda: other.refresh('/d', ttl=90))
    assert client.get('/d/a').ttl is None


def test_remembered_leases_are_bounded(
    client: getc.Client, other: getc.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_leases, 'MAX_LEASES', 3)
    for number in range(5):
        other.set(f'/d/{number}', '1', ttl=60)
        assert client.get(f'/d/{number}').ttl in (59, 60)
    assert len(client._backend._directory_leases._roles) == 3  # type: ignore[attr-defined]


def test_refresh_of_a_node_does_not_renew_the_lease_of_its_directory(client: getc.Client, calls: Calls) -> None:
    """Although it has the same TTL: the node gets a lease of its own, which the next refresh renews."""
    client.set('/d', dir=True, ttl=60)
    client.set('/d/a', '1')
    calls.take()
    assert client.refresh('/d/a', ttl=60).ttl == 60
    assert calls.names == ['Txn', 'LeaseGrant', 'Txn']
    own = lease_of(client, '/d/a')
    assert own != lease_of(client, '/d/')
    client.refresh('/d/a', ttl=60)
    assert calls.names == ['Range', 'Range', 'Txn', 'LeaseTimeToLive']
    assert lease_of(client, '/d/a') == own
    client.update('/d/a', '2')
    assert lease_of(client, '/d/a') == lease_of(client, '/d/')


# -- changes of the TTL


def test_refresh_with_the_same_ttl_is_a_keep_alive(client: getc.Client, calls: Calls) -> None:
    made = client.set('/d', dir=True, ttl=60)
    last = client.set('/d/a', '1')
    before = leases(client)
    calls.take()
    refreshed = client.refresh('/d', ttl=60)
    assert calls.names == ['Txn', 'Txn', 'LeaseTimeToLive']  # and a message on the keep-alive stream
    assert type(refreshed) is getc.Updated
    assert (refreshed.ttl, refreshed.modified_index, refreshed.etcd_index) == (60, made.index, last.etcd_index)
    assert leases(client) == before
    updated = client.update('/d', dir=True, ttl=60)
    assert updated.modified_index == updated.etcd_index == last.etcd_index + 1
    assert leases(client) == before


def test_refresh_of_a_directory_does_not_renew_that_of_the_directory_above(client: getc.Client) -> None:
    """A directory without a TTL of its own is on the lease of the one above."""
    client.set('/d', dir=True, ttl=60)
    client.set('/d/e', dir=True)
    client.set('/d/e/a', '1')
    client.refresh('/d/e', ttl=60)
    found = leases(client)
    assert found['/d/e/'] == found['/d/e/a'] != found['/d/']


def test_nodes_are_moved_with_their_directory(client: getc.Client, calls: Calls) -> None:
    """In one transaction; those with a TTL of their own are not."""
    client.set('/d', dir=True, ttl=60)
    for name in ('a', 'b/c', '_hidden', 'd/e/f'):
        client.set(f'/d/{name}', name)
    client.set('/d/own', '1', ttl=60)
    client.set('/d/in', dir=True, ttl=60)
    client.set('/d/in/a', '1')
    client.v3.kv.put(b'/d//no/path', b'1')
    before = leases(client)
    calls.take()
    refreshed = client.refresh('/d', ttl=90)
    writes = [request for name, request in calls.take() if name == 'Txn' and request.compare and request.success]
    assert [len(each.success) for each in writes[1:]] == [6]
    after = leases(client)
    stayed = {'/d/own', '/d/in/', '/d/in/a'}
    assert {key for key in after if after[key] == before[key]} == stayed
    assert {after[key] for key in after.keys() - stayed} == {lease_of(client, '/d/')}
    assert client.get('/d/a').value == 'a'
    assert refreshed.modified_index == refreshed.etcd_index == client.get('/d/a').modified_index


def test_many_nodes_are_moved_in_several_transactions(
    client: getc.Client, other: getc.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client then reads nothing that is older than the last of them."""
    monkeypatch.setattr(directory_ttl, 'PAGE', 100)
    gevent.joinall([gevent.spawn(other.set, f'/d/{number:03}', 'x') for number in range(300)], raise_error=True)
    refreshed = client.refresh('/d', ttl=60)
    assert len(leases(other)) == 301
    assert set(leases(other).values()) == {lease_of(other, '/d/')} != {0}
    assert (
        refreshed.etcd_index == other.get('/').etcd_index > refreshed.modified_index == other.get('/d').modified_index
    )
    assert client.get('/d', quorum=False).etcd_index >= refreshed.etcd_index
    client.update('/d', dir=True)
    assert set(leases(other).values()) == {0}


@pytest.mark.parametrize('name', ['LeaseGrant', 'Txn'])
def test_node_that_is_created_meanwhile_is_on_the_new_lease(
    client: getc.Client, other: getc.Client, calls: Calls, name: str
) -> None:
    """Between the read of the directory and the change, and between the change and the second read."""
    client.set('/d/a', '1')
    act = lambda: other.set('/d/new', '1')  # noqa: E731
    if name == 'LeaseGrant':
        once(calls, name, act)
    else:
        calls.after = lambda called, response: (
            (setattr(calls, 'after', None), act()) if called == 'Txn' and response.succeeded and is_put(response) else 0
        )
    client.refresh('/d', ttl=60)
    assert set(leases(client)) == {'/d/', '/d/a', '/d/new'}
    assert set(leases(client).values()) == {lease_of(client, '/d/')} != {0}


def is_put(response: Any) -> bool:
    return bool(response.responses) and response.responses[0].HasField('response_put')


@pytest.mark.parametrize(
    'interfere',
    [
        lambda other: other.set('/d/a', '2'),
        lambda other: other.set('/d/a', '2', ttl=60),
        lambda other: other.delete('/d/a'),
        lambda other: other.v3.kv.put(b'/d/a', b'2'),
    ],
)
def test_node_that_is_written_meanwhile_keeps_what_was_written(
    client: getc.Client, other: getc.Client, calls: Calls, interfere: Callable[[getc.Client], Any]
) -> None:
    """Its new value, a TTL of its own, or that it does not exist."""
    client.set('/d/a', '1')
    client.set('/d/b', '1')
    once(calls, 'LeaseGrant', lambda: interfere(other))
    client.refresh('/d', ttl=60)
    lease = lease_of(client, '/d/')
    assert lease_of(client, '/d/b') == lease
    found = {node.key: node.value for node in client.get('/d').nodes}  # type: ignore[attr-defined]
    assert found.get('/d/a', '2') == '2'
    assert ('/d/a' in found) == bool(client.v3.kv.range(b'/d/a').kvs)
    if '/d/a' in found and lease_of(client, '/d/a') != lease:
        assert client.get('/d/a').ttl in (59, 60)


def test_all_nodes_are_moved_while_they_are_written_all_the_time(client: getc.Client, other: getc.Client) -> None:
    """By clients of getc and by another program."""
    for number in range(200):
        client.set(f'/d/{number}', '0')
    stop = False

    def write(put: Callable[[int], Any]) -> None:
        number = 0
        while not stop:
            put(number % 200)
            number += 7

    writers = [
        gevent.spawn(write, lambda number: other.set(f'/d/{number}', 'x')),
        gevent.spawn(write, lambda number: other.append('/d/q', 'x')),
        gevent.spawn(write, lambda number: other.set(f'/d/{number}', 'y', prev_value='x') if number % 2 else None),
    ]
    try:
        for ttl in (60, 90, None, 60):
            if ttl is None:
                client.update('/d', dir=True, timeout=LONG)
            else:
                client.refresh('/d', ttl=ttl, timeout=LONG)
            gevent.sleep(0)
    finally:
        stop = True
        gevent.joinall(writers)
    failures = [each.exception for each in writers if each.exception is not None]
    assert all(isinstance(each, (getc.TestFailed, getc.KeyNotFound)) for each in failures)
    assert set(leases(client).values()) == {lease_of(client, '/d/')} != {0}


def test_two_clients_change_the_ttl_at_the_same_time(client: getc.Client, other: getc.Client) -> None:
    """All nodes are on the lease of the directory in the end."""
    for number in range(150):
        client.set(f'/d/{number}', '0')
    changes = [
        gevent.spawn(some.refresh, '/d', ttl=ttl, timeout=LONG)
        for some, ttl in ((client, 60), (other, 90), (client, 120), (other, 60))
    ]
    gevent.joinall(changes, raise_error=True)
    assert set(leases(client).values()) == {lease_of(client, '/d/')} != {0}


def test_nodes_follow_when_another_client_changes_the_ttl_in_the_middle(
    client: getc.Client, other: getc.Client, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are on the lease of the directory, not on one that it no longer has."""
    monkeypatch.setattr(directory_ttl, 'PAGE', 50)
    for number in range(200):
        client.set(f'/d/{number:03}', '0')
    once(calls, 'Txn', lambda: other.refresh('/d', ttl=90), number=4)
    client.refresh('/d', ttl=60)
    assert client.get('/d').ttl in range(80, 91)
    assert set(leases(client).values()) == {lease_of(client, '/d/')} != {0}


def test_directory_that_is_deleted_in_the_middle_stays_deleted(
    client: getc.Client, other: getc.Client, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_ttl, 'PAGE', 50)
    for number in range(200):
        client.set(f'/d/{number:03}', '0')
    once(calls, 'Txn', lambda: other.delete('/d', recursive=True), number=4)
    assert client.refresh('/d', ttl=60).ttl == 60
    assert leases(client) == {}


def test_change_can_be_repeated_when_it_broke_in_the_middle(
    client: getc.Client, other: getc.Client, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new lease is kept, since the directory is on it, and so is the old one, since nodes are on that."""
    monkeypatch.setattr(directory_ttl, 'PAGE', 50)
    client.set('/d', dir=True, ttl=60)
    for number in range(200):
        client.set(f'/d/{number:03}', '0')
    (old,) = set(leases(other).values())

    def fail() -> None:
        raise getc.ConnectionError('the connection broke', maybe_applied=False)

    for change, number in ((lambda: client.refresh('/d', ttl=90), 5), (lambda: client.update('/d', dir=True), 4)):
        once(calls, 'Txn', fail, number=number)
        with pytest.raises(getc.ConnectionError, match='the connection broke') as caught:
            change()
        assert caught.value.maybe_applied
        assert len(set(leases(other).values())) == 2
        assert len(leases(other)) == 201
        assert lives(other, old)
        assert change().key == '/d'
        assert set(leases(other).values()) == {lease_of(other, '/d/')}
    client.refresh('/d', ttl=60)
    calls.take()
    client.refresh('/d', ttl=60)
    assert calls.names[-1] == 'LeaseTimeToLive'  # nothing is left to be moved


def test_rest_of_a_change_that_broke_off_follows_with_another_change(
    client: getc.Client, other: getc.Client, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if that is killed."""
    monkeypatch.setattr(directory_ttl, 'PAGE', 50)
    for number in range(200):
        client.set(f'/d/{number:03}', '0')
    for ttl, number in ((60, 5), (90, 4)):
        once(calls, 'Txn', lambda: gevent.sleep(LONG), number=number)
        changing = gevent.spawn(client.refresh, '/d', ttl=ttl)
        wait_until(lambda: calls.before is None)
        changing.kill()
    assert len(set(leases(other).values())) == 3
    client.refresh('/d', ttl=120)
    assert set(leases(other).values()) == {lease_of(other, '/d/')}


@pytest.mark.parametrize('is_killed', [False, True])
def test_rest_of_a_change_whose_first_answer_is_lost_follows_with_the_next(
    client: getc.Client, other: getc.Client, calls: Calls, is_killed: bool
) -> None:
    """Only its first transaction says which lease the nodes that it does not move are on."""
    client.set('/d', dir=True, ttl=60)
    for number in range(200):
        client.set(f'/d/{number:03}', '0')

    def lose(name: str, response: Any) -> None:
        if name == 'Txn' and is_put(response):
            calls.after = None
            if is_killed:
                gevent.sleep(LONG)
            raise getc.ConnectionError('the connection broke', maybe_applied=True)

    calls.after = lose
    changing = gevent.spawn(client.refresh, '/d', ttl=90)
    wait_until(lambda: calls.after is None)
    changing.kill() if is_killed else changing.join()
    assert len(set(leases(other).values())) == 2
    client.refresh('/d', ttl=90)
    assert set(leases(other).values()) == {lease_of(other, '/d/')}


def test_lease_is_revoked_when_the_change_is_refused(client: getc.Client, other: getc.Client, calls: Calls) -> None:
    """The directory was deleted, or its lease has expired, since it was read."""
    client.set('/d', dir=True, ttl=60)
    granted: list[int] = []
    calls.after = lambda name, response: granted.append(response.ID) if name == 'LeaseGrant' else None
    once(calls, 'LeaseGrant', lambda: other.v3.lease.revoke(lease_of(other, '/d/')))
    with pytest.raises(getc.KeyNotFound):
        client.refresh('/d', ttl=90)
    (lease,) = granted
    wait_until(lambda: not lives(other, lease))


def test_refresh_raises_when_the_directory_expires_meanwhile(
    client: getc.Client, other: getc.Client, calls: Calls
) -> None:
    """Before its lease is looked up, and before it is renewed."""
    for name in ('LeaseTimeToLive', 'Txn'):
        client.set('/d', dir=True, ttl=60)
        client.set('/d/a', '1')
        lease = lease_of(other, '/d/')
        if name == 'Txn':
            calls.after = lambda called, _: (
                (setattr(calls, 'after', None), other.v3.lease.revoke(lease)) if called == 'LeaseTimeToLive' else None  # noqa: B023
            )
        else:
            once(calls, name, lambda: other.v3.lease.revoke(lease))  # noqa: B023
        with pytest.raises(getc.KeyNotFound):
            client.refresh('/d', ttl=60)
        assert not other.v3.kv.range(b'/d/', range_end=b'/d0').kvs


def test_update_turns_to_the_value_when_the_directory_becomes_one(
    client: getc.Client, other: getc.Client, calls: Calls
) -> None:
    """As an update of a value with ``dir=True``, and a refresh of a value, do."""
    for change, value in (
        (lambda: client.update('/d', dir=True, ttl=90), ''),
        (lambda: client.refresh('/d', ttl=90), 'now a value'),
    ):
        client.set('/d', dir=True, ttl=60)

        def replace() -> None:
            other.delete('/d', recursive=True)
            other.set('/d', 'now a value')

        once(calls, 'LeaseGrant', replace)
        changed = change()
        assert (changed.value, changed.ttl) == (value, 90)
        client.delete('/d')


def test_change_times_out_when_the_directory_is_changed_all_the_time(
    client: getc.Client, other: getc.Client, calls: Calls
) -> None:
    client.set('/d', dir=True, ttl=60)
    calls.after = lambda name, response: other.update('/d', dir=True, ttl=60) if name == 'LeaseGrant' else None
    with pytest.raises(getc.TimedOut) as caught:
        client.refresh('/d', ttl=90, timeout=0.5)
    assert not caught.value.maybe_applied


def test_directory_with_a_ttl_of_0_expires_at_once_with_its_nodes(client: getc.Client, calls: Calls) -> None:
    client.set('/d/a', '1')
    calls.take()
    assert client.refresh('/d', ttl=0).ttl == 0
    assert calls.names[-1] == 'LeaseRevoke'
    assert leases(client) == {}


def test_transactions_have_as_many_operations_as_etcd_accepts() -> None:
    """Another bound would be refused, or waste calls."""
    assert directory_lease.MAX_TXN_OPS == 128
