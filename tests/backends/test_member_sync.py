"""MemberSync: which addresses become endpoints, and which endpoints are removed, in virtual time."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from getc import timing
from getc.backends.member_sync import ClusterMembers, ConfiguredEndpoints, MemberSource, MemberSync
from getc.errors import ConnectionRefused, EtcException, NotSupported, PermissionDenied, TimedOut
from getc.net.client_log import ClientLog
from getc.net.endpoint import Endpoint, parse_endpoints
from getc.net.selector import EndpointSelector
from getc.testing import VirtualTime, wait_until
from getc.timing import Deadline
from tests.support.killing import killing_next_greenlet
from tests.support.leftovers import greenlets_of_getc


def urls_of(endpoints: EndpointSelector) -> list[str]:
    return [endpoint.url for endpoint in endpoints]


class Cluster(MemberSource):
    """A fake cluster.

    Attributes:
        voters: The client URLs of the started voters, by ID.
        servers: The IDs of cluster and member that answer at a URL, or the error.
        error: Raised instead of the members.
        asked: The URLs that were asked for their member.
        reads: When the members were read.
        gate: Servers respond when it is set.
    """

    def __init__(self, **voters: str) -> None:
        self.voters = {name: tuple(urls.split()) for name, urls in voters.items()}
        self.servers: dict[str, tuple[str, str] | EtcException] = {}
        self.error: EtcException | None = None
        self.asked: list[str] = []
        self.reads: list[float] = []
        self.gate = Event()
        self.gate.set()
        for name, urls in self.voters.items():
            self.servers.update(dict.fromkeys(urls, ('cluster', name)))

    def add(self, name: str, urls: str) -> None:
        self.voters[name] = tuple(urls.split())
        self.servers.update(dict.fromkeys(self.voters[name], ('cluster', name)))

    def remove(self, name: str) -> None:
        for url in self.voters.pop(name):
            self.servers.pop(url, None)

    def members(self, deadline: Deadline) -> ClusterMembers:
        self.reads.append(timing.now())
        gevent.sleep(0)
        if self.error is not None:
            raise self.error
        return ClusterMembers('cluster', dict(self.voters))

    def member_at(self, endpoint: Endpoint, deadline: Deadline) -> tuple[str, str]:
        self.asked.append(endpoint.url)
        self.gate.wait()
        found = self.servers.get(endpoint.url, ConnectionRefused('nothing listens'))
        if isinstance(found, EtcException):
            raise found
        return found


A, B, C, D = (f'http://{name}:1' for name in 'abcd')


def three() -> Cluster:
    return Cluster(a=A, b=B, c=C)


def opened(cluster: Cluster, urls: list[str], interval: float = 60.0) -> tuple[EndpointSelector, MemberSync]:
    endpoints = EndpointSelector(parse_endpoints(urls))
    return endpoints, MemberSync(endpoints, lambda deadline: cluster, interval=interval, log=ClientLog('test'))


# -- which endpoints


def test_sync_adds_all_voters_to_one_endpoint() -> None:
    cluster = three()
    endpoints, sync = opened(cluster, [A])
    sync.sync()
    assert urls_of(endpoints) == [A, B, C]
    assert cluster.asked == [B, C]


def test_sync_asks_no_server_when_the_members_are_the_endpoints() -> None:
    cluster = three()
    endpoints, sync = opened(cluster, [C, A, B])
    sync.sync()
    assert (urls_of(endpoints), cluster.asked) == ([C, A, B], [])


def test_sync_keeps_configured_names_that_lead_to_voters() -> None:
    """Also when they differ from what the members advertise, and when a server is down later."""
    cluster = three()
    names = [f'http://etcd-{name}:1' for name in 'abc']
    cluster.servers.update({name: ('cluster', name[12]) for name in names})
    endpoints, sync = opened(cluster, names)
    sync.sync()
    assert (urls_of(endpoints), sorted(cluster.asked)) == (names, names)
    cluster.servers[names[0]] = TimedOut('down')
    cluster.asked.clear()
    sync.sync()
    assert (urls_of(endpoints), cluster.asked) == (names, [])


def test_sync_keeps_the_address_of_a_load_balancer() -> None:
    cluster = three()
    cluster.servers['http://balancer:1'] = ('cluster', 'b')
    endpoints, sync = opened(cluster, ['http://balancer:1'])
    sync.sync()
    assert urls_of(endpoints) == ['http://balancer:1', A, C]
    sync.sync()
    assert urls_of(endpoints) == ['http://balancer:1', A, C]


def test_sync_replaces_the_endpoint_of_a_replaced_member() -> None:
    cluster = three()
    endpoints, sync = opened(cluster, [A, B, C])
    sync.sync()
    cluster.remove('b')
    cluster.add('d', D)
    sync.sync()
    assert urls_of(endpoints) == [A, C, D]


@pytest.mark.parametrize('name', [B, 'http://etcd-b:1'])
def test_sync_replaces_the_endpoint_of_a_member_that_has_moved(name: str) -> None:
    """It has its ID and data, and another address.  A name that leads to it there is kept."""
    cluster = three()
    cluster.servers[name] = ('cluster', 'b')
    endpoints, sync = opened(cluster, [A, name, C])
    sync.sync()
    for url in {B, name}:
        cluster.servers[url] = TimedOut('gone')
    cluster.voters['b'] = (D,)
    sync.sync()
    assert urls_of(endpoints) == [A, name, C]
    cluster.servers[D] = ('cluster', 'b')
    sync.sync()
    assert urls_of(endpoints) == [A, C, D]
    cluster.voters['b'] = (B,)
    cluster.servers[B] = ('cluster', 'b')
    sync.sync()
    assert set(urls_of(endpoints)) == {A, C, D}


def test_sync_replaces_an_endpoint_that_was_outdated_before_the_start() -> None:
    """Its member is unknown, and every voter is reached by another one."""
    cluster = Cluster(a=A, c=C, d=D)
    endpoints, sync = opened(cluster, [A, B, C])
    sync.sync()
    assert urls_of(endpoints) == [A, C, D]


def test_sync_keeps_an_endpoint_that_is_down_and_may_be_that_of_an_unreachable_voter() -> None:
    """As behind NAT, where what the members advertise cannot be reached."""
    cluster = Cluster(a='http://10.0.0.1:1', b='http://10.0.0.2:1', c='http://10.0.0.3:1')
    cluster.servers = {A: ('cluster', 'a'), B: ('cluster', 'b')}
    endpoints, sync = opened(cluster, [A, B, C])
    sync.sync()
    assert urls_of(endpoints) == [A, B, C]
    cluster.servers[C] = ('cluster', 'c')
    sync.sync()
    assert urls_of(endpoints) == [A, B, C]


def test_one_sync_never_removes_a_majority() -> None:
    """A list that shrinks from five to two endpoints does so in three syncs."""
    cluster = Cluster(a=A, b=B)
    gone = [f'http://gone-{number}:1' for number in range(3)]
    endpoints, sync = opened(cluster, [*gone, A, B])
    lengths = []
    for _ in range(4):
        sync.sync()
        lengths.append(len(endpoints))
    assert (lengths, urls_of(endpoints)) == ([3, 2, 2, 2], [A, B])
    only, sync = opened(cluster, [gone[0]])
    sync.sync()
    assert urls_of(only) == [gone[0], A, B]
    sync.sync()
    assert urls_of(only) == [A, B]


@pytest.mark.parametrize(
    'answer', [('cluster', 'learner'), ('other', 'b'), NotSupported('rpc not supported for learner')], ids=str
)
def test_sync_removes_an_endpoint_where_no_voter_of_the_cluster_answers(answer: tuple[str, str] | EtcException) -> None:
    """A learner, a server of another cluster, and one that refuses the request: even while a voter is unreachable."""
    cluster = three()
    cluster.servers[C] = TimedOut('down')
    cluster.servers['http://wrong:1'] = answer
    endpoints, sync = opened(cluster, ['http://wrong:1', A, B])
    sync.sync()
    assert urls_of(endpoints) == [A, B]


@pytest.mark.parametrize('answer', [('cluster', 'learner'), ('other', 'b'), TimedOut('no route')], ids=str)
def test_sync_adds_no_address_where_the_voter_does_not_answer(
    answer: tuple[str, str] | EtcException, caplog: pytest.LogCaptureFixture
) -> None:
    """And logs that once."""
    cluster = three()
    cluster.servers[B] = answer
    endpoints, sync = opened(cluster, [A])
    sync.sync()
    sync.sync()
    gevent.sleep(0)
    assert urls_of(endpoints) == [A, C]
    lines = [record.message for record in caplog.records if 'is not used as an endpoint' in record.message]
    assert len(lines) == 1 and f'a member advertises {B}' in lines[0]
    cluster.servers[B] = ('cluster', 'b')
    sync.sync()
    assert urls_of(endpoints) == [A, C, B]


def test_sync_uses_only_urls_of_the_configured_scheme() -> None:
    """The other ones may lack TLS, or need it; 0.0.0.0 is no address of a server, and one may be invalid."""
    cluster = Cluster(a='http://a:1 https://a:2', b='https://b:2 unix:///b', c='https://0.0.0.0:2 https://[::]:2 bad')
    cluster.servers['http://wrong:1'] = ('cluster', 'a')
    endpoints, sync = opened(cluster, ['https://start:2'])
    cluster.servers['https://start:2'] = ('cluster', 'x')
    sync.sync()
    assert urls_of(endpoints) == ['https://start:2', 'https://a:2', 'https://b:2']
    assert sorted(cluster.asked) == ['https://a:2', 'https://b:2', 'https://start:2']


def test_added_endpoints_have_the_credentials_of_the_first_one() -> None:
    endpoints = EndpointSelector(parse_endpoints(A, username='ann', password='secret'))
    MemberSync(endpoints, lambda deadline: three(), interval=60, log=ClientLog('test')).sync()
    assert [(each.username, each.password) for each in endpoints] == [('ann', 'secret')] * 3


def test_sync_bounds_the_number_of_endpoints() -> None:
    cluster = Cluster(**{f'm{number}': f'http://m{number}:1' for number in range(100)})
    cluster.add('many', ' '.join(f'http://n{number}:1' for number in range(1000)))
    endpoints, sync = opened(cluster, ['http://m0:1'])
    for _ in range(3):
        sync.sync()
        assert len(endpoints) == 32
    assert len(cluster.asked) == 31


def test_sync_adds_nothing_to_more_configured_endpoints_than_its_bound() -> None:
    cluster = Cluster(**{f'm{number}': f'http://m{number}:1' for number in range(80)})
    configured = [f'http://m{number}:1' for number in range(40)]
    endpoints, sync = opened(cluster, configured)
    sync.sync()
    assert (urls_of(endpoints), cluster.asked) == (configured, [])


def test_sync_changes_nothing_when_several_voters_advertise_the_same_url(caplog: pytest.LogCaptureFixture) -> None:
    """As members do whose --advertise-client-urls was left at http://localhost:2379."""
    caplog.set_level(logging.INFO)
    cluster = Cluster(a=A, b=A, c=A)
    endpoints, sync = opened(cluster, [A])
    for _ in range(3):
        sync.sync()
    gevent.sleep(0)
    assert (urls_of(endpoints), caplog.messages) == ([A], [])


def test_sync_leaves_a_list_alone_that_was_replaced_meanwhile() -> None:
    cluster = three()
    cluster.gate.clear()
    endpoints, sync = opened(cluster, [A, 'http://gone:1'])
    running = gevent.spawn(sync.sync)
    wait_until(lambda: cluster.asked)
    endpoints.replace(parse_endpoints([B]))
    cluster.gate.set()
    running.get()
    assert urls_of(endpoints) == [B]


# -- in the background


@pytest.fixture
def cluster(etcd_clock: VirtualTime) -> Iterator[Cluster]:
    yield three()
    assert greenlets_of_getc() == []


def test_sync_runs_at_once_and_then_at_the_interval_with_jitter(cluster: Cluster, etcd_clock: VirtualTime) -> None:
    endpoints, sync = opened(cluster, [A], interval=60)
    etcd_clock.advance(100)
    assert cluster.reads == []
    sync.start()
    sync.start()
    etcd_clock.advance(0.1)
    assert (len(cluster.reads), urls_of(endpoints)) == (1, [A, B, C])
    etcd_clock.advance(1000)
    gaps = [later - earlier for earlier, later in zip(cluster.reads, cluster.reads[1:], strict=False)]
    assert 13 <= len(gaps) <= 21
    assert all(47.9 <= gap <= 72.1 for gap in gaps) and len({round(gap, 3) for gap in gaps}) > 5
    sync.close()
    sync.start()
    etcd_clock.advance(1000)
    assert len(cluster.reads) == len(gaps) + 1


def test_failure_is_logged_once_per_outage_and_the_endpoints_stay(
    cluster: Cluster, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    endpoints, sync = opened(cluster, [A])
    for error in (TimedOut('no response'), None, PermissionDenied('permission denied')):
        cluster.error = error
        sync.start() if not cluster.reads else None
        etcd_clock.advance(300)
    sync.close()
    lines = [record.message for record in caplog.records if record.levelname == 'WARNING']
    assert [line.partition('as they are: ')[2] for line in lines] == ['no response', '[7] permission denied']
    assert len(cluster.reads) > 9
    assert urls_of(endpoints) == [A, B, C]


def test_close_ends_a_sync_in_progress(cluster: Cluster, etcd_clock: VirtualTime) -> None:
    endpoints, sync = opened(cluster, [A])
    cluster.gate.clear()
    sync.start()
    etcd_clock.advance(0.1)
    assert cluster.asked == [B, C]
    sync.close()
    cluster.gate.set()
    etcd_clock.advance(1000)
    assert (len(cluster.reads), urls_of(endpoints)) == (1, [A])


def test_sync_goes_on_after_its_greenlets_were_killed(cluster: Cluster, etcd_clock: VirtualTime) -> None:
    """gevent.killall of a program kills every greenlet, also in the middle of a sync."""
    endpoints, sync = opened(cluster, [A])
    cluster.gate.clear()
    sync.start()
    etcd_clock.advance(0.1)
    assert cluster.asked == [B, C]
    gevent.killall(greenlets_of_getc())
    cluster.gate.set()
    assert urls_of(endpoints) == [A]
    etcd_clock.advance(80)
    assert urls_of(endpoints) == [A, B, C]
    sync.close()


def test_sync_goes_on_after_its_greenlet_was_killed_before_it_ran(cluster: Cluster, etcd_clock: VirtualTime) -> None:
    endpoints, sync = opened(cluster, [A])
    with killing_next_greenlet() as killed:
        sync.start()
        etcd_clock.advance(1)
    assert (len(killed), cluster.reads) == (1, [])
    etcd_clock.advance(80)
    assert urls_of(endpoints) == [A, B, C]
    sync.close()


def test_sync_that_was_dropped_without_close_stops(cluster: Cluster, etcd_clock: VirtualTime) -> None:
    """Neither its timer nor the selector keeps it alive."""
    endpoints, sync = opened(cluster, [A])
    sync.start()
    etcd_clock.advance(0.1)
    reference = weakref.ref(sync)
    del sync
    gc.collect()
    assert reference() is None
    etcd_clock.advance(1000)
    assert len(cluster.reads) == 1 and urls_of(endpoints) == [A, B, C]


# -- an outage


def test_configured_endpoints_are_added_again_when_no_endpoint_responds() -> None:
    """All members may have been replaced while the client was suspended; configured names may lead to the new ones."""
    configured = parse_endpoints([A, 'http://name:1'])
    endpoints = EndpointSelector(configured)
    endpoints.finder = ConfiguredEndpoints(endpoints, configured)
    endpoints.replace(parse_endpoints([B, A]))
    for endpoint in list(endpoints):
        endpoints.mark_down(endpoint)
    assert urls_of(endpoints) == [B, A, 'http://name:1']
    assert endpoints.candidates()[0].url == 'http://name:1'
