"""A backend in a namespace: every key that leaves it is relative."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import pytest

from getc import errors
from getc.backends.base import AcquiringWrite, KeepGroup, KeepListener, KeptNode, Watch, WatchListener
from getc.backends.namespace import Namespaced
from getc.errors import (
    ConnectionError,
    EtcdError,
    EtcException,
    HTTPError,
    KeyNotFound,
    NodeExist,
    NodeLost,
    NotDir,
    Overtaken,
    TimedOut,
)
from getc.operations import Get, Put, WatchSpec
from getc.results import Deleted, Directory, EtcdResult, Got, Node, Set, Value
from getc.timing import Deadline
from getc.transactions import Guard

FOREVER = Deadline(None)


class Inner:
    """A backend, keep group and kept node whose results and errors the test sets, with the keys of the whole tree.

    Attributes:
        result: Returned by every call, unless there is an error.
        error: Raised by every call.
        cause: The context of the error.
        keys: The keys that were passed to calls.
        listener: The last listener that was passed to a call.
    """

    api = 'v3'
    ttl = 10
    token = 7
    lost_at = 1.0
    guard = Guard('/ns/sub/a', 3, 5)

    def __init__(
        self, result: EtcdResult | None = None, error: EtcException | None = None, cause: EtcException | None = None
    ) -> None:
        self.result = result
        self.error = error
        self.cause = cause
        self.keys: list[str] = []
        self.listener: Any = None

    def _call(self, key: str, result: Any = None) -> Any:
        self.keys.append(key)
        if self.error is None:
            return result
        if self.cause is None:
            raise self.error
        try:
            raise self.cause
        except EtcException:
            raise self.error  # noqa: B904  the context must be relative, too

    def execute(self, operation: Any, _deadline: Deadline) -> Any:
        return self._call(operation.key, self.result)

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Any:
        self.listener = listener
        return self._call(spec.key, self)

    def keep_group(self, _ttl: int) -> Any:
        return self

    def keep(self, put: Put, listener: KeepListener, _deadline: Deadline) -> Any:
        self.listener = listener
        return self._call(put.key, self)

    def reclaim(self, key: str, _value: str, previous: object, listener: KeepListener, _deadline: Deadline) -> Any:
        assert previous is self
        self.listener = listener
        return self._call(key, self)

    def delete_unanswered(self, key: str, _listener: KeepListener, _deadline: Deadline) -> None:
        self._call(key)

    def update(self, _value: str, _deadline: Deadline) -> Any:
        return self._call('', self.result)

    def release(self, _deadline: Deadline) -> None:
        self._call('')

    detach = release


class Listener:
    """A watch listener and a keep listener that records what it receives."""

    has_liveness_check = True
    unanswered = frozenset({AcquiringWrite('x', is_create=True)})

    def __init__(self) -> None:
        self.received: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(('on_', 'check_')):
            raise AttributeError(name)
        return lambda *args: self.received.append((name, *args)) or True

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        self.received.extend(results)


def namespaced(**options: Any) -> tuple[Inner, Namespaced]:
    inner: Any = Inner(**options)
    return inner, Namespaced(inner, '/ns/sub')


def kept(inner: Inner, backend: Namespaced) -> tuple[KeepGroup, KeptNode, Listener]:
    listener: Any = Listener()
    group = backend.keep_group(10)
    node = group.keep(Put('/a', 'x', prev_exist=False), listener, FOREVER)
    return group, node, listener


def raised(error: EtcException, cause: EtcException | None = None, key: str = '/a') -> EtcException:
    """Return the error that a call raises if the inner backend raises this one."""
    _, backend = namespaced(error=error, cause=cause)
    with pytest.raises(type(error)) as caught:
        backend.execute(Get(key), FOREVER)
    assert caught.value is error
    return error


# -- results and nodes


@pytest.mark.parametrize(
    ('result', 'relative'),
    [
        (Got(Value('/ns/sub/a', 1, 1, value='x')), Got(Value('/a', 1, 1, value='x'))),
        (
            Set(Value('/ns/sub/a', 2, 1, value='y'), Value('/ns/sub/a', 1, 1, value='x')),
            Set(Value('/a', 2, 1, value='y'), Value('/a', 1, 1, value='x')),
        ),
        (
            Got(Directory('/ns/sub', nodes=(Directory('/ns/sub/d', nodes=(Value('/ns/sub/d/a'),)),))),
            Got(Directory('/', nodes=(Directory('/d', nodes=(Value('/d/a'),)),))),
        ),
        (Deleted(Node('/ns/sub/a'), Value('/ns/sub/a')), Deleted(Node('/a'), Value('/a'))),
        (Deleted(Directory('/ns')), Deleted(Directory('/'))),  # a directory above the namespace
    ],
)
def test_every_node_of_a_result_is_relative(result: EtcdResult, relative: EtcdResult) -> None:
    inner, backend = namespaced(result=result)
    assert backend.execute(Get('/a'), FOREVER) == relative
    _, node, _ = kept(inner, backend)
    assert node.update('y', FOREVER) == relative
    listener: Any = Listener()
    backend.watch(WatchSpec('/a'), listener)
    inner.listener.on_changes([result])
    assert listener.received == [relative]
    assert set(inner.keys) == {'/ns/sub/a', ''}


def test_resolve_keeps_the_namespace_in_front_of_the_resolved_backend() -> None:
    _, backend = namespaced()
    inner: Any = Inner(result=Got(Value('/ns/sub/a')))
    detecting: Any = backend._backend
    detecting.detect_api = lambda deadline: inner
    assert backend.detect_api(FOREVER) is backend
    assert backend.execute(Get('/a'), FOREVER).key == '/a'
    assert inner.keys == ['/ns/sub/a']


# -- errors


@pytest.mark.parametrize('kind', [TimedOut, ConnectionError, NodeLost, Overtaken, errors.NotSupported, EtcException])
def test_key_of_an_error_is_relative_in_its_text_and_repr(kind: type[EtcException]) -> None:
    error = raised(kind('the lease of {key} ended while {key} was written', key='/ns/sub/a'))
    assert error.key == '/a'
    assert str(error) == 'the lease of /a ended while /a was written'
    assert repr(error) == f"{kind.__name__}('the lease of /a ended while /a was written')"


def test_key_is_stripped_once_when_it_repeats_the_namespace() -> None:
    assert str(raised(TimedOut('{key}: too late', key='/ns/sub/ns/sub/a'))) == '/ns/sub/a: too late'


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
def test_keys_in_the_text_of_a_server_are_relative(text: str, relative: str) -> None:
    """Keys are whole words; similar words stay."""
    assert raised(TimedOut(text)).args == (relative,)
    assert str(raised(EtcdError(text, '', 7))) == f'[0] {relative}'
    refused = raised(HTTPError(502, text))
    assert (str(refused), refused.args) == (f'HTTP 502: {relative}', (502, relative))


def test_earlier_attempts_of_an_error_are_relative() -> None:
    error = TimedOut('no response')
    error.earlier = ('http://a:1: [300] Raft Internal Error (/ns/sub/a)',)
    assert raised(error).earlier == ('http://a:1: [300] Raft Internal Error (/a)',)


def test_cause_of_a_refusal_is_relative() -> None:
    """The cause for the namespace itself, or a directory above it, is the root, or the key that does not exist."""
    assert raised(NodeExist('Key already exists', '/ns/sub/a', 7)).args == ('Key already exists', '/a', 7)
    assert raised(KeyNotFound('Key not found', '/ns', 7)).args == ('Key not found', '/a', 7)
    assert raised(NotDir('Not a directory', '/ns/sub', 7)).args == ('Not a directory', '/', 7)


def test_causes_of_an_error_are_relative() -> None:
    """A traceback shows them; an error that the caller was handling already is not changed."""
    try:
        raise TimedOut('{key} of another client', key='/ns/sub/theirs')
    except TimedOut:
        error = raised(ConnectionError('{key}: lost', key='/ns/sub/a'), TimedOut('{key}: too late', key='/ns/sub/a'))
    text = ''.join(traceback.format_exception(error))
    assert '\ngetc.errors.TimedOut: /a: too late\n' in text
    assert '\ngetc.errors.TimedOut: /ns/sub/theirs of another client\n' in text


# -- watches and kept nodes


def test_error_that_ends_a_watch_is_a_relative_copy() -> None:
    """Other listeners may receive the same error, so neither it nor its cause is changed."""
    inner, backend = namespaced()
    listener: Any = Listener()
    backend.watch(WatchSpec('/a'), listener)
    error = ConnectionError('the watch of {key} was lost', key='/ns/sub/a')
    error.__cause__ = TimedOut('{key}: too late', key='/ns/sub/a')
    for _ in range(2):
        inner.listener.on_ended(error)
    for name, copy in listener.received:
        assert (name, str(copy), str(copy.__cause__)) == ('on_ended', 'the watch of /a was lost', '/a: too late')
    assert (str(error), str(error.__cause__)) == ('the watch of /ns/sub/a was lost', '/ns/sub/a: too late')


def test_keep_listener_receives_relative_errors() -> None:
    inner, backend = namespaced()
    _, _, listener = kept(inner, backend)
    inner.listener.on_renewal_missed(TimedOut('could not renew {key}', key='/ns/sub/a'))
    inner.listener.on_lost(Overtaken('{key} was written by another client', key='/ns/sub/a'))
    assert [(name, str(error)) for name, error in listener.received] == [
        ('on_renewal_missed', 'could not renew /a'),
        ('on_lost', '/a was written by another client'),
    ]
    assert type(listener.received[1][1]) is Overtaken


def test_keep_listener_passes_everything_else_through() -> None:
    inner, backend = namespaced()
    _, node, listener = kept(inner, backend)
    write = AcquiringWrite('x', is_create=True)
    inner.listener.on_writing(write)
    inner.listener.on_renewed()
    assert inner.listener.check_liveness()
    assert (inner.listener.has_liveness_check, inner.listener.unanswered) == (True, {write})
    assert listener.received == [('on_writing', write), ('on_renewed',), ('check_liveness',)]
    assert (node.token, node.lost_at, node.guard) == (7, 1.0, Guard('/a', 3, 5))


def test_keep_group_and_kept_node_raise_relative_errors() -> None:
    inner, backend = namespaced()
    group, node, listener = kept(inner, backend)
    any_listener: Any = listener
    again = group.reclaim('/a', 'x', node, any_listener, FOREVER)
    assert again is not None and again.token == 7
    for call in (
        lambda: group.keep(Put('/a', 'x'), any_listener, FOREVER),
        lambda: group.reclaim('/a', 'x', node, any_listener, FOREVER),
        lambda: group.delete_unanswered('/a', any_listener, FOREVER),
        lambda: node.update('x', FOREVER),
        lambda: node.release(FOREVER),
        lambda: node.detach(FOREVER),
    ):
        inner.error = NodeLost('{key} is not kept any more', key='/ns/sub/a')
        with pytest.raises(NodeLost, match=r'^/a is not kept any more$'):
            call()
    assert set(inner.keys) == {'/ns/sub/a', ''}
