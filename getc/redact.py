"""Redaction: removes secrets from texts of servers before they become part of an error or a log line.

The policy of getc:

* Passwords, tokens and the values of keys are secrets; keys, user names and endpoints are not.
* No error, log line or ``repr`` contains a secret.  The ``repr`` of a result is the exception: it shows the value that
  the program itself has read.
* etcd does not repeat secrets in its error messages, but a proxy or a malicious server may.  Every text of a server is
  therefore searched for the secrets of the request that it answers, and each one is replaced with ``...``.
* Where an exception of another library could hold a secret in its text or in the local variables of its traceback, it
  is dropped (``from None``), and a secret that is kept as an object has a ``repr`` without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from google.protobuf.message import Message

__all__ = ['REDACTED', 'redact', 'secrets_of']

REDACTED: Final = '...'

MIN_SECRET_LENGTH: Final = 4
"""Characters.  Shorter secrets are not searched for: they are part of most texts."""

SECRET_FIELDS: Final = frozenset({'value', 'password', 'hashedPassword', 'token'})
"""Fields of etcd's protobuf messages that are secret."""


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return the text with each secret replaced with ``...``."""
    for secret in sorted(secrets, key=len, reverse=True):  # one secret may be part of another
        if len(secret) >= MIN_SECRET_LENGTH:
            text = text.replace(secret, REDACTED)
    return text


def secrets_of(message: Message) -> Iterator[str]:
    """Yield the secrets of a protobuf message and of the messages in it, as text."""
    for field, content in message.ListFields():
        for part in _parts(content):
            if isinstance(part, Message):
                yield from secrets_of(part)
            elif field.name in SECRET_FIELDS and isinstance(part, (str, bytes)):
                yield part if isinstance(part, str) else part.decode('utf-8', 'replace')


def _parts(content: Any) -> Iterable[Any]:
    return [content] if isinstance(content, (str, bytes, Message)) or not isinstance(content, Iterable) else content
