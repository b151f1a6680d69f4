"""h2load: what etcd can do when the client costs next to nothing.

A load generator in C that sends the same gRPC request again and again over one connection, and does
not look into the answers.  No client can be faster, and none that decodes will be as fast.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from typing import Any

from getc.backends.tree.codec.write import encode_put
from getc.operations import Put
from getc.v3.schema.kv import PutRequest, RangeRequest

TITLE = 'h2load'
API = 'v3'
ROLE = 'limit'
REQUIRES = ()
MODES = ('process',)

GRPC = ('-H', 'content-type: application/grpc', '-H', 'te: trailers')
FIRST_COUNT = 2_000


METHODS = {'get': 'Range', 'set': 'Put', 'tree-get': 'Range', 'tree-set': 'Txn'}


def message_of(work: str, key: str, value: str) -> bytes:
    """What getc sends for the same work, byte by byte."""
    if work == 'tree-set':
        return encode_put(Put(key, value))
    if work == 'set':
        return PutRequest(key=key.encode(), value=value.encode()).SerializeToString()
    return RangeRequest(key=key.encode()).SerializeToString()


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it: not compressed, its length, itself."""
    return b'\0' + len(message).to_bytes(4, 'big') + message


class Crew:
    """Runs h2load for each slice, with about as many requests as fill the time."""

    def __init__(self, url: str) -> None:
        if shutil.which('h2load') is None or shutil.which('nghttp') is None:
            raise RuntimeError('h2load is not installed (on Debian and Ubuntu: apt-get install nghttp2-client)')
        self.versions = {'h2load': self._run(['h2load', '--version']).partition('/')[2].strip()}
        self._url = url
        self._directory = tempfile.TemporaryDirectory(prefix='getc-bench-')
        self._rates: dict[tuple[Any, ...], float] = {}
        self._proven: set[tuple[str, int]] = set()

    def perform(self, request: dict[str, Any]) -> dict[str, float]:
        """Do what is asked, and say how much it was and how long it took."""
        work = request['work']
        if work not in METHODS:
            raise NotImplementedError('it only sends requests')
        size, in_flight = request['size'], request['in_flight']
        if (work, size) not in self._proven:
            self._prove('set', size)  # so that there is something to get
            self._prove(work, size)
            self._proven.add((work, size))
        known = (work, size, in_flight)
        count = int(self._rates[known] * request['seconds']) if known in self._rates else FIRST_COUNT
        count = max(count, in_flight)
        output = self._run(['h2load', '-c1', f'-m{in_flight}', f'-n{count}', *self._target(work, size)])
        rate = re.search(r'finished in .*, ([\d.]+) req/s', output)
        if rate is None or f'{count} succeeded' not in output:
            raise RuntimeError(f'h2load did not do its {count} requests: {output[-300:]}')
        self._rates[known] = float(rate[1])
        return {'operations': count, 'seconds': count / float(rate[1])}

    def _target(self, work: str, size: int) -> list[str]:
        path = f'{self._directory.name}/{work}-{size}'
        with open(path, 'wb') as file:
            file.write(framed(message_of(work, f'/bench/{size}/0', 'x' * size)))
        return ['-d', path, *GRPC, f'{self._url}/etcdserverpb.KV/{METHODS[work]}']

    def _prove(self, work: str, size: int) -> None:
        """h2load counts HTTP's 200, which gRPC's errors have as well: look at one answer."""
        output = self._run(['nghttp', '-v', *self._target(work, size)])
        if 'grpc-status: 0' not in output:
            raise RuntimeError(f'etcd refuses the request to {work}')
        received = max(int(length) for length in re.findall(r'recv DATA frame <length=(\d+)', output))
        if work.endswith('get') and received < size:
            raise RuntimeError(f'an answer of {received} bytes to the request for a value of {size}')

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        return done.stdout.decode('utf-8', 'replace')
