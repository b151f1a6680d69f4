"""A watcher and its etcd, which fails, forgets, or is another one: what is told, and that nothing is hidden."""

from __future__ import annotations

import gc
import os
import signal
import weakref
from typing import Any

import gevent
import pytest
from gevent.os import fork_gevent

import getc
from getc import Changes, Watcher, WatcherState
from getc.backends.memory.backend import MemoryBackend
from getc.backends.memory.notifier import SharedStore
from getc.daemons.changes import MAX_QUEUED
from getc.daemons.follower import MAX_BACKLOG
from getc.daemons.retry_loop import MAX_REFUSED_DELAY
from getc.errors import (
    ConnectionError,
    EventIndexCleared,
    KeyNotFound,
    ProtocolError,
    ResponseTooLarge,
    TimedOut,
    Unauthorized,
)
from getc.operations import Get, WatchSpec
from getc.testing import VirtualTime, wait_until
from tests.support import faulty
from tests.support.clients import client_on
from tests.support.faulty import FaultyBackend


class Story:
    """Callbacks that note what they are told."""

    def __init__(self) -> None:
        self.results: list[getc.EtcdResult] = []
        self.lines: list[str] = []

    def __call__(self, result: getc.EtcdResult) -> None:
        self.results.append(result)
        mark = ' (resync)' if result.resync else ''
        value = '' if result.value is None else f'={result.value}'
        self.lines.append(f'{type(result).__name__} {result.key}{value}{mark}')

    def on_resync(self, _watcher: Watcher) -> None:
        self.lines.append('resync')


@pytest.fixture
def story() -> Story:
    return Story()


def fill_history(client: getc.Client) -> None:
    """Push what has happened so far out of the server's memory."""
    for _ in range(1001):
        client.set('/elsewhere', 'x')


# -- connections that break


def test_nothing_is_lost_when_the_connection_breaks(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """It is STALE meanwhile; then what happened comes, each change once, and no resync."""
    other.set('/cfg/stays', '0')
    watcher = client.on_change('/cfg', story, on_resync=story.on_resync)
    assert (watcher.state, watcher.is_stale) == (WatcherState.LIVE, False)
    other.set('/cfg/a', '1')
    etcd_clock.advance(0)
    backend.go_down()
    assert (watcher.state, watcher.is_stale) == (WatcherState.STALE, True)
    assert isinstance(watcher.last_error, ConnectionError)
    other.set('/cfg/a', '2')
    other.set('/cfg/a', '3')
    other.delete('/cfg/a')
    etcd_clock.advance(600)
    assert story.lines == ['Set /cfg/a=1']
    backend.come_back()
    etcd_clock.advance(1.01)
    assert watcher.state is WatcherState.LIVE
    assert story.lines == ['Set /cfg/a=1', 'Set /cfg/a=2', 'Set /cfg/a=3', 'Deleted /cfg/a']


def test_connection_that_breaks_is_made_again_though_a_log_handler_blocks(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """A watch tells of its end in the hub, where nothing may wait."""
    watcher = client.on_change('/cfg', story)
    with faulty.blocking_log() as said:
        gevent.get_hub().loop.run_callback(backend.break_watches)
        etcd_clock.advance(5)
    assert watcher.state is WatcherState.LIVE
    assert said == [f'etcd client: {watcher.name}: stale: the connection broke']
    other.set('/cfg/a', '1')
    etcd_clock.advance(0)
    assert story.lines == ['Set /cfg/a=1']


@pytest.mark.parametrize('resync', ['diff', 'notify'])
def test_outage_is_not_spent_asking_all_the_time(
    client: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime, resync: Any
) -> None:
    """The pauses grow up to a second, with a list of what is there or without."""
    client.on_change('/cfg', story, resync=resync)
    etcd_clock.advance(60)
    backend.go_down()
    asked = len(backend.sent) + backend.watches
    etcd_clock.advance(600)
    assert 600 < len(backend.sent) + backend.watches - asked < 3000


def test_back_off_starts_small_again_after_a_watch_that_worked(
    client: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """One short break after the other costs a moment each."""
    watcher = client.on_change('/cfg', story)
    for _ in range(20):
        etcd_clock.advance(5)
        assert watcher.state is WatcherState.LIVE
        backend.break_watches()
        etcd_clock.advance(0.051)
        assert watcher.state is WatcherState.LIVE


def test_ttl_that_was_refreshed_is_no_difference(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """A refresh moves the index of a node and tells nobody."""
    other.set('/cfg/a', '1', ttl=10)
    client.on_change('/cfg', story, on_resync=story.on_resync)
    other.refresh('/cfg/a', ttl=1000)
    other.set('/cfg/b', '1')
    etcd_clock.advance(0)
    backend.break_watches()
    etcd_clock.advance(2)
    assert story.lines == ['Set /cfg/b=1']


def test_directory_that_changes_is_no_loss_of_what_is_in_it(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """What is known below it stays known, so nothing is told twice."""
    other.set('/cfg/dir/a', '1')
    client.on_change('/cfg', story, on_resync=story.on_resync)
    other.set('/cfg/new', dir=True)
    other.set('/cfg/value', '1')
    other.set('/cfg/dir/b', '1')
    etcd_clock.advance(0)
    assert story.lines.pop(0).startswith('Set /cfg/new')
    backend.break_watches()
    etcd_clock.advance(2)
    assert story.lines == ['Set /cfg/value=1', 'Set /cfg/dir/b=1']


def test_connection_that_breaks_before_the_start_is_made_again(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """on_change goes on trying; every change after it returned is told."""
    backend.go_down()
    calling = gevent.spawn(client.on_change, '/cfg', story)
    etcd_clock.advance(60)
    assert not calling.ready()
    backend.come_back()
    etcd_clock.advance(1.01)
    assert calling.get(block=False).state is WatcherState.LIVE
    other.set('/cfg/a', '1')
    etcd_clock.advance(0)
    assert story.lines == ['Set /cfg/a=1']


def test_on_change_times_out_and_leaves_nothing(
    client: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """It says what the last attempt met."""
    backend.go_down(faulty.hang)
    with pytest.raises(TimedOut, match='on_change /cfg did not start within 15 s: no answer'):
        client.on_change('/cfg', story, timeout=15)
    etcd_clock.advance(1)
    assert not client._daemons
    asked = len(backend.sent)
    etcd_clock.advance(600)
    assert len(backend.sent) == asked


def test_refusal_is_raised_at_the_start_and_survived_later(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """Rights may come back; who began to follow goes on."""

    def forbid(*_: object) -> Any:
        raise Unauthorized('Insufficient credentials')

    backend.fault = forbid
    with pytest.raises(Unauthorized):
        client.on_change('/cfg', story)
    backend.fault = None
    watcher = client.on_change('/cfg', story)
    backend.go_down(forbid)
    other.set('/cfg/a', '1')
    etcd_clock.advance(60)
    assert watcher.state is WatcherState.STALE
    assert isinstance(watcher.last_error, Unauthorized)
    backend.come_back()
    etcd_clock.advance(MAX_REFUSED_DELAY + 0.01)
    assert [line.partition(' (')[0] for line in story.lines] == ['Set /cfg/a=1']


def test_refusals_are_met_less_and_less_often_and_logged_once(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """Asking again would bring the same, perhaps at a cost; the reason is in the log, and in it again if it changes."""

    def too_large(*_: object) -> Any:
        raise ResponseTooLarge('the value of /cfg/a is too large')

    def forbid(*_: object) -> Any:
        raise Unauthorized('Insufficient credentials')

    mirror = client.mirror('/cfg')
    backend.go_down(too_large)
    before = len(backend.sent)
    etcd_clock.advance(120)
    assert 12 <= len(backend.sent) - before < 60
    assert mirror.is_stale
    reason = 'is retried at growing intervals: '
    assert caplog.text.count(f'{reason}the value of /cfg/a is too large') == 1
    backend.fault = forbid
    etcd_clock.advance(60)
    assert caplog.text.count(f'{reason}[110] Insufficient credentials') == 1
    backend.come_back()
    etcd_clock.advance(MAX_REFUSED_DELAY + 0.01)
    assert not mirror.is_stale


def test_answer_without_an_index_is_no_start(
    client: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """A proxy that takes the headers off: nothing could be followed from there."""

    def bare(*_: object) -> Any:
        raise KeyNotFound('Key not found', '/cfg')

    backend.fault = bare
    watcher = client.on_change('/cfg', story, wait=False)
    etcd_clock.advance(5)
    assert watcher.state is WatcherState.STARTING
    assert isinstance(watcher.last_error, ProtocolError)


# -- history that is lost, and stores that are others


def test_history_that_was_cleared_during_an_outage_is_told_as_a_difference(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """In the order of the keys, marked, then on_resync; what is the same is not told."""
    for key in 'abcde':
        other.set(f'/cfg/{key}', '1')
    watcher = client.on_change('/cfg', story, on_resync=story.on_resync)
    backend.go_down()
    other.set('/cfg/d', '2')
    other.delete('/cfg/b')
    other.set('/cfg/a/', '1')  # made anew with the same value
    other.update('/cfg/e', '1')  # written again
    other.set('/cfg/0', 'new')
    fill_history(other)
    backend.come_back()
    etcd_clock.advance(2)
    assert story.lines == [
        'Set /cfg/0=new (resync)',
        'Set /cfg/a=1 (resync)',
        'Deleted /cfg/b (resync)',
        'Set /cfg/d=2 (resync)',
        'resync',
    ]
    assert [result.is_new for result in story.results] == [True, False, False, False]
    assert watcher.state is WatcherState.LIVE
    story.lines.clear()
    other.set('/cfg/a', '5')
    etcd_clock.advance(0)
    assert story.lines == ['Set /cfg/a=5']


def test_differences_add_up_to_what_is_there(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    """Whoever keeps a map by the results has the right one after each kind of outage."""
    seen: dict[str, str] = {}

    def keep(result: getc.EtcdResult) -> None:
        if isinstance(result, getc.Deleted):
            for key in [key for key in seen if key == result.key or key.startswith(result.key + '/')]:
                del seen[key]
        elif result.value is not None:
            seen[result.key] = result.value

    client.on_change('/cfg', keep, initial=True)
    for round_ in range(6):
        backend.go_down()
        etcd_clock.advance(3)
        if round_ % 3 == 2:
            backend.come_back(empty=True)
        writer = client_on(MemoryBackend(backend.store), url='memory://')
        for number in range(10):
            writer.set(f'/cfg/{(round_ * 3 + number) % 7}/x', f'{round_}.{number}')
        writer.delete(f'/cfg/{round_}', recursive=True)
        if round_ % 3 == 1:
            fill_history(writer)
        backend.come_back()
        etcd_clock.advance(3)
        there = {leaf.key: leaf.value for leaf in writer.get('/cfg', recursive=True).node.leaves()}
        assert seen == there
        writer.close()


def test_store_that_is_empty_is_told_as_a_difference(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """All that was known is Deleted; then it follows the new store."""
    other.set('/cfg/a', '1')
    other.set('/cfg/b', '1')
    watcher = client.on_change('/cfg', story, on_resync=story.on_resync)
    before = watcher.index
    backend.come_back(empty=True)
    etcd_clock.advance(2)
    assert story.lines == ['Deleted /cfg/a (resync)', 'Deleted /cfg/b (resync)', 'resync']
    assert watcher.index < before
    story.lines.clear()
    client.set('/cfg/a', 'new')
    etcd_clock.advance(0)
    assert story.lines == ['Set /cfg/a=new']


class Silent:
    """A watch that tells nothing."""

    @classmethod
    def live(cls, spec: WatchSpec, listener: Any, after: Any) -> Silent:
        """One that comes on before."""
        gevent.get_hub().loop.run_callback(listener.on_live, 0)
        return cls()

    def close(self) -> None:
        pass


def test_value_that_was_replaced_during_an_outage_is_no_loss_of_history(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """Nothing of what was known is there, but the store tells the latest change once more: it is the same."""
    other.set('/cfg/rate', '1')
    watcher = client.on_change('/cfg', story, on_resync=story.on_resync)
    for number in range(5):
        other.set('/cfg/rate', f'{number}.0')
        etcd_clock.advance(0)
        backend.go_down()
        other.set('/cfg/rate', f'{number}.1')
        other.delete('/cfg/rate')
        if number % 2:
            other.set('/cfg/rate', f'{number}.2')
        backend.come_back()
        etcd_clock.advance(1.1)
        assert watcher.state is WatcherState.LIVE
    told = []
    for number in range(5):
        told += [f'Set /cfg/rate={number}.0', f'Set /cfg/rate={number}.1', 'Deleted /cfg/rate']
        told += [f'Set /cfg/rate={number}.2'] if number % 2 else []
    assert story.lines == told


@pytest.mark.parametrize('is_live', [False, True])
def test_watch_that_ends_before_the_latest_change_came_again_has_lost_no_history(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    story: Story,
    etcd_clock: VirtualTime,
    monkeypatch: pytest.MonkeyPatch,
    is_live: bool,
) -> None:
    """Its server did not say that the change is not there: the next watch starts at the same change."""
    other.set('/cfg/rate', '1')
    watcher = client.on_change('/cfg', story, on_resync=story.on_resync)
    other.set('/cfg/rate', '2')
    etcd_clock.advance(0)
    backend.go_down()
    other.set('/cfg/rate', '3')
    with monkeypatch.context() as silence:
        silence.setattr(backend, 'watch', Silent.live if is_live else lambda spec, listener, after: Silent())
        backend.come_back()
        etcd_clock.advance(60)
        assert watcher.state is WatcherState.STALE
    watcher._daemon.on_ended(ConnectionError('the server fell silent'))
    etcd_clock.advance(2)
    assert watcher.state is WatcherState.LIVE
    assert story.lines == ['Set /cfg/rate=2', 'Set /cfg/rate=3']


def test_value_that_was_replaced_in_an_outage_after_a_loss_is_no_loss_again(
    client: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """What the comparison found is witness enough, though no change of the new store was told yet."""
    client.set('/cfg/a', '1')
    client.on_change('/cfg', story, on_resync=story.on_resync)
    backend.come_back(empty=True)
    with client_on(MemoryBackend(backend.store), url='memory://') as writer:
        writer.set('/cfg/a', '2')
        etcd_clock.advance(2)
        backend.go_down()
        writer.set('/cfg/a', '3')
    backend.come_back()
    etcd_clock.advance(2)
    assert story.lines == ['Set /cfg/a=2 (resync)', 'resync', 'Set /cfg/a=3']


@pytest.mark.parametrize('what_is_there', ['the same key', 'another key', 'nothing', 'a later key'])
@pytest.mark.parametrize('was_told', [True, False])
def test_other_store_that_has_grown_past_the_index_is_noticed(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    story: Story,
    etcd_clock: VirtualTime,
    what_is_there: str,
    was_told: bool,
) -> None:
    """Its index is no witness; what was known is."""
    other.set('/cfg/a', 'older')
    watcher = client.on_change('/cfg', story, on_resync=story.on_resync)
    if was_told:
        other.set('/cfg/a', 'old')
        etcd_clock.advance(0)
        story.lines.clear()
    backend.go_down()
    backend.come_back(empty=True)
    backend.fault = faulty.refuse
    with client_on(MemoryBackend(backend.store), url='memory://') as writer:
        if what_is_there == 'the same key':
            writer.set('/cfg/a', 'new')
        elif what_is_there == 'another key':
            writer.set('/cfg/b', 'new')
        for _ in range(20):
            writer.set('/elsewhere', 'x')
        if what_is_there == 'a later key':
            writer.set('/cfg/b', 'new')
    backend.come_back()
    etcd_clock.advance(20)
    told = {
        'the same key': ['Set /cfg/a=new (resync)', 'resync'],
        'another key': ['Deleted /cfg/a (resync)', 'Set /cfg/b=new (resync)', 'resync'],
        'nothing': ['Deleted /cfg/a (resync)', 'resync'],
        'a later key': ['Deleted /cfg/a (resync)', 'Set /cfg/b=new (resync)', 'resync'],
    }
    assert story.lines == told[what_is_there]
    assert watcher.state is WatcherState.LIVE


def test_cleared_history_is_only_notified_when_no_difference_is_wanted(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """resync='notify' keeps nothing in memory, and says so once."""
    other.set('/cfg/a', '1')
    watcher = client.on_change('/cfg', story, on_resync=story.on_resync, resync='notify')
    other.set('/cfg/b', '2')
    etcd_clock.advance(0)
    assert watcher._daemon._continuity._known == {}
    backend.go_down()
    other.set('/cfg/b', '3')
    fill_history(other)
    backend.come_back()
    etcd_clock.advance(2)
    assert story.lines == ['Set /cfg/b=2', 'resync']
    other.set('/cfg/b', '4')
    etcd_clock.advance(0)
    assert story.lines == ['Set /cfg/b=2', 'resync', 'Set /cfg/b=4']


def test_store_that_is_never_the_same_is_not_asked_all_the_time(
    client: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """Two clusters behind one address: each answer contradicts the one before."""
    client.on_change('/cfg', story, on_resync=story.on_resync)

    class Contradicting(MemoryBackend):
        def watch(self, spec: Any, listener: Any, after: Any = None) -> Any:
            backend.watches += 1
            watch = super().watch(spec, listener)
            watch.close()
            gevent.get_hub().loop.run_callback(listener.on_ended, EventIndexCleared('cleared'))
            return watch

    backend.break_watches()
    backend._inner = Contradicting(SharedStore())
    etcd_clock.advance(60)
    assert backend.watches < 1000


# -- callbacks


def test_ready_is_set_after_what_was_there_has_been_delivered(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Not when it is live: on_change returns before."""
    for number in range(3):
        other.set(f'/cfg/{number}', 'x')
    told: list[tuple[str, bool]] = []

    def slow(result: getc.EtcdResult) -> None:
        gevent.sleep(1)
        told.append((result.key, watcher.ready.is_set()))

    watcher = client.on_change('/cfg', slow, initial=True)
    assert watcher.state is WatcherState.LIVE
    other.set('/cfg/3', 'x')
    assert not watcher.ready.is_set()
    assert watcher.ready.wait(60)
    assert told == [('/cfg/0', False), ('/cfg/1', False), ('/cfg/2', False)]
    etcd_clock.advance(2)
    assert told[3:] == [('/cfg/3', True)]


def test_nothing_is_missed_or_told_twice_between_the_list_and_the_watch(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """What changes while the list is on its way comes as a change, once."""
    other.set('/cfg/a', '1')
    backend.faults.append(faulty.delay(2))
    calling = gevent.spawn(client.on_change, '/cfg', story, initial=True)
    etcd_clock.advance(1)
    other.set('/cfg/a', '2')
    other.set('/cfg/b', '1')
    etcd_clock.advance(2)
    assert calling.ready()
    assert story.lines == ['Got /cfg/a=1', 'Set /cfg/a=2', 'Set /cfg/b=1']


def test_memory_is_bounded_when_the_callback_never_returns(
    client: getc.Client, other: getc.Client, story: Story, etcd_clock: VirtualTime
) -> None:
    """Past the bound the watch is closed; when the callback is done all is told, or the difference."""
    gate = gevent.event.Event()

    def slow(result: getc.EtcdResult) -> None:
        gate.wait()
        story(result)

    watcher = client.on_change('/cfg', slow, on_resync=story.on_resync)
    for number in range(5 * MAX_BACKLOG):
        other.set('/cfg/a', str(number))
        if not number % 10:
            etcd_clock.advance(0)
    assert len(watcher._daemon.callbacks) <= MAX_BACKLOG + 1
    assert watcher.state is WatcherState.STALE
    gate.set()
    etcd_clock.advance(10)
    assert watcher.state is WatcherState.LIVE
    assert story.lines[: MAX_BACKLOG + 1] == [f'Set /cfg/a={number}' for number in range(MAX_BACKLOG + 1)]
    assert story.lines[-2:] == [f'Set /cfg/a={5 * MAX_BACKLOG - 1} (resync)', 'resync']


def test_watcher_behind_goes_on_when_the_last_callback_is_killed(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """It had stopped listening until then."""
    victims: list[gevent.Greenlet] = []
    told: list[str | None] = []

    def callback(result: getc.EtcdResult) -> None:
        told.append(result.value)
        if result.value == 'last':
            victims.append(gevent.getcurrent())
            gevent.sleep(3600)

    watcher = client.on_change('/cfg', callback)
    for number in range(MAX_BACKLOG):
        other.set('/cfg/a', str(number))
    other.set('/cfg/a', 'last')
    etcd_clock.advance(0)
    other.set('/cfg/a', 'after')
    etcd_clock.advance(600)
    assert (watcher.state, told[-1]) == (WatcherState.STALE, 'last')
    victims[0].kill()
    etcd_clock.advance(0)
    assert (watcher.state, told[-1]) == (WatcherState.LIVE, 'after')


def test_callbacks_that_compute_let_others_run(
    client: getc.Client, other: getc.Client, monkeypatch: pytest.MonkeyPatch, etcd_clock: VirtualTime
) -> None:
    """A hundred calls in a row do not hold up the hub: a renewal, for one."""
    monkeypatch.setattr('getc.daemons.callbacks.MAX_BUSY_SECONDS', -1.0)  # every call is longer than that
    turns: list[int] = []
    seen: list[int] = []

    def tick() -> None:
        while len(seen) < 100:
            turns.append(len(seen))
            gevent.sleep(0)

    client.on_change('/cfg', lambda _: seen.append(1))
    for number in range(100):
        other.set('/cfg/a', str(number))
    gevent.spawn(tick)
    etcd_clock.advance(0)
    assert len(seen) == 100
    assert len(set(turns)) > 50


def test_decorator_starts_with_what_is_there_when_asked_for(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """With all the options of on_change."""
    other.set('/cfg/a', '1')
    told: list[str] = []

    @client.on_change('/cfg', initial=True)
    def note(result: getc.EtcdResult) -> None:
        told.append(type(result).__name__)

    watcher: Watcher = note.watcher  # type: ignore[attr-defined]
    assert watcher.ready.wait(1)
    assert told == ['Got']
    watcher.stop()
    assert watcher.state is WatcherState.STOPPED


# -- the end


def test_stop_does_not_wait_for_an_etcd_that_is_silent(
    client: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """A read under way is dropped."""
    watcher = client.on_change('/cfg', story)
    backend.go_down(faulty.hang)
    etcd_clock.advance(3)
    began = etcd_clock.elapsed
    watcher.stop()
    assert etcd_clock.elapsed == began
    assert watcher.state is WatcherState.STOPPED


def test_stopped_watcher_stays_so_whatever_it_is_told(
    client: getc.Client, other: getc.Client, story: Story, etcd_clock: VirtualTime
) -> None:
    """By a watch that was just about to tell it."""
    watcher = client.on_change('/cfg', story)
    result = other.set('/cfg/a', '1')
    watcher.stop()
    index = watcher.index
    watcher._daemon.on_live(result.etcd_index)
    watcher._daemon.on_changes((result,))
    watcher._daemon.on_ended(ConnectionError('late'))
    etcd_clock.advance(1)
    assert (watcher.state, watcher.index, story.lines) == (WatcherState.STOPPED, index, [])


def test_stopped_watcher_is_not_kept_in_memory(
    client: getc.Client, other: getc.Client, story: Story, etcd_clock: VirtualTime
) -> None:
    """No store, timer or client refers to it; nor to its callback."""
    watcher = client.on_change('/cfg', story)
    ghost = weakref.ref(watcher)
    watcher.stop()
    del watcher
    etcd_clock.advance(0)
    gc.collect()
    assert ghost() is None


def test_stop_during_the_list_leaves_no_watch(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, story: Story, etcd_clock: VirtualTime
) -> None:
    """Nothing is told any more, not even what was there."""
    other.set('/cfg/a', '1')
    backend.faults.append(faulty.delay(2))
    watcher = client.on_change('/cfg', story, initial=True, wait=False)
    etcd_clock.advance(1)
    watcher.stop()
    etcd_clock.advance(5)
    assert (story.lines, backend.watches) == ([], 0)


def test_forked_child_is_told_nothing(tmp_path: Any) -> None:
    """The callbacks are its parent's."""
    report = tmp_path / 'report'
    with getc.etcd('memory://') as client:
        told: list[int] = []
        client.on_change('/cfg', lambda _: told.append(os.getpid()))
        pid = fork_gevent()
        if pid == 0:
            try:
                client.set('/cfg/a', '1')
                gevent.sleep(0.05)
                report.write_text(repr(told))
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        while not os.waitpid(pid, os.WNOHANG)[0]:
            gevent.sleep(0.01)
        assert report.read_text() == '[]'
        client.set('/cfg/a', '1')
        wait_until(lambda: told)
        assert told == [os.getpid()]


# -- changes


def test_changes_waits_for_the_next_one_until_its_timeout(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Then TimedOut, and nothing is lost by it; 0 takes what is there."""
    changes = client.changes('/cfg')
    with pytest.raises(TimedOut, match='no change of /cfg within 5 s'):
        changes.get(timeout=5)
    assert etcd_clock.elapsed == 5
    gevent.spawn_later(3, other.set, '/cfg/a', '1')
    assert changes.get(timeout=5).value == '1'
    assert etcd_clock.elapsed == 8
    other.set('/cfg/a', '2')
    etcd_clock.advance(0)
    assert changes.get(timeout=0).value == '2'
    with pytest.raises(TimedOut):
        changes.get(timeout=0)
    with pytest.raises(ValueError, match='timeout'):
        changes.get(timeout=-1)


def test_changes_wakes_all_who_wait_when_it_is_closed_by_another(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """Their loops end."""
    changes = client.changes('/cfg')
    loops = [gevent.spawn(list, changes) for _ in range(3)]
    etcd_clock.advance(1)
    closing = gevent.spawn(changes.close)
    etcd_clock.advance(0)
    assert closing.ready()
    assert [loop.get(block=False) for loop in loops] == [[], [], []]
    with pytest.raises(StopIteration):
        changes.get(timeout=0)
    assert repr(changes).startswith('<getc.Changes /cfg STOPPED')


def test_changes_that_nobody_takes_are_bounded_and_closing_is_prompt(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """The watcher stops listening; nothing is told after the end."""
    changes = client.changes('/cfg')
    for number in range(3 * MAX_BACKLOG):
        other.set('/cfg/a', str(number))
        if not number % 10:
            etcd_clock.advance(0)
    assert changes._results.qsize() == MAX_QUEUED
    assert len(changes.watcher._daemon.callbacks) <= MAX_BACKLOG + 1
    assert changes.watcher.state is WatcherState.STALE
    began = etcd_clock.elapsed
    changes.close()
    assert etcd_clock.elapsed == began
    assert list(changes) == []


def test_changes_far_behind_goes_on_without_a_gap_that_is_hidden(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """What the server forgot meanwhile is told as a difference, in its place."""
    changes = client.changes('/cfg')
    for number in range(3 * MAX_BACKLOG):
        other.set('/cfg/a', str(number))
        if not number % 10:
            etcd_clock.advance(0)
    told = []
    while not told or told[-1].value != str(3 * MAX_BACKLOG - 1):
        told.append(changes.get(timeout=10))
    whole = [int(result.value or '') for result in told if not result.resync]
    assert whole == list(range(len(whole)))
    assert [result.value for result in told if result.resync] == [str(3 * MAX_BACKLOG - 1)]


def test_changes_ends_for_a_client_that_is_closed_with_changes_left(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Those that were not taken are dropped, and closing does not wait for them."""
    changes: Changes = client.changes('/cfg')
    for number in range(2 * MAX_QUEUED):
        other.set('/cfg/a', str(number))
    etcd_clock.advance(0)
    began = etcd_clock.elapsed
    client.close()
    assert etcd_clock.elapsed == began
    assert list(changes) == []


def test_list_is_asked_of_the_leader(client: getc.Client, backend: FaultyBackend, story: Story) -> None:
    """A member that lags would show a store that went back."""
    client.on_change('/cfg', story)
    assert [operation.quorum for _, operation in backend.sent if isinstance(operation, Get)] == [True]
