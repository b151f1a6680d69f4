"""Ranges as a stream, on a server in this process, and in pages where the server has no streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gevent
import pytest

from getc import timing
from getc.errors import (
    ConnectionError,
    EtcException,
    EventIndexCleared,
    NotSupported,
    ProtocolError,
    ResponseTooLarge,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from getc.grpc.framing import MAX_MESSAGE, encode_message
from getc.grpc.http2.frames import ErrorCode
from getc.grpc.stream_call import STREAM_BUFFER_BYTES
from getc.net.endpoint import Endpoint
from getc.timing import Deadline
from getc.v3 import range_stream
from getc.v3.range_stream import read_parts, stream_parts
from getc.v3.schema.auth import AuthenticateResponse
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import KV, RangeRequest, RangeResponse, RangeStreamResponse
from getc.v3.schema.mvccpb import KeyValue
from getc.v3.server import UNSUPPORTED_FOR
from tests.support.grpc_server import ServerCall

KEYS = [b'k%02d' % number for number in range(20)]
EVERYTHING = RangeRequest(key=b'k', range_end=b'l')
AT_NINE = RangeRequest(key=b'k', range_end=b'l', revision=9)

Script = Callable[[ServerCall], object]


def header(revision: int) -> ResponseHeader:
    return ResponseHeader(cluster_id=1, member_id=2, revision=revision)


def part(keys: Iterable[bytes], *, value: bytes = b'', **last: Any) -> bytes:
    kvs = [KeyValue(key=key, value=value, mod_revision=3) for key in keys]
    return RangeStreamResponse(range_response=RangeResponse(kvs=kvs, **last)).SerializeToString()


def send(call: ServerCall, *parts: bytes, ends: bool = True) -> None:
    """Send parts, and the end of the stream."""
    call.receive()
    call.head()
    for each in parts:
        call.message(each)
    if ends:
        call.trailers()


def answer_page(call: ServerCall) -> None:
    """Answer a Range like etcd; the revision of the store grows by one with each page."""
    request = RangeRequest.FromString(call.receive() or b'')
    found = [key for key in KEYS if request.key <= key < request.range_end]
    page = found[: request.limit]
    kvs = [KeyValue(key=key, mod_revision=3) for key in page]
    at = 9 + len([call for call in call.connection.calls.values() if call.path == KV.Range.path])
    response = RangeResponse(header=header(at), kvs=kvs, more=len(page) < len(found), count=len(found))
    call.answer(response.SerializeToString())


def serving_streams(stream: Script) -> Script:
    """Return a script that answers a RangeStream by another script, and a Range like etcd."""
    return lambda call: (stream if call.path == KV.RangeStream.path else answer_page)(call)


def no_streams(call: ServerCall) -> None:
    call.receive()
    call.refuse(12, b'unknown method RangeStream for service etcdserverpb.KV')


def keys_of(parts: Iterable[RangeResponse]) -> list[bytes]:
    return [kv.key for part in parts for kv in part.kvs]


def paths(server: Any) -> list[str]:
    return [call.path.rpartition('/')[2] for call in server.calls]


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of eight keys."""
    monkeypatch.setattr(range_stream, 'MAX_PAGE_KEYS', 8)


COMPLETE = [part(KEYS[:10]), part(KEYS[10:], header=header(9), count=20)]


# -- the stream


def test_parts_are_those_of_the_server(serve, open_rpc) -> None:
    server = serve(lambda call: send(call, *COMPLETE))
    parts = list(read_parts(open_rpc(server.endpoint), EVERYTHING))
    assert [len(part.kvs) for part in parts] == [10, 10]
    assert [part.header.revision for part in parts] == [0, 9]
    assert (parts[-1].count, parts[-1].more, keys_of(parts)) == (20, False, KEYS)
    assert paths(server) == ['RangeStream']
    assert server.calls[0].has_ended and server.calls[0].reset_code is None
    assert server.calls[0].headers[b'hasleader'] == b'true'


def test_empty_range_has_one_part(serve, open_rpc) -> None:
    server = serve(lambda call: send(call, part([], header=header(9))))
    assert [part.header.revision for part in read_parts(open_rpc(server.endpoint), EVERYTHING)] == [9]


def test_serializable_stream_needs_no_leader(serve, open_rpc) -> None:
    server = serve(lambda call: send(call, *COMPLETE))
    assert len(list(read_parts(open_rpc(server.endpoint), RangeRequest(key=b'k', serializable=True)))) == 2
    assert b'hasleader' not in server.calls[0].headers


@pytest.mark.parametrize(
    'parts',
    [[], [COMPLETE[0]], [COMPLETE[0], part([])], [*COMPLETE, COMPLETE[1]], [RangeStreamResponse().SerializeToString()]],
    ids=['no part', 'no last part', 'an empty part', 'a part after the last one', 'an empty message'],
)
def test_incomplete_stream_raises_protocol_error(serve, open_rpc, parts: list[bytes]) -> None:
    server = serve(lambda call: send(call, *parts))
    with pytest.raises(ProtocolError, match='RangeStream'):
        list(read_parts(open_rpc(server.endpoint), EVERYTHING))


def test_server_sends_no_more_while_parts_are_not_consumed(serve, open_rpc) -> None:
    sent = []
    size = 100_000

    def flood(call: ServerCall) -> None:
        call.receive()
        call.head()
        for number in range(200):
            call.message(part([b'k%03d' % number], value=bytes(size)))
            sent.append(number)
        call.message(part([], header=header(9), count=200))
        call.trailers()

    parts = read_parts(open_rpc(serve(flood).endpoint), EVERYTHING)
    next(parts)
    before = -1
    while before != len(sent):  # until the windows are full
        before = len(sent)
        gevent.sleep(0.2)
    assert STREAM_BUFFER_BYTES // size <= len(sent) < 100
    assert len(keys_of(parts)) == 199
    assert len(sent) == 200


def endless(call: ServerCall) -> None:
    call.receive()
    call.head()
    call.message(COMPLETE[0])
    call.is_over.wait()


def test_closing_the_generator_cancels_the_stream(serve, open_rpc) -> None:
    server = serve(endless)
    parts = read_parts(open_rpc(server.endpoint), EVERYTHING)
    next(parts)
    parts.close()
    server.calls[0].is_over.wait(10)
    assert server.calls[0].reset_code == ErrorCode.CANCEL


def test_killed_greenlet_cancels_the_stream(serve, open_rpc, spawn) -> None:
    server = serve(endless)
    rpc = open_rpc(server.endpoint)
    reader = spawn(lambda: list(read_parts(rpc, EVERYTHING)))
    server.wait_for_calls(1)
    gevent.sleep(0.05)
    reader.kill()
    server.calls[0].is_over.wait(10)
    assert server.calls[0].reset_code == ErrorCode.CANCEL
    server.script = lambda call: send(call, *COMPLETE)
    assert keys_of(read_parts(rpc, EVERYTHING)) == KEYS
    assert len(server.connections) == 1


@pytest.mark.parametrize('timeout', [0.3, Deadline])
@pytest.mark.parametrize('script', [endless, lambda call: call.is_over.wait()], ids=['after a part', 'at once'])
def test_silent_server_times_out(serve, open_rpc, script: Script, timeout: Any) -> None:
    server = serve(script)
    with pytest.raises(TimedOut):
        list(read_parts(open_rpc(server.endpoint), EVERYTHING, 0.3 if timeout == 0.3 else Deadline(0.6)))
    server.calls[0].is_over.wait(10)
    assert server.calls[0].reset_code == ErrorCode.CANCEL


def test_timeout_is_for_each_part(serve, open_rpc) -> None:
    def slow(call: ServerCall) -> None:
        call.receive()
        call.head()
        for number in range(6):
            gevent.sleep(0.2)
            call.message(part([KEYS[number]]))
        call.message(part([], header=header(9)))
        call.trailers()

    server = serve(slow)
    assert keys_of(read_parts(open_rpc(server.endpoint), EVERYTHING, 1.0)) == KEYS[:6]
    with pytest.raises(TimedOut):
        list(read_parts(open_rpc(server.endpoint), EVERYTHING, Deadline(1.0)))


# -- failures


FAILURES: list[tuple[Script, type[EtcException]]] = [
    (lambda call: call.reset(ErrorCode.INTERNAL_ERROR), ConnectionError),
    (lambda call: call.connection.cut(), ConnectionError),
    (lambda call: call.refuse(14, b'etcdserver: server stopped'), Unavailable),
    (lambda call: call.refuse(14, b'etcdserver: no leader'), Unavailable),
]


def begin_and(failure: Script) -> Script:
    def script(call: ServerCall) -> None:
        send(call, COMPLETE[0], ends=False)
        gevent.sleep(0.05)
        failure(call)

    return script


@pytest.mark.parametrize(('failure', 'kind'), FAILURES)
def test_other_server_is_read_when_the_first_fails_before_the_first_part(
    serve, open_rpc, failure: Script, kind: type[EtcException]
) -> None:
    def fail(call: ServerCall) -> None:
        call.receive()
        failure(call)

    bad, good = serve(fail), serve(lambda call: send(call, *COMPLETE))
    assert keys_of(read_parts(open_rpc(bad.endpoint, good.endpoint), EVERYTHING)) == KEYS
    with pytest.raises(kind):
        list(read_parts(open_rpc(serve(fail).endpoint), EVERYTHING))


BREAKS: list[Script] = [
    lambda call: call.reset(ErrorCode.INTERNAL_ERROR),
    lambda call: call.connection.cut(),
    lambda call: call.trailers([(b'grpc-status', b'14'), (b'grpc-message', b'etcdserver: leader changed')]),
]


@pytest.mark.parametrize('failure', BREAKS)
def test_broken_stream_is_continued_in_pages_at_its_revision(serve, open_rpc, small_pages, failure: Script) -> None:
    bad, good = serve(begin_and(failure)), serve(answer_page)
    parts = list(read_parts(open_rpc(bad.endpoint, good.endpoint), AT_NINE))
    assert (keys_of(parts), parts[-1].count, len(parts)) == (KEYS, 20, 3)
    assert [part.HasField('header') for part in parts] == [False, False, True]


@pytest.mark.parametrize('failure', BREAKS)
def test_broken_stream_without_a_revision_raises(serve, open_rpc, failure: Script) -> None:
    bad, good = serve(begin_and(failure)), serve(answer_page)
    with pytest.raises(EtcException):
        list(read_parts(open_rpc(bad.endpoint, good.endpoint), EVERYTHING))
    assert good.calls == []


def test_refusal_is_raised_and_not_continued(serve, open_rpc) -> None:
    compacted = (b'grpc-status', b'11'), (b'grpc-message', b'etcdserver: mvcc: required revision has been compacted')
    server = serve(begin_and(lambda call: call.trailers(compacted)))
    with pytest.raises(EventIndexCleared):
        list(read_parts(open_rpc(server.endpoint), AT_NINE))
    assert paths(server) == ['RangeStream']


def test_part_that_is_too_large_is_read_in_pages(serve, open_rpc) -> None:
    def large(call: ServerCall) -> None:
        call.receive()
        call.head()
        call.message(COMPLETE[0])
        call.data(encode_message(bytes(MAX_MESSAGE + 1)))
        call.is_over.wait()

    server = serve(serving_streams(large))
    assert keys_of(read_parts(open_rpc(server.endpoint), AT_NINE)) == KEYS
    assert paths(server) == ['RangeStream', 'Range']
    with pytest.raises(ResponseTooLarge):
        list(read_parts(open_rpc(server.endpoint), EVERYTHING))


def test_stale_token_is_replaced(serve, open_rpc) -> None:
    tokens = iter([b'first', b'second', b'third', b'fourth', b'fifth'])

    def script(call: ServerCall) -> None:
        if call.path.endswith('Authenticate'):
            call.receive()
            call.answer(AuthenticateResponse(token=next(tokens).decode()).SerializeToString())
        elif call.headers[b'token'] == valid:
            send(call, *COMPLETE)
        else:
            call.receive()
            call.refuse(16, b'etcdserver: invalid auth token')

    valid = b'second'
    server = serve(script)
    endpoint = Endpoint('http', '127.0.0.1', server.endpoint.port, username='a', password='b')
    rpc = open_rpc(endpoint)
    assert keys_of(read_parts(rpc, EVERYTHING)) == KEYS
    assert paths(server) == ['Authenticate', 'RangeStream', 'Authenticate', 'RangeStream']
    valid = b'none'
    with pytest.raises(Unauthorized):
        list(read_parts(rpc, EVERYTHING))
    assert next(tokens) == b'fifth'  # replaced at most twice


# -- pages


def test_server_without_streams_is_read_in_pages(serve, open_rpc, small_pages) -> None:
    server = serve(serving_streams(no_streams))
    parts = list(read_parts(open_rpc(server.endpoint), EVERYTHING))
    assert [len(part.kvs) for part in parts] == [8, 8, 4]
    assert [part.HasField('header') for part in parts] == [False, False, True]
    assert [part.more for part in parts] == [False] * 3
    assert [part.count for part in parts] == [0, 0, 20]
    assert parts[-1].header.revision == 10  # that of the first page, which the others are read at
    assert keys_of(parts) == KEYS


@pytest.mark.parametrize(('limit', 'sizes'), [(1, [1]), (8, [8]), (9, [8, 1]), (20, [8, 8, 4]), (30, [8, 8, 4])])
def test_pages_respect_the_limit(serve, open_rpc, small_pages, limit: int, sizes: list[int]) -> None:
    server = serve(serving_streams(no_streams))
    request = RangeRequest(key=b'k', range_end=b'l', limit=limit)
    parts = list(read_parts(open_rpc(server.endpoint), request))
    assert [len(part.kvs) for part in parts] == sizes
    assert (parts[-1].more, parts[-1].count) == (limit < 20, 20)
    assert request.limit == limit


def test_missing_rpc_is_remembered_for_each_server(serve, open_rpc, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = serve(serving_streams(no_streams)), serve(serving_streams(lambda call: send(call, *COMPLETE)))
    rpc = open_rpc(old.endpoint, new.endpoint)
    for _ in range(3):
        assert keys_of(read_parts(rpc, EVERYTHING)) == KEYS
    assert paths(old) == ['RangeStream', 'Range', 'Range', 'Range']
    rpc.switch_server()
    assert keys_of(read_parts(rpc, EVERYTHING)) == KEYS
    assert paths(new) == ['RangeStream']
    rpc.switch_server()
    with pytest.raises(NotSupported, match='newer version'):
        list(stream_parts(rpc, EVERYTHING))
    now = timing.now()
    monkeypatch.setattr('getc.v3.server.timing.now', lambda: now + UNSUPPORTED_FOR + 1)
    old.script = lambda call: send(call, *COMPLETE)  # it was upgraded
    assert keys_of(read_parts(rpc, EVERYTHING)) == KEYS
    assert paths(old)[4:] == ['RangeStream']
