"""Works a client whose calls block the thread or the greenlet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from common import CROWDS, SETTLE, Answer, Request, Tally, Watching, check, held_keys, key_of, method_of, resident

__all__ = ['Greenlets', 'Threads']

Job = Callable[[], None]


class Blocking:
    """One client, used for one slice of work after the other.

    Args:
        module: The contestant: its ``Client(url)`` has ``get``, ``set``, ``events``, ``hold`` and ``close``.
        url: The etcd.
    """

    def __init__(self, module: ModuleType, url: str) -> None:
        self._module = module
        self._url = url
        self._client: Any = module.Client(url)
        self._written: set[str] = set()

    def perform(self, request: Request) -> Answer:
        """Do what is asked, and say how much it was and how long it took."""
        works = {
            'get': self._get,
            'set': self._set,
            'tree-get': self._get,
            'tree-set': self._set,
            'connect': self._connect,
            'replay': self._watch,
            'live': self._watch,
            'memory': self._memory,
            **dict.fromkeys(CROWDS, self._crowd),
        }
        return works[request['work']](request)

    def _together(self, jobs: Sequence[Job]) -> None:
        """Run the jobs at the same time; return when all are done."""
        raise NotImplementedError

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _prepare(self, request: Request) -> list[str]:
        """Write each worker's key, once; return them."""
        keys = [key_of(request['size'], worker) for worker in range(request.get('in_flight', 1))]
        for key in keys:
            if key not in self._written:
                self._client.set(key, 'x' * request['size'])
                self._written.add(key)
        return keys

    def _get(self, request: Request) -> Answer:
        keys, get, clock = self._prepare(request), method_of(self._client, request), time.perf_counter
        tally = Tally(request['seconds'])

        def work(key: str) -> None:
            done, end = 0, tally.end
            try:
                while not done or clock() < end:
                    value = get(key)
                    done += 1
                check(value, request['size'])
            except Exception as error:
                tally.error = error
            tally.add(done)

        self._together([lambda key=key: work(key) for key in keys])  # type: ignore[misc]
        return tally.answer()

    def _set(self, request: Request) -> Answer:
        keys, set, clock = self._prepare(request), method_of(self._client, request), time.perf_counter
        tally = Tally(request['seconds'])

        def work(key: str) -> None:
            done, end, value = 0, tally.end, 'x' * request['size']
            try:
                while not done or clock() < end:
                    set(key, value)
                    done += 1
            except Exception as error:
                tally.error = error
            tally.add(done)

        self._together([lambda key=key: work(key) for key in keys])  # type: ignore[misc]
        return tally.answer()

    def _connect(self, request: Request) -> Answer:
        (key,) = self._prepare(request)
        tally = Tally(request['seconds'])
        while time.perf_counter() < tally.end:
            client = self._module.Client(self._url)
            check(client.get(key), request['size'])
            client.close()
            tally.add(1)
        return tally.answer()

    def _watch(self, request: Request) -> Answer:
        watching = Watching(request)
        for _ in range(request['times']):
            for _ in self._client.events(request['prefix'], request['index']):
                if watching.is_last():
                    break
        return watching.answer()

    def _memory(self, request: Request) -> Answer:
        self._prepare({'size': 64})
        self._client.get(key_of(64, 0))
        base, count = resident(), getattr(self._module, 'WATCHES', request['count'])
        sizes = []
        for keys in held_keys(count):
            for key in keys:
                self._client.hold(key)
            self._sleep(SETTLE)
            sizes.append(resident())
        return {'base': base, 'each': (sizes[1] - sizes[0]) / count}

    def _crowd(self, request: Request) -> Answer:
        """What the contestant alone has: its file says how (``crowd(url, request)``)."""
        return self._module.crowd(self._url, request)  # type: ignore[no-any-return]


class Threads(Blocking):
    """Threads; where gevent has patched them, greenlets."""

    def _together(self, jobs: Sequence[Job]) -> None:
        import threading

        threads = [threading.Thread(target=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Greenlets(Blocking):
    """Greenlets, with nothing patched."""

    def _together(self, jobs: Sequence[Job]) -> None:
        import gevent

        gevent.joinall([gevent.spawn(job) for job in jobs], raise_error=True)

    def _sleep(self, seconds: float) -> None:
        import gevent

        gevent.sleep(seconds)
