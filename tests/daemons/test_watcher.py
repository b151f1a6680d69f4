"""Tests of watchers, mirrors and ``changes`` on a backend that fails on command, in virtual time."""

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


class Recorder:
    """Callbacks that record their results."""

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
def recorder() -> Recorder:
    return Recorder()


def fill_history(client: getc.Client) -> None:
    """Write more events than the history of the store holds."""
    for _ in range(1001):
        client.set('/elsewhere', 'x')


# -- broken connections


def test_no_change_is_lost_when_the_connection_breaks(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """The watcher is STALE meanwhile, and delivers each change once, without a resync."""
    other.set('/cfg/stays', '0')
    watcher = client.on_change('/cfg', recorder, on_resync=recorder.on_resync)
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
    assert recorder.lines == ['Set /cfg/a=1']
    backend.recover()
    etcd_clock.advance(1.01)
    assert watcher.state is WatcherState.LIVE
    assert recorder.lines == ['Set /cfg/a=1', 'Set /cfg/a=2', 'Set /cfg/a=3', 'Deleted /cfg/a']


def test_watch_is_restored_while_a_log_handler_blocks(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """The end of a watch is reported in the hub, where nothing may block."""
    watcher = client.on_change('/cfg', recorder)
    with faulty.blocking_log() as lines:
        gevent.get_hub().loop.run_callback(backend.break_watches)
        etcd_clock.advance(5)
    assert watcher.state is WatcherState.LIVE
    assert lines == [f'etcd client: {watcher.name}: connection lost, may be stale: the connection broke']
    other.set('/cfg/a', '1')
    etcd_clock.advance(0)
    assert recorder.lines == ['Set /cfg/a=1']


@pytest.mark.parametrize('resync', ['diff', 'notify'])
def test_attempts_during_an_outage_back_off(
    client: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime, resync: Any
) -> None:
    """The delays grow up to a second, with and without remembered values."""
    client.on_change('/cfg', recorder, resync=resync)
    etcd_clock.advance(60)
    backend.go_down()
    sent = len(backend.sent) + backend.watches
    etcd_clock.advance(600)
    assert 600 < len(backend.sent) + backend.watches - sent < 3000


def test_backoff_is_reset_by_a_watch_that_worked(
    client: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    watcher = client.on_change('/cfg', recorder)
    for _ in range(20):
        etcd_clock.advance(5)
        assert watcher.state is WatcherState.LIVE
        backend.break_watches()
        etcd_clock.advance(0.051)
        assert watcher.state is WatcherState.LIVE


def test_refresh_of_a_ttl_is_not_a_difference(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """A refresh changes the index of a node, and no watch is notified of it."""
    other.set('/cfg/a', '1', ttl=10)
    client.on_change('/cfg', recorder, on_resync=recorder.on_resync)
    other.refresh('/cfg/a', ttl=1000)
    other.set('/cfg/b', '1')
    etcd_clock.advance(0)
    backend.break_watches()
    etcd_clock.advance(2)
    assert recorder.lines == ['Set /cfg/b=1']


def test_change_of_a_directory_keeps_the_known_values_below_it(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """So no value is delivered twice."""
    other.set('/cfg/dir/a', '1')
    client.on_change('/cfg', recorder, on_resync=recorder.on_resync)
    other.set('/cfg/new', dir=True)
    other.set('/cfg/value', '1')
    other.set('/cfg/dir/b', '1')
    etcd_clock.advance(0)
    assert recorder.lines.pop(0).startswith('Set /cfg/new')
    backend.break_watches()
    etcd_clock.advance(2)
    assert recorder.lines == ['Set /cfg/value=1', 'Set /cfg/dir/b=1']


def test_on_change_waits_for_an_unreachable_etcd(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """Every change after it has returned is delivered."""
    backend.go_down()
    calling = gevent.spawn(client.on_change, '/cfg', recorder)
    etcd_clock.advance(60)
    assert not calling.ready()
    backend.recover()
    etcd_clock.advance(1.01)
    assert calling.get(block=False).state is WatcherState.LIVE
    other.set('/cfg/a', '1')
    etcd_clock.advance(0)
    assert recorder.lines == ['Set /cfg/a=1']


def test_on_change_that_times_out_names_the_last_error_and_stops_its_watcher(
    client: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    backend.go_down(faulty.hang)
    with pytest.raises(TimedOut, match='on_change /cfg did not start within 15 s: no answer'):
        client.on_change('/cfg', recorder, timeout=15)
    etcd_clock.advance(1)
    assert not client._daemons
    sent = len(backend.sent)
    etcd_clock.advance(600)
    assert len(backend.sent) == sent


def test_refusal_is_raised_at_the_start_and_retried_later(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """Permissions may be granted again."""

    def forbid(*_: object) -> Any:
        raise Unauthorized('Insufficient credentials')

    backend.fault = forbid
    with pytest.raises(Unauthorized):
        client.on_change('/cfg', recorder)
    backend.fault = None
    watcher = client.on_change('/cfg', recorder)
    backend.go_down(forbid)
    other.set('/cfg/a', '1')
    etcd_clock.advance(60)
    assert watcher.state is WatcherState.STALE
    assert isinstance(watcher.last_error, Unauthorized)
    backend.recover()
    etcd_clock.advance(MAX_REFUSED_DELAY + 0.01)
    assert [line.partition(' (')[0] for line in recorder.lines] == ['Set /cfg/a=1']


def test_refused_attempts_back_off_and_are_logged_once(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """They are logged again if the reason changes."""

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
    reason = 'retrying with back-off: '
    assert caplog.text.count(f'{reason}the value of /cfg/a is too large') == 1
    backend.fault = forbid
    etcd_clock.advance(60)
    assert caplog.text.count(f'{reason}[110] Insufficient credentials') == 1
    backend.recover()
    etcd_clock.advance(MAX_REFUSED_DELAY + 0.01)
    assert not mirror.is_stale


def test_listing_without_an_index_is_a_protocol_error(
    client: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """A proxy has removed the headers: the watch could not start after the listing."""

    def bare(*_: object) -> Any:
        raise KeyNotFound('Key not found', '/cfg')

    backend.fault = bare
    watcher = client.on_change('/cfg', recorder, wait=False)
    etcd_clock.advance(5)
    assert watcher.state is WatcherState.STARTING
    assert isinstance(watcher.last_error, ProtocolError)


# -- lost history and other stores


def test_cleared_history_is_delivered_as_a_difference(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """In the order of the keys, marked, before on_resync; equal values are not delivered."""
    for key in 'abcde':
        other.set(f'/cfg/{key}', '1')
    watcher = client.on_change('/cfg', recorder, on_resync=recorder.on_resync)
    backend.go_down()
    other.set('/cfg/d', '2')
    other.delete('/cfg/b')
    other.set('/cfg/a/', '1')  # created again with the same value
    other.update('/cfg/e', '1')  # written again
    other.set('/cfg/0', 'new')
    fill_history(other)
    backend.recover()
    etcd_clock.advance(2)
    assert recorder.lines == [
        'Set /cfg/0=new (resync)',
        'Set /cfg/a=1 (resync)',
        'Deleted /cfg/b (resync)',
        'Set /cfg/d=2 (resync)',
        'resync',
    ]
    assert [result.is_new for result in recorder.results] == [True, False, False, False]
    assert watcher.state is WatcherState.LIVE
    recorder.lines.clear()
    other.set('/cfg/a', '5')
    etcd_clock.advance(0)
    assert recorder.lines == ['Set /cfg/a=5']


def test_differences_lead_to_the_existing_values_after_each_kind_of_outage(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
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
            backend.recover(empty=True)
        writer = client_on(MemoryBackend(backend.store), url='memory://')
        for number in range(10):
            writer.set(f'/cfg/{(round_ * 3 + number) % 7}/x', f'{round_}.{number}')
        writer.delete(f'/cfg/{round_}', recursive=True)
        if round_ % 3 == 1:
            fill_history(writer)
        backend.recover()
        etcd_clock.advance(3)
        existing = {leaf.key: leaf.value for leaf in writer.get('/cfg', recursive=True).node.leaves()}
        assert seen == existing
        writer.close()


def test_wiped_store_is_delivered_as_a_difference(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """Every known value is Deleted; then the watcher follows the new store."""
    other.set('/cfg/a', '1')
    other.set('/cfg/b', '1')
    watcher = client.on_change('/cfg', recorder, on_resync=recorder.on_resync)
    before = watcher.index
    backend.recover(empty=True)
    etcd_clock.advance(2)
    assert recorder.lines == ['Deleted /cfg/a (resync)', 'Deleted /cfg/b (resync)', 'resync']
    assert watcher.index < before
    recorder.lines.clear()
    client.set('/cfg/a', 'new')
    etcd_clock.advance(0)
    assert recorder.lines == ['Set /cfg/a=new']


class Silent:
    """A watch that delivers nothing."""

    @classmethod
    def live(cls, spec: WatchSpec, listener: Any, after: Any) -> Silent:
        """Report that the watch was created."""
        gevent.get_hub().loop.run_callback(listener.on_live, 0)
        return cls()

    def close(self) -> None:
        pass


def test_value_replaced_during_an_outage_does_not_cause_a_resync(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """No known value exists any more, but the store delivers the last change again, so it is the same store."""
    other.set('/cfg/rate', '1')
    watcher = client.on_change('/cfg', recorder, on_resync=recorder.on_resync)
    for number in range(5):
        other.set('/cfg/rate', f'{number}.0')
        etcd_clock.advance(0)
        backend.go_down()
        other.set('/cfg/rate', f'{number}.1')
        other.delete('/cfg/rate')
        if number % 2:
            other.set('/cfg/rate', f'{number}.2')
        backend.recover()
        etcd_clock.advance(1.1)
        assert watcher.state is WatcherState.LIVE
    delivered = []
    for number in range(5):
        delivered += [f'Set /cfg/rate={number}.0', f'Set /cfg/rate={number}.1', 'Deleted /cfg/rate']
        delivered += [f'Set /cfg/rate={number}.2'] if number % 2 else []
    assert recorder.lines == delivered


@pytest.mark.parametrize('is_live', [False, True])
def test_watch_that_ends_before_the_last_change_was_delivered_again_does_not_cause_a_resync(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    recorder: Recorder,
    etcd_clock: VirtualTime,
    monkeypatch: pytest.MonkeyPatch,
    is_live: bool,
) -> None:
    """The next watch starts at the same change."""
    other.set('/cfg/rate', '1')
    watcher = client.on_change('/cfg', recorder, on_resync=recorder.on_resync)
    other.set('/cfg/rate', '2')
    etcd_clock.advance(0)
    backend.go_down()
    other.set('/cfg/rate', '3')
    with monkeypatch.context() as silence:
        silence.setattr(backend, 'watch', Silent.live if is_live else lambda spec, listener, after: Silent())
        backend.recover()
        etcd_clock.advance(60)
        assert watcher.state is WatcherState.STALE
    watcher._daemon.on_ended(ConnectionError('the server fell silent'))
    etcd_clock.advance(2)
    assert watcher.state is WatcherState.LIVE
    assert recorder.lines == ['Set /cfg/rate=2', 'Set /cfg/rate=3']


def test_value_replaced_in_an_outage_after_a_resync_does_not_cause_another(
    client: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """The listing of the resync proves the store, although no change of it was delivered yet."""
    client.set('/cfg/a', '1')
    client.on_change('/cfg', recorder, on_resync=recorder.on_resync)
    backend.recover(empty=True)
    with client_on(MemoryBackend(backend.store), url='memory://') as writer:
        writer.set('/cfg/a', '2')
        etcd_clock.advance(2)
        backend.go_down()
        writer.set('/cfg/a', '3')
    backend.recover()
    etcd_clock.advance(2)
    assert recorder.lines == ['Set /cfg/a=2 (resync)', 'resync', 'Set /cfg/a=3']


@pytest.mark.parametrize('content', ['the same key', 'another key', 'nothing', 'a later key'])
@pytest.mark.parametrize('was_delivered', [True, False])
def test_other_store_with_a_higher_index_is_detected(
    client: getc.Client,
    other: getc.Client,
    backend: FaultyBackend,
    recorder: Recorder,
    etcd_clock: VirtualTime,
    content: str,
    was_delivered: bool,
) -> None:
    other.set('/cfg/a', 'older')
    watcher = client.on_change('/cfg', recorder, on_resync=recorder.on_resync)
    if was_delivered:
        other.set('/cfg/a', 'old')
        etcd_clock.advance(0)
        recorder.lines.clear()
    backend.go_down()
    backend.recover(empty=True)
    backend.fault = faulty.refuse
    with client_on(MemoryBackend(backend.store), url='memory://') as writer:
        if content == 'the same key':
            writer.set('/cfg/a', 'new')
        elif content == 'another key':
            writer.set('/cfg/b', 'new')
        for _ in range(20):
            writer.set('/elsewhere', 'x')
        if content == 'a later key':
            writer.set('/cfg/b', 'new')
    backend.recover()
    etcd_clock.advance(20)
    delivered = {
        'the same key': ['Set /cfg/a=new (resync)', 'resync'],
        'another key': ['Deleted /cfg/a (resync)', 'Set /cfg/b=new (resync)', 'resync'],
        'nothing': ['Deleted /cfg/a (resync)', 'resync'],
        'a later key': ['Deleted /cfg/a (resync)', 'Set /cfg/b=new (resync)', 'resync'],
    }
    assert recorder.lines == delivered[content]
    assert watcher.state is WatcherState.LIVE


def test_cleared_history_only_calls_on_resync_with_resync_notify(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """No values are remembered."""
    other.set('/cfg/a', '1')
    watcher = client.on_change('/cfg', recorder, on_resync=recorder.on_resync, resync='notify')
    other.set('/cfg/b', '2')
    etcd_clock.advance(0)
    assert watcher._daemon._continuity._known == {}
    backend.go_down()
    other.set('/cfg/b', '3')
    fill_history(other)
    backend.recover()
    etcd_clock.advance(2)
    assert recorder.lines == ['Set /cfg/b=2', 'resync']
    other.set('/cfg/b', '4')
    etcd_clock.advance(0)
    assert recorder.lines == ['Set /cfg/b=2', 'resync', 'Set /cfg/b=4']


def test_attempts_back_off_when_history_is_lost_each_time(
    client: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """As with two clusters behind one address."""
    client.on_change('/cfg', recorder, on_resync=recorder.on_resync)

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


def test_ready_is_set_after_the_existing_values_were_delivered(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Not when the watcher is LIVE: on_change returns before."""
    for number in range(3):
        other.set(f'/cfg/{number}', 'x')
    delivered: list[tuple[str, bool]] = []

    def slow(result: getc.EtcdResult) -> None:
        gevent.sleep(1)
        delivered.append((result.key, watcher.ready.is_set()))

    watcher = client.on_change('/cfg', slow, initial=True)
    assert watcher.state is WatcherState.LIVE
    other.set('/cfg/3', 'x')
    assert not watcher.ready.is_set()
    assert watcher.ready.wait(60)
    assert delivered == [('/cfg/0', False), ('/cfg/1', False), ('/cfg/2', False)]
    etcd_clock.advance(2)
    assert delivered[3:] == [('/cfg/3', True)]


def test_change_during_the_listing_is_delivered_once(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    other.set('/cfg/a', '1')
    backend.faults.append(faulty.delay(2))
    calling = gevent.spawn(client.on_change, '/cfg', recorder, initial=True)
    etcd_clock.advance(1)
    other.set('/cfg/a', '2')
    other.set('/cfg/b', '1')
    etcd_clock.advance(2)
    assert calling.ready()
    assert recorder.lines == ['Got /cfg/a=1', 'Set /cfg/a=2', 'Set /cfg/b=1']


def test_backlog_is_bounded_while_the_callback_blocks(
    client: getc.Client, other: getc.Client, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """The watch is closed at the bound; afterwards the missed changes or the difference are delivered."""
    gate = gevent.event.Event()

    def slow(result: getc.EtcdResult) -> None:
        gate.wait()
        recorder(result)

    watcher = client.on_change('/cfg', slow, on_resync=recorder.on_resync)
    for number in range(5 * MAX_BACKLOG):
        other.set('/cfg/a', str(number))
        if not number % 10:
            etcd_clock.advance(0)
    assert len(watcher._daemon.callbacks) <= MAX_BACKLOG + 1
    assert watcher.state is WatcherState.STALE
    gate.set()
    etcd_clock.advance(10)
    assert watcher.state is WatcherState.LIVE
    assert recorder.lines[: MAX_BACKLOG + 1] == [f'Set /cfg/a={number}' for number in range(MAX_BACKLOG + 1)]
    assert recorder.lines[-2:] == [f'Set /cfg/a={5 * MAX_BACKLOG - 1} (resync)', 'resync']


def test_watcher_at_its_bound_continues_when_the_last_callback_is_killed(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    greenlets: list[gevent.Greenlet] = []
    delivered: list[str | None] = []

    def callback(result: getc.EtcdResult) -> None:
        delivered.append(result.value)
        if result.value == 'last':
            greenlets.append(gevent.getcurrent())
            gevent.sleep(3600)

    watcher = client.on_change('/cfg', callback)
    for number in range(MAX_BACKLOG):
        other.set('/cfg/a', str(number))
    other.set('/cfg/a', 'last')
    etcd_clock.advance(0)
    other.set('/cfg/a', 'after')
    etcd_clock.advance(600)
    assert (watcher.state, delivered[-1]) == (WatcherState.STALE, 'last')
    greenlets[0].kill()
    etcd_clock.advance(0)
    assert (watcher.state, delivered[-1]) == (WatcherState.LIVE, 'after')


def test_callbacks_that_do_not_block_yield_to_other_greenlets(
    client: getc.Client, other: getc.Client, monkeypatch: pytest.MonkeyPatch, etcd_clock: VirtualTime
) -> None:
    monkeypatch.setattr('getc.daemons.callbacks.MAX_BUSY_SECONDS', -1.0)  # every call takes longer
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


def test_decorator_takes_the_options_of_on_change(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    other.set('/cfg/a', '1')
    delivered: list[str] = []

    @client.on_change('/cfg', initial=True)
    def note(result: getc.EtcdResult) -> None:
        delivered.append(type(result).__name__)

    watcher: Watcher = note.watcher  # type: ignore[attr-defined]
    assert watcher.ready.wait(1)
    assert delivered == ['Got']
    watcher.stop()
    assert watcher.state is WatcherState.STOPPED


# -- stop


def test_stop_does_not_wait_for_a_silent_server(
    client: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    watcher = client.on_change('/cfg', recorder)
    backend.go_down(faulty.hang)
    etcd_clock.advance(3)
    began = etcd_clock.elapsed
    watcher.stop()
    assert etcd_clock.elapsed == began
    assert watcher.state is WatcherState.STOPPED


def test_stopped_watcher_ignores_its_watch(
    client: getc.Client, other: getc.Client, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    watcher = client.on_change('/cfg', recorder)
    result = other.set('/cfg/a', '1')
    watcher.stop()
    index = watcher.index
    watcher._daemon.on_live(result.etcd_index)
    watcher._daemon.on_changes((result,))
    watcher._daemon.on_ended(ConnectionError('late'))
    etcd_clock.advance(1)
    assert (watcher.state, watcher.index, recorder.lines) == (WatcherState.STOPPED, index, [])


def test_stopped_watcher_can_be_collected(
    client: getc.Client, other: getc.Client, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    watcher = client.on_change('/cfg', recorder)
    reference = weakref.ref(watcher)
    watcher.stop()
    del watcher
    etcd_clock.advance(0)
    gc.collect()
    assert reference() is None


def test_stop_during_the_listing_leaves_no_watch(
    client: getc.Client, other: getc.Client, backend: FaultyBackend, recorder: Recorder, etcd_clock: VirtualTime
) -> None:
    """No existing value is delivered either."""
    other.set('/cfg/a', '1')
    backend.faults.append(faulty.delay(2))
    watcher = client.on_change('/cfg', recorder, initial=True, wait=False)
    etcd_clock.advance(1)
    watcher.stop()
    etcd_clock.advance(5)
    assert (recorder.lines, backend.watches) == ([], 0)


def test_forked_child_calls_no_callback(tmp_path: Any) -> None:
    report = tmp_path / 'report'
    with getc.etcd('memory://') as client:
        delivered: list[int] = []
        client.on_change('/cfg', lambda _: delivered.append(os.getpid()))
        pid = fork_gevent()
        if pid == 0:
            try:
                client.set('/cfg/a', '1')
                gevent.sleep(0.05)
                report.write_text(repr(delivered))
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        while not os.waitpid(pid, os.WNOHANG)[0]:
            gevent.sleep(0.01)
        assert report.read_text() == '[]'
        client.set('/cfg/a', '1')
        wait_until(lambda: delivered)
        assert delivered == [os.getpid()]


# -- changes


def test_changes_get_waits_until_its_timeout(client: getc.Client, other: getc.Client, etcd_clock: VirtualTime) -> None:
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


def test_close_ends_all_waiting_iterations_of_changes(client: getc.Client, etcd_clock: VirtualTime) -> None:
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


def test_unread_changes_are_bounded_and_close_returns_at_once(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    changes = client.changes('/cfg')
    for number in range(3 * MAX_BACKLOG):
        other.set('/cfg/a', str(number))
        if not number % 10:
            etcd_clock.advance(0)
    assert changes._results.qsize() == MAX_QUEUED
    assert len(changes._daemon.callbacks) <= MAX_BACKLOG + 1
    assert changes.state is WatcherState.STALE
    began = etcd_clock.elapsed
    changes.close()
    assert etcd_clock.elapsed == began
    assert list(changes) == []


def test_changes_far_behind_delivers_the_difference_in_its_place(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    changes = client.changes('/cfg')
    for number in range(3 * MAX_BACKLOG):
        other.set('/cfg/a', str(number))
        if not number % 10:
            etcd_clock.advance(0)
    delivered = []
    while not delivered or delivered[-1].value != str(3 * MAX_BACKLOG - 1):
        delivered.append(changes.get(timeout=10))
    whole = [int(result.value or '') for result in delivered if not result.resync]
    assert whole == list(range(len(whole)))
    assert [result.value for result in delivered if result.resync] == [str(3 * MAX_BACKLOG - 1)]


def test_close_of_the_client_drops_unread_changes_without_waiting(
    client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    changes: Changes = client.changes('/cfg')
    for number in range(2 * MAX_QUEUED):
        other.set('/cfg/a', str(number))
    etcd_clock.advance(0)
    began = etcd_clock.elapsed
    client.close()
    assert etcd_clock.elapsed == began
    assert list(changes) == []


def test_listing_is_linearizable(client: getc.Client, backend: FaultyBackend, recorder: Recorder) -> None:
    """A member that lags would look like a store that was restored."""
    client.on_change('/cfg', recorder)
    assert [operation.quorum for _, operation in backend.sent if isinstance(operation, Get)] == [True]
