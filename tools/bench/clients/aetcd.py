"""aetcd: etcd v3 over grpcio's asyncio client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aetcd

TITLE = 'aetcd'
API = 'v3'
ROLE = 'peer'
REQUIRES = ('aetcd',)
MODES = ('asyncio',)
WATCHES = 5_000  # they share a connection

LOCK_TTL = 10  # seconds; each lock grants a lease and leaves it

OPTIONS = {'grpc.max_receive_message_length': -1}  # a piece of history may be large


class Client:
    """One client, one channel for everything."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._etcd = aetcd.Client(host=parts.hostname, port=parts.port, options=OPTIONS)

    async def open(self) -> None:
        await self._etcd.connect()

    async def get(self, key: str) -> bytes:
        return (await self._etcd.get(key.encode())).value

    async def set(self, key: str, value: str) -> None:
        await self._etcd.put(key.encode(), value.encode())

    async def lock(self, key: str) -> None:
        async with self._etcd.lock(key.encode(), ttl=LOCK_TTL):
            pass

    async def events(self, prefix: str, index: int) -> AsyncIterator[Any]:
        watch = await self._etcd.watch_prefix(prefix.encode(), start_revision=index)
        async for event in watch:
            yield event

    async def start_watch(self, key: str) -> None:
        await self._etcd.watch(key.encode())

    async def close(self) -> None:
        await self._etcd.close()
