"""Measures thousands of getc's daemons in one process, and a directory of thousands of nodes.

Each case runs in a fresh process and returns figures by name: see ``tools/bench/scale.py``.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import gevent
from common import SETTLE_TIME, Answer, Request, resident_bytes
from gevent.pool import Pool

import getc
from getc.v3.rpc import RpcClient
from getc.v3.stream import MessageStream

__all__ = ['run']

TTL = 10

MAX_CONCURRENT = 200
"""Daemons that are started concurrently."""


def run(url: str, request: Request) -> Answer:
    """Execute a request; return the figures by name."""
    works = {'keepers': _keepers, 'watchers': _watchers, 'directory': _directory}
    with getc.etcd(url, api='v3') as client:
        client.ready()
        return works[request['work']](client, request)


class _Requests:
    """Counts unary calls to etcd and messages that are sent on streams."""

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


def _run_all(count: int, start: Callable[[int], object]) -> float:
    """Call ``start`` with the numbers up to ``count``, some concurrently; return the seconds."""
    at = time.perf_counter()
    pool = Pool(MAX_CONCURRENT)
    for number in range(count):
        pool.spawn(start, number)
    pool.join(raise_error=True)
    return time.perf_counter() - at


def _start_and_weigh(count: int, start: Callable[[str], object]) -> tuple[float, float]:
    """Start ``count`` daemons; return the seconds, and the memory of each in bytes.

    Half as many others are started before, to fill memory that the process has already allocated.
    """
    _run_all(count // 2, lambda number: start(f'/bench/before/{number}'))
    gevent.sleep(SETTLE_TIME)
    before = resident_bytes()
    seconds = _run_all(count, lambda number: start(f'/bench/scale/{number}'))
    gevent.sleep(SETTLE_TIME)
    return seconds, (resident_bytes() - before) / count


def _count_greenlets() -> int:
    """Return the number of greenlets that have not ended."""
    return sum(isinstance(item, gevent.Greenlet) and not item.dead for item in gc.get_objects())


def _keepers(client: getc.Client, request: Request) -> Answer:
    """Measure kept nodes, and their requests and CPU time while nothing changes."""
    count: int = request['count']
    kept: list[getc.Keeper] = []
    weighed = _start_and_weigh(count, lambda key: kept.append(client.keep_node(key, '10.0.0.7:7000', ttl=TTL)))
    _run_all(count // 2, lambda number: kept[number].stop())
    gevent.sleep(TTL / 2)  # leases without nodes are revoked meanwhile
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
        'greenlets': float(_count_greenlets()),
    }
    at = time.perf_counter()
    client.close(timeout=60)
    return answer | {'close': time.perf_counter() - at}


def _watchers(client: getc.Client, request: Request) -> Answer:
    """Measure watchers of different nodes, then as many watchers of one node."""
    count, calls = request['count'], request['calls']
    calls_made = [0]

    def count_call(_result: getc.EtcdResult) -> None:
        calls_made[0] += 1

    register, each = _start_and_weigh(count, lambda key: client.on_change(key, count_call))
    to_one = _callbacks_per_second(
        calls_made, max(calls // 10, 3), 1, lambda number: client.set(f'/bench/scale/{number % count}', str(number))
    )
    before = resident_bytes()
    _run_all(count, lambda _: client.on_change('/bench/all', count_call))
    gevent.sleep(SETTLE_TIME)
    same = (resident_bytes() - before) / count
    greenlets = float(_count_greenlets())
    to_all = _callbacks_per_second(
        calls_made, max(calls // count, 3), count, lambda number: client.set('/bench/all', str(number))
    )
    return {
        'register': register,
        'each': each,
        'each_same': same,
        'to_one': to_one,
        'to_all': to_all,
        'greenlets': greenlets,
    }


def _callbacks_per_second(calls_made: list[int], writes: int, each: int, write: Callable[[int], object]) -> float:
    """Write, wait for ``each`` callbacks per write, and return the callbacks a second."""
    calls_made[0] = 0
    at = time.perf_counter()
    _run_all(writes, write)
    with gevent.Timeout(60):
        while calls_made[0] < writes * each:
            gevent.sleep(0.001)
    return calls_made[0] / (time.perf_counter() - at)


def _directory(client: getc.Client, request: Request) -> Answer:
    """Measure ``get`` of a large directory, and ``on_change`` with its initial nodes."""
    count: int = request['count']
    base = resident_bytes()
    _run_all(count, lambda number: client.set(f'/bench/directory/{count}/{number:06}', 'x' * 64))
    path = f'/bench/directory/{count}'
    at = time.perf_counter()
    found = client.get(path, recursive=True)
    got = time.perf_counter() - at
    held = resident_bytes() - base
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
    followed = resident_bytes() - base
    watcher.stop()
    client.delete(path, recursive=True)
    return {'get': got, 'held': held / count, 'first': first, 'last': last, 'followed': followed / count}
