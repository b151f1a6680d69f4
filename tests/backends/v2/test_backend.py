"""The v2 backend: on a real etcd, and on servers that misbehave."""

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

pytestmark = pytest.mark.timeout(60)


class Server(Protocol):
    @property
    def url(self) -> str: ...


def backend_at(url: str | Sequence[str], **credentials: str) -> KeysV2:
    return KeysV2(EndpointSelector(parse_endpoints(url, **credentials)))


def in_time() -> Deadline:
    return Deadline.after(30)


class Notes:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.told: Queue[Any] = Queue()
        self.has_ended = False

    def on_live(self, index: int) -> None:
        self.told.put(('live', index))

    def on_caught_up(self) -> None:
        pass

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        for result in results:
            self.told.put((type(result), result.key, result.value))

    def on_ended(self, error: EtcException) -> None:
        assert not self.has_ended
        self.has_ended = True
        self.told.put(error)

    def next(self) -> Any:
        return self.told.get(timeout=30)

    def live(self) -> int:
        name, index = self.next()
        assert name == 'live'
        return int(index)


@pytest.fixture
def etcd_server(etcd_server: EtcdServer) -> EtcdServer:
    """One that speaks v2."""
    skip_unless_supported('v2', etcd_server.binary)
    return etcd_server


@pytest.fixture
def backend(etcd_server: Server) -> Iterator[KeysV2]:
    backend = backend_at(etcd_server.url)
    yield backend
    backend.close()


@pytest.fixture
def top() -> str:
    """A directory of the test's own."""
    return f'/{uuid.uuid4().hex}'


@pytest.fixture
def quick_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quiet polls are renewed all the time."""
    for name in ('IDLE_TIMEOUT', 'FIRST_IDLE_TIMEOUT', 'MIN_IDLE_TIMEOUT'):
        monkeypatch.setattr(watch, name, 0.02)


def beginning(backend: KeysV2, spec: WatchSpec) -> tuple[Watch, Notes]:
    notes = Notes()
    return backend.watch(spec, notes), notes


# -- calls


def test_execute_does_every_operation_on_a_real_server(backend: KeysV2, top: str) -> None:
    """Each gives the result of its kind."""
    made = backend.execute(Put(f'{top}/a b+ü;', 'x y+z=ü;&'), in_time())
    assert (type(made), made.is_new, made.value) == (Set, True, 'x y+z=ü;&')
    read = backend.execute(Get(f'{top}/a b+ü;', quorum=True), in_time())
    assert (type(read), read.node) == (Got, made.node)
    assert read.raft_term > 0
    appended = backend.execute(Append(f'{top}/q', 'x'), in_time())
    assert isinstance(appended, Created) and len(appended.key) == len(f'{top}/q/') + 20
    tree = backend.execute(Get(top, recursive=True, sorted=True), in_time())
    assert [node.key for node in tree.nodes] == [f'{top}/a b+ü;', f'{top}/q']
    gone = backend.execute(Delete(top, recursive=True), in_time())
    assert isinstance(gone, Deleted) and gone.value is None
    with pytest.raises(errors.KeyNotFound) as caught:
        backend.execute(Get(top), in_time())
    assert caught.value.cause == top
    assert caught.value.endpoint == backend.url
    assert caught.value.index is not None and caught.value.index >= gone.index


def test_execute_refreshes_without_making_another_node(backend: KeysV2, top: str) -> None:
    """A refresh sends prevExist: createdIndex and value stay, also under a condition on the index."""
    made = backend.execute(Put(f'{top}/a', 'x', ttl=60), in_time())
    first = backend.execute(Put(f'{top}/a', refresh=True, ttl=70), in_time())
    second = backend.execute(Put(f'{top}/a', refresh=True, ttl=80, prev_index=first.index), in_time())
    assert (second.value, second.ttl, second.created_index) == ('x', 80, made.created_index)
    assert made.index < first.index < second.index
    with pytest.raises(errors.TestFailed, match=f'prev_index differs: {first.index} != {second.index}'):
        backend.execute(Put(f'{top}/a', refresh=True, ttl=80, prev_index=first.index), in_time())


def test_execute_fails_over_when_a_server_refuses(etcd_server: Server, top: str) -> None:
    """A write that was not sent goes to the next endpoint, which is asked first from then on."""
    backend = backend_at(f'http://127.0.0.1:1,{etcd_server.url}')
    assert backend.execute(Put(f'{top}/a', 'x'), in_time()).is_new
    assert backend.execute(Get(f'{top}/a'), in_time()).value == 'x'
    assert backend._endpoints.current.url == etcd_server.url
    assert backend.url == 'http://127.0.0.1:1'
    backend.close()


def silent(sock: socket) -> None:
    read_request(sock)
    gevent.sleep(60)


def test_execute_fails_over_when_a_read_is_not_answered(etcd_server: Server) -> None:
    """A read is asked again within its deadline."""
    with serving(silent) as endpoint:
        backend = backend_at([endpoint.url, etcd_server.url])
        assert backend.execute(Get('/'), Deadline.after(2)).key == '/'
        backend.close()


def test_execute_raises_when_a_write_is_not_answered(etcd_server: Server, top: str) -> None:
    """It may have been applied: it is not sent again, and the error says so."""
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


def test_execute_treats_a_proxys_error_page_as_no_answer(etcd_server: Server, top: str) -> None:
    """Reads go elsewhere; a write raises HTTPError, which says that it may have been applied."""
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
    'answer',
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
def test_read_goes_to_the_next_server_when_one_cannot_answer(etcd_server: Server, answer: bytes) -> None:
    """Whatever is wrong with it."""
    asked: list[bytes] = []

    def misbehave(sock: socket) -> None:
        asked.append(read_request(sock))
        sock.sendall(answer)

    with serving(misbehave) as endpoint:
        backend = backend_at([endpoint.url, etcd_server.url])
        assert backend.execute(Get('/'), in_time()).key == '/'
        assert backend.execute(Get('/'), in_time()).key == '/'
        backend.close()
    assert len(asked) == 1


@pytest.mark.parametrize('code', [300, 301])
def test_write_that_the_cluster_failed_at_may_be_applied_and_a_read_is_not(code: int) -> None:
    """etcd may have proposed it."""

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


def test_execute_works_again_when_the_server_does(top: str) -> None:
    """Errors leave nothing behind."""
    is_well = Event()

    def moody(sock: socket) -> None:
        while read_request(sock):
            if is_well.is_set():
                sock.sendall(answer_of(b'{"action":"get","node":{"dir":true}}'))
            else:
                sock.sendall(b'nonsense\r\n\r\n')
                return

    with serving(moody) as endpoint:
        backend = backend_at(endpoint.url)
        for _ in range(3):
            with pytest.raises(errors.ProtocolError):
                backend.execute(Get('/'), in_time())
        is_well.set()
        assert backend.execute(Get('/'), in_time()).key == '/'
        backend.close()


def test_execute_sends_the_password_and_never_shows_it() -> None:
    """The options stand in where a URL has no credentials of its own."""
    asked: list[bytes] = []

    def refuse(sock: socket) -> None:
        while request := read_request(sock):
            asked.append(request)
            sock.sendall(answer_of(b'{"message":"Insufficient credentials"}', status='401 Unauthorized'))

    with serving(refuse) as endpoint:
        backend = backend_at(endpoint.url, username='root', password='secret')
        with pytest.raises(errors.Unauthorized, match='Insufficient credentials') as caught:
            backend.execute(Get('/'), in_time())
        assert 'secret' not in repr(backend) + repr(caught.value)
        backend.close()
    assert b'Authorization: Basic cm9vdDpzZWNyZXQ=' in asked[0]


def test_ready_returns_when_a_read_was_answered(backend: KeysV2) -> None:
    """A real server answers."""
    backend.ready(in_time())


def test_ready_raises_what_the_last_attempt_did() -> None:
    """It goes on trying until its deadline; a refusal that will stay is raised at once."""
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


def test_close_ends_everything() -> None:
    """Calls under way and later ones raise ClientClosed; twice is as good as once."""
    asked = Event()

    def silent(sock: socket) -> None:
        read_request(sock)
        asked.set()
        gevent.sleep(60)

    with serving(silent) as endpoint:
        backend = backend_at(endpoint.url)
        call = gevent.spawn(backend.execute, Put('/a', 'x'), Deadline.after(None))
        asked.wait()
        backend.close()
        backend.close()
        with pytest.raises(errors.ClientClosed):
            call.get(timeout=30)
    for late in (
        lambda: backend.execute(Get('/a'), in_time()),
        lambda: backend.watch(WatchSpec('/a'), Notes()),
        lambda: backend.keep(10),
        lambda: backend.ready(in_time()),
    ):
        with pytest.raises(errors.ClientClosed):
            late()


def test_keep_gives_one_group_a_ttl(backend: KeysV2) -> None:
    """Nodes of one TTL are renewed together."""
    assert backend.keep(10) is backend.keep(10)
    assert backend.keep(10) is not backend.keep(11)
    assert backend.keep(11).ttl == 11


# -- watches on a real server


def test_watch_tells_changes_from_now_on(backend: KeysV2, top: str) -> None:
    """First the index from which on nothing is missed, then what changes."""
    before = backend.execute(Put(f'{top}/a', '1'), in_time())
    _, notes = beginning(backend, WatchSpec(f'{top}/a'))
    assert notes.live() >= before.index
    backend.execute(Put(f'{top}/a', '2'), in_time())
    backend.execute(Delete(f'{top}/a'), in_time())
    assert notes.next() == (Set, f'{top}/a', '2')
    assert notes.next() == (Deleted, f'{top}/a', None)


def test_watch_tells_changes_from_an_index_on(backend: KeysV2, top: str) -> None:
    """What happened before the watch is told, once and in order."""
    first = backend.execute(Put(f'{top}/a', '1'), in_time())
    for number in range(2, 6):
        backend.execute(Put(f'{top}/a', str(number)), in_time())
    _, notes = beginning(backend, WatchSpec(f'{top}/a', first.index))
    assert notes.live() == first.index - 1
    assert [notes.next()[2] for _ in range(5)] == ['1', '2', '3', '4', '5']


def test_watch_keeps_to_its_node_when_history_matches_more(backend: KeysV2, top: str) -> None:
    """Names that only begin alike, and hidden nodes, are not told; nor are children unless recursive."""
    first = backend.execute(Put(f'{top}/a/b', '1'), in_time())
    backend.execute(Put(f'{top}/ab', '2'), in_time())
    backend.execute(Put(f'{top}/a/_hidden', '3'), in_time())
    backend.execute(Put(f'{top}/a/c', '4'), in_time())
    _, notes = beginning(backend, WatchSpec(f'{top}/a', first.index, recursive=True))
    _, narrow = beginning(backend, WatchSpec(f'{top}/a', first.index))
    _, hidden = beginning(backend, WatchSpec(f'{top}/a/_hidden', first.index))
    for each in (notes, narrow, hidden):
        assert each.live() == first.index - 1
    assert [notes.next(), notes.next()] == [(Set, f'{top}/a/b', '1'), (Set, f'{top}/a/c', '4')]
    assert hidden.next() == (Set, f'{top}/a/_hidden', '3')
    backend.execute(Delete(f'{top}/a', recursive=True), in_time())
    assert notes.next() == narrow.next() == hidden.next() == (Deleted, f'{top}/a', None)


@pytest.mark.usefixtures('quick_renewal')
def test_watch_loses_nothing_when_its_polls_are_renewed(backend: KeysV2, top: str) -> None:
    """Each change is told once, however often the poll was replaced between and meanwhile."""
    _, notes = beginning(backend, WatchSpec(top, recursive=True))
    notes.live()
    for number in range(100):
        backend.execute(Put(f'{top}/a', str(number)), in_time())
        if number % 10 == 0:
            gevent.sleep(0.05)  # some renewals
    assert [notes.next()[2] for _ in range(100)] == [str(number) for number in range(100)]


@pytest.mark.usefixtures('quick_renewal')
def test_watch_keeps_its_poll_when_the_history_runs_away(backend: KeysV2, top: str) -> None:
    """A renewal that is answered with 401 does not end a watch that has lost nothing."""
    _, notes = beginning(backend, WatchSpec(f'{top}/quiet'))
    notes.live()
    watch.FIRST_IDLE_TIMEOUT = 5.0  # undone by the fixture
    for _ in range(1100):
        backend.execute(Put(f'{top}/busy', 'x'), in_time())
    gevent.sleep(0.1)
    backend.execute(Put(f'{top}/quiet', 'x'), in_time())
    assert notes.next() == (Set, f'{top}/quiet', 'x')


def test_watch_ends_when_the_history_is_gone(backend: KeysV2, top: str) -> None:
    """EventIndexCleared, with the server's index, and never live."""
    for _ in range(1001):
        last = backend.execute(Put(f'{top}/busy', 'x'), in_time())
    _, notes = beginning(backend, WatchSpec(top, 1, recursive=True))
    error = notes.next()
    assert isinstance(error, errors.EventIndexCleared)
    assert error.index is not None and error.index >= last.index
    assert error.endpoint == backend.url


def test_watch_ends_when_the_store_went_back(backend: KeysV2, top: str) -> None:
    """An index that the store has not reached belongs to another store."""
    index = backend.execute(Put(f'{top}/a', 'x'), in_time()).index
    _, notes = beginning(backend, WatchSpec(f'{top}/a', index + 1_000_000))
    error = notes.next()
    assert isinstance(error, errors.EventIndexCleared)
    assert error.cause == 'the store was replaced, or restored to an earlier state'


def test_watch_tells_nothing_after_close(backend: KeysV2, top: str) -> None:
    """Closed while it connects, and closed later: the listener is not called again, and its greenlet ends."""
    early, nothing = beginning(backend, WatchSpec(f'{top}/a'))
    early.close()
    late, notes = beginning(backend, WatchSpec(f'{top}/a'))
    notes.live()
    late.close()
    late.close()
    backend.execute(Put(f'{top}/a', 'x'), in_time())
    _, other = beginning(backend, WatchSpec(f'{top}/b'))
    other.live()
    assert nothing.told.empty() and notes.told.empty()
    assert len(backend._watches) == 1


def test_watch_may_be_closed_by_its_listener(backend: KeysV2, top: str) -> None:
    """From on_changes, for one: no later change is told."""
    first = backend.execute(Put(f'{top}/a', '1'), in_time())
    backend.execute(Put(f'{top}/a', '2'), in_time())

    class Once(Notes):
        def on_changes(self, results: Sequence[EtcdResult]) -> None:
            super().on_changes(results)
            watch.close()

    notes = Once()
    watch = backend.watch(WatchSpec(f'{top}/a', first.index), notes)
    notes.live()
    assert notes.next() == (Set, f'{top}/a', '1')
    while backend._watches:
        gevent.sleep(0.01)
    assert notes.told.empty()


def test_watches_leave_calls_and_others_running_when_there_are_200(backend: KeysV2, top: str) -> None:
    """All are live at once, calls go through, and each is told its change."""
    watches = [beginning(backend, WatchSpec(f'{top}/{number}')) for number in range(200)]
    for _, notes in watches:
        notes.live()
    for number in range(200):
        backend.execute(Put(f'{top}/{number}', str(number)), in_time())
    assert [notes.next()[2] for _, notes in watches] == [str(number) for number in range(200)]


def test_watch_is_on_the_next_server_when_one_cannot_answer(etcd_server: Server, backend: KeysV2, top: str) -> None:
    """A proxy's page, in the place of a poll."""
    with serving(unavailable) as endpoint:
        other = backend_at([endpoint.url, etcd_server.url])
        index = backend.execute(Put(f'{top}/a', 'x'), in_time()).index
        _, notes = beginning(other, WatchSpec(f'{top}/a', index))
        assert notes.live() == index - 1
        assert notes.next() == (Set, f'{top}/a', 'x')
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
    """A server that answers the polls one after the other, and notes what they ask for.

    Asked what all servers know, it knows of nothing.
    """

    def __init__(self, *answers: bytes | Callable[[socket], None]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, sock: socket) -> None:
        while request := read_request(sock):
            if b'quorum=true' in request:
                sock.sendall(answer_of(b'{"errorCode":100,"message":"Key not found"}', status='404 Not Found'))
                continue
            self.asked.append(request.split()[1].decode())
            if not self.answers:
                sock.recv(1)  # until the client goes
                return
            answer = self.answers.pop(0)
            if isinstance(answer, bytes):
                sock.sendall(answer)
            else:
                answer(sock)
                return


def cut(data: bytes) -> Callable[[socket], None]:
    """Sends this and closes."""
    return lambda sock: sock.sendall(data)


def test_watch_polls_again_with_the_same_index_when_a_body_is_empty_or_cut() -> None:
    """Never without one: what changes between the polls would be lost."""
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
        _, notes = beginning(backend, WatchSpec('/a'))
        assert notes.live() == 7
        assert notes.next() == notes.next() == (Set, '/a', 'x')
        while len(server.asked) < 6:
            gevent.sleep(0.01)
        backend.close()
    assert server.asked[0] == '/v2/keys/a?wait=true'
    assert [url.rpartition('waitIndex=')[2] for url in server.asked[1:]] == ['8', '9', '9', '10', '10']


def test_watch_ends_when_polls_keep_ending_without_a_change() -> None:
    """A ConnectionError after the second: the owner waits and comes back, rather than poll in a loop."""
    with serving(Script(head(7) + chunked(b''), head(7) + chunked(b''))) as endpoint:
        backend = backend_at(endpoint.url)
        _, notes = beginning(backend, WatchSpec('/a'))
        assert notes.live() == 7
        assert isinstance(notes.next(), errors.ConnectionError)
        backend.close()


@pytest.mark.parametrize(
    'later',
    [head(9, cluster='c2', raft=30), head(3, raft=30), head(9, raft=5)],
    ids=['another cluster', 'index gone back', 'log gone back'],
)
def test_watch_ends_when_the_store_is_another_one(later: bytes) -> None:
    """At its next poll: what was watched is not there any more."""
    with serving(Script(head(7, raft=20) + event(8), later, later)) as endpoint:
        backend = backend_at(endpoint.url)
        _, notes = beginning(backend, WatchSpec('/a'))
        assert notes.live() == 7
        assert notes.next() == (Set, '/a', 'x')
        error = notes.next()
        assert isinstance(error, errors.EventIndexCleared)
        assert error.endpoint == endpoint.url
        backend.close()


def test_watch_that_goes_on_ends_when_the_store_is_another_one_by_then() -> None:
    """The connection breaks, the store is replaced and has grown past the index: it is noticed all the same."""
    server = Script(head(7) + event(8), cut(b''), cut(b''), *[head(9, cluster='c2')] * 3)
    with serving(server) as endpoint:
        backend = backend_at(endpoint.url)
        watch, notes = beginning(backend, WatchSpec('/a'))
        assert (notes.live(), notes.next()) == (7, (Set, '/a', 'x'))
        assert type(notes.next()) is errors.ConnectionError
        while backend._watches:
            gevent.sleep(0.01)
        again = Notes()
        backend.watch(WatchSpec('/a', 9), again, watch)
        assert isinstance(again.next(), errors.EventIndexCleared)
        while backend._watches:
            gevent.sleep(0.01)
        _, anew = beginning(backend, WatchSpec('/a', 10))
        assert anew.live() == 9
        backend.close()


@pytest.mark.parametrize(
    ('answer', 'error_class'),
    [
        (cut(answer_of(b'<html>', status='503 No', headers='Content-Type: text/html\r\n')), errors.HTTPError),
        (cut(answer_of(b'<html>', headers='Content-Type: text/html\r\n')), errors.HTTPError),
        (cut(b'nonsense\r\n\r\n'), errors.ProtocolError),
        (cut(head(7) + chunked(b'{"action":')), errors.ProtocolError),
        (cut(b''), errors.ConnectionError),
    ],
)
def test_watch_ends_with_a_typed_error_when_the_server_sends_nonsense(
    answer: Callable[[socket], None], error_class: type[EtcException]
) -> None:
    """The listener is told what it was, and where."""
    with serving(Script(answer, answer)) as endpoint:
        backend = backend_at(endpoint.url)
        _, notes = beginning(backend, WatchSpec('/a'))
        error = notes.next()
        if isinstance(error, tuple):
            error = notes.next()
        assert isinstance(error, error_class)
        assert error.endpoint == endpoint.url
        backend.close()


def test_watch_ends_when_nobody_listens() -> None:
    """ConnectionRefused, and by on_ended only: watch itself does not raise."""
    backend = backend_at('http://127.0.0.1:1')
    _, notes = beginning(backend, WatchSpec('/a', 5))
    assert isinstance(notes.next(), errors.ConnectionRefused)
    backend.close()


def test_watch_ends_when_its_key_is_no_text() -> None:
    """NotSupported, without any I/O."""
    backend = backend_at('http://127.0.0.1:1')
    _, notes = beginning(backend, WatchSpec('/\udc80'))
    assert isinstance(notes.next(), errors.NotSupported)
    backend.close()


# -- a server that hangs


@pytest.mark.parametrize('is_there', [False, True])
def test_watch_of_a_server_that_hangs_ends_soon_after_a_call_has_timed_out(
    monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """And not when its poll is renewed.  A server that is only slow to do this one thing is left alone."""
    monkeypatch.setattr(backend_module, 'CHECK_TIMEOUT', 30.0 if is_there else 0.05)
    checked = Event()

    def serve(sock: socket) -> None:
        while request := read_request(sock):
            if b'wait=true' in request:
                sock.sendall(b'HTTP/1.1 200 OK\r\nX-Etcd-Index: 5\r\nTransfer-Encoding: chunked\r\n\r\n')
            elif b'/version' in request:
                checked.set()
                if is_there:
                    sock.sendall(answer_of(b'{}'))
            elif b'_getc' in request:
                sock.sendall(answer_of(b'{"errorCode": 100, "message": "Key not found"}', status='404 Not Found'))

    with serving(serve) as endpoint:
        backend = backend_at(endpoint.url)
        notes = Notes()
        backend.watch(WatchSpec('/a', recursive=True), notes)
        assert notes.live() == 5
        with pytest.raises(TimedOut):
            backend.execute(Get('/a'), Deadline.after(0.2))
        checked.wait()
        if is_there:
            wait_until(lambda: not backend._checking)
            assert notes.told.empty()
        else:
            error = notes.next()
            assert isinstance(error, TimedOut) and error.endpoint == endpoint.url
        backend.close()
