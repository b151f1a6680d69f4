"""The codec of the v2 keys API: requests as etcd parses them, and responses of every kind."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from getc import errors
from getc.backends.v2.codec import etcd_index_of, poll_of, request_of, result_of
from getc.backends.v2.messages import Request, Response
from getc.operations import Append, Delete, Get, Operation, Put, WatchSpec
from getc.results import (
    ComparedThenDeleted,
    ComparedThenSwapped,
    Created,
    Deleted,
    Directory,
    EtcdResult,
    Expired,
    Got,
    Node,
    Set,
    Updated,
    Value,
)

KEYS = ['/a', '/a b', '/?#%+;&=', '/ü/日本', '/%2F', '/_hidden', '/\'"<>', '/a/b/c', '/~-._', '/\n']


class Head(dict[str, str]):
    """Headers with case-insensitive names."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def get(self, name: str, failobj: str = '') -> str:  # type: ignore[override]
        return super().get(name.lower(), failobj)


def response_of(content: object, status: int = 200, **headers: str) -> Response:
    head = {'Content-Type': 'application/json', 'X-Etcd-Index': '7', 'X-Raft-Index': '9', 'X-Raft-Term': '2'}
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Response(status, Head(head | {name.replace('_', '-'): value for name, value in headers.items()}), body)


def fields_of(request: Request) -> dict[str, str]:
    """Return the options as the server parses them."""
    query = urlsplit(request.target).query if request.body is None else request.body.decode('ascii')
    return {
        name: value for name, (value,) in parse_qs(query, keep_blank_values=True, strict_parsing=bool(query)).items()
    }


def node(**content: object) -> dict[str, object]:
    return {'key': '/a', 'modifiedIndex': 7, 'createdIndex': 5} | content


def got(
    content: object, operation: Operation | WatchSpec | None = None, status: int = 200, **headers: str
) -> EtcdResult:
    return result_of(operation or Get('/a'), response_of(content, status, **headers))


# -- requests


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('operation', [Get, lambda key: Put(key, 'x'), lambda key: Append(key, 'x'), Delete])
def test_request_of_encodes_every_key(key: str, operation: object) -> None:
    """The path has no character with a meaning in URLs, and decodes to the key."""
    request = request_of(operation(key))  # type: ignore[operator]
    parts = urlsplit(request.target)
    assert (parts.query, parts.fragment) == ('', '')
    assert unquote(parts.path, errors='strict') == '/v2/keys' + key
    assert request.target.isascii() and not set(request.target) & set(' ;+?#')


def test_request_of_the_root_ends_with_a_slash() -> None:
    """Without it etcd redirects."""
    assert request_of(Get('/')).target == '/v2/keys/'


@pytest.mark.parametrize(
    ('operation', 'method', 'fields'),
    [
        (Get('/a'), 'GET', {}),
        (Get('/a', quorum=False), 'GET', {}),
        (
            Get('/a', recursive=True, sorted=True, quorum=True),
            'GET',
            {'recursive': 'true', 'sorted': 'true', 'quorum': 'true'},
        ),
        (Put('/a', 'x'), 'PUT', {'value': 'x'}),
        (Put('/a', ''), 'PUT', {'value': ''}),
        (Put('/a', 'a b+c&d=e;%\nü'), 'PUT', {'value': 'a b+c&d=e;%\nü'}),
        (Put('/a', 'x', ttl=0), 'PUT', {'value': 'x', 'ttl': '0'}),
        (Put('/a', dir=True, ttl=5), 'PUT', {'dir': 'true', 'ttl': '5'}),
        (Put('/a', 'x', prev_exist=True), 'PUT', {'value': 'x', 'prevExist': 'true'}),
        (Put('/a', 'x', prev_exist=False), 'PUT', {'value': 'x', 'prevExist': 'false'}),
        (Put('/a', 'x', prev_value='y', prev_index=3), 'PUT', {'value': 'x', 'prevValue': 'y', 'prevIndex': '3'}),
        (Put('/a', refresh=True, ttl=5), 'PUT', {'refresh': 'true', 'ttl': '5', 'prevExist': 'true'}),
        (
            Put('/a', refresh=True, ttl=5, prev_index=3),
            'PUT',
            {'refresh': 'true', 'ttl': '5', 'prevExist': 'true', 'prevIndex': '3'},
        ),
        (Append('/a', 'x', ttl=1), 'POST', {'value': 'x', 'ttl': '1'}),
        (Append('/a', dir=True), 'POST', {'dir': 'true'}),
        (Delete('/a'), 'DELETE', {}),
        (Delete('/a', dir=True), 'DELETE', {'dir': 'true'}),
        (Delete('/a', recursive=True), 'DELETE', {'recursive': 'true'}),
        (Delete('/a', prev_value='a b+ü;', prev_index=3), 'DELETE', {'prevValue': 'a b+ü;', 'prevIndex': '3'}),
    ],
)
def test_request_of_sends_the_options_of_the_operation(operation: Operation, method: str, fields: object) -> None:
    """Only options that were given; in a form for PUT and POST, else in the query."""
    request = request_of(operation)
    assert (request.method, fields_of(request)) == (method, fields)
    assert (request.body is not None) is (method in ('PUT', 'POST'))
    assert request.is_write is operation.is_write


@pytest.mark.parametrize(
    ('spec', 'index', 'fields'),
    [
        (WatchSpec('/a'), None, {'wait': 'true'}),
        (WatchSpec('/a', 5), 9, {'wait': 'true', 'waitIndex': '9'}),
        (WatchSpec('/a', recursive=True), 9, {'wait': 'true', 'waitIndex': '9', 'recursive': 'true'}),
    ],
)
def test_poll_of_sends_the_given_index(spec: WatchSpec, index: int | None, fields: object) -> None:
    """Not the index at which the watch started."""
    request = poll_of(spec, index)
    assert (request.method, fields_of(request), request.is_write) == ('GET', fields, False)


@pytest.mark.parametrize(
    'operation', [Get('/\udc80'), Put('/a', '\udc80'), Put('/a', 'x', prev_value='\udc80'), Append('/a', '\udcff')]
)
def test_request_of_refuses_bytes_that_are_not_utf8(operation: Operation) -> None:
    """The v2 store would change them; the error names v3."""
    with pytest.raises(errors.NotSupported, match='v3'):
        request_of(operation)


def test_poll_of_refuses_a_key_that_is_not_utf8() -> None:
    with pytest.raises(errors.NotSupported):
        poll_of(WatchSpec('/\udc80'), None)


def test_request_of_refuses_a_ttl_that_overflows_in_etcd() -> None:
    """After the year 2262 the clock of etcd v2 overflows, and the node would never expire."""
    request_of(Put('/a', 'x', ttl=7_000_000_000))
    with pytest.raises(errors.NotSupported, match='TTL'):
        request_of(Put('/a', 'x', ttl=7_000_000_001))


# -- results


@pytest.mark.parametrize(
    ('action', 'result_class'),
    [
        ('get', Got),
        ('set', Set),
        ('create', Created),
        ('update', Updated),
        ('compareAndSwap', ComparedThenSwapped),
        ('delete', Deleted),
        ('expire', Expired),
        ('compareAndDelete', ComparedThenDeleted),
    ],
)
def test_result_of_chooses_the_class_by_the_action(action: str, result_class: type[EtcdResult]) -> None:
    """The indices are those of the headers; a deleted value is a plain Node."""
    result = got({'action': action, 'node': node(value='x'), 'prevNode': node(value='y', modifiedIndex=5)})
    assert type(result) is result_class
    assert (result.etcd_index, result.raft_index, result.raft_term) == (7, 9, 2)
    assert result.prev_node == Value('/a', 5, 5, value='y')
    expected = Node('/a', 7, 5) if issubclass(result_class, Deleted) else Value('/a', 7, 5, value='x')
    assert result.node == expected and type(result.node) is type(expected)


@pytest.mark.parametrize(
    ('action', 'has_prev', 'is_new'),
    [
        ('set', False, True),
        ('set', True, False),
        ('create', False, True),
        ('update', True, False),
        ('get', False, False),
    ],
)
def test_result_of_sets_is_new(action: str, has_prev: bool, is_new: bool) -> None:
    """For a set or a create of a node that did not exist."""
    content: dict[str, object] = {'action': action, 'node': node(value='x')}
    if has_prev:
        content['prevNode'] = node(value='y')
    assert got(content).is_new is is_new


def test_result_of_reads_a_tree() -> None:
    """Nested and empty directories, and values, in the order of the response."""
    tree = node(
        dir=True, nodes=[node(key='/a/y', value='1'), node(key='/a/x', dir=True, nodes=[]), node(key='/a/z', dir=True)]
    )
    directory = got({'action': 'get', 'node': tree}).node
    assert directory == Directory(
        '/a', 7, 5, nodes=(Value('/a/y', 7, 5, value='1'), Directory('/a/x', 7, 5), Directory('/a/z', 7, 5))
    )


def test_result_of_a_deleted_directory_is_a_directory() -> None:
    """Only a deleted value is a plain Node."""
    assert got({'action': 'delete', 'node': node(dir=True)}).node == Directory('/a', 7, 5)


def test_result_of_reads_a_root_without_key_and_indices() -> None:
    """etcd omits them."""
    assert got({'action': 'get', 'node': {'dir': True}}).node == Directory('/')


@pytest.mark.parametrize(
    ('text', 'time'),
    [
        ('2026-11-24T11:00:54.741940719Z', datetime(2026, 11, 24, 11, 0, 54, 741940, timezone.utc)),
        ('2026-11-24T11:00:54.7Z', datetime(2026, 11, 24, 11, 0, 54, 700000, timezone.utc)),
        ('2026-11-24T11:00:54Z', datetime(2026, 11, 24, 11, 0, 54, 0, timezone.utc)),
        ('2026-11-24T13:00:54+02:00', datetime(2026, 11, 24, 11, 0, 54, 0, timezone.utc)),
    ],
)
def test_result_of_reads_expirations_as_utc(text: str, time: datetime) -> None:
    """Nanoseconds are dropped; the time has a time zone."""
    result = got({'action': 'get', 'node': node(value='x', ttl=3, expiration=text)})
    assert (result.ttl, result.expiration) == (3, time)
    assert result.expiration is not None and result.expiration.tzinfo is timezone.utc


def test_etcd_index_of_is_none_when_the_header_is_missing_or_not_a_number() -> None:
    """A proxy may remove or change it."""
    assert etcd_index_of(Head({'x-etcd-index': '12'})) == 12
    for junk in ('', '-1', 'x', '1' * 5000, '１'):
        assert etcd_index_of(Head({'X-Etcd-Index': junk})) is None
    assert etcd_index_of(Head({})) is None


@pytest.mark.parametrize('ttl', [{}, {'ttl': -3}, {'ttl': 0}])
def test_result_of_an_expired_node_that_still_exists_has_a_ttl_of_0(ttl: dict[str, int]) -> None:
    """etcd omits a TTL of 0, so that only the expiration distinguishes it from a node without a TTL."""
    result = got({'action': 'get', 'node': node(value='x', expiration='2014-12-12T11:00:54Z', **ttl)})
    assert result.ttl == 0


# -- errors


@pytest.mark.parametrize(
    ('code', 'error_class'),
    [
        (100, errors.KeyNotFound),
        (102, errors.NotFile),
        (104, errors.NotDir),
        (105, errors.NodeExist),
        (107, errors.RootROnly),
        (108, errors.DirNotEmpty),
        (110, errors.Unauthorized),
        (202, errors.TTLNaN),
        (203, errors.IndexNaN),
        (209, errors.InvalidField),
        (211, errors.RefreshValue),
        (212, errors.RefreshTTLRequired),
        (300, errors.RaftInternal),
        (301, errors.LeaderElect),
        (400, errors.WatcherCleared),
        (401, errors.EventIndexCleared),
        (999, errors.EtcdError),
    ],
)
def test_result_of_raises_the_error_of_the_code(code: int, error_class: type[errors.EtcdError]) -> None:
    """With message, cause, code and index; an unknown code is kept."""
    with pytest.raises(errors.EtcdError) as caught:
        got({'errorCode': code, 'message': 'No', 'cause': '/a', 'index': 6}, status=400)
    error = caught.value
    assert type(error) is error_class
    assert (error.errno, error.message, error.cause, error.index) == (code, 'No', '/a', 6)


def test_result_of_raises_errors_without_cause_or_index() -> None:
    """The index is that of the headers."""
    with pytest.raises(errors.RaftInternal) as caught:
        got({'errorCode': 300, 'message': 'Raft Internal Error', 'index': 0}, status=500)
    assert (caught.value.cause, caught.value.index) == ('', 7)


def test_index_of_a_refusal_is_none_when_etcd_sends_0() -> None:
    """As it does when it refuses a request before it reads the store."""
    content = {'errorCode': 110, 'message': 'The request requires user authentication', 'index': 0}
    response = Response(
        401, Head({'Content-Type': 'application/json', 'X-Etcd-Index': '0'}), json.dumps(content).encode()
    )
    with pytest.raises(errors.Unauthorized) as caught:
        result_of(Put('/a', 'x'), response)
    assert caught.value.index is None


@pytest.mark.parametrize(
    ('operation', 'cause', 'expected'),
    [
        (Put('/a', 'x', prev_value='secret'), '[secret != secret2]', 'prev_value differs'),
        (Put('/a', 'x', prev_value='secret'), '[5 != 7]', 'prev_value differs'),
        (Put('/a', 'x', prev_index=5), '[5 != 7]', 'prev_index differs: 5 != 7'),
        (Delete('/a', prev_index=5), 'secret', 'prev_index differs'),
        (
            Delete('/a', prev_value='secret', prev_index=5),
            '[secret != secret2] [5 != 7]',
            'prev_value differs, prev_index differs: 5 != 7',
        ),
        (Put('/a', 'x', prev_value='secret', prev_index=5), '[secret != secret2]', 'prev_value differs'),
        (Put('/a', 'x', prev_value='secret', prev_index=5), '[5 != 7]', 'prev_index differs: 5 != 7'),
        (Put('/a', 'x', prev_value='7', prev_index=5), '[7 != 9]', 'prev_value differs'),
        (Put('/a', 'x', prev_value='5', prev_index=5), '[5 != 7]', 'prev_value or prev_index differs'),
        (
            Put('/a', 'x', prev_value='5', prev_index=5),
            '[5 != 7] [5 != 9]',
            'prev_value differs, prev_index differs: 5 != 9',
        ),
        (Put('/a', 'x', prev_value='secret', prev_index=5), 'secret', 'prev_value or prev_index differs'),
    ],
)
def test_result_of_a_failed_comparison_names_the_condition_without_values(
    operation: Operation, cause: str, expected: str
) -> None:
    """The cause that etcd sends has both values: an error must not bring them into logs."""
    with pytest.raises(errors.TestFailed) as caught:
        got({'errorCode': 101, 'message': 'Compare failed', 'cause': cause, 'index': 7}, operation, status=412)
    assert caught.value.cause == expected
    assert 'secret' not in repr(caught.value) + str(caught.value)


def test_result_of_omits_the_cause_of_an_invalid_form() -> None:
    """Go quotes the part of the form that it could not parse, which may be a value."""
    with pytest.raises(errors.InvalidForm) as caught:
        got({'errorCode': 210, 'message': 'Invalid POST form', 'cause': 'invalid URL escape "secret"'}, status=400)
    assert 'secret' not in str(caught.value)


@pytest.mark.parametrize('status', [401, 403])
def test_result_of_raises_unauthorized_when_there_is_no_code(status: int) -> None:
    """The auth handlers respond with a message only."""
    with pytest.raises(errors.Unauthorized, match='Insufficient credentials'):
        got({'message': 'Insufficient credentials'}, status=status)


def test_result_of_names_the_flag_when_v2_is_disabled() -> None:
    """etcd from 3.4 on responds with a plain 404."""
    with pytest.raises(errors.NotSupported, match='--enable-v2'):
        got(b'404 page not found\n', status=404, Content_Type='text/plain; charset=utf-8')


@pytest.mark.parametrize(
    ('status', 'maybe_applied'),
    [(200, True), (301, False), (307, False), (403, False), (408, True), (499, True), (502, True), (503, True)],
)
def test_result_of_raises_http_error_for_a_response_that_is_not_etcds(status: int, maybe_applied: bool) -> None:
    """The page of a proxy, a redirect, a login form; the error does not quote the page."""
    page = b'<html>secret</html>'
    with pytest.raises(errors.HTTPError) as caught:
        got(page, Put('/a', 'x'), status=status, Content_Type='text/html; charset=utf-8')
    assert (caught.value.status_code, caught.value.maybe_applied) == (status, maybe_applied)
    assert 'secret' not in str(caught.value)
    with pytest.raises(errors.HTTPError) as caught:
        got(page, Get('/a'), status=status, Content_Type='text/html')
    assert caught.value.maybe_applied is False


@pytest.mark.parametrize(
    ('status', 'message'),
    [(302, 'a redirect, which is not followed'), (404, r'not a response of etcd \(text/html\)')],
)
def test_http_error_says_what_the_response_is(status: int, message: str) -> None:
    with pytest.raises(errors.HTTPError, match=f'HTTP {status}: {message}'):
        got(b'<html></html>', status=status, Content_Type='text/html; charset=utf-8')


def test_result_of_raises_http_error_for_json_of_another_api() -> None:
    """An 'Internal Server Error' of another handler of etcd, or of a gateway."""
    with pytest.raises(errors.HTTPError, match='HTTP 500: Internal Server Error'):
        got({'message': 'Internal Server Error'}, status=500)
    with pytest.raises(errors.HTTPError):
        got({'status': 'fine'})


@pytest.mark.parametrize(
    'body',
    [
        b'',
        b'{',
        b'[]',
        b'null',
        b'"x"',
        b'\xff\xfe{}',
        b'{"action": "\xff"}',
        b'[' * 200_000,
        b'{"a":' * 200_000,
        b'{"action": "get", "node": {"modifiedIndex": ' + b'9' * 5000 + b'}}',
        b'{"action": "get", "node": {"modifiedIndex": 99999999999999999999}}',
        b'{"action": "get", "node": {"modifiedIndex": -1}}',
        b'{"action": "get", "node": {"modifiedIndex": true}}',
        b'{"action": "get", "node": {"createdIndex": "5"}}',
        b'{"action": "get", "node": {"key": 5}}',
        b'{"action": "get", "node": {"key": "relative"}}',
        b'{"action": "get", "node": {"key": "/a", "value": 5}}',
        b'{"action": "get", "node": {"key": "/a", "value": "\\ud800"}}',
        b'{"action": "get", "node": {"key": "/a", "ttl": "5"}}',
        b'{"action": "get", "node": {"key": "/a", "expiration": "tomorrow"}}',
        b'{"action": "get", "node": {"key": "/a", "expiration": "2026-99-24T11:00:54Z"}}',
        b'{"action": "get", "node": {"key": "/a", "expiration": "0001-01-01T00:00:00+23:00"}}',
        b'{"action": "get", "node": {"dir": true, "nodes": {}}}',
        b'{"action": "get", "node": {"dir": true, "nodes": [5]}}',
        b'{"action": "get", "node": null}',
        b'{"action": "get"}',
        b'{"action": "fly", "node": {"key": "/a"}}',
        b'{"action": 5, "node": {"key": "/a"}}',
        b'{"action": "set", "node": {"key": "/a"}, "prevNode": 5}',
    ],
)
def test_result_of_raises_protocol_error_for_a_malformed_response(body: bytes) -> None:
    """A write may have been applied."""
    with pytest.raises(errors.ProtocolError) as caught:
        got(body, Put('/a', 'x'))
    assert caught.value.maybe_applied is True
    with pytest.raises(errors.ProtocolError) as caught:
        got(body, Get('/a'))
    assert caught.value.maybe_applied is False


def test_result_of_raises_protocol_error_for_directories_nested_too_deep() -> None:
    """Not a RecursionError."""
    body = b'{"action":"get","node":' + b'{"dir":true,"nodes":[' * 5000 + b']}' * 5000 + b'}'
    with pytest.raises(errors.ProtocolError, match='deep'):
        got(body)
