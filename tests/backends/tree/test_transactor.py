"""Transactions on etcd v3: the requests, leases, lost responses, large values, permissions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

import getc
from getc.grpc import framing
from getc.recipes import STM
from getc.testing import EtcdServer, FaultProxy
from tests.backends.tree.calls import Calls

BOUND = 64 * 1024
LARGE = 'x' * (BOUND // 2 + 1)
"""A value of which two do not fit into one response."""


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


def leases(client: getc.Client) -> set[int]:
    """Return the IDs of all leases of the server, which other tests use as well."""
    return {lease.ID for lease in client.v3.lease.leases().leases}


# -- requests


def test_transaction_is_one_request(client: getc.Client, calls: Calls) -> None:
    keeper = client.keep_node('/owner', 'a', ttl=60)
    client.set('/a', 'x')
    calls.take()
    with client.transaction(guard=keeper) as t:
        t.check('/a', value='x')
        t.set('/dir/b', 'y')
        t.get('/a')
        assert calls.names == []
    assert calls.names == ['Txn']
    with pytest.raises(getc.NodeExist), client.transaction(guard=keeper) as t:
        t.create('/a', 'x')
    assert calls.names == ['Txn']


def test_guard_of_a_keeper_is_its_lease_and_its_creation(client: getc.Client, other: getc.Client, calls: Calls) -> None:
    """A takeover keeps the create revision, so the lease is compared as well."""
    created = other.set('/owner', 'a', ttl=60).index
    keeper = client.keep_node('/owner', 'b', ttl=60)
    (kv,) = client.v3.kv.range(b'/owner').kvs
    assert (keeper.guard.created_index, keeper.guard.lease_id) == (created, kv.lease)
    assert kv.create_revision == created < keeper.ensure()
    client.v3.kv.put(b'/owner', b'b', lease=kv.lease)  # by this client, on its lease
    with client.transaction(guard=keeper.guard) as t:
        t.set('/x', '1')
    guard = keeper.guard
    client.v3.kv.put(b'/owner', b'b')
    with pytest.raises(getc.NodeLost), client.transaction(guard=guard) as t:
        t.set('/x', '2')


def test_lease_is_granted_once_for_each_ttl_and_kept_when_applied(client: getc.Client, calls: Calls) -> None:
    before = leases(client)
    calls.take()
    with client.transaction() as t:
        t.set('/a', '1', ttl=60)
        t.set('/b', '1', ttl=60)
        t.set('/c', '1', ttl=120)
        t.set('/d', '1')
    assert calls.names == ['LeaseGrant', 'LeaseGrant', 'Txn']
    on = [client.v3.kv.range(key).kvs[0].lease for key in (b'/a', b'/b', b'/c', b'/d')]
    assert on[0] == on[1] != on[2]
    assert on[3] == 0
    assert set(on) - {0} <= leases(client) - before


def test_leases_are_revoked_when_the_transaction_is_refused(
    client: getc.Client, other: getc.Client, calls: Calls, wait_until: Any
) -> None:
    granted: list[int] = []
    calls.after = lambda name, response: granted.append(response.ID) if name == 'LeaseGrant' else None
    with pytest.raises(getc.KeyNotFound), client.transaction() as t:
        t.set('/a', '1', ttl=60)
        t.set('/b', '1', ttl=120)
        t.delete('/none')
    assert len(granted) == 2
    wait_until(lambda: leases(other).isdisjoint(granted))


def test_leases_are_revoked_on_a_conflict(
    client: getc.Client, other: getc.Client, calls: Calls, wait_until: Any
) -> None:
    """Each run of the function has leases of its own."""
    granted: list[int] = []
    calls.after = lambda name, response: granted.append(response.ID) if name == 'LeaseGrant' else None

    def write(stm: STM) -> None:
        with pytest.raises(getc.KeyNotFound):
            stm.get('/none')
        if not granted:
            other.set('/a', 'theirs')
        stm.set('/a', 'ours', ttl=60)

    client.atomically(write)
    assert len(granted) == 2
    wait_until(lambda: leases(other).isdisjoint(granted[:1]))
    assert granted[1] in leases(other)


def test_nothing_is_granted_when_the_transaction_is_too_large(client: getc.Client, calls: Calls) -> None:
    with pytest.raises(ValueError, match='etcd allows 128'), client.transaction() as t:
        for number in range(129):
            t.set(f'/{number}', 'x', ttl=60)
    assert calls.names == []


def test_ttl_of_0_expires_the_nodes_at_once(client: getc.Client) -> None:
    with client.transaction() as t:
        t.set('/a', '1', ttl=0)
        t.set('/b', '1')
    assert [result.ttl for result in t.results] == [0, None]
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')
    assert client.get('/b').index == t.index


# -- lost responses


def test_ambiguous_commit_is_not_sent_again_and_keeps_its_leases(etcd_server: EtcdServer, other: getc.Client) -> None:
    """The nodes would be deleted with their leases."""
    with FaultProxy(etcd_server.url) as proxy, getc.etcd(proxy.url, api='v3') as client:
        client.ready()
        calls = Calls(client)

        def lose(name: str) -> None:
            if name == 'Txn':
                proxy.drop_replies()

        calls.before = lose
        before = other.set('/before', 'x').index
        t = client.transaction(timeout=1)
        with pytest.raises(getc.ConnectionError) as caught, t:
            t.set('/a', '1', ttl=60)
        assert caught.value.maybe_applied is True
        assert calls.names == ['LeaseGrant', 'Txn']
        proxy.heal()
        with pytest.raises(RuntimeError, match='its response was not received'):
            _ = t.index
    assert other.get('/a').index == before + 1
    assert other.get('/a').ttl is not None
    assert other.get('/a').etcd_index == before + 1


def test_transaction_is_whole_or_nothing_when_its_greenlet_is_killed(client: getc.Client, other: getc.Client) -> None:
    """Killed at every switch point of the commit."""

    def commit() -> None:
        with client.transaction() as t:
            t.set('/a', 'x', ttl=60)
            t.set('/b', 'x')

    for switches in range(6):
        greenlet = gevent.spawn(commit)
        for _ in range(switches):
            gevent.sleep(0)
        greenlet.kill()
        found = {node.key for node in other.get('/').nodes}
        assert found in (set(), {'/a', '/b'})
        client.ready()
        for key in found:
            other.delete(key)


def test_atomically_raises_after_an_ambiguous_commit(client: getc.Client, calls: Calls) -> None:
    """The function runs once."""
    runs: list[int] = []
    client.set('/a', '0')

    def add(stm: STM) -> None:
        runs.append(1)
        stm.set('/a', str(int(stm.get('/a').value or '') + 1))
        calls.after = lose

    def lose(name: str, response: Any) -> None:
        calls.after = None
        raise getc.ConnectionError('the connection broke', maybe_applied=True)

    with pytest.raises(getc.ConnectionError, match='the connection broke') as caught:
        client.atomically(add)
    assert caught.value.maybe_applied is True
    assert len(runs) == 1
    assert client.get('/a').value == '1'


def test_idempotent_function_runs_again_after_an_ambiguous_commit(client: getc.Client, calls: Calls) -> None:
    runs: list[int] = []

    def claim(stm: STM) -> str:
        runs.append(1)
        if len(runs) == 1:
            calls.after = lose
        try:
            return stm.get('/owner').value or ''
        except getc.KeyNotFound:
            stm.set('/owner', 'me')
            return 'claimed'

    def lose(name: str, response: Any) -> None:
        if (
            len(calls.take())
            and name == 'Txn'
            and response.succeeded
            and response.responses[0].HasField('response_put')
        ):
            calls.after = None
            raise getc.ConnectionError('the connection broke', maybe_applied=True)

    assert client.atomically(claim, idempotent=True) == 'me'
    assert len(runs) == 2


def test_error_after_an_ambiguous_commit_of_an_idempotent_function_is_ambiguous(
    client: getc.Client, calls: Calls
) -> None:
    """Although the last attempt was certainly not applied."""
    errors = [getc.ConnectionError('broke', maybe_applied=True), getc.ConnectionRefused('refused')]

    def write(stm: STM) -> None:
        stm.set('/a', 'x')

    def fail(name: str) -> None:
        raise errors.pop(0)

    calls.before = fail
    with pytest.raises(getc.ConnectionRefused) as caught:
        client.atomically(write, idempotent=True)
    assert caught.value.maybe_applied is True
    assert errors == []


def test_error_of_a_read_after_an_ambiguous_commit_is_ambiguous(client: getc.Client, calls: Calls) -> None:
    """The function of the second run gets the error, and the caller gets it with the facts of all runs."""
    runs: list[int] = []

    def write(stm: STM) -> None:
        runs.append(1)
        if len(runs) == 2:
            calls.before = fail
            stm.get('/b')
        stm.set('/a', 'x')

    def lose(name: str, response: Any) -> None:
        calls.after = None
        raise getc.ConnectionError('broke', maybe_applied=True)

    def fail(name: str) -> None:
        raise getc.ConnectionRefused('refused')

    calls.after = lose
    with pytest.raises(getc.ConnectionRefused) as caught:
        client.atomically(write, idempotent=True)
    assert caught.value.maybe_applied is True
    assert len(runs) == 2


# -- atomically: requests


def test_each_retry_is_one_request(client: getc.Client, other: getc.Client, calls: Calls) -> None:
    """The refused commit returns the current values of all nodes that the run has used."""
    other.set('/a', '0')
    other.set('/b', '0')
    runs: list[list[str | None]] = []

    def write(stm: STM) -> None:
        runs.append([stm.get('/a').value, stm.get('/b').value])
        if len(runs) < 4:
            other.set('/a', str(len(runs)))
        stm.set('/c', 'x')

    client.atomically(write)
    assert runs == [['0', '0'], ['1', '0'], ['2', '0'], ['3', '0']]
    made = calls.take()
    assert [name for name, _ in made] == ['Txn'] * 6
    first, second = made[0][1], made[1][1]
    assert [each.request_range.revision for each in first.success] == [0, 0]
    assert {each.request_range.revision for each in second.success} == {other.get('/b').index}


def test_commit_compares_what_was_read_and_that_nothing_written_is_newer(client: getc.Client, calls: Calls) -> None:
    index = client.set('/a', '0').index
    now = client.set('/other', '0').index
    calls.take()

    def write(stm: STM) -> None:
        stm.get('/a')
        with pytest.raises(getc.KeyNotFound):
            stm.get('/none')
        stm.set('/c', 'x')

    client.atomically(write)
    _, request = calls.last
    compared = {(each.key, each.WhichOneof('target_union')): each.mod_revision for each in request.compare}
    assert compared[b'/a', 'mod_revision'] == index
    assert compared[b'/none', 'mod_revision'] == 0
    assert compared[b'/c', 'mod_revision'] == now + 1


# -- responses that are too large


@pytest.fixture
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the bound of a response to 64 KiB."""
    monkeypatch.setattr(framing, 'MAX_SIZE', framing.MESSAGE_PREFIX_SIZE + BOUND)


@pytest.mark.usefixtures('small_bound')
def test_results_of_a_transaction_with_a_response_that_is_too_large_are_read(client: getc.Client) -> None:
    """As after a single write, the previous nodes are left out."""
    created = [client.set(key, LARGE).index for key in ('/a', '/b', '/read')]
    t = client.transaction()
    with t:
        t.set('/a', 'x')
        t.delete('/b')
        t.create('/c', 'y')
        t.get('/read')
    assert [type(result) for result in t.results] == [getc.Set, getc.Deleted, getc.Created, getc.Got]
    assert [result.created_index for result in t.results] == [created[0], created[1], t.index, created[2]]
    assert [result.value for result in t.results] == ['x', None, 'y', LARGE]
    assert [result.is_new for result in t.results] == [False, False, True, False]
    assert [result.prev_node for result in t.results] == [None] * 4
    assert client.get('/a').index == t.index


@pytest.mark.usefixtures('small_bound')
def test_reads_whose_response_is_too_large_are_read_one_by_one(client: getc.Client) -> None:
    for key in '/a', '/b', '/c':
        client.set(key, LARGE)
    with client.transaction() as t:
        for key in '/a', '/b', '/c':
            t.get(key)
    assert [result.value for result in t.results] == [LARGE] * 3


@pytest.mark.usefixtures('small_bound')
def test_error_of_a_read_after_the_transaction_was_applied_is_ambiguous(client: getc.Client, calls: Calls) -> None:
    """So its leases are not revoked, with which its nodes would be deleted."""
    client.set('/a', LARGE)
    client.set('/b', LARGE)

    def fail(name: str) -> None:
        if name == 'Range':
            calls.before = None
            raise getc.ConnectionRefused('refused')

    calls.before = fail
    with pytest.raises(getc.ConnectionRefused) as caught, client.transaction() as t:
        t.get('/a')
        t.get('/b')
        t.set('/c', 'x', ttl=60)
    assert caught.value.maybe_applied is True
    assert 'LeaseRevoke' not in calls.names
    assert client.get('/c').value == 'x'


@pytest.mark.usefixtures('small_bound')
def test_refusal_does_not_read_values(client: getc.Client) -> None:
    client.set('/a', LARGE)
    client.set('/b', LARGE)
    with pytest.raises(getc.TestFailed, match='/b: value differs'), client.transaction() as t:
        t.check('/a', value=LARGE)
        t.check('/b', value='x')


@pytest.mark.usefixtures('small_bound')
def test_conflict_whose_response_is_too_large_is_an_error_without_effect(
    client: getc.Client, other: getc.Client
) -> None:
    """An attempt reads each value by itself, and the refetch reads all at once."""
    client.set('/a', LARGE)
    client.set('/b', LARGE)

    def write(stm: STM) -> None:
        stm.get('/a')
        stm.get('/b')
        other.set('/c', 'theirs')
        stm.set('/c', 'ours')

    with pytest.raises(getc.ResponseTooLarge) as caught:
        client.atomically(write)
    assert caught.value.maybe_applied is False
    assert other.get('/c').value == 'theirs'
