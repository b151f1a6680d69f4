"""etcd-sdk-python (pyetcd): etcd v3 over grpcio."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

if 'gevent' in sys.modules:  # the mode gevent: grpcio needs its own integration in patched processes
    import grpc.experimental.gevent

    grpc.experimental.gevent.init_gevent()

import pyetcd

TITLE = 'etcd-sdk-python'
API = 'v3'
ROLE = 'peer'
REQUIRES = ('etcd-sdk-python', 'protobuf')  # protobuf is imported, but not among its dependencies
MODES = ('threads', 'gevent')
WATCHES = 5_000  # they share a connection

LOCK_TTL = 10  # seconds; each lock grants a lease and leaves it

OPTIONS = {'grpc.max_receive_message_length': -1}.items()  # a piece of history may be large


class Client:
    """One client, one channel for everything."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._etcd = pyetcd.client(host=parts.hostname, port=parts.port, grpc_options=OPTIONS)
        self.close = self._etcd.close

    def get(self, key: str) -> bytes:
        return self._etcd.get(key)[0]

    def set(self, key: str, value: str) -> None:
        self._etcd.put(key, value)

    def lock(self, key: str) -> None:
        with self._etcd.lock(key, ttl=LOCK_TTL):
            pass

    def events(self, prefix: str, index: int) -> Iterator[Any]:
        events, _ = self._etcd.watch_prefix(prefix, start_revision=index)
        return events

    def start_watch(self, key: str) -> None:
        self._etcd.add_watch_callback(key, lambda response: None)
