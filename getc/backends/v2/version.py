"""The version of an etcd server, read from its ``/version`` page over HTTP."""

from __future__ import annotations

import json
from typing import Final

from getc.backends.v2.http import Http
from getc.backends.v2.messages import Request, Response
from getc.errors import HTTPError, ProtocolError
from getc.net.endpoint import Endpoint
from getc.net.tls import TLSContexts
from getc.timing import Deadline

__all__ = ['VERSION', 'VersionPage', 'version_from']

VERSION: Final = Request('GET', '/version')
"""The request for a page that every etcd serves without contacting the other members."""


class VersionPage:
    """Reads the ``/version`` page of servers.

    Args:
        contexts: The TLS contexts of ``https`` endpoints, or None if there are none.
    """

    def __init__(self, contexts: TLSContexts | None) -> None:
        self._contexts = contexts
        self._http: Http | None = None

    def read(self, endpoint: Endpoint, deadline: Deadline) -> tuple[int, ...]:
        """Return the version of a server, such as ``(3, 5)``.  Blocks until the deadline at most.

        Raises:
            ConnectionError: No response.
            HTTPError: The server has no such page.
            ProtocolError: The page is not etcd's.
        """
        if self._http is None:
            self._http = Http(self._contexts)
        return version_from(self._http.call(endpoint, VERSION, deadline), endpoint.url)

    def close(self) -> None:
        """Close all connections, and end a call in flight with ClientClosed.  Does not block."""
        http, self._http = self._http, None
        if http is not None:
            http.close()


def version_from(response: Response, url: str) -> tuple[int, ...]:
    """Return the version in the ``/version`` page of a server.

    Raises:
        HTTPError: The server has no such page.
        ProtocolError: The page is not etcd's.
    """
    if response.status != 200:
        raise HTTPError(response.status, f'{url}/version does not exist', endpoint=url)
    try:
        version = json.loads(response.body)['etcdserver']
        return tuple(int(part) for part in version.split('.')[:2])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ProtocolError(f'{url}/version is not an etcd version response', endpoint=url) from None
