"""HTTP messages as values: what is sent, and what came back whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

__all__ = ['Answer', 'Headers', 'Request']


@dataclass(frozen=True, slots=True)
class Request:
    """What goes to a server.

    Attributes:
        method: ``'GET'``, ``'PUT'``, ``'POST'`` or ``'DELETE'``.
        target: Path and query, percent-encoded.
        body: A form (``application/x-www-form-urlencoded``), or None.
        is_write: It may change something there: it is never sent twice.
    """

    method: str
    target: str
    body: bytes | None = None
    is_write: bool = False

    def __repr__(self) -> str:
        return f'<{self.method} {self.target.partition("?")[0]}>'  # a query may hold a value


class Headers(Protocol):
    """The headers of an answer; names in any case."""

    def get(self, name: str, failobj: str, /) -> str:
        """The value of that header, or what is given for when there is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: The HTTP status.
        headers: Its headers.
        body: The bytes.
        secrets: What the server was told, and may not repeat in an error.
    """

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
