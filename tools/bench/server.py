"""Prepares the etcd of a run: writes histories for watches, and compacts it."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

__all__ = ['PREFIX', 'BenchServer']

PREFIX = '/bench/events/'
KEY_COUNT = 100
VALUE = 'x' * 64
WRITERS = 4
EVENTS_PER_REVISION = 100
"""Events of one revision.  A server replays 1,000 revisions ten times a second: fewer events in each would measure the
server instead of the client."""


class BenchServer:
    """Requests to the etcd without any of the clients that are measured.

    Args:
        url: The URL of the etcd.
    """

    def __init__(self, url: str) -> None:
        self._address = url.partition('://')[2]

    def compact(self) -> None:
        """Compact the v3 store, which would become larger and slower with every write."""
        with self._connected() as connection:
            revision = int(_post_json(connection, '/v3/kv/range', {'key': _text('/')})['header']['revision'])
            _post_json(connection, '/v3/kv/compaction', {'revision': revision, 'physical': True}, may_fail=True)

    def next_index(self, api: str) -> int:
        """Return the index or revision of the next write."""
        with self._connected() as connection:
            if api == 'v3':
                return int(_post_json(connection, '/v3/kv/range', {'key': _text('/')})['header']['revision']) + 1
            connection.request('GET', '/v2/keys/')
            response = connection.getresponse()
            response.read()
            return int(response.headers['X-Etcd-Index']) + 1

    def write(self, api: str, count: int) -> None:
        """Write ``count`` events below the prefix, one by one."""
        self._share(count, self._write_v2 if api == 'v2' else self._write_v3)

    def write_history(self, api: str, count: int) -> None:
        """Write ``count`` events below the prefix as fast as possible: on v3 with several in each revision."""
        if api == 'v2':
            self.write(api, count)
        else:
            body = json.dumps({'success': [{'request_put': _put(number)} for number in range(EVENTS_PER_REVISION)]})
            self._share(count // EVENTS_PER_REVISION, lambda connection, _: _post(connection, '/v3/kv/txn', body))

    def _write_v3(self, connection: http.client.HTTPConnection, number: int) -> None:
        _post_json(connection, '/v3/kv/put', _put(number))

    def _write_v2(self, connection: http.client.HTTPConnection, number: int) -> None:
        headers = {'Content-Type': 'application/x-www-form-urlencoded'}
        connection.request('PUT', f'/v2/keys{quote(_key(number))}', f'value={VALUE}', headers)
        response = connection.getresponse()
        response.read()
        if response.status >= 300:
            raise OSError(f'a v2 write failed with HTTP status {response.status}')

    def _share(self, count: int, work: Callable[[http.client.HTTPConnection, int], Any]) -> None:
        """Call ``work`` with the numbers up to ``count``, in several threads."""
        errors: list[Exception] = []

        def write(numbers: range) -> None:
            try:
                with self._connected() as connection:
                    for number in numbers:
                        work(connection, number)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=write, args=(range(first, count, WRITERS),)) for first in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _connected(self) -> _Connection:
        return _Connection(self._address, timeout=30)


class _Connection(http.client.HTTPConnection):
    """A connection that is also a context manager."""

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _key(number: int) -> str:
    return f'{PREFIX}{number % KEY_COUNT}'


def _put(number: int) -> dict[str, str]:
    return {'key': _text(_key(number)), 'value': _text(VALUE)}


def _text(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _post_json(
    connection: http.client.HTTPConnection, path: str, message: Any, may_fail: bool = False
) -> dict[str, Any]:
    return _post(connection, path, json.dumps(message), may_fail)


def _post(connection: http.client.HTTPConnection, path: str, body: str, may_fail: bool = False) -> dict[str, Any]:
    connection.request('POST', path, body)
    response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    if response.status >= 300 and not may_fail:
        raise OSError(f'POST {path} failed with HTTP status {response.status}')
    return answer
