"""Errors: what each is a kind of, what it says, and that it travels whole."""

from __future__ import annotations

import builtins
import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import getc
from getc import errors
from getc.errors import EtcdError, EtcException, error_of

ENDPOINT = 'http://10.0.0.1:2379'
CLASSES = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
names = pytest.mark.parametrize('kind', CLASSES, ids=lambda kind: kind.__name__)


def made(kind: type[EtcException]) -> EtcException:
    """One of that class, with everything said that it can say."""
    says: dict[str, Any] = {'maybe_applied': True, 'endpoint': ENDPOINT}
    if issubclass(kind, EtcdError):
        return kind('Message', '/key', 7, **says)
    if issubclass(kind, errors.HTTPError):
        return kind(503, 'a page', **says)
    return kind('what happened', **says)


def copies(error: EtcException) -> Iterator[EtcException]:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(error, protocol))
    yield copy.copy(error)
    yield copy.deepcopy(error)


@names
def test_error_travels_with_all_that_it_says(kind: type[EtcException]) -> None:
    """Pickled or copied, an error is of the same class, with the same text and attributes."""
    error = made(kind)
    attributes = ['args', 'endpoint', 'message', 'cause', 'index', 'errno', 'status_code', 'maybe_applied']
    said = {name: getattr(error, name) for name in attributes if hasattr(error, name)}
    assert (said['endpoint'], said['maybe_applied']) == (ENDPOINT, True)
    for twin in copies(error):
        assert type(twin) is kind
        assert (str(twin), repr(twin)) == (str(error), repr(error))
        assert {name: getattr(twin, name) for name in attributes if hasattr(twin, name)} == said


@names
def test_error_is_one_of_getcs_and_public(kind: type[EtcException]) -> None:
    """Whoever catches EtcException catches it; it has a docstring, and getc exports it."""
    assert issubclass(kind, EtcException)
    assert kind.__doc__
    assert getattr(getc, kind.__name__) is kind


def test_error_has_no_endpoint_when_no_server_was_asked() -> None:
    """The endpoint is None unless it is given."""
    for kind in CLASSES:
        assert kind.endpoint is None
    assert errors.KeyNotFound('Key not found').endpoint is None


@pytest.mark.parametrize(
    ('error', 'text'),
    [
        (errors.KeyNotFound('Key not found', '/hello', 5), '[100] Key not found (/hello)'),
        (errors.KeyNotFound('Key not found'), '[100] Key not found'),
        (EtcdError('What', 'why', errno=999), '[999] What (why)'),
        (errors.HTTPError(503, 'a page'), 'HTTP 503: a page'),
        (errors.HTTPError(503), 'HTTP 503'),
        (errors.TimedOut('no answer within 5 s'), 'no answer within 5 s'),
        (errors.ClientClosed('the client is closed'), 'the client is closed'),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else '',
)
def test_error_reads_well(error: EtcException, text: str) -> None:
    """The number, the message, and the cause where there is one."""
    assert str(error) == text


V2_CODES = {
    100: 'KeyNotFound',
    101: 'TestFailed',
    102: 'NotFile',
    104: 'NotDir',
    105: 'NodeExist',
    107: 'RootROnly',
    108: 'DirNotEmpty',
    110: 'Unauthorized',
    201: 'PrevValueRequired',
    202: 'TTLNaN',
    203: 'IndexNaN',
    209: 'InvalidField',
    210: 'InvalidForm',
    211: 'RefreshValue',
    212: 'RefreshTTLRequired',
    300: 'RaftInternal',
    301: 'LeaderElect',
    400: 'WatcherCleared',
    401: 'EventIndexCleared',
}


@pytest.mark.parametrize(('code', 'name'), V2_CODES.items())
def test_error_of_has_a_class_for_each_code(code: int, name: str) -> None:
    """Every code that etcd v2 documents has a class, which knows its code."""
    error = error_of(code, 'Message', '/key', 7, endpoint=ENDPOINT)
    assert type(error).__name__ == name
    assert type(error).errno == error.errno == code
    assert (error.message, error.cause, error.index, error.endpoint) == ('Message', '/key', 7, ENDPOINT)


@pytest.mark.parametrize('code', [0, 103, 999, -1])
def test_error_of_keeps_a_code_that_nobody_knows(code: int) -> None:
    """A code of a later etcd is a plain EtcdError with that code, pickled as well."""
    error = error_of(code, 'New', 'thing')
    assert type(error) is EtcdError
    for twin in (error, *copies(error)):
        assert isinstance(twin, EtcdError)
        assert (twin.errno, str(twin)) == (code, f'[{code}] New (thing)')


def test_connection_errors_are_the_builtin_ones_too() -> None:
    """Code that knows nothing of getc catches them by the names that it knows."""
    assert issubclass(errors.ConnectionError, builtins.ConnectionError)
    assert issubclass(errors.ConnectionRefused, (errors.ConnectionError, builtins.ConnectionRefusedError))
    assert issubclass(errors.TimedOut, errors.ConnectionError)
    assert issubclass(errors.TimedOut, builtins.TimeoutError)
    assert issubclass(errors.Overtaken, errors.NodeLost)


def test_write_was_not_applied_unless_it_is_said() -> None:
    """maybe_applied is False where nobody says otherwise."""
    for error in (errors.ConnectionError('x'), errors.TimedOut('x'), errors.HTTPError(503), errors.ProtocolError('x')):
        assert error.maybe_applied is False
