"""``close`` called from a callback of the same client returns, the callback continues, and nothing is left running."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import getc
from getc.testing import EtcdServer, MemoryStore, no_leaks, wait_until
from tests.support.api_support import skip_unless_supported

pytestmark = pytest.mark.slow

_numbers = itertools.count()


class Scenario:
    """A store, the client that will be closed, another client that triggers the callbacks, and the results."""

    def __init__(self, url: str, api: Any, lose_history: Callable[[], object]) -> None:
        self.open = lambda: getc.etcd(url, api=api)
        self.client = self.open()
        self.other = self.open()
        self.lose_history = lose_history  # discards the history
        self.closed: list[bool] = []

    def close(self, *_: object) -> bool:
        """Close the client without a timeout: a deadlock would block forever."""
        self.client.close(timeout=None)
        self.closed.append(self.client.is_closed)
        return True


@pytest.fixture(params=['v2', 'v3', 'memory'])
def scenario(request: pytest.FixtureRequest) -> Iterator[Scenario]:
    """A scenario on a real etcd, or on a memory store."""
    if request.param == 'memory':
        store = MemoryStore()
        made = Scenario(store.url, None, store.compact)
    else:
        server: EtcdServer = request.getfixturevalue('etcd_server')
        skip_unless_supported(request.param, server.binary)
        made = Scenario(server.url, request.param, lambda: server.restart(wipe=True))
    with no_leaks():
        yield made
        made.client.close()
        made.other.close()


def on_change(scenario: Scenario) -> None:
    scenario.client.on_change('/cfg', scenario.close)
    scenario.other.set('/cfg/a', '1')


def initial(scenario: Scenario) -> None:
    scenario.other.set('/cfg/a', '1')
    scenario.client.on_change('/cfg', scenario.close, initial=True, wait=False)


def on_resync(scenario: Scenario) -> None:
    scenario.other.set('/cfg/a', '1')
    scenario.client.on_change('/cfg', lambda _: None, on_resync=scenario.close)
    scenario.lose_history()


def on_update(scenario: Scenario) -> None:
    scenario.client.mirror('/cfg', on_update=scenario.close)
    scenario.other.set('/cfg/a', '1')


def predicate(scenario: Scenario) -> None:
    mirror = scenario.client.mirror('/cfg')
    assert mirror.wait(scenario.close)


def on_lost(scenario: Scenario) -> None:
    scenario.client.keep_node('/servers/a', 'x', ttl=2, on_lost=scenario.close)
    scenario.other.delete('/servers/a')


def on_restored(scenario: Scenario) -> None:
    scenario.client.keep_node('/servers/a', 'x', ttl=2, on_restored=scenario.close)
    scenario.other.delete('/servers/a')


def alive_at_start(scenario: Scenario) -> None:
    with pytest.raises(getc.ClientClosed):
        scenario.client.keep_node('/servers/a', 'x', ttl=12, alive=scenario.close)


def alive_before_renewal(scenario: Scenario) -> None:
    answers = iter([lambda: True])
    scenario.client.keep_node('/servers/a', 'x', ttl=3, alive=lambda: next(answers, scenario.close)())


def on_state(scenario: Scenario) -> None:
    if scenario.client.api == 'memory':
        pytest.skip('a store in memory has no states')
    scenario.client.close()
    scenario.client = scenario.open()
    scenario.client.on_state(scenario.close)
    scenario.client.get('/')


def changes(scenario: Scenario) -> None:
    following = scenario.client.changes('/cfg')
    scenario.other.set('/cfg/a', '1')
    assert [scenario.close(change) for change in following] == [True]  # and the iteration has ended


@pytest.mark.parametrize(
    'trigger',
    [
        on_change,
        initial,
        on_resync,
        on_update,
        predicate,
        on_lost,
        on_restored,
        alive_at_start,
        alive_before_renewal,
        on_state,
        changes,
    ],
)
def test_close_returns_in_a_callback(scenario: Scenario, trigger: Callable[[Scenario], None]) -> None:
    """Other daemons of the client are running, and end too; kept nodes are deleted."""
    scenario.client.keep_node('/servers/b', 'x', ttl=60)
    scenario.client.on_change('/', lambda _: gevent.sleep(0.001))
    scenario.client.mirror('/servers')
    trigger(scenario)
    wait_until(lambda: scenario.closed == [True])
    with pytest.raises(getc.ClientClosed):
        scenario.client.get('/')
    assert [node.key for node in scenario.other.get('/', recursive=True).node.leaves() if 'servers' in node.key] == []
