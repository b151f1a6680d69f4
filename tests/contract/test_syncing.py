"""sync: a mirror shows, and a watcher has delivered, everything that was written before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

import getc
from getc import WatcherState

TIMEOUT = 60


def test_mirror_shows_after_sync_what_was_written_before(client: getc.Client, other: getc.Client) -> None:
    """Writes, deletes and whole directories; the index is that of the last write, or later."""
    mirror = client.mirror('/servers')
    for number in range(20):
        written = other.set(f'/servers/{number}', str(number))
        assert mirror.sync(TIMEOUT) >= written.etcd_index
        assert mirror[f'/servers/{number}'] == str(number)
    assert mirror.index >= written.etcd_index
    deleted = other.delete('/servers', recursive=True)
    assert mirror.sync(TIMEOUT) >= deleted.etcd_index
    assert dict(mirror) == {}


def test_sync_returns_where_the_last_writes_were_elsewhere(client: getc.Client, other: getc.Client) -> None:
    """The index of the mirror moves, although nothing of it has changed."""
    client.set('/servers/a', '1')
    mirror = client.mirror('/servers')
    for _ in range(3):
        elsewhere = other.set('/elsewhere', 'x')
        index = mirror.sync(TIMEOUT)
        assert index >= elsewhere.etcd_index
        assert mirror.index == index
    assert dict(mirror) == {'/servers/a': '1'}


def test_sync_of_a_mirror_of_a_missing_node_and_of_a_value(client: getc.Client, other: getc.Client) -> None:
    missing, value = client.mirror('/nothing'), client.mirror('/cfg/rate')
    written = other.set('/cfg/rate', '20')
    assert missing.sync(TIMEOUT) >= written.etcd_index
    assert value.sync(TIMEOUT) >= written.etcd_index
    assert (dict(missing), dict(value)) == ({}, {'/cfg/rate': '20'})
    other.delete('/cfg/rate')
    value.sync(TIMEOUT)
    assert dict(value) == {}


def test_sync_waits_for_a_mirror_that_is_starting(client: getc.Client, other: getc.Client) -> None:
    written = other.set('/servers/a', '1')
    mirror = client.mirror('/servers', wait=False)
    assert mirror.sync(TIMEOUT) >= written.etcd_index
    assert (mirror['/servers/a'], mirror.state) == ('1', WatcherState.LIVE)


def test_greenlets_that_sync_at_once_all_see_their_own_writes(client: getc.Client, other: getc.Client) -> None:
    mirror = client.mirror('/servers')

    def write_and_sync(number: int) -> str:
        written = other.set(f'/servers/{number}', str(number))
        assert mirror.sync(TIMEOUT) >= written.etcd_index
        return mirror[f'/servers/{number}']

    writers = [gevent.spawn(write_and_sync, number) for number in range(50)]
    gevent.joinall(writers, raise_error=True)
    assert [writer.value for writer in writers] == [str(number) for number in range(50)]


def test_two_mirrors_and_a_watcher_of_one_node_sync(client: getc.Client, other: getc.Client) -> None:
    """They share a watch of the server."""
    seen: list[str | None] = []
    first, second = client.mirror('/servers'), client.mirror('/servers')
    watcher = client.on_change('/servers', lambda result: seen.append(result.value))
    for number in range(5):
        other.set('/servers/a', str(number))
        waiting = [gevent.spawn(each.sync, TIMEOUT) for each in (first, second, watcher)]
        gevent.joinall(waiting, raise_error=True)
        assert (first['/servers/a'], second['/servers/a'], seen[-1]) == (str(number),) * 3


def test_watcher_has_called_its_callback_for_everything_after_sync(client: getc.Client, other: getc.Client) -> None:
    """The callbacks have returned, also those that block."""
    seen: list[str | None] = []

    def callback(result: getc.EtcdResult) -> None:
        gevent.sleep(0.001)
        seen.append(result.value)

    watcher = client.on_change('/servers', callback)
    for number in range(10):
        written = other.set('/servers/a', str(number))
    assert watcher.sync(TIMEOUT) >= written.etcd_index
    assert seen == [str(number) for number in range(10)]


def test_sync_in_a_callback_of_the_watcher_raises(
    client: getc.Client, other: getc.Client, wait_until: Callable[..., None]
) -> None:
    """It would wait for itself.  A mirror may be synced in a callback."""
    raised: list[BaseException] = []
    indices: list[int] = []
    mirror = client.mirror('/servers')

    def callback(_: getc.EtcdResult) -> None:
        indices.append(mirror.sync(TIMEOUT))
        try:
            watcher.sync(TIMEOUT)
        except RuntimeError as error:
            raised.append(error)

    watcher = client.on_change('/servers', callback)
    written = other.set('/servers/a', '1')
    wait_until(lambda: raised)
    assert 'on_change /servers: sync was called in a callback' in str(raised[0])
    assert indices[0] >= written.etcd_index


def test_sync_raises_client_closed_when_the_daemon_is_stopped(client: getc.Client, spawn: Any) -> None:
    """Before and during the call."""
    release = Event()
    mirror = client.mirror('/servers')
    watcher = client.on_change('/servers', lambda _: release.wait())
    client.set('/servers/a', '1')
    waiting = spawn(watcher.sync, TIMEOUT)
    mirror.sync(TIMEOUT)
    mirror.stop()
    with pytest.raises(getc.ClientClosed, match='mirror /servers was stopped'):
        mirror.sync(TIMEOUT)
    watcher.stop(timeout=0.1)
    with pytest.raises(getc.ClientClosed, match='on_change /servers was stopped'):
        waiting.get(timeout=TIMEOUT)


def test_sync_times_out(client: getc.Client) -> None:
    mirror = client.mirror('/servers')
    with pytest.raises(
        getc.TimedOut, match=r'^mirror /servers did not show everything that etcd had(, up to index \d+,)? within 0 s'
    ):
        mirror.sync(0)
    with pytest.raises(ValueError):
        mirror.sync(-1)
    release = Event()
    watcher = client.on_change('/servers', lambda _: release.wait())
    client.set('/servers/a', '1')
    mirror.sync(TIMEOUT)
    with pytest.raises(
        getc.TimedOut, match=r'^on_change /servers: the callback did not return for every change within'
    ):
        watcher.sync(3)
    release.set()
    watcher.sync(TIMEOUT)
