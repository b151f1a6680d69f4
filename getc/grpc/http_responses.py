"""Describes HTTP responses that are not gRPC: the pages of proxies."""

from __future__ import annotations

import re
from typing import Final

__all__ = ['describe_http_response']

REASONS: Final = {
    404: 'the server does not pass gRPC on',
    405: 'the server does not pass gRPC on',
    408: 'a proxy has waited too long for the client: raise its timeout for requests that last',
    413: 'the request is larger than a proxy allows: raise its limit (nginx: client_max_body_size)',
    429: 'a proxy limits the rate of requests',
    499: 'a proxy has given up the request',
    502: 'a proxy has got no response from etcd',
    503: 'a proxy has no etcd that is up',
    504: 'a proxy has got no response from etcd in time',
}

SERVER_NAME: Final = re.compile(rb'[\w.+/ ()-]{1,60}')
"""Names of servers that are shown; others may contain anything."""


def describe_http_response(status: int, server: bytes | None) -> str:
    """Return a text for an HTTP response without a gRPC content type.

    Args:
        status: The HTTP status.
        server: The field ``server`` of the response, with the name of the proxy; None without.
    """
    text = 'not a gRPC response'
    if server is not None and SERVER_NAME.fullmatch(server):
        text += f', but one of {server.decode("ascii")}'
    reason = REASONS.get(status)
    return text if reason is None else f'{text}: {reason}'
