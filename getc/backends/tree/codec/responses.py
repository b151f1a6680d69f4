"""Check that a response has the shape that its request implies.

A server that is not etcd, or a proxy, may send any well-formed message.  Each function that parses a response checks
first what it reads, so that an exception of another type is a bug of getc and not the server's.
"""

from __future__ import annotations

from typing import Any, Final

from getc.errors import ProtocolError
from getc.v3.schema.kv import TxnResponse

__all__ = ['DELETE', 'PUT', 'RANGE', 'TXN', 'malformed', 'results_of_txn']

RANGE: Final = 'response_range'
PUT: Final = 'response_put'
DELETE: Final = 'response_delete_range'
TXN: Final = 'response_txn'


def malformed(problem: str, *, is_write: bool, key: str | None = None) -> ProtocolError:
    """Make the error for a response that does not fit its request.

    Args:
        problem: What does not fit; ``{key}`` in it stands for ``key``.
        is_write: Whether the request may have changed something.
        key: The node.
    """
    return ProtocolError(f'malformed response of etcd v3: {problem}', maybe_applied=is_write, key=key)


def results_of_txn(response: TxnResponse, *kinds: str, is_write: bool = True) -> list[Any]:
    """Return the response to each request of a transaction's half.

    Args:
        response: The response to the transaction.
        kinds: The expected kinds, in the order of the requests.
        is_write: Whether the transaction may have changed something.

    Raises:
        ProtocolError: There are more, fewer or other responses.
    """
    found = []
    parts = []
    for result in response.responses:  # a loop: comprehensions add frames before Python 3.12
        kind = result.WhichOneof('response')
        found.append(kind)
        parts.append(None if kind is None else getattr(result, kind))
    if tuple(found) != kinds:
        half = 'success' if response.succeeded else 'failure'
        found_kinds = _count(tuple(found))
        raise malformed(f'the {half} half of a transaction has {found_kinds}, not {_count(kinds)}', is_write=is_write)
    return parts


def _count(kinds: tuple[str | None, ...]) -> str:
    """Describe the kinds for a message, as ``2 results (range, put)``; long ones are cut."""
    names = [str(kind).removeprefix('response_') for kind in kinds[:8]]
    return f'{len(kinds)} results ({", ".join(names)}{", ..." if len(kinds) > len(names) else ""})'
