"""HTTP messages as values: a request, and a response that was read to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

__all__ = ['Headers', 'Request', 'Response']


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a server.

    Attributes:
        method: ``'GET'``, ``'PUT'``, ``'POST'`` or ``'DELETE'``.
        target: Path and query, percent-encoded.
        body: A form (``application/x-www-form-urlencoded``), or None.
        is_write: True if the request may change the store: it is never sent twice.
    """

    method: str
    target: str
    body: bytes | None = None
    is_write: bool = False

    def __repr__(self) -> str:
        return f'<{self.method} {self.target.partition("?")[0]}>'  # a query may contain a value


class Headers(Protocol):
    """The headers of a response; names are case-insensitive."""

    def get(self, name: str, failobj: str, /) -> str:
        """Return the value of a header, or ``failobj`` if there is none."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response.

    Attributes:
        status: The HTTP status.
        headers: Its headers.
        body: Its body.
        secrets: Credentials that were sent to the server: an error must not quote them.
    """

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
