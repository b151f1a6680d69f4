"""Administration of an etcd under test by plain HTTP requests: health checks, and deletion of all keys.

Not by a getc client, since the tests of that client must not depend on it.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import quote, urlsplit

import gevent.socket

__all__ = ['Requests', 'clear_v2', 'clear_v3']

EVENT_INDEX_CLEARED = 401
SENTINEL = '/getc-clearing'


class Requests:
    """Sends plain HTTP requests over one gevent connection.  A context manager, which closes the connection.

    Args:
        url: The URL of the server.
        context: A TLS context that makes gevent sockets, for ``https``.
        timeout: Seconds for each socket operation.
    """

    def __init__(self, url: str, *, context: ssl.SSLContext | None = None, timeout: float = 10.0) -> None:
        self.url = url
        self._connection = _Connection(urlsplit(url).netloc, context, timeout)

    def request(self, method: str, path: str, body: str | None = None) -> str:
        """Send a request and return the text of the response, whatever its status.

        Raises:
            OSError: There was no complete response.
        """
        try:
            self._connection.request(method, path, body)
            return self._connection.getresponse().read().decode('utf-8', 'replace')
        except http.client.HTTPException as error:
            self._connection.close()
            raise OSError(f'{method} {self.url}{path}: no complete response') from error

    def request_json(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        """Send a request and return the JSON object of the response, whatever its status.

        Raises:
            OSError: There was no complete response, or it contains no JSON object.
        """
        text = self.request(method, path, body)
        try:
            response = json.loads(text)
        except ValueError:
            response = None
        if not isinstance(response, dict):
            raise OSError(f'{method} {self.url}{path}: the response is not a JSON object: {text[:200]}')
        return response

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class _Connection(http.client.HTTPConnection):
    """HTTP over gevent sockets, with TLS if there is a context."""

    def __init__(self, address: str, context: ssl.SSLContext | None, timeout: float) -> None:
        super().__init__(address, timeout=timeout)
        self._context = context

    def connect(self) -> None:
        sock: Any = gevent.socket.create_connection((self.host, self.port), self.timeout)
        sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        if self._context is not None:
            sock = self._context.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=self.host)
        self.sock = sock  # from here on `close` closes the socket
        if self._context is not None:
            sock.do_handshake()


def clear_v3(requests: Requests) -> None:
    """Delete every v3 key through the JSON gateway.

    Raises:
        OSError: There was no response, or etcd refused.
    """
    response = requests.request_json('POST', '/v3/kv/deleterange', json.dumps({'key': 'AA==', 'range_end': 'AA=='}))
    if 'header' not in response:
        raise OSError(f'{requests.url} did not delete its keys: {response}')


def clear_v2(requests: Requests, since: int) -> int | None:
    """Delete every v2 node, including hidden ones.

    Args:
        requests: Requests to the server.
        since: The index before which there is no hidden node in the root: the result of the previous call, or 0.

    Returns:
        The current index; None if there were more changes than the server's history holds, so that hidden nodes may
        be left.
    """
    listing = requests.request_json('GET', '/v2/keys/')
    names = {node['key'] for node in listing.get('node', {}).get('nodes', ())}
    hidden = _hidden_names(requests, since)
    for key in sorted(names | (hidden or set())):
        requests.request('DELETE', f'/v2/keys{quote(key)}?recursive=true&dir=true')
    index: int = requests.request_json('DELETE', f'/v2/keys{SENTINEL}')['node']['modifiedIndex']
    return None if hidden is None else index


def _hidden_names(requests: Requests, since: int) -> set[str] | None:
    # Listings omit hidden nodes, but the event history contains them.  It is read up to a node that is written
    # first, so that no read ever waits.
    end = requests.request_json('PUT', f'/v2/keys{SENTINEL}?value=')['node']['modifiedIndex']
    names = set()
    index = since
    while index < end:
        event = requests.request_json('GET', f'/v2/keys/?wait=true&recursive=true&waitIndex={index + 1}')
        if event.get('errorCode') == EVENT_INDEX_CLEARED:
            return None
        index = event['node']['modifiedIndex']
        name = '/' + event['node']['key'].split('/')[1]
        if name.startswith('/_'):
            names.add(name)
    return names
