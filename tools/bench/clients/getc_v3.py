"""getc on the v3 API, in greenlets, without monkey-patching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import getc
from getc.v3 import prefix_end

TITLE = 'getc (v3)'
API = 'v3'
ROLE = 'ours'
REQUIRES = ()
MODES = ('greenlets',)
WATCHES = 5_000  # they share a connection
SCALE = True


def run_scale(url: str, request: dict[str, Any]) -> dict[str, float]:
    """Run a case of scale with a client of its own."""
    from scale import run

    return run(url, request)


class Client:
    """One client, one connection for everything."""

    def __init__(self, url: str) -> None:
        self._etcd = getc.etcd(url)
        self._v3 = self._etcd.v3
        self._held: list[Any] = []
        self.close = self._etcd.close

    def get(self, key: str) -> bytes:
        return self._v3.kv.range(key.encode()).kvs[0].value

    def set(self, key: str, value: str) -> None:
        self._v3.kv.put(key.encode(), value.encode())

    def lock(self, key: str) -> None:
        with self._etcd.lock(key):
            pass

    def tree_get(self, key: str) -> str | None:
        return self._etcd.get(key).value

    def tree_set(self, key: str, value: str) -> None:
        self._etcd.set(key, value)

    def events(self, prefix: str, index: int) -> Iterator[Any]:
        start = prefix.encode()
        # Without fragments, like the other clients: for a long history etcd takes seconds to split the responses.
        watch = self._v3.watch.create(start, range_end=prefix_end(start), start_revision=index, fragment=False)
        with watch:
            for response in watch:
                yield from response.events

    def start_watch(self, key: str) -> None:
        self._held.append(self._v3.watch.create(key.encode()))
