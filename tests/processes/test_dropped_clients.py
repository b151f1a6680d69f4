"""A client that nobody holds any more, and that nobody has closed."""

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
    """The sockets that this process has open."""
    links = set()
    for name in os.listdir('/proc/self/fd'):
        try:
            links.add(os.readlink(f'/proc/self/fd/{name}'))
        except OSError:
            pass  # that of the listing itself
    return {link for link in links if link.startswith('socket:')}


def collect() -> None:
    """Find what only circles hold."""
    gc.collect()


def end_of(keeper: getc.Keeper | None) -> float:
    """When its node counts as lost if it is not renewed."""
    assert keeper is not None
    return timing.now() + keeper.remaining()


def use(client: getc.Client) -> None:
    client.set('/a', '1')
    client.get('/a')


def follow(client: getc.Client) -> None:
    """What has been stopped is over, but for its streams and idle polls."""
    client.on_change('/a', print).stop()
    client.keep_node('/b', ttl=2).stop()


def listen(client: getc.Client) -> None:
    """The listener keeps the client, as most do."""
    client.on_state(lambda _: client.api)
    client.get('/')


@pytest.mark.parametrize('work', [use, follow, listen])
def test_dropped_client_closes_its_connections(
    etcd_server: EtcdServer, api: Any, work: Callable[[getc.Client], None]
) -> None:
    """On the next turn of the hub, or when cycles are collected; greenlets and timers end as well."""
    before = sockets()
    client = getc.etcd(etcd_server.url, api=api)
    work(client)
    assert sockets() - before
    gone = weakref.ref(client)
    del client
    gc.collect()
    wait_until(lambda: (gone() is None and not sockets() - before) or collect())


def test_client_that_is_dropped_in_another_thread_closes_its_connections_in_its_own(
    etcd_server: EtcdServer, api: Any
) -> None:
    """Python may collect it anywhere, and the hub of a thread is for that thread."""
    before = sockets()
    held = [getc.etcd(etcd_server.url, api=api)]
    held[0].set('/a', '1')
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    wait_until(lambda: not sockets() - before)


def test_daemon_keeps_its_client(etcd_server: EtcdServer, client: getc.Client, api: Any) -> None:
    """A node is kept for as long as nobody stops its keeper, whether somebody holds it or not."""
    client.get('/')
    before = sockets()
    keeper = weakref.ref(getc.etcd(etcd_server.url, api=api).keep_node('/servers/a', 'x', ttl=5))
    index = client.get('/servers/a').created_index
    gc.collect()
    end = end_of(keeper())
    wait_until(lambda: end_of(keeper()) > end + 0.1 or collect())  # it is renewed
    kept = keeper()
    assert kept is not None and kept.state is KeeperState.KEPT
    assert client.get('/servers/a').created_index == index
    kept.stop()
    del kept
    gc.collect()
    wait_until(lambda: not sockets() - before or collect())


def test_services_of_v3_outlive_the_client_that_they_were_taken_from(etcd_server: EtcdServer) -> None:
    """They are over the same connections."""
    before = sockets()
    kv = getc.etcd(etcd_server.url, api='v3').v3.kv
    gc.collect()
    gevent.sleep(0)
    kv.put(b'/a', b'1')
    assert kv.range(b'/a').kvs[0].value == b'1'
    del kv
    wait_until(lambda: not sockets() - before)
