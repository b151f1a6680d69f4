"""The members of a cluster over v3: a real etcd with TLS, and with authentication."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import getc
from getc.backends.member_sync import MemberSync
from getc.backends.tree.members import V3Members
from getc.net.client_log import ClientLog
from getc.net.endpoint import parse_endpoints
from getc.net.selector import EndpointSelector
from getc.net.tls import TLS
from getc.testing import Certificates, EtcdBinary, EtcdServer
from getc.timing import Deadline
from getc.v3.rpc import RpcClient


def in_time() -> Deadline:
    return Deadline.after(60)


@pytest.fixture(scope='module')
def certificates() -> Iterator[Certificates]:
    with Certificates() as certificates:
        yield certificates


def test_member_answers_with_the_ids_of_the_list(etcd_server: EtcdServer) -> None:
    """A probe uses a connection of its own, which is closed."""
    endpoints = EndpointSelector(parse_endpoints(etcd_server.url))
    rpc = RpcClient(endpoints)
    source = V3Members(rpc)
    members = source.members(in_time())
    assert list(members.voters.values()) == [(etcd_server.url,)]
    (endpoint,) = endpoints
    rpc.close()
    other = RpcClient(endpoints)
    assert V3Members(other).member_at(endpoint, in_time()) == (members.cluster_id, next(iter(members.voters)))
    assert other._servers == {}
    other.close()
    with pytest.raises(getc.ClientClosed):
        V3Members(other).member_at(endpoint, in_time())


@pytest.mark.slow
def test_certificate_of_a_member_is_verified(etcd_binary: EtcdBinary, certificates: Certificates) -> None:
    """An address that the certificate does not name is not used."""
    only_by_name = certificates.issue('by-name', hosts=['localhost'])
    with EtcdServer(binary=etcd_binary.path, tls=certificates.one_way(only_by_name)) as server:
        named = server.url.replace('127.0.0.1', 'localhost')
        endpoints = EndpointSelector(parse_endpoints([named, 'https://localhost:1']))
        rpc = RpcClient(endpoints, TLS(ca=certificates.ca).contexts('h2'))
        source = V3Members(rpc)
        (advertised,) = parse_endpoints(server.url)
        with pytest.raises(getc.ConnectionError, match=r"is not trusted: .*is not valid for '127\.0\.0\.1'"):
            source.member_at(advertised, in_time())
        sync = MemberSync(endpoints, lambda deadline: source, interval=60, log=ClientLog('test'))
        sync.sync()
        assert [each.url for each in endpoints] == [named]
        rpc.close()


@pytest.mark.slow
def test_user_without_a_role_reads_the_members(etcd_binary: EtcdBinary) -> None:
    """Reading the members and asking a server for its member need no permission."""
    with EtcdServer(binary=etcd_binary.path) as server, getc.etcd(server.url, api='v3') as admin:
        for name in ('root', 'ann'):
            admin.v3.auth.user_add(name, password='secret')
        admin.v3.auth.role_add('root')
        admin.v3.auth.user_grant_role('root', 'root')
        admin.v3.auth.enable()
        named = server.url.replace('127.0.0.1', 'localhost')
        endpoints = EndpointSelector(parse_endpoints([named, 'http://127.0.0.1:1'], username='ann', password='secret'))
        rpc = RpcClient(endpoints)
        sync = MemberSync(endpoints, lambda deadline: V3Members(rpc), interval=60, log=ClientLog('test'))
        sync.sync()
        assert [each.url for each in endpoints] == [named]
        rpc.close()
