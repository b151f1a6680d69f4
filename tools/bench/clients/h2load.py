"""h2load: an upper bound, the speed of etcd with a client of minimal cost.

h2load is a load generator in C that repeats one gRPC request on one connection and does not decode the responses.
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
    """Return the bytes that getc sends for this work."""
    if work == 'tree-set':
        return encode_put(Put(key, value))
    if work == 'set':
        return PutRequest(key=key.encode(), value=value.encode()).SerializeToString()
    return RangeRequest(key=key.encode()).SerializeToString()


def framed(message: bytes) -> bytes:
    """Return a gRPC frame: the flag for no compression, the length, and the message."""
    return b'\0' + len(message).to_bytes(4, 'big') + message


class Worker:
    """Runs h2load for each slice, with a number of requests that fills about the time of the slice."""

    def __init__(self, url: str) -> None:
        if shutil.which('h2load') is None or shutil.which('nghttp') is None:
            raise RuntimeError('h2load is not installed (on Debian and Ubuntu: apt-get install nghttp2-client)')
        self.versions = {'h2load': self._run(['h2load', '--version']).partition('/')[2].strip()}
        self._url = url
        self._directory = tempfile.TemporaryDirectory(prefix='getc-bench-')
        self._rates: dict[tuple[Any, ...], float] = {}
        self._verified: set[tuple[str, int]] = set()

    def run(self, request: dict[str, Any]) -> dict[str, float]:
        """Execute a request; return the number of operations and the seconds."""
        work = request['work']
        if work not in METHODS:
            raise NotImplementedError('h2load sends unary requests only')
        size, in_flight = request['size'], request['in_flight']
        if (work, size) not in self._verified:
            self._verify('set', size)  # writes the value for `get`
            self._verify(work, size)
            self._verified.add((work, size))
        known = (work, size, in_flight)
        count = int(self._rates[known] * request['seconds']) if known in self._rates else FIRST_COUNT
        count = max(count, in_flight)
        output = self._run(['h2load', '-c1', f'-m{in_flight}', f'-n{count}', *self._target(work, size)])
        rate = re.search(r'finished in .*, ([\d.]+) req/s', output)
        if rate is None or f'{count} succeeded' not in output:
            raise RuntimeError(f'not all of the {count} requests of h2load succeeded: {output[-300:]}')
        self._rates[known] = float(rate[1])
        return {'operations': count, 'seconds': count / float(rate[1])}

    def _target(self, work: str, size: int) -> list[str]:
        path = f'{self._directory.name}/{work}-{size}'
        with open(path, 'wb') as file:
            file.write(framed(message_of(work, f'/bench/{size}/0', 'x' * size)))
        return ['-d', path, *GRPC, f'{self._url}/etcdserverpb.KV/{METHODS[work]}']

    def _verify(self, work: str, size: int) -> None:
        """Check one response, since h2load counts HTTP status 200, which gRPC errors have as well."""
        output = self._run(['nghttp', '-v', *self._target(work, size)])
        if 'grpc-status: 0' not in output:
            raise RuntimeError(f'etcd refused the request of {work}: the response has no grpc-status 0')
        received = max(int(length) for length in re.findall(r'recv DATA frame <length=(\d+)', output))
        if work.endswith('get') and received < size:
            raise RuntimeError(f'the response to {work} has {received} bytes; the value has {size}')

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        return done.stdout.decode('utf-8', 'replace')
