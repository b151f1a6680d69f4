"""Runs a client whose calls are coroutines."""

from __future__ import annotations

import asyncio
import time
from types import ModuleType
from typing import Any

from common import (
    SETTLE_TIME,
    Answer,
    EventCounter,
    Request,
    Tally,
    check,
    key_of,
    resident_bytes,
    select_method,
    watch_keys,
)

__all__ = ['Coroutines']


class Coroutines:
    """Runs one slice of work after the other in one event loop.

    Args:
        module: The client's file: its ``Client(url)`` has the coroutines ``open``, ``get``, ``set``, ``start_watch``
            and ``close``, and the asynchronous iterator ``events``.
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
            'get': self._get,
            'set': self._set,
            'tree-get': self._get,
            'tree-set': self._set,
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

    async def _get(self, request: Request) -> Answer:
        keys, get, clock = await self._prepare(request), select_method(self._client, request), time.perf_counter
        tally = Tally(request['seconds'])

        async def work(key: str) -> None:
            done, end = 0, tally.end
            while not done or clock() < end:
                value = await get(key)
                done += 1
            check(value, request['size'])
            tally.add(done)

        await asyncio.gather(*map(work, keys))
        return tally.answer()

    async def _set(self, request: Request) -> Answer:
        keys, set, clock = await self._prepare(request), select_method(self._client, request), time.perf_counter
        tally = Tally(request['seconds'])

        async def work(key: str) -> None:
            done, end, value = 0, tally.end, 'x' * request['size']
            while not done or clock() < end:
                await set(key, value)
                done += 1
            tally.add(done)

        await asyncio.gather(*map(work, keys))
        return tally.answer()

    async def _connect(self, request: Request) -> Answer:
        (key,) = await self._prepare(request)
        tally = Tally(request['seconds'])
        while time.perf_counter() < tally.end:
            client = await self._open()
            check(await client.get(key), request['size'])
            await client.close()
            tally.add(1)
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
