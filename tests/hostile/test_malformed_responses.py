"""Well-formed responses with invalid content, from a server with correct gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

import getc
from getc.errors import LeaseNotFound
from getc.testing import wait_until
from getc.v3.schema.kv import KV, RangeResponse, ResponseOp, TxnResponse
from getc.v3.schema.lease import Lease, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseTimeToLiveResponse
from getc.v3.schema.mvccpb import Event, KeyValue
from getc.v3.schema.watch import Watch, WatchResponse
from tests.support.grpc_server import GrpcServer, ServerCall

pytestmark = pytest.mark.timeout(300)

Responses = dict[str, Any]
"""The response to each RPC."""

HEADER: Any = {'revision': 7, 'cluster_id': 1, 'raft_term': 2}
PAIR = KeyValue(key=b'/a', value=b'good', create_revision=7, mod_revision=7, version=1, lease=5)
HUGE = 2**63 - 1


@contextmanager
def responding(responses: Responses, **options: Any) -> Iterator[getc.Client]:
    """Open a client of a server with a fixed response to each RPC."""

    def script(call: ServerCall) -> None:
        message = call.receive()
        response = responses.get(call.path, TxnResponse())
        if callable(response):
            response(call)
        elif message is not None:
            call.answer(response.SerializeToString())

    with GrpcServer(script) as server, getc.etcd(server.endpoint.url, api='v3', timeout=60, **options) as client:
        yield client


CALLS: dict[str, Callable[[getc.Client], object]] = {
    'get': lambda client: client.get('/a'),
    'get below': lambda client: client.get('/a', recursive=True),
    'set': lambda client: client.set('/a', '1'),
    'set with a TTL': lambda client: client.set('/a', '1', ttl=5),
    'set a directory': lambda client: client.set('/a', dir=True),
    'create': lambda client: client.create('/a', '1'),
    'compare': lambda client: client.set('/a', '1', prev_value='2'),
    'append': lambda client: client.append('/a', '1'),
    'refresh': lambda client: client.refresh('/a', ttl=5),
    'delete': lambda client: client.delete('/a'),
    'delete a directory': lambda client: client.delete('/a', dir=True),
    'keep': lambda client: client.keep_node('/a', ttl=5, timeout=0.1),
    'watch': lambda client: client.on_change('/a', print, wait=False),
}

GRANTED = LeaseGrantResponse(ID=5, TTL=5)
NOTHING = TxnResponse()
SHAPES: dict[str, Responses] = {
    'empty responses': {Lease.LeaseGrant.path: NOTHING},
    'a lease, and else empty responses': {Lease.LeaseGrant.path: GRANTED},
    'success without responses': {
        KV.Txn.path: TxnResponse(header=HEADER, succeeded=True),
        Lease.LeaseGrant.path: GRANTED,
    },
    'failure without responses': {KV.Txn.path: TxnResponse(header=HEADER), Lease.LeaseGrant.path: GRANTED},
    'too many responses': {
        KV.Txn.path: TxnResponse(header=HEADER, responses=[ResponseOp() for _ in range(99)]),
        Lease.LeaseGrant.path: GRANTED,
    },
    'a lease without a TTL': {Lease.LeaseGrant.path: LeaseGrantResponse(ID=5)},
    'a lease with negative numbers': {Lease.LeaseGrant.path: LeaseGrantResponse(ID=-5, TTL=-5)},
    'a lease with a huge TTL': {Lease.LeaseGrant.path: LeaseGrantResponse(ID=5, TTL=HUGE)},
}


@pytest.mark.parametrize('shape', SHAPES)
def test_malformed_responses_raise_typed_errors(shape: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Or give a result, where the response has enough for one; gevent prints no traceback."""
    with responding(SHAPES[shape]) as client:
        for call in CALLS.values():
            try:
                call(client)
            except getc.EtcException:
                pass
        gevent.sleep(0.05)
    assert 'Traceback' not in ''.join(capfd.readouterr())


@pytest.mark.parametrize('call', ['set', 'delete', 'keep'])
def test_write_with_a_malformed_response_may_have_been_applied(call: str) -> None:
    with responding({Lease.LeaseGrant.path: GRANTED}) as client:
        if call == 'keep':
            keeper = client.keep_node('/a', ttl=5, wait=False)
            wait_until(lambda: keeper.last_error is not None)
            error = keeper.last_error
        else:
            with pytest.raises(getc.ProtocolError, match='malformed response of etcd v3') as caught:
                CALLS[call](client)
            error = caught.value
    assert isinstance(error, getc.ProtocolError)
    assert error.maybe_applied


@pytest.mark.parametrize(
    'granted', [LeaseGrantResponse(), LeaseGrantResponse(ID=5), LeaseGrantResponse(ID=5, TTL=HUGE)]
)
def test_malformed_lease_raises_protocol_error(granted: Any) -> None:
    """No endless renewals of it."""
    with responding({Lease.LeaseGrant.path: granted}) as client, pytest.raises(getc.ProtocolError, match='a lease'):
        client.set('/a', '1', ttl=5)


@pytest.mark.parametrize('ttl', [-HUGE, -1, 0, HUGE])
def test_malformed_time_to_live_gives_a_result_or_a_typed_error(ttl: int) -> None:
    found = RangeResponse(header=HEADER, kvs=[PAIR], count=1)
    responses = {KV.Range.path: found, Lease.LeaseTimeToLive.path: LeaseTimeToLiveResponse(TTL=ttl, grantedTTL=HUGE)}
    with responding(responses) as client:
        if ttl == HUGE:
            with pytest.raises(getc.ProtocolError, match='malformed response of etcd v3'):
                client.get('/a')
        else:
            assert client.get('/a').value == 'good'


def test_renewals_of_other_leases_are_ignored() -> None:
    """A negative TTL means that the lease does not exist."""

    def renew(call: ServerCall) -> None:
        call.head()
        for response in (
            LeaseKeepAliveResponse(ID=6, TTL=60),
            LeaseKeepAliveResponse(),
            LeaseKeepAliveResponse(ID=5, TTL=-9),
        ):
            call.message(response.SerializeToString())
        call.is_over.wait()

    with responding({Lease.LeaseKeepAlive.path: renew}) as client, pytest.raises(LeaseNotFound):
        client.v3.lease.keep_alive(5)


def event(key: bytes, revision: int) -> Event:
    return Event(kv=KeyValue(key=key, value=b'x', create_revision=revision, mod_revision=revision, version=1))


def test_events_of_unknown_watches_are_ignored() -> None:
    """So are events of other keys, of revisions that were delivered, and without a key."""

    def watch(call: ServerCall) -> None:
        call.head()

        def push(**fields: Any) -> None:
            call.message(WatchResponse(header=HEADER, **fields).SerializeToString())

        push(watch_id=1, created=True)
        push(watch_id=99, created=True)
        for number in (0, -5, 77, HUGE):
            push(watch_id=number, events=[event(b'/a', 8)])
        push(watch_id=77, canceled=True, cancel_reason='you are not welcome')
        push(watch_id=1, events=[event(b'/b', 8), event(b'', 8), Event(), event(b'/a', 3)])
        push(watch_id=1, events=[event(b'/a', 9)])
        push(watch_id=1, events=[event(b'/a', 9)])
        push(watch_id=1, events=[event(b'/a', 10)])
        call.is_over.wait()

    found = RangeResponse(header=HEADER, kvs=[PAIR], count=1)
    responses = {
        KV.Range.path: found,
        KV.Txn.path: TxnResponse(header=HEADER, responses=[{'response_range': found}]),
        Watch.Watch.path: watch,
        Lease.LeaseTimeToLive.path: LeaseTimeToLiveResponse(TTL=5, grantedTTL=5),
    }
    seen: list[tuple[str, int]] = []
    with responding(responses) as client:
        client.on_change('/a', lambda result: seen.append((result.key, result.index or 0)), recursive=False)
        wait_until(lambda: len(seen) >= 2)
        assert [key for key, _ in seen] == ['/a', '/a']
        assert [index for _, index in seen] == [9, 10]
