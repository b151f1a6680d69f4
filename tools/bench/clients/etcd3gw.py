"""etcd3gw: etcd v3 over its JSON gateway, with requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from etcd3gw import Etcd3Client
from requests.adapters import HTTPAdapter

TITLE = 'etcd3gw'
API = 'v3'
ROLE = 'peer'
REQUIRES = ('etcd3gw',)
MODES = ('threads', 'gevent')

LOCK_TTL = 10  # seconds; each lock grants a lease and leaves it


class Client:
    """One client for everything, with room for a connection per call in flight."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        session = requests.Session()
        session.mount('http://', HTTPAdapter(pool_maxsize=1024))
        self._etcd = Etcd3Client(host=parts.hostname, port=parts.port, api_path='/v3/', session=session)

    def get(self, key: str) -> bytes:
        return self._etcd.get(key)[0]

    def set(self, key: str, value: str) -> None:
        self._etcd.put(key, value)

    def lock(self, key: str) -> None:
        lock = self._etcd.lock(key, ttl=LOCK_TTL)
        if not lock.acquire():
            raise RuntimeError(f'{key} is locked')
        lock.release()

    def events(self, prefix: str, index: int) -> Iterator[Any]:
        events, _ = self._etcd.watch_prefix(prefix, start_revision=index)
        return events

    def start_watch(self, key: str) -> None:
        self._etcd.watch(key)

    def close(self) -> None:
        self._etcd.session.close()
