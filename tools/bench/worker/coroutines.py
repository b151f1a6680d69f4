"""Runs a client whose calls are coroutines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

from common import (
    CALL_WORKS,
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

__all__ = ['Coroutines']


class Coroutines:
    """Runs one slice of work after the other in one event loop.

    Args:
        module: The client's file: its ``Client(url)`` has the coroutines ``open``, ``get``, ``set``, ``start_watch``
            and ``close``, and the asynchronous iterator ``events``; ``lock(name)``, which acquires and releases,
            if it has locks.
        url: The URL of the etcd.
    """

    def __init__(self, module: ModuleType, url: str) -> None:
        self._module = module
        self._url = url
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._client: Any = self._loop.run_until_complete(self._open())
        self._written: set[str] = set()

    def run(self, request: Request) -> Answer:
        """Execute a request; return the number of operations and the seconds."""
        works = {
            **dict.fromkeys(CALL_WORKS, self._call),
            'connect': self._connect,
            'replay': self._watch,
            'live': self._watch,
            'memory': self._memory,
        }
        return self._loop.run_until_complete(works[request['work']](request))

    async def _open(self) -> Any:
        client = self._module.Client(self._url)
        await client.open()
        return client

    async def _prepare(self, request: Request) -> list[str]:
        """Write the key of each worker unless it exists; return the keys."""
        keys = [key_of(request['size'], worker) for worker in range(request.get('in_flight', 1))]
        for key in keys:
            if key not in self._written:
                await self._client.set(key, 'x' * request['size'])
                self._written.add(key)
        return keys

    async def _call(self, request: Request) -> Answer:
        """Repeat one call: in each worker its own, one after the other."""
        if request['work'] != 'lock':
            await self._prepare(request)
        is_get, clock = request['work'].endswith('get'), time.perf_counter
        calls = calls_of(self._client, request)
        tally = Tally(request['seconds'])

        async def work(call: Callable[[], Awaitable[Any]]) -> None:
            laps: list[float] = []
            note, end, last = laps.append, tally.end, clock()
            while not laps or last < end:
                value = await call()
                now = clock()
                note(now - last)
                last = now
            if is_get:
                check(value, request['size'])
            tally.add(laps)

        await asyncio.gather(*map(work, calls))
        return tally.answer()

    async def _connect(self, request: Request) -> Answer:
        (key,) = await self._prepare(request)
        tally = Tally(request['seconds'])
        while (begin := time.perf_counter()) < tally.end:
            client = await self._open()
            check(await client.get(key), request['size'])
            await client.close()
            tally.add([time.perf_counter() - begin])
        return tally.answer()

    async def _watch(self, request: Request) -> Answer:
        watching = EventCounter(request)
        for _ in range(request['times']):
            async for _ in self._client.events(request['prefix'], request['index']):
                if watching.is_last():
                    break
        return watching.answer()

    async def _memory(self, request: Request) -> Answer:
        await self._prepare({'size': 64})
        await self._client.get(key_of(64, 0))
        base, count = resident_bytes(), getattr(self._module, 'WATCHES', request['count'])
        sizes = []
        for keys in watch_keys(count):
            for key in keys:
                await self._client.start_watch(key)
            await asyncio.sleep(SETTLE_TIME)
            sizes.append(resident_bytes())
        return {'base': base, 'each': (sizes[1] - sizes[0]) / count}
