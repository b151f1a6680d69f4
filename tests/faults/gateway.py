"""A client of etcd's JSON gateway that does not use getc.

Its protocol (HTTP/1.1 and JSON) and its library (``http.client``) are different from those of getc, so that errors of
getc cannot affect what the harness observes.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import gevent.socket

__all__ = ['ALL_KEYS', 'Gateway', 'RequestRefused', 'bytes_of', 'text_of']

ALL_KEYS: Final = {'key': 'AA==', 'range_end': 'AA=='}
"""The range of all keys."""

TOKEN_ERRORS: Final = ('user name is empty', 'invalid auth token', 'revision of auth store is old')
"""Errors of etcd after which the client has to authenticate."""

AUTH_DISABLED: Final = 'authentication is not enabled'


class RequestRefused(Exception):
    """etcd responded with an error."""


class Gateway:
    """A connection to a member or a link, for one greenlet at a time.

    Args:
        url: The URL.
        username: The user, for when authentication is enabled.
        password: The password of the user.
        timeout: Seconds for each operation of the socket.
    """

    def __init__(self, url: str, username: str, password: str, *, timeout: float) -> None:
        self.url = url
        self._credentials = {'name': username, 'password': password}
        self._timeout = timeout
        self._token: str | None = None
        self._connection: http.client.HTTPConnection | None = None

    def request(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request, such as ``/v3/kv/range``, and return the response.

        Raises:
            OSError: There is no response.
            RequestRefused: The response is an error.
        """
        try:
            return self._request(path, body)
        except RequestRefused as error:
            if not any(text in str(error) for text in TOKEN_ERRORS):
                raise
            self._log_in()
            return self._request(path, body)

    def watch(self, first: int) -> Iterator[dict[str, Any]]:
        """Yield the responses of a watch of all keys from a revision on.  It does not end by itself.

        Raises:
            OSError: The connection broke, or nothing was received for the timeout.
            RequestRefused: The watch was refused.
        """
        connection = self._new_connection()
        try:
            body = json.dumps({'create_request': {**ALL_KEYS, 'start_revision': str(first)}})
            connection.request('POST', '/v3/watch', body, self._headers())
            response = connection.getresponse()
            while line := response.readline():
                answer = json.loads(line)
                if 'result' not in answer:
                    raise RequestRefused(line.decode())
                yield answer['result']
            raise OSError(f'{self.url} ended the watch')
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f'{self.url} broke the connection of the watch') from error
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _request(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self._connection is None:
            self._connection = self._new_connection()
        is_complete = False
        try:
            self._connection.request('POST', path, json.dumps(body), self._headers())
            response = self._connection.getresponse()
            answer = json.loads(response.read())
            is_complete = True
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f'{self.url} broke the connection before the response') from error
        finally:
            if not is_complete:  # after any error: the next request must not read the rest of this response
                self.close()
        if not isinstance(answer, dict) or response.status != http.client.OK:
            raise RequestRefused(str(answer))
        return answer

    def _log_in(self) -> None:
        self._token = None
        try:
            self._token = self._request('/v3/auth/authenticate', self._credentials)['token']
        except RequestRefused as error:
            if AUTH_DISABLED not in str(error):
                raise

    def _headers(self) -> dict[str, str]:
        return {} if self._token is None else {'Authorization': self._token}

    def _new_connection(self) -> http.client.HTTPConnection:
        return _Connection(urlsplit(self.url).netloc, timeout=self._timeout)


class _Connection(http.client.HTTPConnection):
    """An HTTP connection on a gevent socket."""

    def connect(self) -> None:
        sock: Any = gevent.socket.create_connection((self.host, self.port), self.timeout)
        sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        self.sock = sock


def bytes_of(field: str) -> bytes:
    """Decode a field of bytes."""
    return base64.b64decode(field)


def text_of(field: str) -> str:
    """Decode a field of UTF-8 text."""
    return base64.b64decode(field).decode()
