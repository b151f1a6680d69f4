"""Exceptions: their base classes, texts and attributes, and pickling."""

from __future__ import annotations

import builtins
import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import getc
from getc import errors
from getc.error_context import copy_error, error_from_code
from getc.errors import EtcdError, EtcException

ENDPOINT = 'http://10.0.0.1:2379'
CLASSES = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
names = pytest.mark.parametrize('kind', CLASSES, ids=lambda kind: kind.__name__)


def error_with_all_attributes(kind: type[EtcException]) -> EtcException:
    facts: dict[str, Any] = {'maybe_applied': True, 'endpoint': ENDPOINT}
    if issubclass(kind, EtcdError):
        return kind('Message', '/key', 7, **facts)
    if issubclass(kind, errors.HTTPError):
        return kind(503, 'a page', **facts)
    return kind('what happened', **facts)


def copies(error: EtcException) -> Iterator[EtcException]:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(error, protocol))
    yield copy.copy(error)
    yield copy.deepcopy(error)


@names
def test_error_keeps_its_class_text_and_attributes_when_pickled_or_copied(kind: type[EtcException]) -> None:
    error = error_with_all_attributes(kind)
    attributes = ['args', 'endpoint', 'message', 'cause', 'index', 'errno', 'status_code', 'maybe_applied']
    expected = {name: getattr(error, name) for name in attributes if hasattr(error, name)}
    assert (expected['endpoint'], expected['maybe_applied']) == (ENDPOINT, True)
    for twin in copies(error):
        assert type(twin) is kind
        assert (str(twin), repr(twin)) == (str(error), repr(error))
        assert {name: getattr(twin, name) for name in attributes if hasattr(twin, name)} == expected


@names
def test_error_is_an_etc_exception_and_exported_by_getc(kind: type[EtcException]) -> None:
    assert issubclass(kind, EtcException)
    assert kind.__doc__
    assert getattr(getc, kind.__name__) is kind


def test_error_has_no_endpoint_unless_one_is_given() -> None:
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
def test_error_text_shows_code_message_and_cause(error: EtcException, text: str) -> None:
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
def test_error_from_code_returns_the_class_of_the_code(code: int, name: str) -> None:
    error = error_from_code(code, 'Message', '/key', 7, endpoint=ENDPOINT)
    assert type(error).__name__ == name
    assert type(error).errno == error.errno == code
    assert (error.message, error.cause, error.index, error.endpoint) == ('Message', '/key', 7, ENDPOINT)


@pytest.mark.parametrize(
    ('code', 'kind'), [(5, errors.NotFound), (7, errors.PermissionDenied), (16, errors.Unauthorized)]
)
def test_error_from_code_returns_the_class_of_a_status_code(code: int, kind: type[EtcdError]) -> None:
    error = error_from_code(code, 'Message')
    assert (type(error), error.errno) == (kind, code)


@pytest.mark.parametrize('code', [0, 103, 999, -1])
def test_error_from_code_keeps_an_unknown_code(code: int) -> None:
    """A code of a later etcd gives a plain EtcdError with that code, also after pickling."""
    error = error_from_code(code, 'New', 'thing')
    assert type(error) is EtcdError
    for twin in (error, *copies(error)):
        assert isinstance(twin, EtcdError)
        assert (twin.errno, str(twin)) == (code, f'[{code}] New (thing)')


def test_connection_errors_are_builtin_connection_errors() -> None:
    assert issubclass(errors.ConnectionError, builtins.ConnectionError)
    assert issubclass(errors.ConnectionRefused, (errors.ConnectionError, builtins.ConnectionRefusedError))
    assert issubclass(errors.TimedOut, errors.ConnectionError)
    assert issubclass(errors.TimedOut, builtins.TimeoutError)
    assert issubclass(errors.Overtaken, errors.NodeLost)


def test_maybe_applied_is_false_by_default_when_there_was_no_response() -> None:
    for error in (errors.ConnectionError('x'), errors.TimedOut('x'), errors.HTTPError(503), errors.ProtocolError('x')):
        assert error.maybe_applied is False


def test_copy_error_replaces_the_given_facts_and_keeps_the_others() -> None:
    error = errors.TimedOut('no response', maybe_applied=True, endpoint=ENDPOINT)
    assert copy_error(error).maybe_applied
    twin = copy_error(error, maybe_applied=False, endpoint='http://10.0.0.2:2379')
    assert type(twin) is errors.TimedOut
    assert (str(twin), twin.maybe_applied, twin.endpoint) == ('no response', False, 'http://10.0.0.2:2379')
    assert (error.maybe_applied, error.endpoint) == (True, ENDPOINT)


def test_error_text_and_repr_name_the_key() -> None:
    error = errors.NodeLost('{key} was deleted, or has expired', key='/a', endpoint=ENDPOINT)
    for each in (error, *copies(error)):
        assert each.key == '/a'
        assert str(each) == '/a was deleted, or has expired'
        assert repr(each) == "NodeLost('/a was deleted, or has expired')"
