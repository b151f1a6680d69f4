"""python-etcd: the v2 keys API over urllib3."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import etcd

TITLE = 'python-etcd'
API = 'v2'
ROLE = 'peer'
REQUIRES = ('python-etcd',)
MODES = ('threads', 'gevent')

LOCK_TTL = 10  # seconds


class Client:
    """One client for everything, with room for a connection per call in flight."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._etcd = etcd.Client(host=parts.hostname, port=parts.port, per_host_pool_size=256)

    def get(self, key: str) -> str:
        return self._etcd.read(key).value

    def set(self, key: str, value: str) -> None:
        self._etcd.write(key, value)

    def lock(self, key: str) -> None:
        lock = etcd.Lock(self._etcd, key.strip('/'))
        lock.acquire(lock_ttl=LOCK_TTL)
        lock.release()

    def events(self, prefix: str, index: int) -> Iterator[Any]:
        return self._etcd.eternal_watch(prefix, index=index, recursive=True)

    def start_watch(self, key: str) -> None:
        # A watch blocks, so each one needs a thread (or a greenlet).
        threading.Thread(target=next, args=(self._etcd.eternal_watch(key),), daemon=True).start()

    def close(self) -> None:
        self._etcd.http.clear()
