"""A long poll whose headers have arrived, and whose body follows with the next change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from getc.backends.v2.exchange import Exchange
from getc.backends.v2.http_response import BoundedResponse, is_body_ready
from getc.backends.v2.messages import Headers, Response
from getc.timing import Deadline

if TYPE_CHECKING:
    from getc.backends.v2.http_pool import Pool

__all__ = ['Poll']

ReadBody = Callable[[Exchange, BoundedResponse, Deadline], Response]


class Poll:
    """A long poll.  Close it after use; it is a context manager.

    Attributes:
        endpoint: The server.
        status: The HTTP status.
        headers: The headers; names are case-insensitive.
    """

    def __init__(self, exchange: Exchange, response: BoundedResponse, pool: Pool, read_body: ReadBody) -> None:
        self.endpoint = exchange.endpoint
        self.status: int = response.status
        self.headers: Headers = response.headers
        self._exchange = exchange
        self._response = response
        self._pool = pool
        self._read_body = read_body

    def wait(self, timeout: float | None) -> bool:
        """Return True as soon as the body or its end begins to arrive; False after the timeout (seconds)."""
        return is_body_ready(self._response, timeout)

    def read(self, deadline: Deadline) -> Response:
        """Return the whole response.  Blocks until the deadline at most.  Raises the errors of ``Http.call``."""
        return self._read_body(self._exchange, self._response, deadline)

    def close(self) -> None:
        """Return the connection to its pool if the response was read, else close it.  May be called twice."""
        self._exchange.release(self._pool)

    def __enter__(self) -> Poll:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
