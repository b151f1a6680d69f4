"""``etcd.v3.kv`` on a real etcd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from getc.errors import (
    EventIndexCleared,
    FutureRevision,
    InvalidArgument,
    LeaseNotFound,
    ProtocolError,
    ResourceExhausted,
)
from getc.testing import EtcdBinary, EtcdServer
from getc.v3 import EVERYTHING, next_key, prefix_end, schema, txn
from getc.v3.kv import KV
from getc.v3.schema.kv import Compare, RangeRequest, RangeResponse, RequestOp
from getc.v3.txn import create_revision, delete, get, lease, mod_revision, nested, put, value, version
from tests.support.server_probe import pause

SERVICE = schema.KV

Order = RangeRequest.SortOrder
Target = RangeRequest.SortTarget


@pytest.fixture
def kv(client: getc.Client) -> KV:
    return client.v3.kv


@pytest.fixture
def fruit(kv: KV) -> dict[bytes, int]:
    """Put three keys; return the revision of the last put of each.  ``b`` is written twice."""
    written = [(b'/f/b', b'2'), (b'/f/a', b'3'), (b'/f/c', b'1'), (b'/f/b', b'2')]
    return {key: kv.put(key, text).header.revision for key, text in written}


@pytest.fixture
def has_streams(etcd_binary: EtcdBinary) -> bool:
    """True if the server has RangeStream."""
    return etcd_binary.version >= (3, 7, 0)


def keys(response: Any) -> list[bytes]:
    return [kv.key for kv in response.kvs]


def record_calls(client: getc.Client) -> list[str]:
    """Return a list that receives the names of the unary RPCs from now on."""
    names: list[str] = []
    rpc: Any = client.v3._rpc
    call = rpc.call

    def recording(method: schema.Method[Any, Any], *args: Any, **options: Any) -> Any:
        names.append(method.path.rpartition('/')[2])
        return call(method, *args, **options)

    rpc.call = recording
    return names


# -- range


def test_range_reads_one_key(kv: KV) -> None:
    revision = kv.put(b'/a', b'one').header.revision
    response = kv.range(b'/a')
    assert (response.count, response.more, response.header.revision) == (1, False, revision)
    found = response.kvs[0]
    assert (found.key, found.value, found.version, found.lease) == (b'/a', b'one', 1, 0)
    assert found.create_revision == found.mod_revision == revision


def test_range_of_a_missing_key_is_empty(kv: KV) -> None:
    assert keys(kv.range(b'/none')) == []


def test_keys_and_values_may_be_any_bytes(kv: KV) -> None:
    key, text = bytes(range(256)), bytes(reversed(range(256)))
    kv.put(key, text)
    assert kv.range(key).kvs[0].value == text


def test_range_end_is_exclusive(kv: KV, fruit: dict[bytes, int]) -> None:
    assert keys(kv.range(b'/f/a', range_end=b'/f/c')) == [b'/f/a', b'/f/b']
    assert keys(kv.range(b'/f/', range_end=prefix_end(b'/f/'))) == sorted(fruit)
    assert keys(kv.range(EVERYTHING, range_end=EVERYTHING)) == sorted(fruit)
    assert keys(kv.range(b'/f/b', range_end=EVERYTHING)) == [b'/f/b', b'/f/c']
    assert keys(kv.range(next_key(b'/f/b'), range_end=EVERYTHING)) == [b'/f/c']


@pytest.mark.parametrize(
    ('target', 'ascending'),
    [
        (Target.KEY, b'abc'),
        (Target.VERSION, b'acb'),
        (Target.CREATE, b'bac'),
        (Target.MOD, b'acb'),
        (Target.VALUE, b'cba'),
    ],
)
def test_range_sorts(kv: KV, fruit: dict[bytes, int], target: int, ascending: bytes) -> None:
    """The order of equal items is the choice of the server."""
    up = kv.range(b'/f/', range_end=b'/f0', sort_order=Order.ASCEND, sort_target=target)
    down = kv.range(b'/f/', range_end=b'/f0', sort_order=Order.DESCEND, sort_target=target)
    of = {Target.KEY: 'key', Target.VERSION: 'version', Target.CREATE: 'create_revision', Target.MOD: 'mod_revision'}
    wanted = [getattr(found, of.get(target, 'value')) for found in up.kvs]
    assert wanted == sorted(wanted)
    assert [getattr(found, of.get(target, 'value')) for found in down.kvs] == wanted[::-1]
    if len(set(wanted)) == len(wanted):
        assert b''.join(key[-1:] for key in keys(up)) == ascending


def test_limit_sets_more(kv: KV, fruit: dict[bytes, int]) -> None:
    response = kv.range(b'/f/', range_end=b'/f0', limit=2)
    assert (keys(response), response.more, response.count) == ([b'/f/a', b'/f/b'], True, 3)
    assert not kv.range(b'/f/', range_end=b'/f0', limit=3).more


def test_range_reads_at_a_revision(kv: KV) -> None:
    first = kv.put(b'/a', b'one').header.revision
    kv.put(b'/a', b'two')
    assert kv.range(b'/a', revision=first).kvs[0].value == b'one'
    assert keys(kv.range(b'/a', revision=first - 1)) == []
    assert kv.range(b'/a').kvs[0].value == b'two'


def test_count_only_and_keys_only_omit_the_rest(kv: KV, fruit: dict[bytes, int]) -> None:
    counted = kv.range(b'/f/', range_end=b'/f0', count_only=True)
    assert (counted.count, keys(counted)) == (3, [])
    named = kv.range(b'/f/', range_end=b'/f0', keys_only=True)
    assert keys(named) == sorted(fruit) and not any(found.value for found in named.kvs)


def test_range_filters_by_revisions(kv: KV, fruit: dict[bytes, int]) -> None:
    first = fruit[b'/f/a'] - 1  # at which b was created

    def found(**bounds: int) -> list[bytes]:
        return keys(kv.range(b'/f/', range_end=b'/f0', **bounds))

    assert found(min_mod_revision=fruit[b'/f/c']) == [b'/f/b', b'/f/c']
    assert found(max_mod_revision=fruit[b'/f/c']) == [b'/f/a', b'/f/c']
    assert found(min_create_revision=fruit[b'/f/a']) == [b'/f/a', b'/f/c']
    assert found(max_create_revision=first) == [b'/f/b']


def test_serializable_range_returns_the_key(kv: KV) -> None:
    kv.put(b'/a', b'one')
    assert kv.range(b'/a', serializable=True).kvs[0].value == b'one'


def test_future_revision_raises(kv: KV, server: EtcdServer) -> None:
    with pytest.raises(FutureRevision) as caught:
        kv.range(b'/a', revision=kv.put(b'/a', b'').header.revision + 1)
    assert caught.value.endpoint == server.url


def test_compacted_revision_raises(kv: KV) -> None:
    first = kv.put(b'/a', b'one').header.revision
    kv.compact(kv.put(b'/a', b'two').header.revision, physical=True)
    with pytest.raises(EventIndexCleared):
        kv.range(b'/a', revision=first)
    with pytest.raises(EventIndexCleared):
        kv.compact(first)
    with pytest.raises(FutureRevision):
        kv.compact(10**9)


# -- put


def test_put_returns_prev_kv(kv: KV) -> None:
    assert not kv.put(b'/a', b'one', prev_kv=True).HasField('prev_kv')
    assert kv.put(b'/a', b'two', prev_kv=True).prev_kv.value == b'one'
    assert not kv.put(b'/a', b'three').HasField('prev_kv')


def test_key_ends_with_its_lease(client: getc.Client, kv: KV) -> None:
    granted = client.v3.lease.grant(60).ID
    kv.put(b'/a', b'one', lease=granted)
    assert kv.range(b'/a').kvs[0].lease == granted
    client.v3.lease.revoke(granted)
    assert keys(kv.range(b'/a')) == []


def test_put_with_a_missing_lease_raises_and_writes_nothing(kv: KV) -> None:
    with pytest.raises(LeaseNotFound):
        kv.put(b'/a', b'one', lease=77)
    assert keys(kv.range(b'/a')) == []


def test_put_ignores_value_or_lease(client: getc.Client, kv: KV) -> None:
    first, second = client.v3.lease.grant(60).ID, client.v3.lease.grant(60).ID
    kv.put(b'/a', b'one', lease=first)
    kv.put(b'/a', lease=second, ignore_value=True)
    assert (kv.range(b'/a').kvs[0].value, kv.range(b'/a').kvs[0].lease) == (b'one', second)
    kv.put(b'/a', b'two', ignore_lease=True)
    assert (kv.range(b'/a').kvs[0].value, kv.range(b'/a').kvs[0].lease) == (b'two', second)
    kv.put(b'/a', b'three')
    assert kv.range(b'/a').kvs[0].lease == 0
    with pytest.raises(InvalidArgument, match='key not found'):
        kv.put(b'/none', ignore_value=True)


def test_invalid_requests_are_refused_by_etcd(kv: KV) -> None:
    with pytest.raises(InvalidArgument, match='key is not provided'):
        kv.put(b'', b'one')
    with pytest.raises(InvalidArgument, match='too large'):
        kv.put(b'/a', bytes(1_600_000))
    with pytest.raises(ResourceExhausted, match='larger than max'):
        kv.put(b'/a', bytes(2 * 1024 * 1024))


# -- delete_range


def test_delete_range_returns_count_and_prev_kvs(kv: KV, fruit: dict[bytes, int]) -> None:
    assert kv.delete_range(b'/none').deleted == 0
    assert kv.delete_range(b'/f/a').deleted == 1
    response = kv.delete_range(b'/f/', range_end=b'/f0', prev_kv=True)
    assert response.deleted == 2
    assert [(found.key, found.value) for found in response.prev_kvs] == [(b'/f/b', b'2'), (b'/f/c', b'1')]
    assert kv.range(EVERYTHING, range_end=EVERYTHING, count_only=True).count == 0


# -- txn


def test_txn_executes_success_or_failure(kv: KV) -> None:
    kv.put(b'/a', b'one')
    kv.put(b'/b', b'other')
    swap = (
        kv.when(value(b'/a') == b'one', version(b'/none') == 0)
        .then(put(b'/a', b'two', prev_kv=True), get(b'/a'), delete(b'/b', prev_kv=True))
        .otherwise(get(b'/a', keys_only=True))
    )
    done = swap.commit()
    assert done.succeeded
    was_put, was_read, was_deleted = done.responses
    assert was_put.response_put.prev_kv.value == b'one'
    assert was_read.response_range.kvs[0].value == b'two'
    assert was_deleted.response_delete_range.deleted == 1
    assert was_deleted.response_delete_range.prev_kvs[0].value == b'other'
    refused = swap.commit()
    assert not refused.succeeded
    assert [found.value for found in refused.responses[0].response_range.kvs] == [b'']


def test_txn_without_conditions_succeeds(kv: KV) -> None:
    assert kv.when().then(put(b'/a', b'1'), put(b'/b', b'2')).commit().succeeded
    assert {found.mod_revision for found in kv.range(b'/', range_end=b'0').kvs} == {kv.range(b'/a').header.revision}


def test_every_target_is_compared_by_every_operator(client: getc.Client, kv: KV) -> None:
    granted = client.v3.lease.grant(60).ID
    created = kv.put(b'/a', b'm').header.revision
    written = kv.put(b'/a', b'm', lease=granted).header.revision
    for target, is_now in [
        (version(b'/a'), 2),
        (create_revision(b'/a'), created),
        (mod_revision(b'/a'), written),
        (lease(b'/a'), granted),
    ]:
        for holds in (target == is_now, target != is_now + 1, target > is_now - 1, target < is_now + 1):
            assert kv.when(holds).commit().succeeded, holds
        for fails in (target != is_now, target == is_now + 1, target > is_now, target < is_now):
            assert not kv.when(fails).commit().succeeded, fails
    text = value(b'/a')
    assert kv.when(text == b'm', text != b'n', text > b'l', text < b'n').commit().succeeded
    assert not kv.when(text > b'm').commit().succeeded


def test_range_compare_holds_if_it_holds_for_every_key(kv: KV, fruit: dict[bytes, int]) -> None:
    assert kv.when(version(b'/f/', b'/f0') > 0).commit().succeeded
    assert not kv.when(version(b'/f/', b'/f0') > 1).commit().succeeded
    assert kv.when(create_revision(b'/g/', b'/g0') == 0).commit().succeeded
    assert not kv.when(create_revision(b'/f/', b'/f0') == 0).commit().succeeded


def test_transactions_nest(kv: KV) -> None:
    kv.put(b'/a', b'one')
    inner = kv.when(value(b'/a') == b'one').then(put(b'/b', b'deep')).otherwise(put(b'/b', b'else'))
    done = kv.when(version(b'/a') > 0).then(nested(inner), get(b'/b')).commit()
    assert done.responses[0].response_txn.succeeded
    assert done.responses[1].response_range.kvs[0].value == b'deep'


def test_txn_accepts_messages(kv: KV) -> None:
    done = kv.txn(
        compare=[Compare(key=b'/a', target=Compare.CompareTarget.VERSION, version=0)],
        success=[RequestOp(request_range=RangeRequest(key=b'/a'))],
        failure=[put(b'/a', b'')],
    )
    assert done.succeeded and done.responses[0].response_range.count == 0


@pytest.mark.parametrize(
    ('operations', 'changes'),
    [
        ([], False),
        ([get(b'k')], False),
        ([get(b'k'), put(b'k', b'v')], True),
        ([delete(b'k')], True),
        ([nested(KV(None).when().then(get(b'k')))], False),  # type: ignore[arg-type]
        ([nested(KV(None).when().otherwise(put(b'k', b'v')))], True),  # type: ignore[arg-type]
    ],
)
def test_txn_that_only_reads_counts_as_a_read(operations: list[RequestOp], changes: bool) -> None:
    """It may be repeated, and its error has no ``maybe_applied``."""
    request = KV(None).when().otherwise(*operations).request  # type: ignore[arg-type]
    assert txn.is_write(request) == changes
    with getc.etcd('http://127.0.0.1:1') as client, pytest.raises(getc.ConnectionRefused) as caught:
        client.v3.kv.when().then(*operations).commit(timeout=1)
    assert not caught.value.maybe_applied


def test_txn_refuses_two_puts_of_one_key(kv: KV) -> None:
    with pytest.raises(InvalidArgument, match='duplicate key'):
        kv.when().then(put(b'/a', b'1'), put(b'/a', b'2')).commit()


# -- scan


def put_many(kv: KV, prefix: bytes, count: int) -> None:
    """Put this many keys, 128 in each transaction."""
    names = [prefix + b'%06d' % number for number in range(count)]
    for at in range(0, count, 128):
        kv.when().then(*(put(name, name[-6:]) for name in names[at : at + 128])).commit()


def test_scan_reads_twelve_thousand_keys_in_order(kv: KV) -> None:
    put_many(kv, b'/s/', 12_000)
    kv.put(b'/t', b'outside')
    found = [(item.key, item.value) for item in kv.scan(b'/s/', range_end=b'/s0')]
    assert found == [(b'/s/%06d' % number, b'%06d' % number) for number in range(12_000)]


@pytest.mark.parametrize('page', [1, 3, 10, 11])
def test_scan_returns_the_same_keys_for_any_page_size(kv: KV, page: int) -> None:
    put_many(kv, b'/s/', 10)
    found = list(kv.scan(b'/s/', range_end=b'/s0', page=page, keys_only=True))
    assert [item.key for item in found] == [b'/s/%06d' % number for number in range(10)]
    assert not any(item.value for item in found)


def test_scan_of_an_empty_range_is_empty(kv: KV) -> None:
    assert list(kv.scan(b'/s/', range_end=b'/s0')) == []


def test_scan_reads_at_one_revision_while_others_write(kv: KV, other: getc.Client, spawn: Callable[..., Any]) -> None:
    put_many(kv, b'/s/', 200)
    before = kv.range(b'/s/').header.revision

    def disturb() -> None:
        for number in range(200):
            other.v3.kv.put(b'/s/%06d' % number, b'changed')
            other.v3.kv.put(b'/s/%06d-new' % number, b'new')
            other.v3.kv.delete_range(b'/s/%06d' % (199 - number))

    scan = kv.scan(b'/s/', range_end=b'/s0', page=7)
    found = [next(scan)]
    writing = spawn(disturb)
    found += scan
    writing.get()
    assert [(item.key, item.value) for item in found] == [(b'/s/%06d' % n, b'%06d' % n) for n in range(200)]
    assert max(item.mod_revision for item in found) <= before
    assert len(list(kv.scan(b'/s/', range_end=b'/s0', revision=before, page=50))) == 200


def test_scan_raises_when_its_revision_is_compacted_meanwhile(kv: KV) -> None:
    put_many(kv, b'/s/', 20)
    scan = kv.scan(b'/s/', range_end=b'/s0', page=10)
    for _ in range(10):
        next(scan)
    kv.compact(kv.put(b'/s/000015', b'changed').header.revision)
    with pytest.raises(EventIndexCleared):
        next(scan)


def test_page_below_one_raises_value_error(unreachable: getc.Client) -> None:
    with pytest.raises(ValueError, match='page'):
        unreachable.v3.kv.scan(b'/s/', range_end=b'/s0', page=0)


def test_scan_is_streamed_after_a_page_of_five_thousand(client: getc.Client, kv: KV, has_streams: bool) -> None:
    put_many(kv, b'/s/', 5_001)
    calls = record_calls(client)
    assert len(list(kv.scan(b'/s/', range_end=b'/s0'))) == 5_001
    assert calls == (['Range'] if has_streams else ['Range', 'Range'])


def test_scan_with_a_page_is_never_streamed(client: getc.Client, kv: KV) -> None:
    put_many(kv, b'/s/', 5_001)
    calls = record_calls(client)
    assert len(list(kv.scan(b'/s/', range_end=b'/s0', page=5_000))) == 5_001
    assert calls == ['Range', 'Range']


# -- range_stream


def test_range_stream_returns_every_key_once_in_order(client: getc.Client, kv: KV, has_streams: bool) -> None:
    put_many(kv, b'/s/', 12_000)
    kv.put(b'/t', b'outside')
    calls = record_calls(client)
    parts = list(kv.range_stream(b'/s/', range_end=b'/s0'))
    assert [(item.key, item.value) for part in parts for item in part.kvs] == [
        (b'/s/%06d' % number, b'%06d' % number) for number in range(12_000)
    ]
    assert len(parts) > 2
    assert not any(part.HasField('header') or part.more or part.count for part in parts[:-1])
    last = parts[-1]
    assert (last.count, last.more) == (12_000, False)
    assert last.header.revision == kv.range(b'/t').header.revision
    assert last.header.cluster_id and last.header.member_id
    assert (calls == ['Range']) is has_streams  # that of this test


@pytest.mark.parametrize('limit', [1, 10, 11, 4_999, 5_000, 5_001, 6_000, 7_000])
def test_range_stream_respects_its_limit(kv: KV, limit: int) -> None:
    put_many(kv, b'/s/', 6_000)
    parts = list(kv.range_stream(b'/s/', range_end=b'/s0', limit=limit, keys_only=True))
    found = [item for part in parts for item in part.kvs]
    assert [item.key for item in found] == [b'/s/%06d' % number for number in range(min(limit, 6_000))]
    assert not any(item.value for item in found)
    assert (parts[-1].count, parts[-1].more) == (6_000, limit < 6_000)


def test_range_stream_counts_and_reads_single_keys_and_empty_ranges(kv: KV) -> None:
    put_many(kv, b'/s/', 20)
    [part] = kv.range_stream(b'/s/', range_end=b'/s0', count_only=True)
    assert (part.count, list(part.kvs)) == (20, [])
    [part] = kv.range_stream(b'/s/000007')
    assert [item.value for item in part.kvs] == [b'000007']
    [part] = kv.range_stream(b'/none', serializable=True)
    assert (part.count, list(part.kvs)) == (0, [])


def test_range_stream_reads_at_one_revision(kv: KV, other: getc.Client) -> None:
    put_many(kv, b'/s/', 6_000)
    at = kv.range(b'/s/').header.revision
    options: dict[str, int]
    for options in ({}, {'revision': at}):
        parts = kv.range_stream(b'/s/', range_end=b'/s0', **options)
        found = list(next(parts).kvs)
        other.v3.kv.put(b'/s/005999', b'changed')
        other.v3.kv.put(b'/s/9', b'new')
        found += [item for part in parts for item in part.kvs]
        assert [item.value for item in found] == [b'%06d' % number for number in range(6_000)]
        assert max(item.mod_revision for item in found) <= at


def test_range_stream_raises_when_its_revision_is_compacted(kv: KV) -> None:
    at = kv.put(b'/s/', b'one').header.revision
    kv.compact(kv.put(b'/s/', b'two').header.revision)
    with pytest.raises(EventIndexCleared):
        list(kv.range_stream(b'/s/', revision=at))
    with pytest.raises(FutureRevision):
        list(kv.range_stream(b'/s/', revision=at + 100))
    with pytest.raises(InvalidArgument, match='key is not provided'):
        list(kv.range_stream(b''))


def test_range_stream_leaves_nothing_when_it_is_not_read_to_the_end(kv: KV, client: getc.Client) -> None:
    value = bytes(100_000)
    for number in range(100):
        kv.put(b'/s/%03d' % number, value)
    for _ in range(20):
        parts = kv.range_stream(b'/s/', range_end=b'/s0')
        assert next(parts).kvs
        parts.close()
    [server] = client.v3._rpc._servers.values()
    assert server.channel._connection is not None and not server.channel._connection.calls
    assert kv.range(b'/s/', range_end=b'/s0', count_only=True).count == 100


# -- ranges of keys


@pytest.mark.parametrize(
    ('prefix', 'end'),
    [
        (b'/servers/', b'/servers0'),
        (b'a', b'b'),
        (b'a\xff', b'b'),
        (b'a\xff\xff', b'b'),
        (b'a\xfe', b'a\xff'),
        (b'\xff', EVERYTHING),
        (b'\xff\xff', EVERYTHING),
        (b'', EVERYTHING),
        (b'a\xffb', b'a\xffc'),
    ],
)
def test_prefix_end_is_the_first_key_after_the_prefix(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end


@pytest.mark.parametrize('prefix', [b'a', b'a\xff', b'\xff', b'a\xff\xff'])
def test_prefix_end_bounds_exactly_the_keys_with_the_prefix(kv: KV, prefix: bytes) -> None:
    names = [
        b'a',
        b'a\0',
        b'a\xfe',
        b'a\xff',
        b'a\xff\0',
        b'a\xff\xff',
        b'a\xff\xffz',
        b'b',
        b'\xfe',
        b'\xff',
        b'\xffz',
    ]
    for name in names:
        kv.put(name, b'')
    assert keys(kv.range(prefix, range_end=prefix_end(prefix))) == [name for name in names if name.startswith(prefix)]


# -- arguments


SECRET = 'correct horse battery staple'


@pytest.mark.parametrize(
    ('call', 'field'),
    [
        (lambda v3: v3.kv.range(SECRET), 'key'),
        (lambda v3: v3.kv.range(None), 'key'),
        (lambda v3: v3.kv.range(b'k', limit=SECRET), 'limit'),
        (lambda v3: v3.kv.range(b'k', revision=1.5), 'revision'),
        (lambda v3: v3.kv.put(b'k', SECRET), 'value'),
        (lambda v3: v3.kv.put(b'k', None), 'value'),
        (lambda v3: v3.kv.put(b'k', bytearray(SECRET.encode())), 'value'),
        (lambda v3: v3.kv.put(b'k', b'v', lease=SECRET), 'lease'),
        (lambda v3: v3.kv.delete_range(b'k', range_end=SECRET), 'range_end'),
        (lambda v3: v3.kv.txn(compare=[SECRET]), 'compare'),
        (lambda v3: v3.kv.when(value(b'k') == SECRET), 'value'),
        (lambda v3: v3.kv.when(version(b'k') > SECRET), 'version'),
        (lambda v3: put(b'k', SECRET), 'value'),
        (lambda v3: get(b'k', lmit=SECRET), 'lmit'),
        (lambda v3: v3.lease.grant(SECRET), 'TTL'),
        (lambda v3: v3.lease.keep_alive(SECRET), 'ID'),
        (lambda v3: v3.watch.create(SECRET), 'key'),
        (lambda v3: v3.watch.create(b'k', filters=5), 'filters'),
        (lambda v3: v3.auth.user_add('name', 12345678), 'password'),
        (lambda v3: v3.auth.user_add('name', None), 'password'),
        (lambda v3: v3.lock.lock(SECRET, lease=1), 'name'),
        (lambda v3: v3.election.campaign(b'n', lease=1, value=SECRET), 'value'),
        (lambda v3: v3.election.proclaim(None, b'v'), 'leader'),
        (lambda v3: v3.cluster.member_remove(SECRET), 'ID'),
    ],
)
def test_type_error_names_the_field_and_not_the_value(
    unreachable: getc.Client, call: Callable[[Any], object], field: str
) -> None:
    """It is raised before any I/O."""
    with pytest.raises(TypeError, match=rf'\b{field}\b') as caught:
        call(unreachable.v3)
    assert 'horse' not in str(caught.value) and '12345678' not in str(caught.value)


@pytest.mark.parametrize(
    ('call', 'field'),
    [
        (lambda v3: v3.kv.put(b'k', b'v', lease=2**63), 'lease'),
        (lambda v3: v3.kv.range(b'k', sort_order=SECRET), 'sort_order'),
        (lambda v3: v3.auth.user_add('name', '\udcff horse'), 'password'),
        (lambda v3: v3.auth.user_add('name', b'\xff horse'), 'password'),
    ],
)
def test_value_error_names_the_field_and_not_the_value(
    unreachable: getc.Client, call: Callable[[Any], object], field: str
) -> None:
    with pytest.raises(ValueError, match=rf'\b{field}\b') as caught:
        call(unreachable.v3)
    assert 'horse' not in str(caught.value) and str(2**63) not in str(caught.value)


def test_scan_raises_protocol_error_if_a_page_without_keys_is_not_the_last() -> None:
    class Rpc:
        def call(self, *_: object) -> RangeResponse:
            return RangeResponse(more=True)

    rpc: Any = Rpc()
    with pytest.raises(ProtocolError, match='no keys'):
        list(KV(rpc).scan(b'/', range_end=b'0'))


def test_call_times_out(own_server: EtcdServer) -> None:
    with getc.etcd(own_server.url) as client:
        client.v3.kv.put(b'/a', b'one')
        pause(own_server)
        for call, applied in [
            (lambda t: client.v3.kv.range(b'/a', timeout=t), False),
            (lambda t: client.v3.kv.put(b'/a', b'two', timeout=t), True),
        ]:
            with pytest.raises(getc.TimedOut) as caught:
                call(0.1)
            assert caught.value.maybe_applied == applied
        own_server.resume()
        assert client.v3.kv.range(b'/a').kvs[0].value in (b'one', b'two')


def test_concurrent_calls_each_get_their_own_response(kv: KV) -> None:
    put_many(kv, b'/s/', 100)
    calls = [gevent.spawn(kv.range, b'/s/%06d' % (number % 100)) for number in range(1000)]
    gevent.joinall(calls, raise_error=True)
    assert [found.value.kvs[0].value for found in calls] == [b'%06d' % (number % 100) for number in range(1000)]
