"""etcd's JSON gateway over plain HTTP: how the run looks at etcd without the code that is under test.

It is another protocol (HTTP/1.1 and JSON) on another library (``http.client``), so nothing of getc's transport, RPCs or
watches is in what it says.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import gevent.socket

__all__ = ['EVERYTHING', 'Gateway', 'Refused', 'bytes_of', 'text_of']

EVERYTHING: Final = {'key': 'AA==', 'range_end': 'AA=='}
"""From the first key on, to no end."""

NO_TOKEN: Final = ('user name is empty', 'invalid auth token', 'revision of auth store is old')
"""What etcd says to whom it does not know."""

NO_AUTH: Final = 'authentication is not enabled'


class Refused(Exception):
    """etcd answered no."""


class Gateway:
    """One member, or a way to it.  One greenlet at a time may ask.

    Args:
        url: Where it is.
        username: Of the user that asks, once etcd wants to know.
        password: The same.
        timeout: Seconds for each step of the connection.
    """

    def __init__(self, url: str, username: str, password: str, *, timeout: float) -> None:
        self.url = url
        self._credentials = {'name': username, 'password': password}
        self._timeout = timeout
        self._token: str | None = None
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, such as ``/v3/kv/range``.

        Raises:
            OSError: There is none.
            Refused: It is no.
        """
        try:
            return self._ask(path, request)
        except Refused as refused:
            if not any(text in str(refused) for text in NO_TOKEN):
                raise
            self._log_in()
            return self._ask(path, request)

    def watch(self, first: int) -> Iterator[dict[str, Any]]:
        """What a watch of everything says, from this revision on, a response at a time.  It has no end.

        Raises:
            OSError: It broke off, or was silent for the timeout.
            Refused: It is refused.
        """
        connection = self._new_connection()
        try:
            body = json.dumps({'create_request': {**EVERYTHING, 'start_revision': str(first)}})
            connection.request('POST', '/v3/watch', body, self._headers())
            response = connection.getresponse()
            while line := response.readline():
                answer = json.loads(line)
                if 'result' not in answer:
                    raise Refused(line.decode())
                yield answer['result']
            raise OSError(f'{self.url} ended the watch')
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f'{self.url} broke off the watch') from error
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connection; the next request opens one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        if self._connection is None:
            self._connection = self._new_connection()
        is_whole = False
        try:
            self._connection.request('POST', path, json.dumps(request), self._headers())
            response = self._connection.getresponse()
            answer = json.loads(response.read())
            is_whole = True
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f'{self.url} broke off its answer') from error
        finally:
            if not is_whole:  # whatever struck: nothing may be left in it for the next request
                self.close()
        if not isinstance(answer, dict) or response.status != http.client.OK:
            raise Refused(str(answer))
        return answer

    def _log_in(self) -> None:
        self._token = None
        try:
            self._token = self._ask('/v3/auth/authenticate', self._credentials)['token']
        except Refused as refused:
            if NO_AUTH not in str(refused):
                raise

    def _headers(self) -> dict[str, str]:
        return {} if self._token is None else {'Authorization': self._token}

    def _new_connection(self) -> http.client.HTTPConnection:
        return _Connection(urlsplit(self.url).netloc, timeout=self._timeout)


class _Connection(http.client.HTTPConnection):
    """HTTP over gevent's sockets."""

    def connect(self) -> None:
        sock: Any = gevent.socket.create_connection((self.host, self.port), self.timeout)
        sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        self.sock = sock


def bytes_of(field: str) -> bytes:
    """What a field of bytes is."""
    return base64.b64decode(field)


def text_of(field: str) -> str:
    """What a field of UTF-8 is."""
    return base64.b64decode(field).decode()
