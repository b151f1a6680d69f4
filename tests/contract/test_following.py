"""on_change and changes: every change once and in order, whatever the callback does."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from getc import WatcherState

Until = Callable[..., None]


class EventLog:
    """A callback that records the results."""

    def __init__(self) -> None:
        self.results: list[getc.EtcdResult] = []

    def __call__(self, result: getc.EtcdResult) -> None:
        self.results.append(result)

    @property
    def lines(self) -> list[str]:
        """Each result as ``Class key=value``."""
        return [
            f'{type(result).__name__} {result.key}' + (f'={result.value}' if result.value is not None else '')
            for result in self.results
        ]


@pytest.fixture
def log() -> EventLog:
    return EventLog()


def test_each_change_is_delivered_once_and_in_order(
    client: getc.Client, other: getc.Client, log: EventLog, wait_until: Until, backend_under_test: Any
) -> None:
    """Changes of the node and its descendants, and no others.

    v3 events do not have the operation, the deletion of a directory is one event for each node, and a removed TTL is
    not visible.
    """
    watcher = client.on_change('/cfg', log)
    other.set('/cfg/a', '1')
    other.create('/cfg/deep/b', '2')
    other.set('/elsewhere', 'x')
    other.update('/cfg/a', '3')
    other.set('/cfg/a', '4', prev_value='3')
    other.refresh('/cfg/a', ttl=100)
    other.delete('/cfg/a')
    other.delete('/cfg/deep', recursive=True)
    received = [
        'Set /cfg/a=1',
        'Created /cfg/deep/b=2',
        'Updated /cfg/a=3',
        'ComparedThenSwapped /cfg/a=4',
        'Deleted /cfg/a',
        'Deleted /cfg/deep',
    ]
    if backend_under_test.name == 'v3':
        received = [re.sub('^(Created|Updated|ComparedThenSwapped)', 'Set', line) for line in received]
        received[4:] = ['Set /cfg/a=4', 'Deleted /cfg/a', 'Deleted /cfg/deep/b']
    wait_until(lambda: len(log.results) >= len(received))
    assert log.lines == received
    indexes = [result.modified_index for result in log.results]
    assert indexes == sorted(set(indexes))
    assert watcher.index == indexes[-1]
    assert watcher.state is WatcherState.LIVE
    assert watcher.is_stale is False
    assert repr(watcher) == f'<getc.Watcher /cfg LIVE index={watcher.index}>'


def test_every_change_after_on_change_returned_is_delivered(
    client: getc.Client, other: getc.Client, wait_until: Until
) -> None:
    """There is no gap after on_change returned."""
    for number in range(20):
        log = EventLog()
        watcher = client.on_change(f'/cfg/{number}', log)
        other.set(f'/cfg/{number}', 'at once')
        wait_until(lambda log=log: log.lines)
        assert log.lines == [f'Set /cfg/{number}=at once']
        watcher.stop()


def test_only_the_node_itself_is_watched_when_not_recursive(
    client: getc.Client, other: getc.Client, log: EventLog, wait_until: Until
) -> None:
    client.on_change('/cfg', log, recursive=False)
    other.set('/cfg/a', '1')
    other.set('/cfg-old', '1')
    other.delete('/cfg', recursive=True)
    other.set('/cfg', dir=True)
    other.delete('/cfg', dir=True)
    wait_until(lambda: log.lines[-2:] == ['Set /cfg', 'Deleted /cfg'])
    assert {result.key for result in log.results} == {'/cfg'}


def test_initial_nodes_are_delivered_first_when_initial(
    client: getc.Client, other: getc.Client, log: EventLog, wait_until: Until
) -> None:
    """Got results in the order of their keys; then ``ready`` is set; then changes."""
    for key in ('/cfg/b', '/cfg/a/deep', '/cfg/c'):
        client.set(key, key[-1])
    watcher = client.on_change('/cfg', log, initial=True)
    assert watcher.ready.wait(60)
    assert log.lines == ['Got /cfg/a/deep=p', 'Got /cfg/b=b', 'Got /cfg/c=c']
    other.set('/cfg/b', 'new')
    wait_until(lambda: len(log.results) > 3)
    assert log.lines[3:] == ['Set /cfg/b=new']


def test_changes_since_an_index_are_delivered_first(
    client: getc.Client, other: getc.Client, log: EventLog, wait_until: Until
) -> None:
    """Including the change at the index."""
    client.set('/cfg/a', '1')
    index = client.set('/cfg/a', '2').modified_index
    client.set('/cfg/a', '3')
    client.on_change('/cfg', log, index=index)
    other.set('/cfg/a', '4')
    wait_until(lambda: len(log.results) >= 3)
    assert log.lines == ['Set /cfg/a=2', 'Set /cfg/a=3', 'Set /cfg/a=4']


def test_lost_history_is_delivered_as_a_comparison(
    client: getc.Client, other: getc.Client, log: EventLog, wait_until: Until, backend_under_test: Any
) -> None:
    """The index is older than the history of the server: on_resync is called."""
    index = client.set('/cfg/gone', '1').modified_index
    client.set('/cfg/stays', '1')
    client.delete('/cfg/gone')
    backend_under_test.compact_history(client)
    resynced: list[getc.Watcher] = []
    watcher = client.on_change('/cfg', log, index=index, on_resync=resynced.append)
    wait_until(lambda: resynced)
    assert resynced == [watcher]
    assert log.lines == ['Set /cfg/stays=1']
    assert log.results[0].resync
    other.set('/cfg/a', 'new')
    wait_until(lambda: len(log.results) > 1)
    assert log.lines[1:] == ['Set /cfg/a=new']
    assert not log.results[1].resync


def test_decorator_returns_the_function(client: getc.Client, other: getc.Client, wait_until: Until) -> None:
    """The function has the watcher as an attribute."""
    received: list[str] = []

    @client.on_change('/cfg')
    def reload(result: getc.EtcdResult) -> str:
        received.append(result.key)
        return 'reloaded'

    other.set('/cfg/a', '1')
    wait_until(lambda: received)
    assert received == ['/cfg/a']
    result = other.get('/cfg/a')
    assert reload(result) == 'reloaded'
    watcher: getc.Watcher = reload.watcher  # type: ignore[attr-defined]
    assert watcher.state is WatcherState.LIVE


# -- callbacks


def test_slow_callback_delays_no_other_watcher_and_loses_nothing(
    client: getc.Client, other: getc.Client, log: EventLog, wait_until: Until
) -> None:
    """Calls are sequential, while another watcher of the client is notified at once."""
    received: list[str | None] = []
    namespaced: list[int] = []
    gate = gevent.event.Event()

    def slow(result: getc.EtcdResult) -> None:
        namespaced.append(1)
        assert len(namespaced) == 1
        gate.wait()
        namespaced.pop()
        received.append(result.value)

    client.on_change('/cfg', slow)
    client.on_change('/cfg', log)
    for number in range(50):
        other.set('/cfg/a', str(number))
    wait_until(lambda: len(log.results) == 50)
    assert received == []
    gate.set()
    wait_until(lambda: len(received) == 50)
    assert received == [str(number) for number in range(50)]


def test_watcher_is_stale_when_its_callback_is_far_behind(
    client: getc.Client, other: getc.Client, wait_until: Until
) -> None:
    """Above a bound the watch is paused; nothing is lost when the callback has caught up."""
    received: list[str | None] = []
    gate = gevent.event.Event()

    def slow(result: getc.EtcdResult) -> None:
        gate.wait()
        received.append(result.value)

    watcher = client.on_change('/cfg', slow)
    written: list[str | None] = []
    while not watcher.is_stale:  # not faster than the watch can deliver
        for _ in range(100):
            written.append(str(len(written)))
            index = other.set('/cfg/a', written[-1]).modified_index
        wait_until(lambda at=index: watcher.index >= at or watcher.is_stale)
    assert watcher.state is WatcherState.STALE
    assert 1000 < len(written) <= 1200
    written.append('last')
    other.set('/cfg/a', 'last')
    assert received == []
    gate.set()
    wait_until(lambda: len(received) == len(written) and watcher.state is WatcherState.LIVE)
    assert received == written


@pytest.mark.parametrize('trouble', [RuntimeError('a bug of the game'), gevent.Timeout(5)], ids=['error', 'timeout'])
def test_error_of_a_callback_is_logged_and_delivery_continues(
    client: getc.Client, other: getc.Client, wait_until: Until, caplog: pytest.LogCaptureFixture, trouble: BaseException
) -> None:
    received: list[str | None] = []

    def raising(result: getc.EtcdResult) -> None:
        received.append(result.value)
        if result.value == '1':
            raise trouble

    watcher = client.on_change('/cfg', raising)
    other.set('/cfg/a', '1')
    other.set('/cfg/a', '2')
    wait_until(lambda: len(received) == 2)
    assert received == ['1', '2']
    assert 'on_change /cfg: the callback' in caplog.text
    assert watcher.state is WatcherState.LIVE


def test_watcher_continues_when_its_callback_is_killed(
    client: getc.Client, other: getc.Client, wait_until: Until
) -> None:
    """The greenlet of the callback is killed by the program; later changes are delivered."""
    received: list[str | None] = []
    victim: list[gevent.Greenlet[..., Any]] = []

    def callback(result: getc.EtcdResult) -> None:
        received.append(result.value)
        if result.value == '1':
            victim.append(gevent.getcurrent())
            gevent.sleep(3600)

    client.on_change('/cfg', callback)
    other.set('/cfg/a', '1')
    other.set('/cfg/a', '2')
    wait_until(lambda: victim)
    victim[0].kill()
    wait_until(lambda: len(received) == 2)
    other.set('/cfg/a', '3')
    wait_until(lambda: len(received) == 3)
    assert received == ['1', '2', '3']


def test_callback_may_use_and_close_the_client_and_stop_the_watcher(
    client: getc.Client, other: getc.Client, log: EventLog, wait_until: Until
) -> None:
    steps: list[str] = []

    def callback(result: getc.EtcdResult) -> None:
        steps.append(client.get('/cfg/a').value or '')
        client.set('/seen', result.value or '')
        inner = client.on_change('/seen', log)
        inner.stop()
        watcher.stop()
        steps.append('stopped')
        client.close()
        steps.append('closed')

    watcher = client.on_change('/cfg', callback)
    other.set('/cfg/a', '1')
    other.set('/cfg/a', '2')
    wait_until(lambda: len(steps) == 3)
    assert steps[1:] == ['stopped', 'closed']
    assert watcher.state is WatcherState.STOPPED
    with pytest.raises(getc.ClientClosed):
        client.get('/cfg/a')


def test_no_callback_runs_after_stop_has_returned(
    client: getc.Client, other: getc.Client, log: EventLog, wait_until: Until
) -> None:
    """Neither queued nor later changes are delivered; a second stop does nothing."""
    gate = gevent.event.Event()
    received: list[str | None] = []

    def slow(result: getc.EtcdResult) -> None:
        received.append(result.value)
        gate.wait()

    watcher = client.on_change('/cfg', slow)
    client.on_change('/cfg', log)
    other.set('/cfg/a', '1')
    other.set('/cfg/a', '2')
    wait_until(lambda: len(log.results) == 2)
    watcher.stop(timeout=0.01)
    gate.set()
    other.set('/cfg/a', '3')
    wait_until(lambda: len(log.results) == 3)
    assert received == ['1']
    assert watcher.join(0)
    watcher.stop()


# -- changes


def test_changes_yields_every_change_since_its_creation(client: getc.Client, other: getc.Client) -> None:
    """Including changes before the first ``next()``."""
    with client.changes('/cfg') as changes:
        for number in range(300):
            other.set('/cfg/a', str(number))
        assert [next(changes).value for _ in range(300)] == [str(number) for number in range(300)]
        with pytest.raises(getc.TimedOut, match=r'no change of /cfg within 0\.01 s'):
            changes.get(timeout=0.01)
        assert repr(changes) == f'<getc.Changes /cfg LIVE index={changes.index}>'


def test_changes_ends_when_it_or_its_client_is_closed(client: getc.Client, other: getc.Client, spawn: Any) -> None:
    """The loop over it ends, and a greenlet that is blocked in it is woken."""
    changes = client.changes('/cfg')
    loop = spawn(list, changes)
    gevent.sleep(0)
    changes.close()
    assert loop.get(timeout=60) == []
    assert list(changes) == []
    loop = spawn(list, client.changes('/cfg', initial=True))
    gevent.sleep(0)
    client.close()
    assert loop.get(timeout=60) == []


def test_changes_yields_initial_nodes_first_when_initial(client: getc.Client) -> None:
    client.set('/cfg/a', '1')
    with client.changes('/cfg', initial=True) as changes:
        assert isinstance(next(changes), getc.Got)
        client.set('/cfg/a', '2')
        assert next(changes).value == '2'


# -- invalid arguments


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'key': 7}, TypeError, 'key must be a str'),
        ({'callback': 'print'}, TypeError, 'callback must be a function'),
        ({'index': -1}, ValueError, 'index'),
        ({'index': 5, 'initial': True}, ValueError, 'either initial=True or an index'),
        ({'resync': 'guess'}, ValueError, "resync must be 'diff' or 'notify'"),
        ({'on_resync': 1}, TypeError, 'on_resync must be a function'),
        ({'timeout': 'soon'}, TypeError, 'timeout'),
    ],
)
def test_on_change_raises_for_invalid_options_before_any_io(
    refusing: getc.Client, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The message names the option."""
    with pytest.raises(error, match=message):
        refusing.on_change(**{'key': '/cfg', 'callback': print, **options})
