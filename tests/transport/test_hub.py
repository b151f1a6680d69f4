"""Nothing in the transport blocks the hub: unpatched, and in a program that has patched everything."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(120)

PATCH = 'from gevent import monkey; monkey.patch_all()\n'

STALLED_HANDSHAKE = """
import gevent
from gevent.event import Event
from gevent.server import StreamServer
from getc.errors import ConnectionError
from getc.timing import Deadline
from getc.transport.endpoints import parse_endpoints
from getc.transport.http import Http
from getc.transport.sockets import TLS
from getc.wire.messages import Request

greeted, go = Event(), Event()

def stall(sock, address):
    assert sock.recv(1) == b'\\x16'  # the first byte of a TLS handshake
    greeted.set()
    go.wait()

server = StreamServer(('127.0.0.1', 0), stall)
server.start()
endpoint = parse_endpoints('https://127.0.0.1:%d' % server.server_port)[0]
transport = Http(TLS().context())
call = gevent.spawn(transport.call, endpoint, Request('GET', '/'), Deadline.after(60))
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
from getc.transport.endpoints import parse_endpoints
from getc.transport.http import Http
from getc.wire.messages import Request

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
transport = Http()

def poll():
    with transport.poll(endpoint, Request('GET', '/?wait=true'), Deadline.after(60)) as poll:
        poll.wait(None)
        return poll.read(Deadline.after(60)).body

polls = [gevent.spawn(poll) for _ in range(200)]
for _ in range(200):
    polled.acquire()
def call():
    return transport.call(endpoint, Request('PUT', '/', b'value=1', True), Deadline.after(60)).body
calls = [gevent.spawn(call) for _ in range(100)]
assert [call.get() for call in calls] == [b'{}'] * 100
go.set()
assert [poll.get() for poll in polls] == [b'{}'] * 200
transport.close()
server.stop()
print('all answered')
"""


@pytest.mark.parametrize('patch', ['', PATCH], ids=['unpatched', 'patched'])
def test_stalled_tls_handshake_leaves_others_running(patch: str) -> None:
    """A server that does not go on with the handshake holds up its own call alone."""
    done = subprocess.run([sys.executable, '-c', patch + STALLED_HANDSHAKE], capture_output=True, text=True, timeout=90)
    assert done.stdout == 'ended by ConnectionError\n', done.stderr


@pytest.mark.parametrize('patch', ['', PATCH], ids=['unpatched', 'patched'])
def test_polls_leave_calls_running_when_there_are_many(patch: str) -> None:
    """200 long polls are open, and 100 calls at once, more than there are connections for, are all answered."""
    done = subprocess.run([sys.executable, '-c', patch + MANY_POLLS], capture_output=True, text=True, timeout=90)
    assert done.stdout == 'all answered\n', done.stderr
