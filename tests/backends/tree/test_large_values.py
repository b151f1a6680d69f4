"""Responses larger than the bound of a message: directories, single values, changes; the bound is lowered here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import getc
from getc import WatcherState
from getc.backends.v2 import http_response
from getc.grpc import framing
from getc.testing import EtcdServer, wait_until
from getc.v3 import prefix_end, ranges, txn
from tests.backends.tree.calls import Calls

BOUND = 64 * 1024
GIANT = 'x' * (BOUND + 1)
"""A value that fits into no response."""

COUNT = 100
LARGE = 'x' * 4000
"""A value of which a few dozen do not fit into one response."""


@pytest.fixture(autouse=True)
def _small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the bound to 64 KiB, since messages of 16 MiB take seconds."""
    monkeypatch.setattr(framing, 'MAX_SIZE', framing.MESSAGE_PREFIX_SIZE + BOUND)
    monkeypatch.setattr(ranges, 'TARGET_BYTES', BOUND // 2)
    monkeypatch.setattr(http_response, 'MAX_BODY', BOUND)


@pytest.fixture
def client(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    """A client of an empty store; checks that no server counted as dead."""
    states: list[str] = []
    with getc.etcd(etcd_server.url, api='v3') as client:
        client.on_state(lambda state: states.append(state.name))
        yield client
        assert states in ([], ['CONNECTED'])


@pytest.fixture
def calls(client: getc.Client) -> Calls:
    return Calls(client)


def fill(client: getc.Client) -> list[str]:
    """Write a directory several times as large as a response may be; return its keys."""
    keys = [f'/maps/{number:03}' for number in range(COUNT)]
    gevent.joinall([gevent.spawn(client.set, key, LARGE) for key in keys], raise_error=True)
    return keys


# -- directories


def test_directory_is_read_in_pages_that_fit(client: getc.Client, calls: Calls, no_streams: None) -> None:
    """At one revision; the next listing starts with pages that fit."""
    keys = fill(client)
    calls.take()
    read = client.get('/maps')
    assert [node.key for node in read.nodes] == keys
    assert set(read.values) == {LARGE}
    pages = [request.revision for name, request in calls.take() if name == 'Range' and request.range_end]
    assert set(pages) == {read.etcd_index}
    assert [node.key for node in client.get('/', recursive=True).node.leaves()] == keys  # type: ignore[union-attr]
    assert len(calls.take()) == COUNT // (BOUND // 2 // len(LARGE)) + 1  # no page was too large
    assert [node.key for node in client.get('/maps', quorum=False).nodes] == keys


def test_directory_is_scanned_in_pages_that_fit(client: getc.Client) -> None:
    """The requested page size is the maximum."""
    keys = fill(client)
    found = list(client.v3.kv.scan(b'/maps/', range_end=prefix_end(b'/maps/')))
    assert [kv.key.decode() for kv in found] == keys
    assert {kv.value.decode() for kv in found} == {LARGE}
    assert len(list(client.v3.kv.scan(b'/maps/', range_end=prefix_end(b'/maps/'), page=7))) == COUNT


def test_directory_is_watched_when_it_outgrows_a_response(client: getc.Client, calls: Calls) -> None:
    before = client.mirror('/maps')
    keys = fill(client)
    wait_until(lambda: len(before) == COUNT)
    seen: list[str] = []
    watcher = client.on_change('/maps', lambda result: seen.append(result.key), initial=True)
    assert list(client.mirror('/maps')) == keys
    wait_until(watcher.ready.is_set)
    assert seen == keys


def test_pages_shrink_after_a_response_that_is_too_large_and_grow_again() -> None:
    """To about half a message; to an eighth if the size of the response is unknown."""

    def page(size: int | None) -> Callable[[int], Any]:
        def request(limit: int) -> Any:
            limits.append(limit)
            if size is None or limit * size > BOUND:
                error = getc.ResponseTooLarge('too large')
                error.size = 0 if size is None else limit * size
                raise error
            kvs = [{'key': b'k', 'value': b'x' * size}] * limit
            return ranges.RangeResponse(kvs=kvs, more=True)

        return request

    limits: list[int] = []
    pages = ranges.PageLimit(5000)
    pages.grow(pages.read_shrinking(page(1000)))
    assert limits == [5000, 32]
    assert 28 <= pages.keys <= 32
    pages.grow(pages.read_shrinking(page(100)))
    assert 250 < pages.keys < 350
    for _ in range(3):
        pages.grow(pages.read_shrinking(page(0)))
    assert pages.keys == 5000
    limits.clear()
    with pytest.raises(getc.ResponseTooLarge):
        pages.read_shrinking(page(None))
    assert limits == [5000, 625, 78, 9, 1]


# -- a value


@pytest.mark.parametrize(
    'read',
    [
        lambda client: client.get('/d/giant'),
        lambda client: client.get('/d/giant', recursive=True),
        lambda client: client.get('/d'),
        lambda client: client.get('/', recursive=True),
        lambda client: client.mirror('/d'),
        lambda client: client.mirror('/d/giant'),
        lambda client: client.on_change('/d', print),
        lambda client: client.refresh('/d/giant', ttl=60),
    ],
)
def test_error_names_the_value_that_is_too_large(client: getc.Client, calls: Calls, read: Callable[..., Any]) -> None:
    """It is a refusal, and not retried."""
    client.set('/d/a', 'x')
    client.set('/d/giant', GIANT)
    client.set('/d/z', 'x')
    calls.take()
    with pytest.raises(getc.ResponseTooLarge, match='the value of /d/giant is too large to be read') as caught:
        read(client)
    assert not caught.value.maybe_applied
    assert caught.value.size > BOUND
    assert len(calls.take()) < 15


@pytest.mark.parametrize(
    ('read', 'text'),
    [
        (lambda v3, lease: v3.kv.range(b'/giant'), 'request fewer keys at a time'),
        (lambda v3, lease: v3.kv.when().then(txn.get(b'/giant')).commit(), 'request fewer keys at a time'),
        (lambda v3, lease: list(v3.kv.scan(b'/', range_end=b'0')), 'request fewer keys at a time'),
        (lambda v3, lease: v3.lease.time_to_live(lease, keys=True), 'request fewer keys at a time'),
        (lambda v3, lease: v3.kv.put(b'/giant', b'x', prev_kv=True), 'the request was applied'),
        (lambda v3, lease: v3.kv.delete_range(b'/', range_end=b'0', prev_kv=True), 'the request was applied'),
    ],
)
def test_rpc_raises_a_typed_error_when_its_response_is_too_large(
    client: getc.Client, calls: Calls, read: Callable[..., Any], text: str
) -> None:
    """The error has the size, and says of a write that it was applied; the connection stays usable."""
    client.set('/giant', GIANT)
    lease = client.v3.lease.grant(600).ID
    for number in range(40):
        client.v3.kv.put(b'/leased/%02d' % number + b'x' * 2000, b'', lease=lease)
    calls.take()
    with pytest.raises(getc.ResponseTooLarge, match=text) as caught:
        read(client.v3, lease)
    assert caught.value.maybe_applied is (text == 'the request was applied')
    assert caught.value.size > BOUND
    assert caught.value.index
    assert len(calls.take()) < 16
    assert client.v3.kv.range(b'/giant', keys_only=True).count == ('delete_range' not in read.__code__.co_names)


WRITES: dict[str, tuple[Callable[[getc.Client, int], getc.EtcdResult], type[getc.EtcdResult]]] = {
    'set': (lambda client, index: client.set('/d/giant', 'small'), getc.Set),
    'set with a TTL': (lambda client, index: client.set('/d/giant', 'small', ttl=60), getc.Set),
    'update': (lambda client, index: client.update('/d/giant', 'small'), getc.Updated),
    'swap': (lambda client, index: client.set('/d/giant', 'small', prev_index=index), getc.ComparedThenSwapped),
    'set dir': (lambda client, index: client.set('/d/giant', dir=True), getc.Set),
    'delete': (lambda client, index: client.delete('/d/giant'), getc.Deleted),
    'compare': (lambda client, index: client.delete('/d/giant', prev_index=index), getc.ComparedThenDeleted),
    'delete dir': (lambda client, index: client.delete('/d/giant', dir=True), getc.Deleted),
    'recursive': (lambda client, index: client.delete('/d/giant', recursive=True), getc.Deleted),
}


@pytest.mark.parametrize('name', WRITES)
@pytest.mark.parametrize('is_compacted', [False, True])
def test_write_succeeds_when_the_previous_value_is_too_large(
    client: getc.Client, calls: Calls, name: str, is_compacted: bool
) -> None:
    """The response would contain that value and is not read; its beginning says that the write was applied."""
    client.set('/d/giant', GIANT)
    before = client.set('/d/giant', GIANT).index
    calls.take()
    if is_compacted:  # then the created index cannot be read any more
        calls.before = lambda rpc: rpc == 'Range' and compact(client, calls)
    write, kind = WRITES[name]
    result = write(client, before)
    assert type(result) is kind
    assert result.modified_index == result.etcd_index == before + 1
    assert result.prev_node is None
    assert not result.is_new
    if name != 'set dir':
        assert result.created_index == (0 if is_compacted else before - 1)
    assert ('Range' if name != 'set dir' else 'Txn') in calls.names
    found = client.v3.kv.range(b'/d/giant').kvs
    assert [kv.value for kv in found] == ([b'small'] if result.value else [])


def compact(client: getc.Client, calls: Calls) -> None:
    """Compact everything before the latest write."""
    calls.before = None
    client.v3.kv.compact(client.v3.kv.range(b'/none').header.revision)


@pytest.mark.parametrize(
    ('write', 'kind'),
    [
        (lambda client: client.create('/d/giant', 'x'), getc.NodeExist),
        (lambda client: client.update('/d/giant', 'x', prev_value='y'), getc.TestFailed),
        (lambda client: client.set('/d/giant', 'x', prev_index=1), getc.TestFailed),
        (lambda client: client.delete('/d/giant', prev_value='y'), getc.TestFailed),
        (lambda client: client.set('/d/giant/x', 'x'), getc.NotDir),
        (lambda client: client.append('/d/giant', 'x'), getc.NotDir),
    ],
)
def test_write_is_refused_as_usual_when_the_previous_value_is_too_large(
    client: getc.Client, write: Callable[..., Any], kind: type[getc.EtcdError]
) -> None:
    """The reason is read again, without the value."""
    client.set('/d/giant', GIANT)
    with pytest.raises(kind) as caught:
        write(client)
    assert not caught.value.maybe_applied


def test_keeper_replaces_its_value_that_is_too_large(client: getc.Client) -> None:
    with client.keep_node('/servers/a', GIANT, ttl=60) as keeper:
        result = keeper.update('small')
        assert (result.value, result.prev_node) == ('small', None)
        assert client.get('/servers/a').value == 'small'


# -- changes


def test_watcher_lists_again_when_a_change_is_too_large(client: getc.Client) -> None:
    """The event contains the previous value as well.  The other watches of the stream go on."""
    seen: list[tuple[str, str | None, bool]] = []
    resynced: list[getc.Watcher] = []
    client.set('/d/a', 'x')
    watcher = client.on_change(
        '/d', lambda result: seen.append((result.key, result.value, result.resync)), on_resync=resynced.append
    )
    mirror = client.mirror('/d')
    others: list[bool] = []
    client.on_change('/other', lambda result: others.append(result.resync))
    half = GIANT[: BOUND // 2 + 1]
    client.set('/d/half', half)
    wait_until(lambda: seen == [('/d/half', half, False)])
    client.set('/d/half', half[:-1])
    wait_until(lambda: dict(mirror) == {'/d/a': 'x', '/d/half': half[:-1]})
    wait_until(lambda: watcher.state is WatcherState.LIVE and resynced == [watcher])
    assert seen[1:] == [('/d/half', half[:-1], True)]
    client.set('/d/a', 'y')
    client.set('/other', 'x')
    wait_until(lambda: len(seen) == 3 and others == [False])
    assert seen[2:] == [('/d/a', 'y', False)]


def test_mirror_is_stale_until_a_value_can_be_read(client: getc.Client, caplog: pytest.LogCaptureFixture) -> None:
    """It logs the reason, and retries at growing intervals."""
    client.set('/d/a', 'x')
    mirror = client.mirror('/d')
    client.set('/d/giant', GIANT)
    reason = 'the value of /d/giant is too large to be read'
    wait_until(lambda: reason in str(mirror.last_error))
    assert mirror.state is WatcherState.STALE
    wait_until(lambda: f'mirror /d: attempt failed, retrying with back-off: {reason}' in caplog.text)
    client.set('/d/giant', 'small')
    wait_until(lambda: dict(mirror) == {'/d/a': 'x', '/d/giant': 'small'} and not mirror.is_stale, 60)


def test_wait_raises_a_typed_error_when_a_change_is_too_large(client: getc.Client) -> None:
    index = client.set('/d/giant', GIANT).index
    with pytest.raises(getc.ResponseTooLarge):
        client.wait('/d/giant', index, timeout=60)


def test_watch_ends_alone_when_a_change_is_too_large(client: getc.Client) -> None:
    """The other watches of the stream go on."""
    with client.v3.watch.create(b'/giant') as giant, client.v3.watch.create(b'/other') as other:
        client.set('/giant', GIANT)
        client.set('/other', 'x')
        response = other.receive(60)
        assert response is not None and response.events[0].kv.value == b'x'
        with pytest.raises(getc.ResponseTooLarge):
            giant.receive(60)


# -- v2


@pytest.fixture
def v2(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    """A v2 client of an empty store."""
    if not etcd_server.binary.supports('v2'):
        pytest.skip(f'{etcd_server.binary} does not speak the v2 API')
    states: list[str] = []
    with getc.etcd(etcd_server.url, api='v2') as client:
        client.on_state(lambda state: states.append(state.name))
        yield client
        assert states in ([], ['CONNECTED'])


def test_v2_call_raises_a_typed_error_when_its_response_is_too_large(v2: getc.Client) -> None:
    """v2 has no pages."""
    with pytest.raises(getc.ResponseTooLarge, match='responded with a body of') as caught:
        v2.set('/d/giant', GIANT)
    assert caught.value.maybe_applied
    for read in (lambda: v2.get('/d/giant'), lambda: v2.get('/d'), lambda: v2.mirror('/d')):
        with pytest.raises(getc.ResponseTooLarge) as caught:
            read()
        assert not caught.value.maybe_applied
    assert v2.delete('/d', recursive=True).key == '/d'


def test_v2_watcher_lists_again_when_a_change_is_too_large(v2: getc.Client) -> None:
    """The same poll would return the same event."""
    v2.set('/d/a', 'x')
    mirror = v2.mirror('/d')
    half = GIANT[: BOUND // 2 + 1]
    v2.set('/d/half', half)
    with pytest.raises(getc.ResponseTooLarge):
        v2.set('/d/half', half[:-1])
    wait_until(lambda: dict(mirror) == {'/d/a': 'x', '/d/half': half[:-1]})
    v2.set('/d/a', 'y')
    wait_until(lambda: mirror['/d/a'] == 'y' and not mirror.is_stale)
