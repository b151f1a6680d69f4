"""What thousands of getc's daemons cost in one process, and a directory of thousands of nodes.

Each crowd is measured in a fresh process, and says what it found as numbers by name: see ``tools/bench/scale.py``.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import gevent
from common import SETTLE, Answer, Request, resident
from gevent.pool import Pool

import getc
from getc.v3.rpc import RpcClient
from getc.v3.stream import MessageStream

__all__ = ['perform']

TTL = 10

TOGETHER = 200
"""Daemons that are begun at a time."""


def perform(url: str, request: Request) -> Answer:
    """Do what is asked."""
    works = {'keepers': _keepers, 'watchers': _watchers, 'directory': _directory}
    with getc.etcd(url, api='v3') as client:
        client.ready()
        return works[request['work']](client, request)


class _Requests:
    """Counts what is sent to etcd: calls, and messages on streams."""

    def __init__(self) -> None:
        self.count = 0
        call, send = RpcClient.call, MessageStream.send

        def counted_call(rpc: Any, *args: Any, **options: Any) -> Any:
            self.count += 1
            return call(rpc, *args, **options)

        def counted_send(stream: Any, message: Any) -> None:
            self.count += 1
            send(stream, message)

        RpcClient.call = counted_call  # type: ignore[method-assign]
        MessageStream.send = counted_send  # type: ignore[method-assign]


def _all(count: int, begin: Callable[[int], object]) -> float:
    """Begin so many, some at a time; return the seconds that it took."""
    at = time.perf_counter()
    pool = Pool(TOGETHER)
    for number in range(count):
        pool.spawn(begin, number)
    pool.join(raise_error=True)
    return time.perf_counter() - at


def _weighed(count: int, begin: Callable[[str], object]) -> tuple[float, float]:
    """Begin so many; return the seconds, and the bytes of each of them.

    Half as many of others come before, and fill what memory was left over from the start of the process.
    """
    _all(count // 2, lambda number: begin(f'/bench/before/{number}'))
    gevent.sleep(SETTLE)
    before = resident()
    seconds = _all(count, lambda number: begin(f'/bench/crowd/{number}'))
    gevent.sleep(SETTLE)
    return seconds, (resident() - before) / count


def _greenlets() -> int:
    """Those that live."""
    return sum(isinstance(thing, gevent.Greenlet) and not thing.dead for thing in gc.get_objects())


def _keepers(client: getc.Client, request: Request) -> Answer:
    """Kept nodes, and what they cost while nothing happens."""
    count: int = request['count']
    kept: list[getc.Keeper] = []
    weighed = _weighed(count, lambda key: kept.append(client.keep_node(key, '10.0.0.7:7000', ttl=TTL)))
    for keeper in kept[: count // 2]:
        keeper.stop_soon()
    gevent.sleep(TTL / 2)  # leases that are empty now are given up
    requests = _Requests()
    at, cpu = time.perf_counter(), time.process_time()
    gevent.sleep(request['seconds'])
    seconds, cpu = time.perf_counter() - at, time.process_time() - cpu
    if {keeper.state for keeper in kept[count // 2 :]} != {getc.KeeperState.KEPT}:
        raise ValueError('not all nodes are kept')
    answer = {
        'register': weighed[0],
        'each': weighed[1],
        'requests': requests.count / seconds,
        'cpu_share': cpu / seconds,
        'greenlets': float(_greenlets()),
    }
    at = time.perf_counter()
    client.close(timeout=60)
    return answer | {'close': time.perf_counter() - at}


def _watchers(client: getc.Client, request: Request) -> Answer:
    """Watchers, each of a node of its own; then as many that follow the same."""
    count, calls = request['count'], request['calls']
    told = [0]

    def tell(_result: getc.EtcdResult) -> None:
        told[0] += 1

    register, each = _weighed(count, lambda key: client.on_change(key, tell))
    to_one = _events_told(
        told, max(calls // 10, 3), 1, lambda number: client.set(f'/bench/crowd/{number % count}', str(number))
    )
    before = resident()
    _all(count, lambda _: client.on_change('/bench/all', tell))
    gevent.sleep(SETTLE)
    same = (resident() - before) / count
    greenlets = float(_greenlets())
    to_all = _events_told(told, max(calls // count, 3), count, lambda number: client.set('/bench/all', str(number)))
    return {
        'register': register,
        'each': each,
        'each_same': same,
        'to_one': to_one,
        'to_all': to_all,
        'greenlets': greenlets,
    }


def _events_told(told: list[int], writes: int, each: int, write: Callable[[int], object]) -> float:
    """Write so often, and wait for so many calls for each event; return the calls in a second."""
    told[0] = 0
    at = time.perf_counter()
    _all(writes, write)
    with gevent.Timeout(60):
        while told[0] < writes * each:
            gevent.sleep(0.001)
    return told[0] / (time.perf_counter() - at)


def _directory(client: getc.Client, request: Request) -> Answer:
    """A directory: listed, and followed with what was there at first."""
    count: int = request['count']
    base = resident()
    _all(count, lambda number: client.set(f'/bench/directory/{count}/{number:06}', 'x' * 64))
    path = f'/bench/directory/{count}'
    at = time.perf_counter()
    found = client.get(path, recursive=True)
    got = time.perf_counter() - at
    held = resident() - base
    if len(found.values) != count:
        raise ValueError(f'{len(found.values)} nodes of {count}')
    del found
    seen: list[float] = []
    at = time.perf_counter()
    watcher = client.on_change(path, lambda _: seen.append(time.perf_counter() - at), initial=True)
    with gevent.Timeout(60):
        while len(seen) < count:
            gevent.sleep(0.001)
    gc.collect()
    first, last = seen[0], seen[-1]
    seen.clear()
    followed = resident() - base
    watcher.stop()
    client.delete(path, recursive=True)
    return {'get': got, 'held': held / count, 'first': first, 'last': last, 'followed': followed / count}
