"""The codec of the v2 keys API, without I/O: operation to HTTP request, and HTTP response to result or error.

Sources: etcd 3.5, ``server/etcdserver/api/v2http/client.go`` (requests and responses), ``v2store/`` (events),
``v2error/`` (errors).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import quote, quote_plus, urlencode

from getc.backends.v2.messages import Headers, Request, Response
from getc.error_context import copy_error, error_from_code
from getc.errors import (
    EtcdError,
    HTTPError,
    InvalidForm,
    LeaderElect,
    NotFile,
    NotSupported,
    ProtocolError,
    RaftInternal,
    TestFailed,
    Unauthorized,
)
from getc.operations import V2_TEXT_ONLY, Append, Delete, Get, Operation, Put, WatchSpec, check_v2_ttl
from getc.redact import redact
from getc.results import ACTIONS, Created, Deleted, Directory, EtcdResult, Node, Set, Value
from getc.retry import proxy_may_have_forwarded

__all__ = ['etcd_index_of', 'poll_of', 'raft_index_of', 'request_of', 'result_of']

PREFIX: Final = '/v2/keys'
MAX_INDEX: Final = 2**64 - 1
_EXPIRATION = re.compile(r'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?(Z|[+-]\d\d:\d\d)', re.ASCII)
_MEDIA_TYPE = re.compile(r'(application|image|multipart|text)/[a-z0-9.+-]{1,40}', re.ASCII)
_INDEX_CAUSE = re.compile(r'\[(\d{1,20}) != (\d{1,20})\]\Z', re.ASCII)


# -- requests


def request_of(operation: Operation) -> Request:
    """Return the request that performs the operation.

    Raises:
        NotSupported: The key or a value is not UTF-8 text, or the TTL is too long for the v2 store.
    """
    try:
        if isinstance(operation, Get):
            return _get(operation)
        if isinstance(operation, Put):
            return _put(operation)
        if isinstance(operation, Append):
            form = _content_fields(operation)
            return Request('POST', _path_of(operation.key), _encoded(form).encode('ascii'), is_write=True)
        return _delete(operation)
    except UnicodeEncodeError:
        raise NotSupported(V2_TEXT_ONLY) from None


def poll_of(spec: WatchSpec, index: int | None) -> Request:
    """Return the request of a long poll for the first change at or after the index; None is from now on.

    Raises:
        NotSupported: The key is not UTF-8 text.
    """
    fields = {'wait': 'true'}
    if spec.recursive:
        fields['recursive'] = 'true'
    if index is not None:
        fields['waitIndex'] = str(index)
    try:
        return Request('GET', _with_query(spec.key, fields))
    except UnicodeEncodeError:
        raise NotSupported(V2_TEXT_ONLY) from None


def _path_of(key: str) -> str:
    # A normal key has no slash inside a segment, so quoting all other characters quotes each segment.
    return PREFIX + quote(key, safe='/')


def _encoded(fields: Mapping[str, str]) -> str:
    return urlencode(fields, encoding='utf-8', errors='strict')


def _with_query(key: str, fields: Mapping[str, str]) -> str:
    return f'{_path_of(key)}?{_encoded(fields)}' if fields else _path_of(key)


def _get(get: Get) -> Request:
    fields = {}
    if get.recursive:
        fields['recursive'] = 'true'
    if get.sorted:
        fields['sorted'] = 'true'
    if get.quorum:
        fields['quorum'] = 'true'
    return Request('GET', _with_query(get.key, fields))


def _content_fields(operation: Put | Append) -> dict[str, str]:
    fields = {}
    if operation.value is not None:
        fields['value'] = operation.value
    if operation.dir:
        fields['dir'] = 'true'
    if operation.ttl is not None:
        check_v2_ttl(operation.ttl)
        fields['ttl'] = str(operation.ttl)
    return fields


def _condition_fields(operation: Put | Delete) -> dict[str, str]:
    fields = {}
    if operation.prev_value is not None:
        fields['prevValue'] = operation.prev_value
    if operation.prev_index is not None:
        fields['prevIndex'] = str(operation.prev_index)
    return fields


def _put(put: Put) -> Request:
    form = _content_fields(put) | _condition_fields(put)
    if put.refresh:
        form['refresh'] = 'true'
    if put.refresh or put.prev_exist:  # a refresh without prevExist creates a new node, with a new createdIndex
        form['prevExist'] = 'true'
    elif put.prev_exist is False:
        form['prevExist'] = 'false'
    return Request('PUT', _path_of(put.key), _encoded(form).encode('ascii'), is_write=True)


def _delete(delete: Delete) -> Request:
    fields = _condition_fields(delete)
    if delete.dir:
        fields['dir'] = 'true'
    if delete.recursive:
        fields['recursive'] = 'true'
    return Request('DELETE', _with_query(delete.key, fields), is_write=True)  # etcd ignores the form of a DELETE


# -- responses


def etcd_index_of(headers: Headers) -> int | None:
    """Return the server's index at the time of the response; None without the header, as in the response of a proxy."""
    return _number_in(headers, 'X-Etcd-Index')


def raft_index_of(headers: Headers) -> int:
    """Return the index of the Raft log; 0 without the header."""
    return _number_in(headers, 'X-Raft-Index') or 0


def result_of(operation: Operation | WatchSpec, response: Response) -> EtcdResult:
    """Return the result in a response.

    Raises:
        EtcdError: The server refused the operation.
        HTTPError: The response is not etcd's.
        NotSupported: The server does not serve the v2 API.
        ProtocolError: The body violates JSON or a limit, or does not have the shape of a v2 response.
    """
    content = _content_of(operation, response)
    if 'action' in content and response.status < 300:
        try:
            return _result(content, response.headers)
        except (_Malformed, RecursionError) as error:
            raise _protocol_error(
                operation, str(error) if isinstance(error, _Malformed) else 'its nodes are nested too deep'
            ) from None
    raise _error(operation, content, response)


def _content_of(operation: Operation | WatchSpec, response: Response) -> dict[str, Any]:
    """Return the JSON object in the body."""
    kind = response.headers.get('Content-Type', '')
    if 'json' not in kind.lower():
        if response.status == 404 and kind.lower().startswith('text/plain'):
            raise NotSupported(
                'this server does not serve the v2 keys API: start etcd (up to 3.5) with --enable-v2, or use api="v3"'
            )
        raise _not_from_etcd(operation, response.status, kind)
    try:
        content = json.loads(response.body)
    except RecursionError:
        raise _protocol_error(operation, 'its JSON is nested too deep') from None
    except ValueError:  # bad JSON, bad UTF-8, or a number of too many digits
        raise _protocol_error(operation, f'its body of {len(response.body)} bytes is not JSON') from None
    if not isinstance(content, dict):
        raise _protocol_error(operation, 'its body is not a JSON object')
    return content


def _not_from_etcd(operation: Operation | WatchSpec, status: int, kind: str) -> HTTPError:
    if 300 <= status < 400:
        what = 'a redirect, which is not followed'
    else:
        match = _MEDIA_TYPE.match(kind)
        what = f'not a response of etcd ({match[0] if match else "no content type"})'
    return HTTPError(status, what, maybe_applied=_maybe_applied(operation, status))


def _maybe_applied(operation: Operation | WatchSpec, status: int) -> bool:
    return operation.is_write and proxy_may_have_forwarded(status)


def _protocol_error(operation: Operation | WatchSpec, what: str) -> ProtocolError:
    return ProtocolError(f'the response violates the v2 keys API: {what}', maybe_applied=operation.is_write)


class _Malformed(Exception):
    """A part of the response does not have the expected type or value; the text names the part."""


def _text(content: Mapping[str, Any], name: str, default: str | None = None) -> str:
    text = content.get(name, default)
    if not isinstance(text, str):
        raise _Malformed(f'{name!r} is not a string')
    if not text.isascii():
        try:
            text.encode('utf-8')
        except UnicodeEncodeError:
            raise _Malformed(f'{name!r} is not valid Unicode') from None
    return text


def _index(content: Mapping[str, Any], name: str) -> int:
    number = content.get(name, 0)
    if type(number) is not int or not 0 <= number <= MAX_INDEX:
        raise _Malformed(f'{name!r} is not an index')
    return number


def _number_in(headers: Headers, name: str) -> int | None:
    digits = headers.get(name, '')
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else None


def _result(content: dict[str, Any], headers: Headers) -> EtcdResult:
    action = _text(content, 'action')
    result_class = ACTIONS.get(action)
    if result_class is None:
        raise _Malformed('an unknown action')
    prev = content.get('prevNode')
    node = _node(content.get('node'), is_deleted=issubclass(result_class, Deleted))
    prev_node = None if prev is None else _node(prev)
    return result_class(
        node=node,
        prev_node=prev_node,
        etcd_index=_number_in(headers, 'X-Etcd-Index') or 0,
        raft_index=_number_in(headers, 'X-Raft-Index') or 0,
        raft_term=_number_in(headers, 'X-Raft-Term') or 0,
        is_new=result_class is Created or (result_class is Set and prev_node is None),
    )


def _node(content: Any, is_deleted: bool = False) -> Node:
    if not isinstance(content, dict):
        raise _Malformed('a node is not an object')
    key = _text(content, 'key', '/')  # missing for the root
    if not key.startswith('/'):
        raise _Malformed('a key is not a path')
    modified_index = _index(content, 'modifiedIndex')
    created_index = _index(content, 'createdIndex')
    ttl = content.get('ttl')
    if ttl is not None and type(ttl) is not int:
        raise _Malformed("'ttl' is not an integer")
    expiration = None
    if 'expiration' in content:
        expiration = _expiration(content['expiration'])
        ttl = max(ttl or 0, 0)  # etcd omits a TTL of 0, that of an expired node that is not yet deleted
    if content.get('dir') is True:
        children = content.get('nodes', [])
        if not isinstance(children, list):
            raise _Malformed("'nodes' is not a list")
        nodes = tuple([_node(child) for child in children])
        return Directory(key, modified_index, created_index, ttl, expiration, nodes)
    if is_deleted:
        return Node(key, modified_index, created_index, ttl, expiration)
    return Value(key, modified_index, created_index, ttl, expiration, _text(content, 'value', ''))


def _expiration(text: Any) -> datetime:
    """Return the time in UTC.  Go writes up to nine decimals of a second; those after the sixth are dropped."""
    match = _EXPIRATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _Malformed("'expiration' is not a time")
    seconds, decimals, zone = match.groups()
    try:
        time = datetime.fromisoformat(f'{seconds}.{(decimals or "").ljust(6, "0")}{"+00:00" if zone == "Z" else zone}')
        return time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise _Malformed("'expiration' is not a time") from None


# -- errors


def _error(operation: Operation | WatchSpec, content: dict[str, Any], response: Response) -> EtcdError | HTTPError:
    """Return the error that the response describes."""
    code, message, cause = (content.get(name) for name in ('errorCode', 'message', 'cause'))
    secrets = [*response.secrets, *_secrets_of(operation)]
    message = redact(message, secrets) if isinstance(message, str) else ''
    cause = cause if isinstance(cause, str) else ''
    is_key = f'{operation.key}/'.startswith(f'{cause}/')  # the key is not secret, even if a value has the same text
    shown_cause = cause if is_key else redact(cause, secrets)
    index = content.get('index')
    if type(index) is not int or index <= 0:
        index = (
            etcd_index_of(response.headers) or None
        )  # etcd sends 0 if it refuses a request before it reads the store
    if type(code) is int:
        error = error_from_code(code, message, shown_cause, index)
        if isinstance(error, (TestFailed, InvalidForm)):  # the causes of these quote values
            shown_cause = _compare_cause(operation, cause) if isinstance(error, TestFailed) else ''
            error = error_from_code(code, message, shown_cause, index)
        if isinstance(error, RaftInternal) and ': Not a file' in cause:
            # etcd v2 refuses to refresh or update a directory with this code instead of 102.
            return NotFile('Not a file', operation.key, index)
        if isinstance(error, (LeaderElect, RaftInternal)):
            return copy_error(error, maybe_applied=operation.is_write)
        return error
    if response.status in (401, 403):  # these responses have no error code
        return Unauthorized(message or 'Unauthorized', '', index)
    if message and response.status >= 400:
        return HTTPError(response.status, message, maybe_applied=_maybe_applied(operation, response.status))
    return _not_from_etcd(operation, response.status, response.headers.get('Content-Type', ''))


def _secrets_of(operation: Operation | WatchSpec) -> list[str]:
    values = [getattr(operation, name, None) for name in ('value', 'prev_value')]
    return [text for value in values if value for text in (value, quote_plus(value, errors='replace'))]


def _compare_cause(operation: Operation | WatchSpec, cause: str) -> str:
    """Return the names of the conditions that failed.

    etcd sends ``[given != actual]`` for each, the value's first.  An error must not contain a value.
    """
    prev_value, prev_index = getattr(operation, 'prev_value', None), getattr(operation, 'prev_index', None)
    if prev_index is None:
        return 'prev_value differs'
    match = _INDEX_CAUSE.search(cause)
    shown_cause = f'prev_index differs: {match[1]} != {match[2]}' if match else 'prev_index differs'
    if prev_value is None:
        return shown_cause
    index_differs = match is not None and match[1] == str(prev_index)
    value_differs = cause.startswith(f'[{prev_value} != ')
    is_one = match is not None and match.start() == 0
    if (index_differs and value_differs and is_one) or not (index_differs or value_differs):
        return 'prev_value or prev_index differs'  # both have the same digits: the cause does not show which differs
    return ', '.join(['prev_value differs'] * value_differs + [shown_cause] * index_differs)
