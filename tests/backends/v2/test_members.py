"""The members of a cluster over v2: a real etcd, and servers with other responses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from getc.backends.member_sync import MemberSync
from getc.backends.v2.backend import KeysV2
from getc.backends.v2.members import V2Members
from getc.errors import EtcException, HTTPError, ProtocolError
from getc.net.client_log import ClientLog
from getc.net.endpoint import parse_endpoints
from getc.net.selector import EndpointSelector
from getc.testing import EtcdBinary, EtcdServer
from getc.timing import Deadline
from tests.support.api_support import skip_unless_supported
from tests.support.servers import answer_of, read_request, serving


def in_time() -> Deadline:
    return Deadline.after(60)


@pytest.fixture
def server(etcd_binary: EtcdBinary, etcd_server: EtcdServer) -> EtcdServer:
    skip_unless_supported('v2', etcd_binary)
    return etcd_server


@pytest.fixture
def opened(server: EtcdServer) -> Iterator[tuple[EndpointSelector, KeysV2]]:
    endpoints = EndpointSelector(parse_endpoints(f'http://127.0.0.1:1,{server.url}'))
    backend = KeysV2(endpoints)
    yield endpoints, backend
    backend.close()


def test_members_are_read_from_the_first_server_that_responds(
    server: EtcdServer, opened: tuple[EndpointSelector, KeysV2]
) -> None:
    _, backend = opened
    members = backend.members().members(in_time())
    assert list(members.voters.values()) == [(server.url,)] and len(members.cluster_id) > 8
    assert backend.version(in_time())[0] == 3
    (found,) = parse_endpoints(server.url)
    assert backend.members().member_at(found, in_time()) == (members.cluster_id, next(iter(members.voters)))


def test_sync_over_v2_replaces_an_address_by_that_of_the_member(
    server: EtcdServer, opened: tuple[EndpointSelector, KeysV2]
) -> None:
    """And leaves no idle connection to an address that is not an endpoint."""
    endpoints, backend = opened
    endpoints.replace(parse_endpoints(server.url.replace('127.0.0.1', 'localhost') + ',http://127.0.0.1:1'))
    sync = MemberSync(endpoints, lambda deadline: backend.members(), interval=60, log=ClientLog('test'))
    sync.sync()
    assert [each.url for each in endpoints] == [server.url.replace('127.0.0.1', 'localhost')]
    assert set(backend._http.adapter._pools) == set(endpoints)
    endpoints.replace(parse_endpoints(server.url))
    assert backend._http.adapter._pools == {} and backend._http.adapter.poolmanager.all == []
    sync.sync()
    assert len(backend._http.adapter._pools) == 1


@pytest.mark.parametrize(
    ('body', 'status', 'error'),
    [
        (b'{"members": [{"id": "1"}]}', '200 OK', ProtocolError),
        (b'{"members": 1}', '200 OK', ProtocolError),
        (b'[' * 100_000, '200 OK', ProtocolError),
        (b'no json', '200 OK', ProtocolError),
        (b'404 page not found', '404 Not Found', HTTPError),
    ],
)
def test_other_responses_are_typed_errors(body: bytes, status: str, error: type[EtcException]) -> None:
    def respond(sock: object) -> None:
        while read_request(sock):  # type: ignore[arg-type]
            sock.sendall(answer_of(body, status=status))  # type: ignore[attr-defined]

    with serving(respond) as endpoint:
        backend = KeysV2(EndpointSelector([endpoint]))
        with pytest.raises(error, match=endpoint.url):
            backend.members().members(in_time())
        backend.close()


def test_member_without_a_name_was_not_started() -> None:
    page = (
        b'{"members": [{"id": "a", "name": "", "clientURLs": null}, {"id": "b", "name": "b", "clientURLs": ["http://b"]},'
        b' {"id": "c", "name": "c", "clientURLs": null}]}'
    )

    def respond(sock: object) -> None:
        while read_request(sock):  # type: ignore[arg-type]
            sock.sendall(answer_of(page, headers='X-Etcd-Cluster-ID: 7\r\n'))  # type: ignore[attr-defined]

    with serving(respond) as endpoint:
        backend = KeysV2(EndpointSelector([endpoint]))
        members = V2Members(backend._endpoints, backend._http).members(in_time())
        assert (members.cluster_id, members.voters) == ('7', {'b': ('http://b',), 'c': ()})
        backend.close()
