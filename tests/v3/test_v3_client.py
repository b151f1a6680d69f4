"""``etcd.v3``: the services of one client, and closing it."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

import getc
from getc.errors import ClientClosed, NotSupported
from getc.testing import EtcdServer, wait_until
from getc.v3.reopening import ReopeningStream
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


# -- streams that are shared


class Opened:
    is_over = False


class Opening:
    """Opens streams once ``go`` is set."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = gevent.event.Event()
        self.errors: list[Exception] = []

    def __call__(self, deadline: getc.timing.Deadline) -> Opened:
        self.begun += 1
        self.go.wait()
        if self.errors:
            raise self.errors.pop()
        return Opened()


@pytest.fixture
def opening() -> Opening:
    return Opening()


def get(shared: ReopeningStream[Any], count: int, timeout: float | None = None) -> list[Any]:
    asking = [gevent.spawn(shared.get, getc.timing.Deadline(timeout)) for _ in range(count)]
    gevent.sleep(0)
    return asking


def test_one_greenlet_opens_the_stream_for_all(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    asking = get(shared, 5)
    opening.go.set()
    assert len({id(each.get()) for each in asking}) == 1
    assert shared.get(getc.timing.Deadline(None)) is asking[0].value
    assert opening.begun == 1


def test_another_stream_is_opened_after_the_first_has_ended(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    opening.go.set()
    first = shared.get(getc.timing.Deadline(None))
    first.is_over = True
    assert shared.get(getc.timing.Deadline(None)) is not first
    assert opening.begun == 2


def test_all_greenlets_receive_the_error_of_opening(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    asking = get(shared, 5)
    opening.errors = [getc.ConnectionRefused('connection refused')]
    opening.go.set()
    gevent.joinall(asking)
    assert [type(each.exception) for each in asking] == [getc.ConnectionRefused] * 5
    assert len({id(each.exception) for each in asking}) == 5
    assert opening.begun == 1


@pytest.mark.parametrize('end', ['killed', 'out of time'])
def test_next_greenlet_opens_the_stream_when_the_first_gives_up(opening: Opening, end: str) -> None:
    shared = ReopeningStream(opening)
    asking = get(shared, 3)
    if end == 'killed':
        asking[0].kill()
    else:
        opening.errors = [getc.TimedOut('too late')]
    opening.go.set()
    assert asking[1].get() is asking[2].get()
    assert opening.begun == 2


def test_greenlet_that_waits_for_the_stream_has_its_own_deadline(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    (first,) = get(shared, 1)
    with pytest.raises(getc.TimedOut, match='not opened'):
        shared.get(getc.timing.Deadline(0.01))
    opening.go.set()
    assert first.get() is shared.get(getc.timing.Deadline(0))
