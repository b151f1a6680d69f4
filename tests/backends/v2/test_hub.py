"""No call, poll or handshake blocks the hub, with and without monkey-patching."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(300)

PATCH = 'from gevent import monkey; monkey.patch_all()\n'

STALLED_HANDSHAKE = """
import gevent
from gevent.event import Event
from gevent.server import StreamServer
from getc.errors import ConnectionError
from getc.timing import Deadline
from getc.net.endpoint import parse_endpoints
from getc.backends.v2.http import Http
from getc.net.tls import TLS
from getc.backends.v2.messages import Request

greeted, go = Event(), Event()

def stall(sock, address):
    assert sock.recv(1) == b'\\x16'  # the first byte of a TLS handshake
    greeted.set()
    go.wait()

server = StreamServer(('127.0.0.1', 0), stall)
server.start()
endpoint = parse_endpoints('https://127.0.0.1:%d' % server.server_port)[0]
http = Http(TLS().contexts())
call = gevent.spawn(http.call, endpoint, Request('GET', '/'), Deadline.after(60))
greeted.wait()        # the handshake is stalled, and this greenlet runs: so does any other
for _ in range(10):
    gevent.sleep(0.001)
assert not call.ready()
go.set()
try:
    call.get()
except ConnectionError as error:
    print('ended by', type(error).__name__)
server.stop()
"""

MANY_POLLS = """
import gevent
from gevent.event import Event
from gevent.lock import Semaphore
from gevent.server import StreamServer
from getc.timing import Deadline
from getc.net.endpoint import parse_endpoints
from getc.backends.v2.http import Http
from getc.backends.v2.messages import Request

polled, go = Semaphore(0), Event()

def serve(sock, address):
    while data := sock.recv(65536):
        if b'wait' in data:
            sock.sendall(b'HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n')
            polled.release()
            go.wait()
            sock.sendall(b'2\\r\\n{}\\r\\n0\\r\\n\\r\\n')
        else:
            sock.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}')

server = StreamServer(('127.0.0.1', 0), serve, backlog=256)
server.start()
endpoint = parse_endpoints('http://127.0.0.1:%d' % server.server_port)[0]
http = Http()

def poll():
    with http.poll(endpoint, Request('GET', '/?wait=true'), Deadline.after(60)) as poll:
        poll.wait(None)
        return poll.read(Deadline.after(60)).body

polls = [gevent.spawn(poll) for _ in range(200)]
for _ in range(200):
    polled.acquire()
def call():
    return http.call(endpoint, Request('PUT', '/', b'value=1', True), Deadline.after(60)).body
calls = [gevent.spawn(call) for _ in range(100)]
assert [call.get() for call in calls] == [b'{}'] * 100
go.set()
assert [poll.get() for poll in polls] == [b'{}'] * 200
http.close()
server.stop()
print('all answered')
"""

MANY_GRPC_CALLS = """
import gevent
from getc.timing import Deadline
from getc.grpc.channel import Channel
from tests.support.grpc_server import GrpcServer

answered = 0
between = [0]    # responses and messages between two ticks

def script(call):
    if call.path == '/a.B/Stream':
        call.head()
        while True:
            call.message(b'x' * 1000)
            gevent.sleep(0)
    call.answer(call.receive())

def work(number):
    global answered
    for turn in range(8):
        message = b'%d of %d' % (turn, number)
        assert channel.unary('/a.B/C', message, Deadline.after(60)) == message
        answered += 1

def read(stream):
    global answered
    for _ in stream:
        answered += 1

def tick():
    while True:
        before = answered
        gevent.sleep(0.01)
        between.append(answered - before)

with GrpcServer(script) as server:
    channel = Channel(server.endpoint)
    ticker = gevent.spawn(tick)
    streams = [channel.stream('/a.B/Stream', Deadline.after(60)) for _ in range(20)]
    readers = [gevent.spawn(read, stream) for stream in streams]
    gevent.joinall([gevent.spawn(work, number) for number in range(200)], raise_error=True)
    for stream in streams:
        stream.cancel()
    gevent.joinall(readers, raise_error=True)
    ticker.kill()
    channel.close()
print('held up' if max(between) > answered // 5 else 'all answered')
"""


@pytest.mark.parametrize('patch', ['', PATCH], ids=['unpatched', 'patched'])
def test_busy_grpc_calls_and_streams_do_not_block_the_hub(patch: str) -> None:
    """With 200 calls and 20 busy streams, at most a fifth of the responses arrives between two ticks of 10 ms."""
    done = subprocess.run([sys.executable, '-c', patch + MANY_GRPC_CALLS], capture_output=True, text=True, timeout=100)
    assert done.stdout == 'all answered\n', done.stderr


@pytest.mark.parametrize('patch', ['', PATCH], ids=['unpatched', 'patched'])
def test_stalled_tls_handshake_does_not_block_the_hub(patch: str) -> None:
    """Only the call to that server waits."""
    done = subprocess.run(
        [sys.executable, '-c', patch + STALLED_HANDSHAKE], capture_output=True, text=True, timeout=100
    )
    assert done.stdout == 'ended by ConnectionError\n', done.stderr


@pytest.mark.parametrize('patch', ['', PATCH], ids=['unpatched', 'patched'])
def test_many_polls_do_not_block_calls(patch: str) -> None:
    """With 200 open polls, 100 concurrent calls, more than may be in flight, are all answered."""
    done = subprocess.run([sys.executable, '-c', patch + MANY_POLLS], capture_output=True, text=True, timeout=100)
    assert done.stdout == 'all answered\n', done.stderr
