"""Clients that are garbage-collected without having been closed."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from getc import KeeperState, timing
from getc.testing import EtcdServer, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists('/proc/self/fd'), reason='looks at the sockets of this process'),
]


def sockets() -> set[str]:
    """Return the sockets that this process has open."""
    links = set()
    for name in os.listdir('/proc/self/fd'):
        try:
            links.add(os.readlink(f'/proc/self/fd/{name}'))
        except OSError:
            pass  # the descriptor of the listing itself
    return {link for link in links if link.startswith('socket:')}


def collect_garbage() -> None:
    """Collect cycles; returns None, so that it can stand in a condition."""
    gc.collect()


def loss_deadline(keeper: getc.Keeper | None) -> float:
    """Return when the keeper would report its node as lost without another renewal."""
    assert keeper is not None
    return timing.now() + keeper.remaining()


def use(client: getc.Client) -> None:
    client.set('/a', '1')
    client.get('/a')


def follow(client: getc.Client) -> None:
    """Stopped daemons leave streams and idle polls behind."""
    client.on_change('/a', print).stop()
    client.keep_node('/b', ttl=2).stop()


def add_state_listener(client: getc.Client) -> None:
    """The listener references the client, as most listeners do."""
    client.on_state(lambda _: client.api)
    client.get('/')


@pytest.mark.parametrize('work', [use, follow, add_state_listener])
def test_dropped_client_closes_its_connections(
    etcd_server: EtcdServer, api: Any, work: Callable[[getc.Client], None]
) -> None:
    """At the next iteration of the hub, or when cycles are collected; greenlets and timers end, too."""
    before = sockets()
    client = getc.etcd(etcd_server.url, api=api)
    work(client)
    assert sockets() - before
    dropped = weakref.ref(client)
    del client
    gc.collect()
    wait_until(lambda: (dropped() is None and not sockets() - before) or collect_garbage())


def test_client_dropped_in_another_thread_closes_its_connections_in_its_own_thread(
    etcd_server: EtcdServer, api: Any
) -> None:
    """Python may collect the client in any thread, and each thread has a hub of its own."""
    before = sockets()
    held = [getc.etcd(etcd_server.url, api=api)]
    held[0].set('/a', '1')
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    wait_until(lambda: not sockets() - before)


def test_daemon_keeps_its_client_alive(etcd_server: EtcdServer, client: getc.Client, api: Any) -> None:
    """The node is kept until its keeper is stopped, even if the program has no reference to the keeper."""
    client.get('/')
    before = sockets()
    keeper = weakref.ref(getc.etcd(etcd_server.url, api=api).keep_node('/servers/a', 'x', ttl=5))
    index = client.get('/servers/a').created_index
    gc.collect()
    end = loss_deadline(keeper())
    wait_until(lambda: loss_deadline(keeper()) > end + 0.1 or collect_garbage())  # wait for a renewal
    kept = keeper()
    assert kept is not None and kept.state is KeeperState.KEPT
    assert client.get('/servers/a').created_index == index
    kept.stop()
    del kept
    gc.collect()
    wait_until(lambda: not sockets() - before or collect_garbage())


def test_v3_services_work_after_their_client_was_dropped(etcd_server: EtcdServer) -> None:
    """They use the same connections."""
    before = sockets()
    kv = getc.etcd(etcd_server.url, api='v3').v3.kv
    gc.collect()
    gevent.sleep(0)
    kv.put(b'/a', b'1')
    assert kv.range(b'/a').kvs[0].value == b'1'
    del kv
    wait_until(lambda: not sockets() - before)


def test_dropped_client_stops_to_sync_its_endpoints(etcd_server: EtcdServer, api: Any) -> None:
    """Neither the timer nor the list of endpoints keeps the client alive."""
    before = sockets()
    held = [getc.etcd([etcd_server.url, 'http://127.0.0.1:1'], api=api, sync=1.0)]
    held[0].set('/a', '1')
    wait_until(lambda: len(held[0].endpoints) == 1)
    synced = weakref.ref(held[0]._opened.sync)
    held.clear()
    wait_until(lambda: (synced() is None and not sockets() - before) or collect_garbage())
