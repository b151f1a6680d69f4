"""SRV records: the URL of a domain, the services and their order, and queries of a real DNS server."""

from __future__ import annotations

import random
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import gevent
import gevent.socket
import pytest

from getc import timing
from getc.net import srv
from getc.net.srv import SrvName, SrvRecord, dns_query, load_dns, look_up, parse_srv_url

SECURE = '_etcd-client-ssl._tcp.example.com'
PLAIN = '_etcd-client._tcp.example.com'
DOMAIN = SrvName('example.com')


class Dns:
    """A fake DNS: records, or an error, by name.

    Attributes:
        queries: The names that were looked up.
    """

    def __init__(self, **records: Sequence[SrvRecord] | OSError) -> None:
        self._records = {SECURE: records.get('secure', []), PLAIN: records.get('plain', [])}
        self.queries: list[str] = []

    def __call__(self, name: str) -> Sequence[SrvRecord]:
        self.queries.append(name)
        found = self._records[name]
        if isinstance(found, OSError):
            raise found
        return found


def record(target: str, priority: int = 0, weight: int = 0, port: int = 2379) -> SrvRecord:
    return SrvRecord(priority, weight, target, port)


# -- the URL


@pytest.mark.parametrize(
    ('url', 'domain', 'name', 'shown'),
    [
        ('etcd+srv://example.com', 'example.com', '', 'etcd+srv://example.com'),
        ('ETCD+SRV://example.com', 'example.com', '', 'etcd+srv://example.com'),
        ('etcd+srv://Example.com./', 'example.com', '', 'etcd+srv://example.com'),
        ('etcd+srv://ann:s%40cret@example.com?name=blue', 'example.com', 'blue', 'etcd+srv://example.com?name=blue'),
        ('etcd+srv://☃.net', 'xn--n3h.net', '', 'etcd+srv://xn--n3h.net'),
    ],
)
def test_parse_srv_url_returns_domain_and_name(url: str, domain: str, name: str, shown: str) -> None:
    found = parse_srv_url(url, username='bob', password='other')
    assert (found.domain, found.name, found.url) == (domain, name, shown)
    expected = ('ann', 's@cret') if '@' in url else ('bob', 'other')
    assert (found.username, found.password) == expected
    assert 'cret' not in repr(found) and 'other' not in repr(found)


def test_service_names_are_those_of_etcd() -> None:
    """As in ``GetSRVService`` of etcd's ``client/pkg/srv``."""
    assert (DOMAIN.service(is_secure=True), DOMAIN.service(is_secure=False)) == (SECURE, PLAIN)
    named = SrvName('example.com', 'blue')
    assert named.service(is_secure=True) == '_etcd-client-ssl-blue._tcp.example.com'
    assert named.service(is_secure=False) == '_etcd-client-blue._tcp.example.com'


@pytest.mark.parametrize(
    'rest',
    [
        '',
        '?name=a',
        'a:2379',
        'a:port',
        'a/path',
        'a#b',
        'a,b',
        'a?name=a&name=b',
        'a?other=b',
        'a?name',
        'a?name=a.b',
        'a?name=',
        'a..b',
        'a b',
        'a' * 300,
        'é' * 70,
        '[::1',
        '[::1]',
    ],
)
def test_parse_srv_url_raises_value_error_without_the_credentials(rest: str) -> None:
    with pytest.raises(ValueError, match=r"^'etcd\+srv://.* has an invalid name|is invalid: write") as caught:
        parse_srv_url(f'etcd+srv://ann:secret@{rest}')
    assert 'secret' not in str(caught.value)


# -- which servers


def test_look_up_prefers_servers_with_tls() -> None:
    """And does not ask for the others."""
    dns = Dns(secure=[record('a.example.com'), record('b.example.com', port=1)], plain=[record('c.example.com')])
    found = look_up(SrvName('example.com', '', 'ann', 'secret'), query=dns)
    assert sorted(each.url for each in found) == ['https://a.example.com:2379', 'https://b.example.com:1']
    assert {(each.username, each.password) for each in found} == {('ann', 'secret')}
    assert dns.queries == [SECURE]


def test_look_up_uses_servers_without_tls_only_when_there_are_no_others() -> None:
    """Not when the query for the others fails: an attacker could suppress the answer."""
    dns = Dns(plain=[record('c.other.net')])
    assert [each.url for each in look_up(DOMAIN, query=dns)] == ['http://c.other.net:2379']
    assert dns.queries == [SECURE, PLAIN]
    failing = Dns(secure=OSError('no response'), plain=[record('c')])
    with pytest.raises(OSError, match='no response'):
        look_up(DOMAIN, query=failing)
    assert failing.queries == [SECURE]
    with pytest.raises(OSError, match='without TLS are not used with ca=, cert= or key='):
        look_up(DOMAIN, query=dns, is_tls_required=True)


@pytest.mark.parametrize('records', [[], [record('')], [record('a', port=0)], [record('/run/etcd.example.com')]])
def test_look_up_raises_when_there_are_no_records(records: list[SrvRecord]) -> None:
    """A target that is only a dot says that the service is not offered (RFC 2782).  A path must not become a socket."""
    with pytest.raises(OSError, match=f'neither {SECURE} nor {PLAIN} has SRV records'):
        look_up(DOMAIN, query=Dns(secure=records, plain=records))


def test_look_up_rejects_tls_hosts_outside_of_the_domain_without_an_own_authority() -> None:
    """An attacker who forges records can have a valid certificate for their own host only."""
    dns = Dns(secure=[record('evil.net'), record('example.com.evil.net'), record('badexample.com')])
    with pytest.raises(OSError, match=f'in the records of {SECURE} is not below example.com: pass ca='):
        look_up(DOMAIN, query=dns)
    assert len(look_up(DOMAIN, query=dns, accepts_any_host=True)) == 3
    mixed = Dns(secure=[record('evil.net'), record('a.Example.COM'), record('example.com')])
    assert {each.host for each in look_up(DOMAIN, query=mixed)} == {'a.Example.COM', 'example.com'}


def test_look_up_orders_servers_by_priority_and_at_random_by_weight() -> None:
    """RFC 2782: a server with three times the weight is the first for about three times as many clients."""
    dns = Dns(plain=[record('late', 9, 100), record('light', 1, 10), record('heavy', 1, 30)])
    previous = timing.set_rng(random.Random(1))
    try:
        orders = Counter(tuple(each.host for each in look_up(DOMAIN, query=dns)) for _ in range(1000))
    finally:
        timing.set_rng(previous)
    assert set(orders) == {('heavy', 'light', 'late'), ('light', 'heavy', 'late')}
    assert 650 < orders['heavy', 'light', 'late'] < 850


def test_look_up_bounds_the_number_of_servers() -> None:
    dns = Dns(plain=[record(f'a{number}') for number in range(100)] + [record('a1')])
    assert len(look_up(DOMAIN, query=dns)) == 32


# -- DNS


Answer = Callable[[dns.message.Message], dns.message.Message | None]


@pytest.fixture
def serve_dns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], list[str]]]:
    """Serve DNS over UDP on loopback, and make dnspython use that server; returns the names that are asked for."""
    sock = gevent.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(('127.0.0.1', 0))
    names: list[str] = []
    greenlets = []

    def serve(answer: Answer) -> list[str]:
        def run() -> None:
            while True:
                data, peer = sock.recvfrom(4096)
                query = dns.message.from_wire(data)
                names.append(query.question[0].name.to_text())
                response = answer(query)
                if response is not None:
                    sock.sendto(response.to_wire(), peer)

        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = ['127.0.0.1']
        resolver.port = sock.getsockname()[1]
        monkeypatch.setattr(dns.resolver, 'default_resolver', resolver)
        gevent.killall(greenlets)  # two must not read from the socket
        greenlets.append(gevent.spawn(run))
        return names

    yield serve
    gevent.killall(greenlets)
    sock.close()


def response_with(*records: str, code: dns.rcode.Rcode = dns.rcode.NOERROR) -> Answer:
    def answer(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.set_rcode(code)
        if records:
            response.answer.append(dns.rrset.from_text(query.question[0].name, 60, 'IN', 'SRV', *records))
        return response

    return answer


def test_dns_query_returns_the_records_without_blocking_the_hub(serve_dns) -> None:
    """The server is a greenlet of this hub: a blocking query would get no response."""
    names = serve_dns(response_with('1 2 2379 a.example.com.', '3 4 2380 b.example.com.'))
    records = dns_query(SECURE)
    assert sorted(records) == [(1, 2, 'a.example.com', 2379), (3, 4, 'b.example.com', 2380)]
    assert names == [f'{SECURE}.']


@pytest.mark.parametrize('answer', [response_with(), response_with(code=dns.rcode.NXDOMAIN)])
def test_dns_query_returns_nothing_for_a_name_without_records(serve_dns, answer: Answer) -> None:
    serve_dns(answer)
    assert dns_query(SECURE) == []


def test_dns_query_raises_for_a_failure_and_for_no_response(serve_dns, monkeypatch) -> None:
    serve_dns(response_with(code=dns.rcode.SERVFAIL))
    monkeypatch.setattr(srv, 'QUERY_TIMEOUT', 0.3)
    with pytest.raises(OSError, match=f'the query for {SECURE} failed: '):
        dns_query(SECURE)
    serve_dns(lambda query: None)
    with pytest.raises(OSError, match=f'the query for {SECURE} failed: The resolution lifetime expired'):
        dns_query(SECURE)


def test_load_dns_names_the_extra_when_dnspython_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    load_dns()
    monkeypatch.setitem(sys.modules, 'dns.resolver', None)
    with pytest.raises(ImportError, match=r"need dnspython: pip install 'getc\[srv\]'"):
        load_dns()
