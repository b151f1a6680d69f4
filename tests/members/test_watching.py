"""Watches via a member that fails continue via another, with every change once and in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest

import getc
from getc.testing import EtcdCluster, FaultProxies, wait_until
from tests.support.api_support import supported_apis

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Open = Callable[..., getc.Client]


class Subscriber:
    """A watch of a key, and the events that it received."""

    def __init__(self, client: getc.Client, key: str) -> None:
        self.received: list[getc.EtcdResult] = []
        self.resyncs: list[object] = []
        self.watcher = client.on_change(key, self.received.append, on_resync=self.resyncs.append)

    @property
    def values(self) -> list[str | None]:
        return [result.value for result in self.received]


class Sequence:
    """Writes increasing numbers to a key, until it is stopped."""

    def __init__(self, client: getc.Client) -> None:
        self.written: list[str] = []
        self._client = client
        self._greenlet = gevent.spawn(self._write)

    def wait(self, numbers: int) -> None:
        """Wait until a number of further writes are done."""
        end = len(self.written) + numbers
        wait_until(lambda: len(self.written) >= end or self._greenlet.ready())
        assert not self._greenlet.ready(), self._greenlet.exception

    def stop(self) -> None:
        self._greenlet.kill()

    def _write(self) -> None:
        while True:
            number = str(len(self.written))
            self._client.set('/story', number, timeout=60)
            self.written.append(number)
            gevent.sleep(0.05)  # v2 keeps 1000 changes, and a silent server is detected within 23 s


@pytest.fixture
def write_via(cluster: EtcdCluster, open_client: Open) -> Iterator[Callable[[int], dict[str, Sequence]]]:
    """Start a sequence for each API via one member."""
    started: list[Sequence] = []

    def write_via(by: int) -> dict[str, Sequence]:
        sequences = {api: Sequence(open_client(by, api=api)) for api in supported_apis(cluster.binary)}
        started.extend(sequences.values())
        return sequences

    yield write_via
    for sequence in started:
        sequence.stop()


WriteVia = Callable[[int], dict[str, Sequence]]


def check_received(sequences: dict[str, Sequence], subscribers: list[tuple[str, Subscriber]]) -> None:
    """Continue the sequences until all subscribers receive them again; check that each received every number once."""
    for sequence in sequences.values():
        sequence.wait(20)
    marks = {api: len(sequence.written) for api, sequence in sequences.items()}
    wait_until(
        lambda: all(
            subscriber.received and int(subscriber.values[-1] or 0) > marks[api] for api, subscriber in subscribers
        ),
        100,
    )
    for sequence in sequences.values():
        sequence.stop()
    last = {api: str(len(sequence.written) - 1) for api, sequence in sequences.items()}
    wait_until(lambda: all(int(subscriber.values[-1] or 0) >= int(last[api]) for api, subscriber in subscribers))
    for _, subscriber in subscribers:
        first = int(subscriber.values[0] or 0)
        assert subscriber.values == [str(number) for number in range(first, first + len(subscriber.received))]
        assert subscriber.resyncs == []
        assert not any(result.resync for result in subscriber.received)


def subscribe(sequences: dict[str, Sequence], client_of: Callable[[str], getc.Client]) -> list[tuple[str, Subscriber]]:
    return [(api, Subscriber(client_of(api), '/story')) for api in sequences]


def wait_for_events(subscribers: list[tuple[str, Subscriber]]) -> None:
    wait_until(lambda: all(len(subscriber.received) > 3 for _, subscriber in subscribers))


def test_watch_continues_when_its_member_is_isolated(
    cluster: EtcdCluster, open_client: Open, write_via: WriteVia
) -> None:
    """The member answers, but receives no new changes."""
    member = (cluster.leader() + 1) % 3
    sequences = write_via(cluster.leader())
    subscribers = subscribe(sequences, lambda api: open_client(member, api=api))
    wait_for_events(subscribers)
    cluster.isolate(member)
    check_received(sequences, subscribers)


def test_watch_continues_when_its_member_or_the_network_fails(
    cluster: EtcdCluster, proxies: FaultProxies, open_client: Open, write_via: WriteVia
) -> None:
    """Nothing answers; or nothing arrives; or requests arrive and responses are lost; or connections are reset."""
    leader = cluster.leader()
    paused = (leader + 1) % 3
    sequences = write_via(leader)
    subscribers = subscribe(sequences, lambda api: open_client(paused, api=api))
    for member, proxy in enumerate(proxies):
        urls = [each.url if each is proxy else each.target for each in proxies]
        subscribers += subscribe(sequences, lambda api, member=member, urls=urls: open_client(member, urls, api=api))
    wait_for_events(subscribers)
    cluster.pause(paused)
    proxies[0].silence()
    proxies[1].drop_replies()
    proxies[2].cut()
    check_received(sequences, subscribers)


def test_watch_skips_a_member_that_lags(
    cluster: EtcdCluster, proxies: FaultProxies, open_client: Open, write_via: WriteVia
) -> None:
    """The isolated member has fewer revisions than the watch has delivered, which is no loss of data."""
    first = cluster.leader()
    behind, urls = (first + 1) % 3, [member.url for member in cluster.members]
    urls[first] = proxies[first].url
    order = [urls[first], urls[behind], urls[(first + 2) % 3]]
    sequences = write_via(first)
    subscribers = subscribe(sequences, lambda api: open_client(0, order, api=api))
    wait_for_events(subscribers)
    cluster.isolate(behind)
    for sequence in sequences.values():
        sequence.wait(5)
    proxies[first].cut()
    check_received(sequences, subscribers)
