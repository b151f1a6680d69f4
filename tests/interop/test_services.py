"""Endpoints of services as Go stores them, and the gRPC resolver of etcd."""

from __future__ import annotations

import json
from typing import Any

import pytest

import getc
from getc.testing import EtcdServer
from tests.support.interop import Go
from tests.support.interop_events import Dialed, Endpoint, EndpointUpdate, GoError, Resolved, Updated

SERVICE = '/services/match'
TARGET = 'etcd:////services/match'


def go_json(addr: str, **more: Any) -> str:
    """Return an endpoint as Go encodes it."""
    return json.dumps({'Op': 0, 'Addr': addr, 'Metadata': None, **more})


def test_getc_reads_the_endpoints_of_go(go: Go, etcd: getc.Client) -> None:
    lease = go.grant(600).result().lease
    go.add_endpoint(SERVICE, f'{SERVICE}/a', '10.0.0.1:80', metadata={'zone': 'x', 'load': 3}, lease=lease).result()
    go.add_endpoint(SERVICE, f'{SERVICE}/b', '10.0.0.2:80').result()
    first, second = etcd.get(f'{SERVICE}/a'), etcd.get(f'{SERVICE}/b')
    assert json.loads(first.value) == {'Op': 0, 'Addr': '10.0.0.1:80', 'Metadata': {'zone': 'x', 'load': 3}}
    assert json.loads(second.value) == {'Op': 0, 'Addr': '10.0.0.2:80', 'Metadata': None}
    assert (first.ttl, second.ttl) == (600, None)


def test_go_lists_what_getc_wrote(go: Go, etcd: getc.Client) -> None:
    etcd.set(f'{SERVICE}/a', go_json('10.0.0.1:80', Metadata={'zone': 'x'}))
    etcd.set(f'{SERVICE}/b', '{"Addr": "10.0.0.2:80"}')
    etcd.set(f'{SERVICE}/c', 'no JSON')  # Go leaves it out
    etcd.set('/services/matches/d', go_json('10.0.0.4:80'))
    assert go.list_endpoints(SERVICE).result() == {
        f'{SERVICE}/a': Endpoint('10.0.0.1:80', {'zone': 'x'}),
        f'{SERVICE}/b': Endpoint('10.0.0.2:80', None),
    }


def test_go_watches_what_getc_writes(go: Go, etcd: getc.Client) -> None:
    etcd.set(f'{SERVICE}/a', go_json('10.0.0.1:80'))
    watching = go.watch_endpoints(SERVICE)
    existing = watching.wait(Updated)
    assert existing.updates == (EndpointUpdate('add', f'{SERVICE}/a', Endpoint('10.0.0.1:80', None)),)
    etcd.set(f'{SERVICE}/b', go_json('10.0.0.2:80'))
    watching.wait(Updated, lambda updated: updated.updates[0].endpoint.addr == '10.0.0.2:80')
    etcd.delete(f'{SERVICE}/a')
    watching.wait(Updated, lambda updated: updated.updates[0].operation == 'delete')
    assert watching.events[-1].updates[0].key == f'{SERVICE}/a'


def test_getc_watches_what_go_deletes(go: Go, etcd: getc.Client, wait_until: Any) -> None:
    go.add_endpoint(SERVICE, f'{SERVICE}/a', '10.0.0.1:80').result()
    mirror = etcd.mirror(SERVICE)
    assert f'{SERVICE}/a' in mirror
    go.delete_endpoint(SERVICE, f'{SERVICE}/a').result()
    wait_until(lambda: f'{SERVICE}/a' not in mirror)


def test_endpoint_outside_of_its_service_is_an_error(go: Go) -> None:
    with pytest.raises(GoError, match=r"InvalidArgument: .*prefixed with '/services/match/'"):
        go.add_endpoint(SERVICE, '/elsewhere/a', '10.0.0.1:80').result()


def test_resolver_dials_the_endpoints_that_getc_wrote(go: Go, etcd: getc.Client, etcd_server: EtcdServer) -> None:
    """The servers of the service are the etcd itself: it answers, and names its version."""
    address = etcd_server.url.partition('://')[2]
    etcd.set(f'{SERVICE}/a', go_json(address))
    dialed = go.dial(TARGET, policy='round_robin')
    assert dialed.wait(Resolved).addresses == (address,)
    answer = go.status(TARGET).result()
    assert (answer.address, answer.version) == (address, etcd_server.version)
    etcd.set(f'{SERVICE}/b', go_json('127.0.0.1:1'))
    dialed.wait(Resolved, lambda resolved: resolved.addresses == tuple(sorted((address, '127.0.0.1:1'))))
    etcd.delete(f'{SERVICE}/a')
    dialed.wait(Resolved, lambda resolved: resolved.addresses == ('127.0.0.1:1',))
    dialed.cancel()
    with pytest.raises(GoError, match='was not dialed'):
        go.status(TARGET).result()


def test_call_fails_when_the_service_has_no_endpoint(go: Go) -> None:
    dialed = go.dial(TARGET)
    with pytest.raises(GoError) as caught:
        go.status(TARGET, timeout=0.5).result()
    assert caught.value.code == 'DeadlineExceeded'
    assert dialed.events == [Dialed(TARGET)]
