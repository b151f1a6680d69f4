"""Key paths: one normal form, and the questions asked of it.

A normal key is ``/`` or ``/segment[/segment...]`` with no empty, ``.`` or ``..`` segment and no NUL.
Keys are normalised before anything is sent: an etcd v2 server answers ``//``, ``.`` and ``..`` with
a redirect that turns a write into a read.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = [
    'ROOT',
    'ancestors',
    'basename',
    'child_prefix',
    'is_below',
    'is_hidden',
    'join',
    'normalize',
    'parent_of',
    'strip_prefix',
]

ROOT = '/'


def normalize(key: str) -> str:
    """Return the normal form of a key: one slash in front, none doubled, none at the end.

    Raises:
        TypeError: It is not text.
        ValueError: It has a NUL, or a segment ``.`` or ``..``, or is no encodable text.
    """
    if not isinstance(key, str):
        raise TypeError(f'a key is text (str), not {type(key).__name__}')
    return _normal(key)


@lru_cache(maxsize=4096)
def _normal(key: str) -> str:
    """Remembered: most keys are used again and again."""
    if '\0' in key:
        raise ValueError(f'a key cannot have a NUL: {key!r}')
    segments = [segment for segment in key.split('/') if segment]
    if '.' in segments or '..' in segments:
        raise ValueError(f"a key cannot have a segment '.' or '..': {key!r}")
    try:
        key.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError as error:
        raise ValueError(f'a key must be encodable as UTF-8: {key!r}') from error
    return ROOT + '/'.join(segments)


def join(directory: str, key: str) -> str:
    """Put a normal directory in front of a normal key."""
    if directory == ROOT:
        return key
    return directory if key == ROOT else directory + key


def strip_prefix(directory: str, key: str) -> str:
    """Take a normal directory off a normal key at or below it; other keys are left as they are."""
    if directory == ROOT:
        return key
    if key == directory:
        return ROOT
    return key[len(directory) :] if is_below(key, directory) else key


def child_prefix(directory: str) -> str:
    """What every key below a directory starts with."""
    return directory if directory == ROOT else directory + '/'


def is_below(key: str, directory: str) -> bool:
    """True if the key is inside the directory, at any depth; a directory is not below itself."""
    return key != directory and key.startswith(child_prefix(directory))


def parent_of(key: str) -> str:
    """The directory that holds the key; the root's is the root."""
    return key[: key.rfind('/')] or ROOT


def ancestors(key: str) -> list[str]:
    """The directories above the key and below the root, outermost first."""
    segments = key.split('/')
    return ['/'.join(segments[:end]) for end in range(2, len(segments))]


def basename(key: str) -> str:
    """The last segment; the root's is empty."""
    return key[key.rfind('/') + 1 :]


def is_hidden(key: str, directory: str = ROOT) -> bool:
    """True if a segment below the directory starts with ``_``: not listed, nor seen by a watch above it."""
    return '/_' in key[len(directory) - (directory == ROOT) :] if is_below(key, directory) else False
