"""What servers say, without what they were told: their texts get into errors, and with those into logs.

An etcd repeats no value, password or token; a proxy may, and a server that means harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from google.protobuf.message import Message

__all__ = ['HIDDEN', 'secrets_of', 'without']

HIDDEN: Final = '...'

SHORTEST: Final = 4
"""Characters of a secret that is looked for: less is in most texts."""

SECRET: Final = frozenset({'value', 'password', 'hashedPassword', 'token'})
"""Fields of etcd's messages that nobody else may read."""


def without(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret cut out of it."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    return text


def secrets_of(message: Message) -> Iterator[str]:
    """What of a message must not be repeated, as text."""
    for field, content in message.ListFields():
        for part in _parts(content):
            if isinstance(part, Message):
                yield from secrets_of(part)
            elif field.name in SECRET and isinstance(part, (str, bytes)):
                yield part if isinstance(part, str) else part.decode('utf-8', 'replace')


def _parts(content: Any) -> Iterable[Any]:
    return [content] if isinstance(content, (str, bytes, Message)) or not isinstance(content, Iterable) else content
