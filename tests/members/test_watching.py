"""Watches by way of a member that is lost: they go on by another, with every change once and in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest

import getc
from getc.testing import EtcdCluster, FaultProxies, wait_until
from tests.support.api_support import spoken

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Open = Callable[..., getc.Client]


class Viewer:
    """Who watches a node, and what it was told."""

    def __init__(self, client: getc.Client, key: str) -> None:
        self.told: list[getc.EtcdResult] = []
        self.resyncs: list[object] = []
        self.watcher = client.on_change(key, self.told.append, on_resync=self.resyncs.append)

    @property
    def values(self) -> list[str | None]:
        return [result.value for result in self.told]


class Story:
    """A node that is written again and again, each time with the next number."""

    def __init__(self, client: getc.Client) -> None:
        self.written: list[str] = []
        self._client = client
        self._greenlet = gevent.spawn(self._write)

    def wait(self, numbers: int) -> None:
        """Until so many more were written."""
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
            gevent.sleep(0.05)  # v2 remembers 1000 changes, and a silent server is found out within 23 s


@pytest.fixture
def tell(cluster: EtcdCluster, open_client: Open) -> Iterator[Callable[[int], dict[str, Story]]]:
    """Write stories, one for each API, by one member."""
    told: list[Story] = []

    def tell(by: int) -> dict[str, Story]:
        stories = {api: Story(open_client(by, api=api)) for api in spoken(cluster.binary)}
        told.extend(stories.values())
        return stories

    yield tell
    for story in told:
        story.stop()


Tell = Callable[[int], dict[str, Story]]


def follow_on(stories: dict[str, Story], viewers: list[tuple[str, Viewer]]) -> None:
    """Have the stories go on, and end, when all viewers hear of them again: they have heard everything, once."""
    for story in stories.values():
        story.wait(20)
    marks = {api: len(story.written) for api, story in stories.items()}
    wait_until(lambda: all(viewer.told and int(viewer.values[-1] or 0) > marks[api] for api, viewer in viewers), 100)
    for story in stories.values():
        story.stop()
    last = {api: str(len(story.written) - 1) for api, story in stories.items()}
    wait_until(lambda: all(int(viewer.values[-1] or 0) >= int(last[api]) for api, viewer in viewers))
    for _, viewer in viewers:
        first = int(viewer.values[0] or 0)
        assert viewer.values == [str(number) for number in range(first, first + len(viewer.told))]
        assert viewer.resyncs == []
        assert not any(result.resync for result in viewer.told)


def viewers_of(stories: dict[str, Story], client_of: Callable[[str], getc.Client]) -> list[tuple[str, Viewer]]:
    return [(api, Viewer(client_of(api), '/story')) for api in stories]


def hear(viewers: list[tuple[str, Viewer]]) -> None:
    wait_until(lambda: all(len(viewer.told) > 3 for _, viewer in viewers))


def test_watch_goes_on_when_its_member_is_cut_off(cluster: EtcdCluster, open_client: Open, tell: Tell) -> None:
    """It answers, and knows nothing new."""
    asked = (cluster.leader() + 1) % 3
    stories = tell(cluster.leader())
    viewers = viewers_of(stories, lambda api: open_client(asked, api=api))
    hear(viewers)
    cluster.isolate(asked)
    follow_on(stories, viewers)


def test_watch_goes_on_when_its_member_or_the_way_to_it_is_lost(
    cluster: EtcdCluster, proxies: FaultProxies, open_client: Open, tell: Tell
) -> None:
    """Nothing is answered; or nothing arrives; or what is said does, and the answers are lost; or it is reset."""
    leader = cluster.leader()
    paused = (leader + 1) % 3
    stories = tell(leader)
    viewers = viewers_of(stories, lambda api: open_client(paused, api=api))
    for asked, proxy in enumerate(proxies):
        urls = [each.url if each is proxy else each.target for each in proxies]
        viewers += viewers_of(stories, lambda api, asked=asked, urls=urls: open_client(asked, urls, api=api))
    hear(viewers)
    cluster.pause(paused)
    proxies[0].silence()
    proxies[1].half()
    proxies[2].cut()
    follow_on(stories, viewers)


def test_watch_moves_past_a_member_that_has_fallen_behind(
    cluster: EtcdCluster, proxies: FaultProxies, open_client: Open, tell: Tell
) -> None:
    """Who is cut off from the others knows less than the watch has told: that is no store that went back."""
    first = cluster.leader()
    behind, urls = (first + 1) % 3, [member.url for member in cluster.members]
    urls[first] = proxies[first].url
    order = [urls[first], urls[behind], urls[(first + 2) % 3]]
    stories = tell(first)
    viewers = viewers_of(stories, lambda api: open_client(0, order, api=api))
    hear(viewers)
    cluster.isolate(behind)
    for story in stories.values():
        story.wait(5)
    proxies[first].cut()
    follow_on(stories, viewers)
