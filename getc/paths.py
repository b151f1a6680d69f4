"""Key paths: the normal form, and helpers for keys in normal form.

A normal key is ``/`` or ``/segment[/segment...]`` without empty, ``.`` and ``..`` segments and without NUL.  Keys are
normalized before anything is sent: an etcd v2 server answers ``//``, ``.`` and ``..`` with a redirect, which turns a
write into a read.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

__all__ = [
    'MAX_CACHED_KEY',
    'ROOT',
    'ancestors',
    'basename',
    'child_prefix',
    'is_below',
    'is_hidden',
    'join',
    'normalize',
    'parent_of',
    'remove_subtree',
    'strip_prefix',
]

ROOT = '/'

MAX_CACHED_KEY = 512
"""Characters.  Caches by key do not hold longer keys, so that their size is bounded."""


def normalize(key: str) -> str:
    """Return the normal form of a key: one slash before each segment, none at the end.

    Raises:
        TypeError: The key is not a str.
        ValueError: The key contains NUL or a segment ``.`` or ``..``, or cannot be encoded as UTF-8.
    """
    if not isinstance(key, str):
        raise TypeError(f'key must be a str, not {type(key).__name__}')
    return _cached_normal(key) if len(key) <= MAX_CACHED_KEY else _normal(key)


def _normal(key: str) -> str:
    if '\0' in key:
        raise ValueError(f'a key cannot contain NUL: {key!r}')
    segments = [segment for segment in key.split('/') if segment]
    if '.' in segments or '..' in segments:
        raise ValueError(f"a key cannot have a segment '.' or '..': {key!r}")
    try:
        key.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError as error:
        raise ValueError(f'a key must be encodable as UTF-8: {key!r}') from error
    return ROOT + '/'.join(segments)


_cached_normal = lru_cache(maxsize=4096)(_normal)


def join(directory: str, key: str) -> str:
    """Return a normal key inside a normal directory."""
    if directory == ROOT:
        return key
    return directory if key == ROOT else directory + key


def strip_prefix(directory: str, key: str) -> str:
    """Return a normal key relative to a normal directory; a key outside the directory is returned unchanged."""
    if directory == ROOT:
        return key
    if key == directory:
        return ROOT
    return key[len(directory) :] if is_below(key, directory) else key


def child_prefix(directory: str) -> str:
    """Return the prefix of all keys below a directory."""
    return directory if directory == ROOT else directory + '/'


def is_below(key: str, directory: str) -> bool:
    """Return True if the key is inside the directory, at any depth; a directory is not below itself."""
    return key != directory and key.startswith(child_prefix(directory))


def remove_subtree(entries: dict[str, Any], key: str) -> None:
    """Remove the entry of a key, or, where there is none, the entries of all keys below it."""
    if entries.pop(key, None) is None:
        for below in [each for each in entries if is_below(each, key)]:
            del entries[below]


def parent_of(key: str) -> str:
    """Return the directory that contains the key; the parent of the root is the root."""
    return key[: key.rfind('/')] or ROOT


def ancestors(key: str) -> list[str]:
    """Return the directories above the key and below the root, outermost first."""
    found = []
    end = key.find('/', 1)
    while end > 0:
        found.append(key[:end])
        end = key.find('/', end + 1)
    return found


def basename(key: str) -> str:
    """Return the last segment of the key; ``''`` for the root."""
    return key[key.rfind('/') + 1 :]


def is_hidden(key: str, directory: str = ROOT) -> bool:
    """Return True if a segment of the key below the directory starts with ``_``.

    Listings of the directory and watches on it leave hidden keys out.
    """
    return '/_' in key[len(directory) - (directory == ROOT) :] if is_below(key, directory) else False
