"""etcd-client-py: etcd v3 over Rust's etcd-client, for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from etcd_client import Client as EtcdClient
from etcd_client import EtcdLockOption

TITLE = 'etcd-client-py'
API = 'v3'
ROLE = 'peer'
REQUIRES = ('etcd-client-py',)
MODES = ('asyncio',)

LOCK_TTL = 10  # seconds


class Client:
    """One client, one communicator for everything."""

    def __init__(self, url: str) -> None:
        self._client = EtcdClient([url])
        self._connection = self._client.connect()

    async def open(self) -> None:
        self._etcd = await self._connection.__aenter__()

    async def get(self, key: str) -> bytes:
        return bytes(await self._etcd.get(key.encode()))

    async def set(self, key: str, value: str) -> None:
        await self._etcd.put(key.encode(), value.encode())

    async def lock(self, key: str) -> None:
        # The library opens a connection for each lock.
        async with self._client.with_lock(EtcdLockOption(key.encode(), timeout=None, ttl=LOCK_TTL)):
            pass

    def events(self, prefix: str, index: int) -> AsyncIterator[Any]:
        raise NotImplementedError('a watch cannot start at a revision')

    async def start_watch(self, key: str) -> None:
        raise NotImplementedError('a watch starts only when it is iterated')

    async def close(self) -> None:
        await self._connection.__aexit__(None, None, None)
