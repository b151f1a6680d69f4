"""The v2 keys API without I/O: an operation becomes an HTTP request, an answer a result or an error.

Sources: etcd 3.5, ``server/etcdserver/api/v2http/client.go`` (requests and answers), ``v2store/``
(events), ``v2error/`` (errors).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import quote, quote_plus, urlencode

from getc.backends.v2.http_messages import Answer, Headers, Request
from getc.error_codes import error_from_code
from getc.error_context import copy_error
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
    """The request that does the operation.

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
    """The long poll that is answered by the first change at or after the index; None is from now on.

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
    # Every normal key is cut by '/' alone, so quoting all else quotes each segment; the root keeps its slash.
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
    if put.refresh or put.prev_exist:  # a refresh without it makes another node: the createdIndex changes
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
    return Request('DELETE', _with_query(delete.key, fields), is_write=True)  # a form is not read on DELETE


# -- answers


def etcd_index_of(headers: Headers) -> int | None:
    """The server's index when it answered; None where the answer does not say, as a proxy's."""
    return _number_in(headers, 'X-Etcd-Index')


def raft_index_of(headers: Headers) -> int:
    """The index in the cluster's log; 0 where the answer does not say."""
    return _number_in(headers, 'X-Raft-Index') or 0


def result_of(operation: Operation | WatchSpec, answer: Answer) -> EtcdResult:
    """The result that the answer holds.

    Raises:
        EtcdError: The server said no.
        HTTPError: It is not an answer of etcd.
        NotSupported: The server does not serve the v2 API.
        ProtocolError: The body breaks JSON or a bound, or is not what etcd says.
    """
    content = _content_of(operation, answer)
    if 'action' in content and answer.status < 300:
        try:
            return _result(content, answer.headers)
        except (_Malformed, RecursionError) as error:
            raise _broken(operation, str(error) if isinstance(error, _Malformed) else 'nested too deep') from None
    raise _error(operation, content, answer)


def _content_of(operation: Operation | WatchSpec, answer: Answer) -> dict[str, Any]:
    """The JSON object in the body."""
    kind = answer.headers.get('Content-Type', '')
    if 'json' not in kind.lower():
        if answer.status == 404 and kind.lower().startswith('text/plain'):
            raise NotSupported(
                'this server does not serve the v2 keys API: start etcd (up to 3.5) with --enable-v2, or use api="v3"'
            )
        raise _foreign(operation, answer.status, kind)
    try:
        content = json.loads(answer.body)
    except RecursionError:
        raise _broken(operation, 'JSON nested too deep') from None
    except ValueError:  # bad JSON, bad UTF-8, or a number of too many digits
        raise _broken(operation, f'no JSON in an answer of {len(answer.body)} bytes') from None
    if not isinstance(content, dict):
        raise _broken(operation, 'JSON, but no object')
    return content


def _foreign(operation: Operation | WatchSpec, status: int, kind: str) -> HTTPError:
    if 300 <= status < 400:
        what = 'a redirect, which is not followed'
    else:
        match = _MEDIA_TYPE.match(kind)
        what = f'not an answer of etcd ({match[0] if match else "no content type"})'
    return HTTPError(status, what, maybe_applied=_may_be_done(operation, status))


def _may_be_done(operation: Operation | WatchSpec, status: int) -> bool:
    return operation.is_write and proxy_may_have_forwarded(status)


def _broken(operation: Operation | WatchSpec, what: str) -> ProtocolError:
    return ProtocolError(f'an answer that breaks the v2 keys API: {what}', maybe_applied=operation.is_write)


class _Malformed(Exception):
    """A part of an answer is not what etcd says; the text names the part."""


def _text(content: Mapping[str, Any], name: str, default: str | None = None) -> str:
    text = content.get(name, default)
    if not isinstance(text, str):
        raise _Malformed(f'{name!r} is no text')
    if not text.isascii():
        try:
            text.encode('utf-8')
        except UnicodeEncodeError:
            raise _Malformed(f'{name!r} is no Unicode text') from None
    return text


def _whole(content: Mapping[str, Any], name: str) -> int:
    number = content.get(name, 0)
    if type(number) is not int or not 0 <= number <= MAX_INDEX:
        raise _Malformed(f'{name!r} is no index')
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
    node = _node(content.get('node'), is_gone=issubclass(result_class, Deleted))
    prev_node = None if prev is None else _node(prev)
    return result_class(
        node=node,
        prev_node=prev_node,
        etcd_index=_number_in(headers, 'X-Etcd-Index') or 0,
        raft_index=_number_in(headers, 'X-Raft-Index') or 0,
        raft_term=_number_in(headers, 'X-Raft-Term') or 0,
        is_new=result_class is Created or (result_class is Set and prev_node is None),
    )


def _node(content: Any, is_gone: bool = False) -> Node:
    if not isinstance(content, dict):
        raise _Malformed('a node is no object')
    key = _text(content, 'key', '/')  # the root may lack it
    if not key.startswith('/'):
        raise _Malformed('a key is no path')
    modified_index = _whole(content, 'modifiedIndex')
    created_index = _whole(content, 'createdIndex')
    ttl = content.get('ttl')
    if ttl is not None and type(ttl) is not int:
        raise _Malformed("'ttl' is no number")
    expiration = None
    if 'expiration' in content:
        expiration = _expiration(content['expiration'])
        ttl = max(ttl or 0, 0)  # etcd leaves a TTL of 0 out: of a node that has expired and is not removed yet
    if content.get('dir') is True:
        children = content.get('nodes', [])
        if not isinstance(children, list):
            raise _Malformed("'nodes' is no list")
        nodes = tuple([_node(child) for child in children])
        return Directory(key, modified_index, created_index, ttl, expiration, nodes)
    if is_gone:
        return Node(key, modified_index, created_index, ttl, expiration)
    return Value(key, modified_index, created_index, ttl, expiration, _text(content, 'value', ''))


def _expiration(text: Any) -> datetime:
    """The time in UTC; Go writes up to nine decimals of a second, and those after the sixth are cut off."""
    match = _EXPIRATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _Malformed("'expiration' is no time")
    seconds, decimals, zone = match.groups()
    try:
        time = datetime.fromisoformat(f'{seconds}.{(decimals or "").ljust(6, "0")}{"+00:00" if zone == "Z" else zone}')
        return time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise _Malformed("'expiration' is no time") from None


# -- errors


def _error(operation: Operation | WatchSpec, content: dict[str, Any], answer: Answer) -> EtcdError | HTTPError:
    """The error that the server states."""
    code, message, cause = (content.get(name) for name in ('errorCode', 'message', 'cause'))
    secrets = [*answer.secrets, *_secrets_of(operation)]
    message = redact(message, secrets) if isinstance(message, str) else ''
    cause = cause if isinstance(cause, str) else ''
    is_key = f'{operation.key}/'.startswith(f'{cause}/')  # which is no secret, even if a value is the same
    told = cause if is_key else redact(cause, secrets)
    index = content.get('index')
    if type(index) is not int or index <= 0:
        index = etcd_index_of(answer.headers) or None  # 0 is told by who refuses before it looks
    if type(code) is int:
        error = error_from_code(code, message, told, index)
        if isinstance(error, (TestFailed, InvalidForm)):  # their causes quote values
            told = _compare_cause(operation, cause) if isinstance(error, TestFailed) else ''
            error = error_from_code(code, message, told, index)
        if isinstance(error, RaftInternal) and ': Not a file' in cause:
            # What etcd v2 says of a directory that is to be refreshed or updated: a refusal, under the wrong code.
            return NotFile('Not a file', operation.key, index)
        if isinstance(error, (LeaderElect, RaftInternal)):
            return copy_error(error, maybe_applied=operation.is_write)
        return error
    if answer.status in (401, 403):  # auth and members answer without a code
        return Unauthorized(message or 'Unauthorized', '', index)
    if message and answer.status >= 400:
        return HTTPError(answer.status, message, maybe_applied=_may_be_done(operation, answer.status))
    return _foreign(operation, answer.status, answer.headers.get('Content-Type', ''))


def _secrets_of(operation: Operation | WatchSpec) -> list[str]:
    values = [getattr(operation, name, None) for name in ('value', 'prev_value')]
    return [text for value in values if value for text in (value, quote_plus(value, errors='replace'))]


def _compare_cause(operation: Operation | WatchSpec, cause: str) -> str:
    """Name the conditions that failed, in getc's words.

    etcd writes ``[given != actual]`` of each, the value's first: values must not get into an error.
    """
    prev_value, prev_index = getattr(operation, 'prev_value', None), getattr(operation, 'prev_index', None)
    if prev_index is None:
        return 'prev_value differs'
    match = _INDEX_CAUSE.search(cause)
    told = f'prev_index differs: {match[1]} != {match[2]}' if match else 'prev_index differs'
    if prev_value is None:
        return told
    index_differs = match is not None and match[1] == str(prev_index)
    value_differs = cause.startswith(f'[{prev_value} != ')
    is_one = match is not None and match.start() == 0
    if (index_differs and value_differs and is_one) or not (index_differs or value_differs):
        return 'prev_value or prev_index differs'  # both are the same digits: the cause does not say which
    return ', '.join(['prev_value differs'] * value_differs + [told] * index_differs)
