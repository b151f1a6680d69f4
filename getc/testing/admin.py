"""Plain requests to an etcd that is tested: asking after its health, and deleting all it has.

Not by a getc client: the tests of that client must not depend on it.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import quote, urlsplit

import gevent.socket

__all__ = ['Requests', 'clear_v2', 'clear_v3']

HISTORY_GONE = 401
SENTINEL = '/getc-cleaning'


class Requests:
    """Plain HTTP requests over one gevent connection.  A context manager, which closes it.

    Args:
        url: Of the server.
        context: A TLS context whose sockets are gevent's, for ``https``.
        timeout: Seconds for each step of the connection.
    """

    def __init__(self, url: str, *, context: ssl.SSLContext | None = None, timeout: float = 10.0) -> None:
        self.url = url
        self._connection = _Connection(urlsplit(url).netloc, context, timeout)

    def ask(self, method: str, path: str, body: str | None = None) -> str:
        """The text of the answer, whatever its status.

        Raises:
            OSError: There is none.
        """
        try:
            self._connection.request(method, path, body)
            return self._connection.getresponse().read().decode('utf-8', 'replace')
        except http.client.HTTPException as error:
            self._connection.close()
            raise OSError(f'{self.url} broke off the answer to {method} {path}') from error

    def ask_json(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        """The JSON object of the answer, whatever its status.

        Raises:
            OSError: There is none.
        """
        text = self.ask(method, path, body)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise OSError(f'{self.url} answered {method} {path} with what is no object: {text[:200]}')
        return answer

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class _Connection(http.client.HTTPConnection):
    """HTTP over gevent's sockets, and TLS where there is a context."""

    def __init__(self, address: str, context: ssl.SSLContext | None, timeout: float) -> None:
        super().__init__(address, timeout=timeout)
        self._context = context

    def connect(self) -> None:
        sock: Any = gevent.socket.create_connection((self.host, self.port), self.timeout)
        sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        if self._context is not None:
            sock = self._context.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=self.host)
        self.sock = sock  # from here on `close` closes it
        if self._context is not None:
            sock.do_handshake()


def clear_v3(requests: Requests) -> None:
    """Delete every v3 key, by the JSON gateway.

    Raises:
        OSError: There is no answer, or a refusal.
    """
    answer = requests.ask_json('POST', '/v3/kv/deleterange', json.dumps({'key': 'AA==', 'range_end': 'AA=='}))
    if 'header' not in answer:
        raise OSError(f'{requests.url} did not delete its keys: {answer}')


def clear_v2(requests: Requests, since: int) -> int | None:
    """Delete every v2 node, the hidden ones too.

    Args:
        since: The index before which there is no hidden node in the root: what the last call returned, or 0.

    Returns:
        The index now; None if more changed than the server's history holds, so that hidden nodes may
        be left.
    """
    listing = requests.ask_json('GET', '/v2/keys/')
    names = {node['key'] for node in listing.get('node', {}).get('nodes', ())}
    hidden = _hidden_names(requests, since)
    for key in sorted(names | (hidden or set())):
        requests.ask('DELETE', f'/v2/keys{quote(key)}?recursive=true&dir=true')
    index: int = requests.ask_json('DELETE', f'/v2/keys{SENTINEL}')['node']['modifiedIndex']
    return None if hidden is None else index


def _hidden_names(requests: Requests, since: int) -> set[str] | None:
    # No listing shows hidden nodes, but the history does.  It is read up to a node written now, so
    # that no read ever waits.
    end = requests.ask_json('PUT', f'/v2/keys{SENTINEL}?value=')['node']['modifiedIndex']
    names = set()
    index = since
    while index < end:
        event = requests.ask_json('GET', f'/v2/keys/?wait=true&recursive=true&waitIndex={index + 1}')
        if event.get('errorCode') == HISTORY_GONE:
            return None
        index = event['node']['modifiedIndex']
        name = '/' + event['node']['key'].split('/')[1]
        if name.startswith('/_'):
            names.add(name)
    return names
