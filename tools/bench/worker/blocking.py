"""Runs a client whose calls block the calling thread or greenlet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from common import (
    CALL_WORKS,
    SCALE_WORKS,
    SETTLE_TIME,
    Answer,
    EventCounter,
    Request,
    Tally,
    calls_of,
    check,
    key_of,
    resident_bytes,
    watch_keys,
)

__all__ = ['Greenlets', 'Threads']

Job = Callable[[], None]


class Blocking:
    """Runs one slice of work after the other.

    Args:
        module: The client's file: its ``Client(url)`` has ``get``, ``set``, ``events``, ``start_watch`` and ``close``;
            ``lock(name)``, which acquires and releases, if it has locks.
        url: The URL of the etcd.
    """

    def __init__(self, module: ModuleType, url: str) -> None:
        self._module = module
        self._url = url
        self._client: Any = module.Client(url)
        self._written: set[str] = set()

    def run(self, request: Request) -> Answer:
        """Execute a request; return the number of operations and the seconds."""
        works = {
            **dict.fromkeys(CALL_WORKS, self._call),
            'connect': self._connect,
            'replay': self._watch,
            'live': self._watch,
            'memory': self._memory,
            **dict.fromkeys(SCALE_WORKS, self._scale),
        }
        return works[request['work']](request)

    def _together(self, jobs: Sequence[Job]) -> None:
        """Run the jobs concurrently; return when all have ended."""
        raise NotImplementedError

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _prepare(self, request: Request) -> list[str]:
        """Write the key of each worker unless it exists; return the keys."""
        keys = [key_of(request['size'], worker) for worker in range(request.get('in_flight', 1))]
        for key in keys:
            if key not in self._written:
                self._client.set(key, 'x' * request['size'])
                self._written.add(key)
        return keys

    def _call(self, request: Request) -> Answer:
        """Repeat one call: in each worker its own, one after the other."""
        if request['work'] != 'lock':
            self._prepare(request)
        is_get, clock = request['work'].endswith('get'), time.perf_counter
        calls = calls_of(self._client, request)
        tally = Tally(request['seconds'])

        def work(call: Callable[[], Any]) -> None:
            laps: list[float] = []
            note, end, last = laps.append, tally.end, clock()
            try:
                while not laps or last < end:
                    value = call()
                    now = clock()
                    note(now - last)
                    last = now
                if is_get:
                    check(value, request['size'])
            except Exception as error:
                tally.error = error
            tally.add(laps)

        self._together([partial(work, call) for call in calls])
        return tally.answer()

    def _connect(self, request: Request) -> Answer:
        (key,) = self._prepare(request)
        tally = Tally(request['seconds'])
        while (begin := time.perf_counter()) < tally.end:
            client = self._module.Client(self._url)
            check(client.get(key), request['size'])
            client.close()
            tally.add([time.perf_counter() - begin])
        return tally.answer()

    def _watch(self, request: Request) -> Answer:
        watching = EventCounter(request)
        for _ in range(request['times']):
            for _ in self._client.events(request['prefix'], request['index']):
                if watching.is_last():
                    break
        return watching.answer()

    def _memory(self, request: Request) -> Answer:
        self._prepare({'size': 64})
        self._client.get(key_of(64, 0))
        base, count = resident_bytes(), getattr(self._module, 'WATCHES', request['count'])
        sizes = []
        for keys in watch_keys(count):
            for key in keys:
                self._client.start_watch(key)
            self._sleep(SETTLE_TIME)
            sizes.append(resident_bytes())
        return {'base': base, 'each': (sizes[1] - sizes[0]) / count}

    def _scale(self, request: Request) -> Answer:
        """Run a case of scale, which the client's file implements (``run_scale(url, request)``, see ``SCALE``)."""
        return self._module.run_scale(self._url, request)  # type: ignore[no-any-return]


class Threads(Blocking):
    """Runs jobs in threads, which are greenlets if gevent has monkey-patched the process."""

    def _together(self, jobs: Sequence[Job]) -> None:
        import threading

        threads = [threading.Thread(target=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Greenlets(Blocking):
    """Runs jobs in greenlets, without monkey-patching."""

    def _together(self, jobs: Sequence[Job]) -> None:
        import gevent

        gevent.joinall([gevent.spawn(job) for job in jobs], raise_error=True)

    def _sleep(self, seconds: float) -> None:
        import gevent

        gevent.sleep(seconds)
