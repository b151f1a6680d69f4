"""A client that is closed by the code that it calls: that returns, the callback goes on, and nothing is left."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import getc
from getc.testing import EtcdServer, MemoryStore, no_leaks, wait_until
from tests.support.api_support import skip_unless_spoken

pytestmark = pytest.mark.slow

_numbers = itertools.count()


class Stage:
    """A store, one client that is going to be closed, another that makes things happen, and what came of it."""

    def __init__(self, url: str, api: Any, forget: Callable[[], object]) -> None:
        self.open = lambda: getc.etcd(url, api=api)
        self.client = self.open()
        self.other = self.open()
        self.forget = forget  # all history
        self.closed: list[bool] = []

    def close(self, *_: object) -> bool:
        """Close the client, without a limit: what waits for itself would wait for ever."""
        self.client.close(timeout=None)
        self.closed.append(self.client.is_closed)
        return True


@pytest.fixture(params=['v2', 'v3', 'memory'])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stage on a real etcd, or on a store in memory."""
    if request.param == 'memory':
        store = MemoryStore()
        made = Stage(store.url, None, store.compact)
    else:
        server: EtcdServer = request.getfixturevalue('etcd_server')
        skip_unless_spoken(request.param, server.binary)
        made = Stage(server.url, request.param, lambda: server.restart(wipe=True))
    with no_leaks():
        yield made
        made.client.close()
        made.other.close()


def on_change(stage: Stage) -> None:
    stage.client.on_change('/cfg', stage.close)
    stage.other.set('/cfg/a', '1')


def initial(stage: Stage) -> None:
    stage.other.set('/cfg/a', '1')
    stage.client.on_change('/cfg', stage.close, initial=True, wait=False)


def on_resync(stage: Stage) -> None:
    stage.other.set('/cfg/a', '1')
    stage.client.on_change('/cfg', lambda _: None, on_resync=stage.close)
    stage.forget()


def on_update(stage: Stage) -> None:
    stage.client.mirror('/cfg', on_update=stage.close)
    stage.other.set('/cfg/a', '1')


def predicate(stage: Stage) -> None:
    mirror = stage.client.mirror('/cfg')
    assert mirror.wait(stage.close)


def on_lost(stage: Stage) -> None:
    stage.client.keep_node('/servers/a', 'x', ttl=2, on_lost=stage.close)
    stage.other.delete('/servers/a')


def on_restored(stage: Stage) -> None:
    stage.client.keep_node('/servers/a', 'x', ttl=2, on_restored=stage.close)
    stage.other.delete('/servers/a')


def alive_at_the_start(stage: Stage) -> None:
    with pytest.raises(getc.ClientClosed):
        stage.client.keep_node('/servers/a', 'x', ttl=12, alive=stage.close)


def alive_before_a_renewal(stage: Stage) -> None:
    answers = iter([lambda: True])
    stage.client.keep_node('/servers/a', 'x', ttl=3, alive=lambda: next(answers, stage.close)())


def on_state(stage: Stage) -> None:
    if stage.client.api == 'memory':
        pytest.skip('a store in memory has no states')
    stage.client.close()
    stage.client = stage.open()
    stage.client.on_state(stage.close)
    stage.client.get('/')


def changes(stage: Stage) -> None:
    following = stage.client.changes('/cfg')
    stage.other.set('/cfg/a', '1')
    assert [stage.close(change) for change in following] == [True]  # and the iteration has ended


@pytest.mark.parametrize(
    'happen',
    [
        on_change,
        initial,
        on_resync,
        on_update,
        predicate,
        on_lost,
        on_restored,
        alive_at_the_start,
        alive_before_a_renewal,
        on_state,
        changes,
    ],
)
def test_close_returns_in_a_callback(stage: Stage, happen: Callable[[Stage], None]) -> None:
    """With much else going on, which ends too; what was kept is deleted."""
    stage.client.keep_node('/servers/b', 'x', ttl=60)
    stage.client.on_change('/', lambda _: gevent.sleep(0.001))
    stage.client.mirror('/servers')
    happen(stage)
    wait_until(lambda: stage.closed == [True])
    with pytest.raises(getc.ClientClosed):
        stage.client.get('/')
    assert [node.key for node in stage.other.get('/', recursive=True).node.leaves() if 'servers' in node.key] == []
