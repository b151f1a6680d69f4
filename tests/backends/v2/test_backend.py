"""The v2 backend, on a real etcd and on servers that misbehave."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue
from gevent.socket import socket

from getc import errors
from getc.backends.base import Watch
from getc.backends.v2 import backend as backend_module
from getc.backends.v2 import watch
from getc.backends.v2.backend import KeysV2
from getc.errors import EtcException, TimedOut
from getc.net.endpoint import parse_endpoints
from getc.net.selector import EndpointSelector
from getc.operations import Append, Delete, Get, Put, WatchSpec
from getc.results import Created, Deleted, EtcdResult, Got, Set
from getc.testing import EtcdServer, wait_until
from getc.timing import Deadline
from tests.support.api_support import skip_unless_supported
from tests.support.servers import answer_of, read_request, serving

pytestmark = pytest.mark.timeout(300)


class Server(Protocol):
    @property
    def url(self) -> str: ...


def url_of(backend: KeysV2) -> str:
    current = backend._endpoints.current
    assert current is not None
    return current.url


def backend_at(url: str | Sequence[str], **credentials: str) -> KeysV2:
    return KeysV2(EndpointSelector(parse_endpoints(url, **credentials)))


def in_time() -> Deadline:
    return Deadline.after(30)


class Recorder:
    """A listener that queues its notifications."""

    def __init__(self) -> None:
        self.queue: Queue[Any] = Queue()
        self.has_ended = False

    def on_live(self, index: int) -> None:
        self.queue.put(('live', index))

    def on_caught_up(self) -> None:
        pass

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        for result in results:
            self.queue.put((type(result), result.key, result.value))

    def on_ended(self, error: EtcException) -> None:
        assert not self.has_ended
        self.has_ended = True
        self.queue.put(error)

    def next(self) -> Any:
        return self.queue.get(timeout=30)

    def live(self) -> int:
        name, index = self.next()
        assert name == 'live'
        return int(index)


@pytest.fixture
def etcd_server(etcd_server: EtcdServer) -> EtcdServer:
    """A server with the v2 API."""
    skip_unless_supported('v2', etcd_server.binary)
    return etcd_server


@pytest.fixture
def backend(etcd_server: Server) -> Iterator[KeysV2]:
    backend = backend_at(etcd_server.url)
    yield backend
    backend.close()


@pytest.fixture
def top() -> str:
    """A directory for one test."""
    return f'/{uuid.uuid4().hex}'


@pytest.fixture
def short_idle_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle polls are replaced all the time."""
    for name in ('IDLE_TIMEOUT', 'FIRST_IDLE_TIMEOUT', 'MIN_IDLE_TIMEOUT'):
        monkeypatch.setattr(watch, name, 0.02)


def start_watch(backend: KeysV2, spec: WatchSpec) -> tuple[Watch, Recorder]:
    recorder = Recorder()
    return backend.watch(spec, recorder), recorder


# -- calls


def test_execute_performs_every_operation_on_a_real_server(backend: KeysV2, top: str) -> None:
    made = backend.execute(Put(f'{top}/a b+ü;', 'x y+z=ü;&'), in_time())
    assert (type(made), made.is_new, made.value) == (Set, True, 'x y+z=ü;&')
    read = backend.execute(Get(f'{top}/a b+ü;', quorum=True), in_time())
    assert (type(read), read.node) == (Got, made.node)
    assert read.raft_term > 0
    appended = backend.execute(Append(f'{top}/q', 'x'), in_time())
    assert isinstance(appended, Created) and len(appended.key) == len(f'{top}/q/') + 20
    tree = backend.execute(Get(top, recursive=True, sorted=True), in_time())
    assert [node.key for node in tree.nodes] == [f'{top}/a b+ü;', f'{top}/q']
    deleted = backend.execute(Delete(top, recursive=True), in_time())
    assert isinstance(deleted, Deleted) and deleted.value is None
    with pytest.raises(errors.KeyNotFound) as caught:
        backend.execute(Get(top), in_time())
    assert caught.value.cause == top
    assert caught.value.endpoint == url_of(backend)
    assert caught.value.index is not None and caught.value.index >= deleted.index


def test_refresh_keeps_the_node(backend: KeysV2, top: str) -> None:
    """It sends prevExist: createdIndex and value stay, also with a condition on the index."""
    made = backend.execute(Put(f'{top}/a', 'x', ttl=60), in_time())
    first = backend.execute(Put(f'{top}/a', refresh=True, ttl=70), in_time())
    second = backend.execute(Put(f'{top}/a', refresh=True, ttl=80, prev_index=first.index), in_time())
    assert (second.value, second.ttl, second.created_index) == ('x', 80, made.created_index)
    assert made.index < first.index < second.index
    with pytest.raises(errors.TestFailed, match=f'prev_index differs: {first.index} != {second.index}'):
        backend.execute(Put(f'{top}/a', refresh=True, ttl=80, prev_index=first.index), in_time())


def test_execute_fails_over_when_a_server_refuses_connections(etcd_server: Server, top: str) -> None:
    """A write that was not sent goes to the next endpoint, which is then the first choice."""
    backend = backend_at(f'http://127.0.0.1:1,{etcd_server.url}')
    assert backend.execute(Put(f'{top}/a', 'x'), in_time()).is_new
    assert backend.execute(Get(f'{top}/a'), in_time()).value == 'x'
    assert url_of(backend) == etcd_server.url
    backend.close()


def silent(sock: socket) -> None:
    read_request(sock)
    gevent.sleep(60)


def test_execute_fails_over_when_a_read_is_not_answered(etcd_server: Server) -> None:
    with serving(silent) as endpoint:
        backend = backend_at([endpoint.url, etcd_server.url])
        assert backend.execute(Get('/'), Deadline.after(2)).key == '/'
        backend.close()


def test_execute_raises_when_a_write_is_not_answered(etcd_server: Server, top: str) -> None:
    """It may have been applied, so it is not sent again."""
    with serving(silent) as endpoint:
        backend = backend_at([endpoint.url, etcd_server.url])
        with pytest.raises(errors.TimedOut) as caught:
            backend.execute(Put(f'{top}/a', 'x'), Deadline.after(0.2))
        assert caught.value.maybe_applied is True
        with pytest.raises(errors.KeyNotFound):
            backend.execute(Get(f'{top}/a'), in_time())
        backend.close()


def unavailable(sock: socket) -> None:
    while read_request(sock):
        sock.sendall(answer_of(b'<html>', status='503 Service Unavailable', headers='Content-Type: text/html\r\n'))


def test_execute_fails_over_only_reads_after_the_error_page_of_a_proxy(etcd_server: Server, top: str) -> None:
    """A write raises HTTPError with ``maybe_applied``."""
    with serving(unavailable) as endpoint:
        backend = backend_at([endpoint.url, etcd_server.url])
        assert backend.execute(Get('/'), in_time()).key == '/'
        backend.close()
        backend = backend_at([endpoint.url, etcd_server.url])
        with pytest.raises(errors.HTTPError) as caught:
            backend.execute(Put(f'{top}/a', 'x'), in_time())
        backend.close()
    assert (caught.value.status_code, caught.value.maybe_applied) == (503, True)
    assert caught.value.endpoint == endpoint.url


@pytest.mark.parametrize(
    'response',
    [
        b'nonsense\r\n\r\n',
        b'HTTP/1.1 302 Found\r\nLocation: http://trap/\r\nContent-Length: 0\r\n\r\n',
        answer_of(b'<html>', status='403 Forbidden', headers='Content-Type: text/html\r\n'),
        answer_of(b'{"errorCode":300,"message":"Raft Internal Error","index":0}', status='500 Internal Server Error'),
        answer_of(
            b'{"errorCode":301,"message":"During Leader Election","index":0}', status='500 Internal Server Error'
        ),
        answer_of(b'[' * 100_000),
    ],
    ids=['junk', 'redirect', 'a page', 'raft', 'election', 'deep'],
)
def test_read_goes_to_the_next_server_after_an_invalid_response(etcd_server: Server, response: bytes) -> None:
    requests: list[bytes] = []

    def misbehave(sock: socket) -> None:
        requests.append(read_request(sock))
        sock.sendall(response)

    with serving(misbehave) as endpoint:
        backend = backend_at([endpoint.url, etcd_server.url])
        assert backend.execute(Get('/'), in_time()).key == '/'
        assert backend.execute(Get('/'), in_time()).key == '/'
        backend.close()
    assert len(requests) == 1


@pytest.mark.parametrize('code', [300, 301])
def test_write_maybe_applied_after_an_error_of_the_cluster(code: int) -> None:
    """etcd may have proposed it.  A read never is."""

    def fail(sock: socket) -> None:
        while read_request(sock):
            sock.sendall(answer_of(b'{"errorCode":%d,"message":"x","index":0}' % code, status='500 Internal'))

    with serving(fail) as endpoint:
        backend = backend_at(endpoint.url)
        for operation, applied in ((Put('/a', 'x'), True), (Get('/a'), False)):
            with pytest.raises((errors.RaftInternal, errors.LeaderElect)) as caught:
                backend.execute(operation, in_time())
            assert caught.value.maybe_applied is applied
        backend.close()


def test_execute_succeeds_again_after_errors(top: str) -> None:
    is_healthy = Event()

    def unstable(sock: socket) -> None:
        while read_request(sock):
            if is_healthy.is_set():
                sock.sendall(answer_of(b'{"action":"get","node":{"dir":true}}'))
            else:
                sock.sendall(b'nonsense\r\n\r\n')
                return

    with serving(unstable) as endpoint:
        backend = backend_at(endpoint.url)
        for _ in range(3):
            with pytest.raises(errors.ProtocolError):
                backend.execute(Get('/'), in_time())
        is_healthy.set()
        assert backend.execute(Get('/'), in_time()).key == '/'
        backend.close()


def test_execute_sends_the_password_and_errors_hide_it() -> None:
    """The options are used for a URL without credentials."""
    requests: list[bytes] = []

    def refuse(sock: socket) -> None:
        while request := read_request(sock):
            requests.append(request)
            sock.sendall(answer_of(b'{"message":"Insufficient credentials"}', status='401 Unauthorized'))

    with serving(refuse) as endpoint:
        backend = backend_at(endpoint.url, username='root', password='secret')
        with pytest.raises(errors.Unauthorized, match='Insufficient credentials') as caught:
            backend.execute(Get('/'), in_time())
        assert 'secret' not in repr(backend) + repr(caught.value)
        backend.close()
    assert b'Authorization: Basic cm9vdDpzZWNyZXQ=' in requests[0]


def test_ready_returns_after_a_read(backend: KeysV2) -> None:
    backend.ready(in_time())


def test_ready_raises_the_error_of_the_last_attempt() -> None:
    """It retries until its deadline; a permanent refusal is raised at once."""
    backend = backend_at('http://127.0.0.1:1')
    with pytest.raises(errors.ConnectionRefused):
        backend.ready(Deadline.after(0.2))
    backend.close()

    def off(sock: socket) -> None:
        while read_request(sock):
            sock.sendall(
                answer_of(b'404 page not found\n', status='404 Not Found', headers='Content-Type: text/plain\r\n')
            )

    with serving(off) as endpoint:
        backend = backend_at(endpoint.url)
        with pytest.raises(errors.NotSupported, match='--enable-v2'):
            backend.ready(Deadline.after(None))
        backend.close()


def test_close_ends_calls_and_refuses_later_ones() -> None:
    """They raise ClientClosed; closing twice is allowed."""
    requested = Event()

    def silent(sock: socket) -> None:
        read_request(sock)
        requested.set()
        gevent.sleep(60)

    with serving(silent) as endpoint:
        backend = backend_at(endpoint.url)
        call = gevent.spawn(backend.execute, Put('/a', 'x'), Deadline.after(None))
        requested.wait()
        backend.close()
        backend.close()
        with pytest.raises(errors.ClientClosed):
            call.get(timeout=30)
    for late in (
        lambda: backend.execute(Get('/a'), in_time()),
        lambda: backend.watch(WatchSpec('/a'), Recorder()),
        lambda: backend.keep_group(10),
        lambda: backend.ready(in_time()),
    ):
        with pytest.raises(errors.ClientClosed):
            late()


def test_keep_returns_one_group_for_each_ttl(backend: KeysV2) -> None:
    assert backend.keep_group(10) is backend.keep_group(10)
    assert backend.keep_group(10) is not backend.keep_group(11)
    assert backend.keep_group(11).ttl == 11


# -- watches on a real server


def test_watch_delivers_changes_from_now_on(backend: KeysV2, top: str) -> None:
    """``on_live`` first, then the changes after its index."""
    before = backend.execute(Put(f'{top}/a', '1'), in_time())
    _, recorder = start_watch(backend, WatchSpec(f'{top}/a'))
    assert recorder.live() >= before.index
    backend.execute(Put(f'{top}/a', '2'), in_time())
    backend.execute(Delete(f'{top}/a'), in_time())
    assert recorder.next() == (Set, f'{top}/a', '2')
    assert recorder.next() == (Deleted, f'{top}/a', None)


def test_watch_delivers_changes_from_an_index_on(backend: KeysV2, top: str) -> None:
    """Changes of the history too, once and in order."""
    first = backend.execute(Put(f'{top}/a', '1'), in_time())
    for number in range(2, 6):
        backend.execute(Put(f'{top}/a', str(number)), in_time())
    _, recorder = start_watch(backend, WatchSpec(f'{top}/a', first.index))
    assert recorder.live() == first.index - 1
    assert [recorder.next()[2] for _ in range(5)] == ['1', '2', '3', '4', '5']


def test_watch_drops_changes_of_the_history_that_do_not_match(backend: KeysV2, top: str) -> None:
    """Keys that only start with the same text, and hidden nodes; children unless recursive."""
    first = backend.execute(Put(f'{top}/a/b', '1'), in_time())
    backend.execute(Put(f'{top}/ab', '2'), in_time())
    backend.execute(Put(f'{top}/a/_hidden', '3'), in_time())
    backend.execute(Put(f'{top}/a/c', '4'), in_time())
    _, recorder = start_watch(backend, WatchSpec(f'{top}/a', first.index, recursive=True))
    _, narrow = start_watch(backend, WatchSpec(f'{top}/a', first.index))
    _, hidden = start_watch(backend, WatchSpec(f'{top}/a/_hidden', first.index))
    for each in (recorder, narrow, hidden):
        assert each.live() == first.index - 1
    assert [recorder.next(), recorder.next()] == [(Set, f'{top}/a/b', '1'), (Set, f'{top}/a/c', '4')]
    assert hidden.next() == (Set, f'{top}/a/_hidden', '3')
    backend.execute(Delete(f'{top}/a', recursive=True), in_time())
    assert recorder.next() == narrow.next() == hidden.next() == (Deleted, f'{top}/a', None)


@pytest.mark.usefixtures('short_idle_timeout')
def test_watch_loses_nothing_when_its_polls_are_replaced(backend: KeysV2, top: str) -> None:
    """Each change is delivered once, however often the poll was replaced."""
    _, recorder = start_watch(backend, WatchSpec(top, recursive=True))
    recorder.live()
    for number in range(100):
        backend.execute(Put(f'{top}/a', str(number)), in_time())
        if number % 10 == 0:
            gevent.sleep(0.05)  # the poll is replaced several times
    assert [recorder.next()[2] for _ in range(100)] == [str(number) for number in range(100)]


@pytest.mark.usefixtures('short_idle_timeout')
def test_watch_keeps_its_poll_when_the_history_has_moved_past_it(backend: KeysV2, top: str) -> None:
    """A replacement that is refused with code 401 does not end the watch, which has lost nothing."""
    _, recorder = start_watch(backend, WatchSpec(f'{top}/quiet'))
    recorder.live()
    watch.FIRST_IDLE_TIMEOUT = 5.0  # undone by the fixture
    for _ in range(1100):
        backend.execute(Put(f'{top}/busy', 'x'), in_time())
    gevent.sleep(0.1)
    backend.execute(Put(f'{top}/quiet', 'x'), in_time())
    assert recorder.next() == (Set, f'{top}/quiet', 'x')


def test_watch_ends_when_the_history_is_cleared(backend: KeysV2, top: str) -> None:
    """With EventIndexCleared, the server's index, and without ``on_live``."""
    for _ in range(1001):
        last = backend.execute(Put(f'{top}/busy', 'x'), in_time())
    _, recorder = start_watch(backend, WatchSpec(top, 1, recursive=True))
    error = recorder.next()
    assert isinstance(error, errors.EventIndexCleared)
    assert error.index is not None and error.index >= last.index
    assert error.endpoint == url_of(backend)


def test_watch_ends_when_the_store_went_back(backend: KeysV2, top: str) -> None:
    """A store that has not reached the index is another one."""
    index = backend.execute(Put(f'{top}/a', 'x'), in_time()).index
    _, recorder = start_watch(backend, WatchSpec(f'{top}/a', index + 1_000_000))
    error = recorder.next()
    assert isinstance(error, errors.EventIndexCleared)
    assert error.cause == 'the store was replaced, or restored to an earlier state'


def test_watch_delivers_nothing_after_close(backend: KeysV2, top: str) -> None:
    """Closed while it connects, and closed later.  Its greenlet ends."""
    early, nothing = start_watch(backend, WatchSpec(f'{top}/a'))
    early.close()
    late, recorder = start_watch(backend, WatchSpec(f'{top}/a'))
    recorder.live()
    late.close()
    late.close()
    backend.execute(Put(f'{top}/a', 'x'), in_time())
    _, other = start_watch(backend, WatchSpec(f'{top}/b'))
    other.live()
    assert nothing.queue.empty() and recorder.queue.empty()
    assert len(backend._watches) == 1


def test_watch_may_be_closed_by_its_listener(backend: KeysV2, top: str) -> None:
    """No later change is delivered."""
    first = backend.execute(Put(f'{top}/a', '1'), in_time())
    backend.execute(Put(f'{top}/a', '2'), in_time())

    class Once(Recorder):
        def on_changes(self, results: Sequence[EtcdResult]) -> None:
            super().on_changes(results)
            watch.close()

    recorder = Once()
    watch = backend.watch(WatchSpec(f'{top}/a', first.index), recorder)
    recorder.live()
    assert recorder.next() == (Set, f'{top}/a', '1')
    while backend._watches:
        gevent.sleep(0.01)
    assert recorder.queue.empty()


def test_200_watches_do_not_block_calls_or_each_other(backend: KeysV2, top: str) -> None:
    watches = [start_watch(backend, WatchSpec(f'{top}/{number}')) for number in range(200)]
    for _, recorder in watches:
        recorder.live()
    for number in range(200):
        backend.execute(Put(f'{top}/{number}', str(number)), in_time())
    assert [recorder.next()[2] for _, recorder in watches] == [str(number) for number in range(200)]


def test_watch_fails_over_to_the_next_server(etcd_server: Server, backend: KeysV2, top: str) -> None:
    """After the error page of a proxy in place of a poll."""
    with serving(unavailable) as endpoint:
        other = backend_at([endpoint.url, etcd_server.url])
        index = backend.execute(Put(f'{top}/a', 'x'), in_time()).index
        _, recorder = start_watch(other, WatchSpec(f'{top}/a', index))
        assert recorder.live() == index - 1
        assert recorder.next() == (Set, f'{top}/a', 'x')
        other.close()


# -- watches on servers that misbehave


HEAD = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n'


def chunked(body: bytes) -> bytes:
    return b'%x\r\n%s\r\n0\r\n\r\n' % (len(body), body)


def event(index: int, value: str = 'x') -> bytes:
    node = {'key': '/a', 'value': value, 'modifiedIndex': index, 'createdIndex': index}
    return chunked(json.dumps({'action': 'set', 'node': node}).encode())


def head(index: int, cluster: str = 'c1', raft: int = 0) -> bytes:
    return HEAD + f'X-Etcd-Index: {index}\r\nX-Etcd-Cluster-Id: {cluster}\r\nX-Raft-Index: {raft}\r\n\r\n'.encode()


class Script:
    """A server that sends one response after another to polls, and records their targets.

    A linearizable read finds nothing.
    """

    def __init__(self, *responses: bytes | Callable[[socket], None]) -> None:
        self.responses = list(responses)
        self.targets: list[str] = []

    def __call__(self, sock: socket) -> None:
        while request := read_request(sock):
            if b'quorum=true' in request:
                sock.sendall(answer_of(b'{"errorCode":100,"message":"Key not found"}', status='404 Not Found'))
                continue
            self.targets.append(request.split()[1].decode())
            if not self.responses:
                sock.recv(1)  # until the client closes the connection
                return
            response = self.responses.pop(0)
            if isinstance(response, bytes):
                sock.sendall(response)
            else:
                response(sock)
                return


def cut(data: bytes) -> Callable[[socket], None]:
    """Return a script that sends data and closes the connection."""
    return lambda sock: sock.sendall(data)


def test_watch_polls_again_with_the_same_index_when_a_body_is_empty_or_truncated() -> None:
    """A poll without an index would lose changes between the polls."""
    server = Script(
        head(7) + chunked(b''),
        head(8) + event(8),
        cut(head(9) + b'10\r\n{"act'),
        head(9) + event(9),
        cut(head(9)),
        head(9),
    )
    with serving(server) as endpoint:
        backend = backend_at(endpoint.url)
        _, recorder = start_watch(backend, WatchSpec('/a'))
        assert recorder.live() == 7
        assert recorder.next() == recorder.next() == (Set, '/a', 'x')
        while len(server.targets) < 6:
            gevent.sleep(0.01)
        backend.close()
    assert server.targets[0] == '/v2/keys/a?wait=true'
    assert [url.rpartition('waitIndex=')[2] for url in server.targets[1:]] == ['8', '9', '9', '10', '10']


def test_watch_ends_when_polls_keep_ending_without_a_change() -> None:
    """With a ConnectionError after the second one: the owner retries with a delay, instead of polling in a loop."""
    with serving(Script(head(7) + chunked(b''), head(7) + chunked(b''))) as endpoint:
        backend = backend_at(endpoint.url)
        _, recorder = start_watch(backend, WatchSpec('/a'))
        assert recorder.live() == 7
        assert isinstance(recorder.next(), errors.ConnectionError)
        backend.close()


@pytest.mark.parametrize(
    'later',
    [head(9, cluster='c2', raft=30), head(3, raft=30), head(9, raft=5)],
    ids=['another cluster', 'index gone back', 'log gone back'],
)
def test_watch_ends_when_the_store_was_replaced(later: bytes) -> None:
    """At its next poll."""
    with serving(Script(head(7, raft=20) + event(8), later, later)) as endpoint:
        backend = backend_at(endpoint.url)
        _, recorder = start_watch(backend, WatchSpec('/a'))
        assert recorder.live() == 7
        assert recorder.next() == (Set, '/a', 'x')
        error = recorder.next()
        assert isinstance(error, errors.EventIndexCleared)
        assert error.endpoint == endpoint.url
        backend.close()


def test_continued_watch_ends_when_the_store_was_replaced() -> None:
    """Also if the new store has grown past the index after the connection broke."""
    server = Script(head(7) + event(8), cut(b''), cut(b''), *[head(9, cluster='c2')] * 3)
    with serving(server) as endpoint:
        backend = backend_at(endpoint.url)
        watch, recorder = start_watch(backend, WatchSpec('/a'))
        assert (recorder.live(), recorder.next()) == (7, (Set, '/a', 'x'))
        assert type(recorder.next()) is errors.ConnectionError
        while backend._watches:
            gevent.sleep(0.01)
        again = Recorder()
        backend.watch(WatchSpec('/a', 9), again, watch)
        assert isinstance(again.next(), errors.EventIndexCleared)
        while backend._watches:
            gevent.sleep(0.01)
        _, anew = start_watch(backend, WatchSpec('/a', 10))
        assert anew.live() == 9
        backend.close()


@pytest.mark.parametrize(
    ('response', 'error_class'),
    [
        (cut(answer_of(b'<html>', status='503 No', headers='Content-Type: text/html\r\n')), errors.HTTPError),
        (cut(answer_of(b'<html>', headers='Content-Type: text/html\r\n')), errors.HTTPError),
        (cut(b'nonsense\r\n\r\n'), errors.ProtocolError),
        (cut(head(7) + chunked(b'{"action":')), errors.ProtocolError),
        (cut(b''), errors.ConnectionError),
    ],
)
def test_watch_ends_with_a_typed_error_after_an_invalid_response(
    response: Callable[[socket], None], error_class: type[EtcException]
) -> None:
    with serving(Script(response, response)) as endpoint:
        backend = backend_at(endpoint.url)
        _, recorder = start_watch(backend, WatchSpec('/a'))
        error = recorder.next()
        if isinstance(error, tuple):
            error = recorder.next()
        assert isinstance(error, error_class)
        assert error.endpoint == endpoint.url
        backend.close()


def test_watch_ends_when_no_server_listens() -> None:
    """``on_ended`` receives ConnectionRefused; ``watch`` does not raise."""
    backend = backend_at('http://127.0.0.1:1')
    _, recorder = start_watch(backend, WatchSpec('/a', 5))
    assert isinstance(recorder.next(), errors.ConnectionRefused)
    backend.close()


def test_watch_ends_when_its_key_is_not_utf8() -> None:
    """With NotSupported, without I/O."""
    backend = backend_at('http://127.0.0.1:1')
    _, recorder = start_watch(backend, WatchSpec('/\udc80'))
    assert isinstance(recorder.next(), errors.NotSupported)
    backend.close()


# -- a silent server


@pytest.mark.parametrize('is_responsive', [False, True])
def test_watch_on_a_silent_server_ends_soon_after_a_call_has_timed_out(
    monkeypatch: pytest.MonkeyPatch, is_responsive: bool
) -> None:
    """Not only when its poll is replaced.  A server that passes the health check keeps its watches."""
    monkeypatch.setattr(backend_module, 'CHECK_TIMEOUT', 30.0 if is_responsive else 0.05)
    checked = Event()

    def serve(sock: socket) -> None:
        while request := read_request(sock):
            if b'wait=true' in request:
                sock.sendall(b'HTTP/1.1 200 OK\r\nX-Etcd-Index: 5\r\nTransfer-Encoding: chunked\r\n\r\n')
            elif b'/version' in request:
                checked.set()
                if is_responsive:
                    sock.sendall(answer_of(b'{}'))
            elif b'_getc' in request:
                sock.sendall(answer_of(b'{"errorCode": 100, "message": "Key not found"}', status='404 Not Found'))

    with serving(serve) as endpoint:
        backend = backend_at(endpoint.url)
        recorder = Recorder()
        backend.watch(WatchSpec('/a', recursive=True), recorder)
        assert recorder.live() == 5
        with pytest.raises(TimedOut):
            backend.execute(Get('/a'), Deadline.after(0.2))
        checked.wait()
        if is_responsive:
            wait_until(lambda: not backend._checking)
            assert recorder.queue.empty()
        else:
            error = recorder.next()
            assert isinstance(error, TimedOut) and error.endpoint == endpoint.url
        backend.close()


def test_poll_is_closed_if_the_greenlet_is_killed_after_its_headers_have_arrived(
    etcd_server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_unless_supported('v2', etcd_server.binary)
    endpoints = EndpointSelector(parse_endpoints(etcd_server.url))
    backend = KeysV2(endpoints)
    polls: list[Any] = []

    def kill(_: object) -> None:
        raise gevent.GreenletExit

    def record(*args: Any) -> Any:
        polls.append(poll(*args))
        return polls[-1]

    poll = backend._http.poll
    monkeypatch.setattr(backend._http, 'poll', record)
    monkeypatch.setattr(endpoints, 'mark_up', kill)
    with pytest.raises(gevent.GreenletExit):
        backend._open_poll(WatchSpec('/a'), None, False)
    assert [each._response.isclosed() for each in polls] == [True]
    backend.close()
