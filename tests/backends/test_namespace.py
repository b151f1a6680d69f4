"""A backend below a namespace: the texts of its errors."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from getc.backends.namespace import Namespaced
from getc.errors import ConnectionError, EtcdError, EtcException, HTTPError, KeyNotFound, NodeExist, NotDir, TimedOut
from getc.operations import Get
from getc.timing import Deadline


class Refusing:
    """A backend of which every call raises the same."""

    api = 'v3'

    def __init__(self, error: EtcException, cause: EtcException | None = None) -> None:
        self.error = error
        self.cause = cause

    def execute(self, _operation: object, _deadline: Deadline) -> Any:
        if self.cause is None:
            raise self.error
        try:
            raise self.cause
        except EtcException:
            raise self.error  # noqa: B904  its context must be without the namespace, too

    def ready(self, _deadline: Deadline) -> None: ...

    def clear(self) -> None: ...

    def close(self) -> None: ...


def met(error: EtcException, cause: EtcException | None = None, key: str = '/a') -> EtcException:
    """What comes of an error below ``/ns/sub``."""
    backend: Any = Refusing(error, cause)
    with pytest.raises(type(error)) as caught:
        Namespaced(backend, '/ns/sub').execute(Get(key), Deadline(None))
    assert caught.value is error
    return error


@pytest.mark.parametrize(
    ('text', 'relative'),
    [
        ('/ns/sub/a was deleted', '/a was deleted'),
        ('no lease for /ns/sub/a within 1 s', 'no lease for /a within 1 s'),
        ("the key '/ns/sub/a b' of (/ns/sub/c): /ns/sub/d, /ns/sub/e", "the key '/a b' of (/c): /d, /e"),
        ('a watch of /ns/sub: ended', 'a watch of /: ended'),
        ('/ns/sub/ns/sub/a', '/ns/sub/a'),
        ('/ns/subway, /ns/sub.x and /ns', '/ns/subway, /ns/sub.x and /ns'),
        ('http://ns/sub/a of http://127.0.0.1:2379/ns/sub/a', 'http://ns/sub/a of http://127.0.0.1:2379/ns/sub/a'),
    ],
)
def test_namespace_is_taken_off_each_key_in_a_text(text: str, relative: str) -> None:
    """Keys are words of their own; what only looks like one stays."""
    assert met(TimedOut(text)).args == (relative,)
    assert str(met(EtcdError(text, '', 7))) == f'[0] {relative}'
    refused = met(HTTPError(502, text))
    assert (str(refused), refused.args) == (f'HTTP 502: {relative}', (502, relative))


def test_namespace_is_taken_off_the_cause() -> None:
    """At the namespace and above it the cause is the root, or the key that is not there."""
    assert met(NodeExist('Key already exists', '/ns/sub/a', 7)).args == ('Key already exists', '/a', 7)
    assert met(KeyNotFound('Key not found', '/ns', 7)).args == ('Key not found', '/a', 7)
    assert met(NotDir('Not a directory', '/ns/sub', 7)).args == ('Not a directory', '/', 7)


def test_namespace_is_taken_off_what_an_error_came_of() -> None:
    """A traceback shows it; an error that the caller handles at the moment is not touched."""
    try:
        raise TimedOut('/ns/sub/theirs of another client')
    except TimedOut:
        error = met(ConnectionError('/ns/sub/a: lost'), TimedOut('/ns/sub/a: too late'))
    text = ''.join(traceback.format_exception(error))
    assert '\ngetc.errors.TimedOut: /a: too late\n' in text
    assert '\ngetc.errors.TimedOut: /ns/sub/theirs of another client\n' in text
