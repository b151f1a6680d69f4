"""``etcd.v3``: the services of one client, and closing it."""

from __future__ import annotations

import gevent
import pytest

import getc
from getc.errors import ClientClosed, NotSupported
from getc.testing import EtcdServer, wait_until
from tests.support.server_probe import connections_to


def test_memory_store_has_no_v3_services() -> None:
    with getc.etcd('memory://') as client, pytest.raises(NotSupported, match='http:// or https://'):
        client.v3


def test_client_connects_at_the_first_call(server: EtcdServer) -> None:
    with getc.etcd(server.url) as client:
        assert client.v3.kv is client.v3.kv
        assert connections_to(server.url) == 0
        client.v3.kv.range(b'/a')
        assert connections_to(server.url) == 1


def test_all_services_use_one_connection(client: getc.Client, server: EtcdServer) -> None:
    granted = client.v3.lease.grant(600).ID
    with client.v3.watch.create(b'/a'), client.v3.election.observe(b'name'):
        client.v3.lease.keep_alive(granted)
        client.v3.lock.lock(b'name', lease=granted)
        gevent.joinall([gevent.spawn(client.v3.kv.put, b'/a', b'') for _ in range(100)], raise_error=True)
        assert connections_to(server.url) == 1


def test_clear_closes_an_unused_connection(client: getc.Client, server: EtcdServer) -> None:
    client.v3.kv.range(b'/a')
    client.clear()
    wait_until(lambda: connections_to(server.url) == 0)
    client.v3.kv.range(b'/a')
    watching = client.v3.watch.create(b'/a')
    client.v3.clear()
    assert connections_to(server.url) == 1
    client.v3.kv.put(b'/a', b'one')
    assert watching.receive(30) is not None


def test_call_on_a_closed_client_raises(server: EtcdServer) -> None:
    client = getc.etcd(server.url)
    client.v3.kv.range(b'/a')
    client.close()
    client.close()
    wait_until(lambda: connections_to(server.url) == 0)
    for call in (
        lambda: client.v3.kv.range(b'/a'),
        lambda: client.v3.lease.keep_alive(1),
        lambda: client.v3.watch.create(b'/a'),
        lambda: client.v3.election.observe(b'name'),
        lambda: client.v3.maintenance.status(),
    ):
        with pytest.raises(ClientClosed):
            call()


def test_close_ends_calls_in_flight(client: getc.Client, other: getc.Client) -> None:
    mine, theirs = (on.v3.lease.grant(600).ID for on in (other, client))
    other.v3.lock.lock(b'name', lease=mine)
    observed = client.v3.election.observe(b'office')
    waiting = [gevent.spawn(client.v3.lock.lock, b'name', lease=theirs), gevent.spawn(next, observed)]
    wait_until(lambda: other.v3.kv.range(b'name/', range_end=b'name0', count_only=True).count == 2)
    client.close()
    gevent.joinall(waiting)
    assert [type(call.exception) for call in waiting] == [ClientClosed] * 2


def test_call_uses_the_next_server_when_one_is_down(server: EtcdServer) -> None:
    with getc.etcd(['http://127.0.0.1:1', server.url]) as client:
        client.v3.kv.put(b'/a', b'one')
        granted = client.v3.lease.grant(600).ID
        assert client.v3.lease.keep_alive(granted).TTL == 600
        with client.v3.watch.create(b'/a') as watching:
            client.v3.kv.put(b'/a', b'two')
            assert watching.receive(30).events[0].kv.value == b'two'
