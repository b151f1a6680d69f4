"""The tree on etcd v3: the RPCs of each operation, races with other clients, leases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.pool import Pool

import getc
from getc.backends.tree import append, backend, refresher
from getc.backends.tree.codec import read
from getc.errors import (
    ConnectionError,
    EtcException,
    NotSupported,
    PermissionDenied,
    ProtocolError,
    ResponseTooLarge,
    TimedOut,
    Unavailable,
)
from getc.testing import EtcdBinary, EtcdServer, wait_until
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest
from tests.backends.tree.calls import Calls

pytestmark = pytest.mark.timeout(300)

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


def lease_of(client: getc.Client, key: str) -> int:
    """Return the lease of a node."""
    (kv,) = client.v3.kv.range(key.encode()).kvs
    return int(kv.lease)


def exists(client: getc.Client, lease: int) -> bool:
    return client.v3.lease.time_to_live(lease).TTL > 0


# -- round trips


@pytest.mark.parametrize(
    'write',
    [
        lambda client: client.set('/a/b', '1'),
        lambda client: client.set('/a/d', dir=True),
        lambda client: client.create('/a/b', '1'),
        lambda client: client.update('/a/v', '1'),
        lambda client: client.set('/a/v', '1', prev_value='0'),
        lambda client: client.delete('/a/v'),
        lambda client: client.delete('/a/v', prev_value='0'),
        lambda client: client.delete('/a/v', dir=True),
        lambda client: client.delete('/a', recursive=True),
        lambda client: client.append('/a/q', '1'),
    ],
)
def test_write_is_one_transaction(client: getc.Client, calls: Calls, write: Callable[..., Any]) -> None:
    client.set('/a/v', '0')
    calls.take()
    write(client)
    assert calls.names == ['Txn']


@pytest.mark.parametrize(
    'write',
    [
        lambda client: client.set('/a/v/x', '1'),
        lambda client: client.create('/a/v', '1'),
        lambda client: client.update('/a/none', '1'),
        lambda client: client.set('/a/v', '1', prev_value='1'),
        lambda client: client.delete('/a'),
        lambda client: client.delete('/a', dir=True),
        lambda client: client.delete('/none', recursive=True),
        lambda client: client.append('/a/v', '1'),
    ],
)
def test_refused_write_is_one_transaction(client: getc.Client, calls: Calls, write: Callable[..., Any]) -> None:
    """Its response contains what the error needs."""
    client.set('/a/v', '0')
    calls.take()
    with pytest.raises(getc.EtcdError):
        write(client)
    assert calls.names == ['Txn']


def test_read_of_a_value_is_one_range_and_other_reads_one_more_transaction(client: getc.Client, calls: Calls) -> None:
    """A value with a TTL takes one call more."""
    client.set('/a/v', '0')
    client.set('/a/t', '0', ttl=60)
    calls.take()
    client.get('/a/v')
    assert calls.names == ['Range']
    client.get('/a/t')
    assert calls.names == ['Range', 'LeaseTimeToLive']
    client.get('/a')
    assert calls.names == ['Range', 'Txn']
    client.get('/a', recursive=True)
    assert calls.names == ['Txn']
    with pytest.raises(getc.KeyNotFound):
        client.get('/none')
    assert calls.names == ['Range', 'Txn']


# -- errors of a real server


ABOVE, INSIDE, ITSELF = b'/a', b'/a/b/x', b'/a/b'
KEY = '/a/b'
OPERATIONS: dict[str, Callable[[getc.Client], object]] = {
    'set': lambda client: client.set(KEY, '1'),
    'set dir': lambda client: client.set(KEY, dir=True),
    'create': lambda client: client.create(KEY, '1'),
    'update': lambda client: client.update(KEY, '1'),
    'swap': lambda client: client.set(KEY, '1', prev_value='other'),
    'refresh': lambda client: client.refresh(KEY, ttl=60, prev_value='other'),
    'append': lambda client: client.append(KEY, '1'),
    'delete': lambda client: client.delete(KEY),
    'delete if': lambda client: client.delete(KEY, prev_index=1),
    'delete dir': lambda client: client.delete(KEY, dir=True),
    'delete recursive': lambda client: client.delete(KEY, recursive=True),
    'get': lambda client: client.get(KEY),
}


@pytest.mark.parametrize(
    ('operation', 'keys', 'errno'),
    [
        # An ancestor is a value: the node cannot exist, whatever else another program wrote.
        *[(name, {ABOVE}, 104) for name in OPERATIONS],
        ('set', {ABOVE, INSIDE}, 104),
        ('set', {ABOVE, ITSELF}, 104),
        ('create', {ABOVE, INSIDE, ITSELF}, 104),
        ('swap', {ABOVE, ITSELF}, 104),
        # The node is a directory.
        ('set', {INSIDE}, 102),
        ('set', {INSIDE, ITSELF}, 102),
        ('set dir', {INSIDE}, 102),
        ('create', {INSIDE}, 105),
        ('create', {ITSELF}, 105),
        ('update', {INSIDE}, 102),
        ('swap', {INSIDE}, 102),
        ('refresh', {INSIDE}, 102),
        ('delete', {INSIDE}, 102),
        ('delete if', {INSIDE}, 102),
        ('delete dir', {INSIDE}, 108),
        # The node does not exist.
        *[(name, set(), 100) for name in ('update', 'swap', 'refresh', 'get')],
        *[(name, set(), 100) for name in OPERATIONS if name.startswith('delete')],
        # The node is a value, and does not meet the condition.
        *[(name, {ITSELF}, 101) for name in ('swap', 'refresh', 'delete if')],
        ('append', {ITSELF}, 104),
    ],
)
def test_error_is_the_first_of_a_fixed_order(client: getc.Client, operation: str, keys: set[bytes], errno: int) -> None:
    """104, 102 or 105 or 108, 100, 101; and nothing was written."""
    for key in keys:
        client.v3.kv.put(key, b'0')
    before = client.v3.kv.range(b'/', range_end=b'0')
    with pytest.raises(getc.EtcdError) as caught:
        OPERATIONS[operation](client)
    assert caught.value.errno == errno
    after = client.v3.kv.range(b'/', range_end=b'0')
    assert list(after.kvs) == list(before.kvs)
    assert caught.value.index is not None and caught.value.index >= before.header.revision


# -- reads


def fill(client: getc.Client, names: Iterator[bytes] | list[bytes]) -> None:
    """Put keys, as many at a time as a transaction may have."""
    names = list(names)

    def put(some: list[bytes]) -> None:
        success = [RequestOp(request_put=PutRequest(key=name, value=b'x')) for name in some]
        client.v3._rpc.call(KV.Txn, TxnRequest(success=success), LONG)

    pieces = [names[at : at + 128] for at in range(0, len(names), 128)]
    Pool(16).map(put, pieces)


def test_hundred_thousand_children_are_listed_in_pages_of_one_revision(
    client: getc.Client, calls: Calls, no_streams: None
) -> None:
    """Keys that are written meanwhile are not listed."""
    fill(client, [b'/many/%06d' % number for number in range(100_000)])
    calls.take()

    def interfere(name: str) -> None:
        calls.before = None
        client.v3.kv.put(b'/many/999999', b'late')
        client.v3.kv.delete_range(b'/many/000000')

    calls.after = lambda name, response: setattr(calls, 'before', interfere) if name == 'Txn' else None
    listing = client.get('/many', timeout=LONG)
    assert [node.key for node in listing.nodes] == [f'/many/{number:06}' for number in range(100_000)]
    calls.after = None
    made = [(name, request) for name, request in calls.take() if name in ('Range', 'Txn')]
    assert [name for name, _ in made] == ['Range', 'Txn', *['Range'] * 19]
    assert {request.revision for _, request in made[2:]} == {listing.etcd_index}
    # As the content of a child directory they are skipped.
    client.set('/zebra', '1')
    calls.take()
    assert [node.key for node in client.get('/').nodes] == ['/many', '/zebra']
    assert calls.names == ['Txn', 'Range']
    assert client.delete('/many', recursive=True, timeout=LONG).key == '/many'
    with pytest.raises(getc.KeyNotFound):
        client.get('/many')


def test_listing_starts_again_when_its_revision_is_compacted(
    client: getc.Client, other: getc.Client, calls: Calls, no_streams: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of two revisions would be a tree that never existed."""
    monkeypatch.setattr(read, 'PAGE', 10)
    fill(client, [b'/d/%02d' % number for number in range(35)])
    calls.take()

    def compact(name: str, response: object) -> None:
        if name == 'Range' and calls.after is not None:
            calls.after = None
            other.delete('/d/00')
            other.v3.kv.compact(other.set('/d/99', 'x').etcd_index)

    calls.after = compact
    listing = client.get('/d', recursive=True)
    assert [node.key for node in listing.nodes] == [*(f'/d/{number:02}' for number in range(1, 35)), '/d/99']
    assert calls.names.count('Txn') == 2


def test_listing_raises_when_it_is_compacted_again_and_again(
    client: getc.Client, other: getc.Client, calls: Calls, no_streams: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, 'PAGE', 10)
    fill(client, [b'/d/%02d' % number for number in range(35)])
    calls.take()
    calls.after = lambda name, response: other.v3.kv.compact(other.set('/x', '1').etcd_index)
    with pytest.raises(getc.EventIndexCleared):
        client.get('/d', recursive=True)
    assert calls.names.count('Txn') == backend.MAX_LISTINGS


# -- streams, which etcd has from 3.7 on


class Streams:
    """Streams of three keys a part, by pages of an etcd of any version.

    Attributes:
        requests: The request of each stream.
        before: Called before each part with the number of the part, if set.
    """

    def __init__(self) -> None:
        self.requests: list[RangeRequest] = []
        self.before: Callable[[int], object] | None = None

    def stream_parts(self, rpc: RpcClient, request: RangeRequest, deadline: Deadline) -> Iterator[RangeResponse]:
        self.requests.append(request)
        key, number = request.key, 0
        while True:
            if self.before is not None:
                self.before(number)
            page = RangeRequest()
            page.CopyFrom(request)
            page.key, page.limit = key, 3
            part = RpcClient.call(rpc, KV.Range, page, deadline)  # is not recorded
            if not part.more:
                yield part
                return
            part.ClearField('header')
            yield part
            key, number = part.kvs[-1].key + b'\0', number + 1


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    """Pages of ten keys, and streams of three keys a part."""
    streams = Streams()
    monkeypatch.setattr(read, 'PAGE', 10)
    monkeypatch.setattr(backend, 'stream_parts', streams.stream_parts)
    return streams


@pytest.mark.parametrize('recursive', [False, True])
def test_listing_of_more_than_a_page_is_streamed_at_its_revision(
    client: getc.Client, other: getc.Client, calls: Calls, streams: Streams, recursive: bool
) -> None:
    fill(client, [b'/d/%02d' % number for number in range(35)])
    calls.take()
    streams.before = lambda number: other.set('/d/99', 'late')
    listing = client.get('/d', recursive=recursive, quorum=False)
    assert [node.key for node in listing.nodes] == [f'/d/{number:02}' for number in range(35)]
    assert calls.names == (['Txn'] if recursive else ['Range', 'Txn'])
    (request,) = streams.requests
    assert (request.revision, request.limit, request.serializable) == (listing.etcd_index, 0, True)
    assert (request.key, request.range_end) == (b'/d/09\0', b'/d0')


@pytest.mark.parametrize(
    'error', [ConnectionError, NotSupported, ResponseTooLarge, Unavailable, ProtocolError, TimedOut]
)
@pytest.mark.parametrize('at', [0, 2])
def test_listing_goes_on_in_pages_when_the_stream_fails(
    client: getc.Client, calls: Calls, streams: Streams, error: type[EtcException], at: int
) -> None:
    fill(client, [b'/d/%02d' % number for number in range(35)])
    calls.take()

    def fail(number: int) -> None:
        if number == at:
            raise error('the stream has failed')

    streams.before = fail
    assert [node.key for node in client.get('/d').nodes] == [f'/d/{number:02}' for number in range(35)]
    pages = 3 if at == 0 else 2
    assert calls.names == ['Range', 'Txn', *['Range'] * pages]


def test_refused_stream_raises(client: getc.Client, streams: Streams) -> None:
    fill(client, [b'/d/%02d' % number for number in range(35)])

    def fail(number: int) -> None:
        raise PermissionDenied('permission denied', errno=7)

    streams.before = fail
    with pytest.raises(PermissionDenied):
        client.get('/d')


def test_listing_starts_again_when_its_stream_is_compacted(
    client: getc.Client, other: getc.Client, streams: Streams
) -> None:
    fill(client, [b'/d/%02d' % number for number in range(35)])

    def compact(number: int) -> None:
        if number == 2 and len(streams.requests) == 1:
            other.delete('/d/00')
            other.v3.kv.compact(other.set('/d/99', 'x').etcd_index)

    streams.before = compact
    listing = client.get('/d', recursive=True)
    assert [node.key for node in listing.nodes] == [*(f'/d/{number:02}' for number in range(1, 35)), '/d/99']
    assert len(streams.requests) == 2


def test_stream_is_left_for_pages_when_a_subtree_is_skipped(
    client: getc.Client, calls: Calls, streams: Streams
) -> None:
    """The content of a child directory, or of a hidden one: the stream would send all of it."""
    below = [b'/d/20/%03d' % number for number in range(100)]
    hidden = [b'/d/_/%03d' % number for number in range(100)]
    fill(client, [*(b'/d/%02d' % number for number in range(15)), *below, b'/d/z', *hidden])
    calls.take()
    assert [node.key for node in client.get('/d').nodes] == [*(f'/d/{n:02}' for n in range(15)), '/d/20', '/d/z']
    assert calls.names == ['Range', 'Txn', *['Range'] * 2]
    calls.take()
    listing = client.get('/d', recursive=True)
    assert len(listing.nodes) == 17 and len(listing.nodes[15].nodes) == 100
    assert calls.names == ['Txn', 'Range']


def test_stream_of_etcd_returns_what_the_pages_return(
    client: getc.Client, calls: Calls, etcd_binary: EtcdBinary, request: pytest.FixtureRequest
) -> None:
    fill(client, [b'/many/%02d/%03d' % (number % 50, number) for number in range(12_000)])
    calls.take()
    streamed = client.get('/many', recursive=True)
    assert calls.names == (['Txn'] if etcd_binary.version >= (3, 7, 0) else ['Txn', 'Range', 'Range'])
    request.getfixturevalue('no_streams')
    assert client.get('/many', recursive=True) == streamed
    assert calls.names == ['Txn', 'Range', 'Range']


def test_listing_of_a_user_who_may_read_only_the_children_starts_again_when_it_is_compacted(
    etcd_server: EtcdServer, other: getc.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, 'PAGE', 10)
    fill(other, [b'/d/%02d' % number for number in range(35)])
    with getc.etcd(etcd_server.url, api='v3', strict=False) as client:
        calls = Calls(client)
        firsts = []

        def deny(name: str) -> None:
            _, request = calls.last
            if name == 'Range' and request.key == b'/d':
                raise getc.PermissionDenied('permission denied')

        def compact(name: str, response: object) -> None:
            firsts.append(name)
            if len(firsts) == 1:
                other.delete('/d/00')
                other.v3.kv.compact(other.set('/d/99', 'x').etcd_index)

        calls.before, calls.after = deny, compact
        listing = client.get('/d')
    assert [node.key for node in listing.nodes] == [*(f'/d/{number:02}' for number in range(1, 35)), '/d/99']


def test_ready_returns_when_the_server_refuses_the_read_of_a_restricted_user(client: getc.Client, calls: Calls) -> None:
    """The server has answered."""

    def deny(name: str) -> None:
        raise getc.PermissionDenied('permission denied')

    calls.before = deny
    client.ready(timeout=10)
    assert calls.names == ['Range']


def test_all_requests_of_a_read_are_serializable_only_without_quorum(client: getc.Client, calls: Calls) -> None:
    client.set('/d/a', '1')
    calls.take()
    client.get('/d', quorum=False)
    (_, itself), (_, all_else) = calls.take()
    assert itself.serializable
    assert all(done.request_range.serializable for done in all_else.success)
    client.get('/d', quorum=True)
    (_, itself), (_, all_else) = calls.take()
    assert not itself.serializable
    assert not any(done.request_range.serializable for done in all_else.success)


# -- leases


def test_ttl_is_a_lease_that_is_granted_before_the_put(client: getc.Client, calls: Calls) -> None:
    result = client.set('/a', '1', ttl=60)
    assert calls.names == ['LeaseGrant', 'Txn']
    assert result.ttl == 60
    response = client.v3.lease.time_to_live(lease_of(client, '/a'), keys=True)
    assert (response.grantedTTL, list(response.keys)) == (60, [b'/a'])


@pytest.mark.parametrize(
    'write',
    [
        lambda client: client.create('/a', '1', ttl=60),
        lambda client: client.set('/a', '1', ttl=60, prev_value='1'),
        lambda client: client.update('/none', '1', ttl=60),
        lambda client: client.append('/a', '1', ttl=60),
    ],
)
def test_lease_is_revoked_when_the_write_is_refused(
    client: getc.Client, calls: Calls, write: Callable[..., Any]
) -> None:
    client.set('/a', '0')
    granted = []
    calls.after = lambda name, response: granted.append(response.ID) if name == 'LeaseGrant' else None
    with pytest.raises(getc.EtcdError):
        write(client)
    (lease,) = granted
    wait_until(lambda: not exists(client, lease))


@pytest.mark.parametrize('error', [getc.ConnectionError, getc.RaftInternal])
def test_lease_is_not_revoked_when_the_write_may_have_been_applied(
    client: getc.Client, other: getc.Client, calls: Calls, error: type[Exception]
) -> None:
    """The node would be deleted with it."""

    def lose_answer(name: str, response: object) -> None:
        if name == 'Txn':
            raise getc.ConnectionError('lost', maybe_applied=True) if error is getc.ConnectionError else error('lost')

    calls.after = lose_answer
    with pytest.raises(error):
        client.set('/a', '1', ttl=60)
    gevent.sleep(0)
    gevent.sleep(0)
    assert calls.names == ['LeaseGrant', 'Txn']
    assert other.get('/a').ttl in (59, 60)


def test_lease_is_not_revoked_when_the_caller_is_killed(client: getc.Client, other: getc.Client, calls: Calls) -> None:
    """The write may have been applied."""
    calls.after = lambda name, response: gevent.sleep(LONG) if name == 'Txn' else None
    writing = gevent.spawn(client.set, '/a', '1', ttl=60)
    wait_until(lambda: other.v3.kv.range(b'/a').kvs)
    writing.kill()
    gevent.sleep(0)
    assert calls.names == ['LeaseGrant', 'Txn']
    assert other.get('/a').value == '1'


@pytest.mark.parametrize('write', ['set', 'update'])
def test_write_without_a_ttl_drops_the_ttl(client: getc.Client, write: str) -> None:
    """The node does not expire with its old lease."""
    client.set('/a', '1', ttl=60)
    lease = lease_of(client, '/a')
    result = getattr(client, write)('/a', '2')
    assert (result.ttl, client.get('/a').ttl, lease_of(client, '/a')) == (None, None, 0)
    client.v3.lease.revoke(lease)
    assert client.get('/a').value == '2'


def test_result_has_the_granted_ttl_when_the_server_grants_more(client: getc.Client, calls: Calls) -> None:
    """Servers have a minimum, which depends on their election timeout."""
    granted = []
    calls.after = lambda name, response: granted.append(response.TTL) if name == 'LeaseGrant' else None
    result = client.set('/a', '1', ttl=1)
    assert result.ttl == granted[0] >= 2
    assert client.get('/a').ttl == result.ttl
    calls.take()
    assert client.refresh('/a', ttl=1).ttl == result.ttl
    assert 'LeaseGrant' not in calls.names
    with pytest.raises(getc.KeyNotFound):  # and it expires
        wait_until(lambda: client.get('/a') is None)


def test_node_with_a_ttl_of_0_expires_at_once(client: getc.Client) -> None:
    """Watchers see the write and the expiry."""
    before = client.set('/other', 'x').etcd_index
    for write in (
        lambda: client.set('/a', '1', ttl=0),
        lambda: client.append('/q', '1', ttl=0),
    ):
        key = write().key
        with pytest.raises(getc.KeyNotFound):
            client.get(key)
    assert client.wait('/a', before + 1, timeout=LONG).value == '1'
    assert isinstance(client.wait('/a', before + 2, timeout=LONG), getc.Expired)


def test_write_with_a_ttl_of_0_succeeds_when_its_lease_is_already_gone(client: getc.Client, calls: Calls) -> None:

    def revoke(name: str) -> None:
        if name == 'LeaseRevoke':
            calls.before = None
            client.v3.lease.revoke(lease_of(client, '/a'))

    calls.before = revoke
    client.set('/a', '1', ttl=0)
    assert calls.names == ['LeaseGrant', 'Txn', 'LeaseRevoke', 'Range', 'LeaseRevoke']
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')


@pytest.mark.parametrize(
    'write',
    [
        lambda client: client.set('/a/x', '1', ttl=0),
        lambda client: client.append('/a', '1', ttl=0),
        lambda client: client.refresh('/b', ttl=0),
    ],
)
def test_write_with_a_ttl_of_0_succeeds_when_its_lease_cannot_be_revoked(
    client: getc.Client, calls: Calls, write: Callable[..., Any]
) -> None:
    """The write was applied; the node expires later."""
    client.set('/b', '1')

    def fail(name: str) -> None:
        if name == 'LeaseRevoke':
            raise getc.ConnectionError('the connection broke')

    calls.before = fail
    key = write(client).key
    assert client.get(key).value == '1'
    assert lease_of(client, key)


# -- refresh


def test_refresh_with_the_same_ttl_is_a_keep_alive(client: getc.Client, calls: Calls) -> None:
    """No index changes; the result is made from a read."""
    made = client.set('/a', '1', ttl=60)
    calls.take()
    result = client.refresh('/a', ttl=60)
    assert calls.names == ['Txn', 'LeaseTimeToLive']  # and a message on the keep-alive stream
    assert type(result) is getc.Updated
    assert (result.value, result.ttl, result.modified_index) == ('1', 60, made.modified_index)
    assert result.etcd_index == made.etcd_index
    assert client.v3.kv.range(b'/a').kvs[0].version == 1


def test_refresh_with_another_ttl_is_a_put_with_another_lease(client: getc.Client) -> None:
    """The value stays, watchers see Set, and the node does not expire with its old lease."""
    made = client.set('/a', '1', ttl=60)
    lease = lease_of(client, '/a')
    result = client.refresh('/a', ttl=90)
    assert (result.value, result.ttl, result.created_index) == ('1', 90, made.created_index)
    assert result.modified_index == result.etcd_index == made.etcd_index + 1
    assert result.prev_node is not None and result.prev_node.modified_index == made.modified_index
    client.v3.lease.revoke(lease)
    assert client.get('/a').ttl in (89, 90)
    seen = client.wait('/a', made.etcd_index + 1, timeout=LONG)
    assert type(seen) is getc.Set
    assert (seen.value, seen.modified_index) == ('1', result.modified_index)


def test_refresh_gives_a_ttl_to_a_node_without_one_and_a_ttl_of_0_expires_it(client: getc.Client) -> None:
    client.set('/a', '1')
    assert client.refresh('/a', ttl=60).ttl == 60
    client.refresh('/a', ttl=0)
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')


def test_refresh_checks_the_conditions_before_it_renews(client: getc.Client, calls: Calls) -> None:
    """The lease of another node is not renewed."""
    made = client.set('/a', '1', ttl=60)
    for conditions in ({'prev_value': '2'}, {'prev_index': made.modified_index + 1}):
        calls.take()
        with pytest.raises(getc.TestFailed):
            client.refresh('/a', ttl=60, **conditions)  # type: ignore[arg-type]
        assert calls.names == ['Txn']
    result = client.refresh('/a', ttl=60, prev_value='1', prev_index=made.modified_index)
    assert type(result) is getc.ComparedThenSwapped


def test_refresh_keeps_the_newer_value_when_the_node_is_written_meanwhile(
    client: getc.Client, other: getc.Client, calls: Calls
) -> None:
    client.set('/a', '1', ttl=60)

    def interfere(name: str) -> None:
        if name == 'LeaseGrant':
            calls.before = None
            other.set('/a', '2')

    calls.before = interfere
    result = client.refresh('/a', ttl=90)
    assert (result.value, result.ttl) == ('2', 90)
    assert client.get('/a').value == '2'


def test_refresh_raises_timed_out_when_the_node_is_written_all_the_time(
    client: getc.Client, other: getc.Client, calls: Calls
) -> None:
    """It backs off between the attempts, and does not raise the TestFailed of its own compare."""
    client.set('/a', '1', ttl=60)
    calls.after = lambda name, response: other.set('/a', '2', ttl=60) if name == 'LeaseGrant' else None
    with pytest.raises(getc.TimedOut, match='other clients keep writing it') as caught:
        client.refresh('/a', ttl=90, timeout=0.5)
    assert not caught.value.maybe_applied


@pytest.mark.parametrize(('conditions', 'error'), [({}, getc.KeyNotFound), ({'prev_value': '1'}, getc.KeyNotFound)])
def test_refresh_raises_when_the_node_is_deleted_meanwhile(
    client: getc.Client, other: getc.Client, calls: Calls, conditions: Any, error: type[Exception]
) -> None:
    """It is not written again."""
    client.set('/a', '1', ttl=60)

    def interfere(name: str) -> None:
        if name == 'LeaseGrant':
            calls.before = None
            other.delete('/a')

    calls.before = interfere
    with pytest.raises(error):
        client.refresh('/a', ttl=90, **conditions)
    assert not other.v3.kv.range(b'/a').kvs


def test_refresh_raises_when_the_lease_is_revoked_in_between(
    client: getc.Client, other: getc.Client, calls: Calls
) -> None:
    client.set('/a', '1', ttl=60)
    lease = lease_of(client, '/a')

    def interfere(name: str, response: object) -> None:
        if name == 'LeaseTimeToLive':
            calls.after = None
            other.v3.lease.revoke(lease)

    calls.after = interfere
    with pytest.raises(getc.KeyNotFound):
        client.refresh('/a', ttl=60)


# -- append


def test_concurrent_appends_are_in_the_order_of_creation(client: getc.Client, other: getc.Client) -> None:
    made: list[getc.EtcdResult] = []

    def append_to(some: getc.Client, value: str) -> None:
        made.append(some.append('/q', value, timeout=LONG))

    writers = [
        gevent.spawn(append_to, some, f'{name}{at}') for name, some in (('a', client), ('b', other)) for at in range(40)
    ]
    gevent.joinall(writers, raise_error=True)
    nodes = client.get('/q', sorted=True).nodes
    assert len(nodes) == 80
    assert [node.created_index for node in nodes] == sorted(node.created_index for node in nodes)
    assert {node.key: node.value for node in nodes} == {result.key: result.value for result in made}
    assert all(len(node.key) == len('/q/') + 20 for node in nodes)


def test_appends_of_one_client_do_not_compete(client: getc.Client, calls: Calls) -> None:
    """One transaction each."""
    gevent.joinall([gevent.spawn(client.append, '/q', str(at)) for at in range(30)], raise_error=True)
    assert len(calls.names) <= 32  # the first number may have been taken
    assert len(client.get('/q').nodes) == 30


def test_append_sorts_after_a_higher_number_of_another_program(client: getc.Client) -> None:
    """Also if a directory has that number, and if a directory is appended."""
    client.v3.kv.put(b'/q/00000000001000000000', b'')
    assert client.append('/q', 'x').key == '/q/00000000001000000001'
    client.v3.kv.put(b'/q/00000000002000000000/x', b'')
    made = client.append('/q', dir=True)
    assert made.key == '/q/00000000002000000001'
    assert isinstance(client.get(made.key).node, getc.Directory)
    assert client.append('/q', 'y').key == '/q/00000000002000000002'


@pytest.mark.parametrize(
    'name', ['0zebra', '0000000000000000009', '00000000000000000000x', '09', '00000000001000000000x']
)
def test_append_works_beside_names_that_resemble_numbers(client: getc.Client, name: str) -> None:
    """They may not sort before every number, but nothing is overwritten, and numbers are in order."""
    client.v3.kv.put(f'/q/{name}'.encode(), b'other')
    keys = [client.append('/q', str(at), timeout=LONG).key for at in range(3)]
    assert keys == sorted(set(keys))
    assert len(client.get('/q').nodes) == 4


def test_append_beside_many_names_of_other_programs_takes_a_few_calls(
    client: getc.Client, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the names in pages; keys below a name are skipped."""
    monkeypatch.setattr(append, 'MAX_PAGE_NAMES', 100)
    fill(client, [b'/q/%04x-uuid' % number for number in range(0, 60_000, 100)])
    fill(client, [b'/q/0abc/%04d' % number for number in range(300)])
    client.v3.kv.put(b'/q/00000000000009000000', b'x')
    calls.take()
    assert client.append('/q', 'x').key == '/q/00000000000009000001'
    names = calls.names
    assert (names[0], names[-1]) == ('Txn', 'Txn')
    assert set(names[1:-1]) == {'Range'} and len(names) < 10
    assert client.append('/q', 'y').key == '/q/00000000000009000002'


@pytest.mark.parametrize('name', ['00000000000000900000', '0zebra'])
def test_append_sorts_after_a_number_that_is_created_after_the_names_were_read(
    client: getc.Client, other: getc.Client, calls: Calls, name: str
) -> None:
    client.v3.kv.put(b'/q/0aardvark', b'other')
    calls.take()

    def interfere(name_of_call: str, response: object) -> None:
        if name_of_call == 'Range':
            calls.after = None
            other.v3.kv.put(f'/q/{name}'.encode(), b'other')
            other.v3.kv.put(b'/q/00000000000000800000', b'other')

    calls.after = interfere
    made = client.append('/q', 'x').key
    assert calls.names == ['Txn', 'Range', 'Txn', 'Range', 'Txn']
    assert made == max(f'/q/{name}' if name < '0z' else '', '/q/00000000000000800000')[:-1] + '1'


def test_append_is_refused_when_no_number_sorts_after_the_last_key(client: getc.Client) -> None:
    client.v3.kv.put(b'/q/09999999999999999999', b'')
    with pytest.raises(getc.NotSupported, match='cannot append to /q'):
        client.append('/q', 'x')


def test_append_is_refused_when_the_directory_is_a_value(client: getc.Client) -> None:
    """Also beside numbers that another program wrote."""
    client.v3.kv.put(b'/q', b'')
    client.v3.kv.put(b'/q/00000000001000000000', b'')
    with pytest.raises(getc.NotDir):
        client.append('/q', 'x')


def test_append_in_a_namespace_is_below_it(etcd_server: EtcdServer, client: getc.Client) -> None:
    """Also at its root."""
    with getc.etcd(etcd_server.url, api='v3', namespace='/name/space') as inside:
        first, second = inside.append('/', 'x'), inside.append('/q', 'y')
        assert first.key.count('/') == 1 and second.key.startswith('/q/')
        assert client.get('/name/space' + first.key).value == 'x'
        assert client.get('/name/space' + second.key).value == 'y'


def test_lock_of_a_directory_is_dropped_when_all_appends_are_killed(client: getc.Client, calls: Calls) -> None:
    """Also if one was killed after it got the lock and before it ran."""
    calls.before = lambda name: gevent.sleep(LONG)
    appending = [gevent.spawn(client.append, '/q', 'x', timeout=LONG) for _ in range(3)]
    gevent.sleep(0)
    backend: Any = client._backend
    assert list(backend._appender._locks) == ['/q']
    gevent.killall(appending)
    assert not backend._appender._locks


def test_append_times_out_when_another_one_is_in_flight_for_too_long(client: getc.Client, calls: Calls) -> None:
    """Nothing was sent."""
    calls.before = lambda name: gevent.sleep(LONG)
    holder = gevent.spawn(client.append, '/q', 'x', timeout=LONG)
    gevent.sleep(0)
    with pytest.raises(getc.TimedOut, match='could not append to /q') as caught:
        client.append('/q', 'y', timeout=0.01)
    assert not caught.value.maybe_applied
    holder.kill()
    calls.before = None
    assert client.append('/q', 'z').value == 'z'


# -- limits of flat keys


@pytest.mark.parametrize(
    'call',
    [
        lambda client: client.set('/s' * 127, 'x'),
        lambda client: client.update('/s' * 127, dir=True),
        lambda client: client.refresh('/s' * 127, ttl=60),
        lambda client: client.delete('/s' * 127),
        lambda client: client.append('/s' * 126, 'x'),
        lambda client: client.get('/s' * 127),
    ],
)
def test_call_that_flat_keys_do_not_support_writes_nothing(client: getc.Client, calls: Calls, call: Any) -> None:
    with pytest.raises(getc.NotSupported, match='on etcd v3'):
        call(client)
    assert set(calls.names) <= {'Range'}


def test_key_with_126_segments_works_in_every_operation(client: getc.Client) -> None:
    key = '/s' * 126
    client.create(key, '1')
    client.update(key, '2', prev_value='1')
    client.refresh(key, ttl=60, prev_value='2')
    assert client.get(key).value == '2'
    assert client.get('/s' * 125).values == ('2',)
    client.delete(key)
    assert client.append('/s' * 125, 'x').key.count('/') == 126
    client.delete('/s' * 125, recursive=True)
    client.set('/s' * 126, dir=True)
    client.update('/s' * 126, dir=True, ttl=60)
    client.update('/s' * 126, dir=True)
    client.refresh('/s' * 125, ttl=60)
    assert client.refresh('/s' * 126, ttl=90).ttl == 90
    client.set(f'{"/s" * 125}/t', '1')
    assert lease_of(client, f'{"/s" * 125}/t') == lease_of(client, f'{"/s" * 125}/')
    client.delete('/s' * 126, dir=True)


# -- malformed responses, and bugs of getc


@pytest.mark.parametrize(
    'call',
    [
        lambda client: client.set('/a', '1'),
        lambda client: client.set('/d', dir=True),
        lambda client: client.update('/v', '1'),
        lambda client: client.append('/q', '1'),
        lambda client: client.delete('/v'),
        lambda client: client.delete('/v', recursive=True),
        lambda client: client.get('/', recursive=True),
        lambda client: client.refresh('/v', ttl=60),
    ],
)
def test_response_without_results_is_a_protocol_error(client: getc.Client, calls: Calls, call: Any) -> None:
    """A proxy, or a server that is not etcd, has sent it."""
    client.set('/v', '0')
    calls.after = lambda name, response: response.ClearField('responses') if name == 'Txn' else None
    with pytest.raises(getc.ProtocolError, match='malformed response of etcd v3'):
        call(client)


@pytest.mark.parametrize(
    ('module', 'function', 'call'),
    [
        (backend, 'parse_put', lambda client: client.set('/a', '1')),
        (backend, 'parse_delete', lambda client: client.delete('/v')),
        (backend, 'value_of', lambda client: client.get('/v')),
        (append, 'parse_append', lambda client: client.append('/q', '1')),
        (refresher, 'value_of', lambda client: client.refresh('/v', ttl=60)),
    ],
)
@pytest.mark.parametrize('bug', [IndexError, OverflowError, ValueError])
def test_bug_of_getc_is_not_reported_as_the_servers(
    client: getc.Client,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    function: str,
    call: Any,
    bug: type[Exception],
) -> None:
    client.set('/v', '0')

    def fail(*_: object, **__: object) -> None:
        raise bug('a bug')

    monkeypatch.setattr(module, function, fail)
    with pytest.raises(bug, match='a bug'):
        call(client)
