"""getc on the v2 keys API, in greenlets, without monkey-patching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import getc

TITLE = 'getc (v2)'
API = 'v2'
ROLE = 'ours'
REQUIRES = ()
MODES = ('greenlets',)


class Client:
    """One client for everything."""

    def __init__(self, url: str) -> None:
        self._etcd = getc.etcd(url, api='v2')
        self.close = self._etcd.close

    def get(self, key: str) -> str | None:
        return self._etcd.get(key).value

    def set(self, key: str, value: str) -> None:
        self._etcd.set(key, value)

    def lock(self, key: str) -> None:
        with self._etcd.lock(key):
            pass

    def events(self, prefix: str, index: int) -> Iterator[Any]:
        return iter(self._etcd.changes(prefix, index=index))

    def start_watch(self, key: str) -> None:
        self._etcd.on_change(key, lambda result: None)
