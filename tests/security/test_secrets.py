"""No password, token, value or key appears in a log, a ``repr``, an error message, a traceback or a pickle.

Only nodes, and results with a node, show values.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

import getc
from getc.daemons.keeper import KeeperState
from getc.errors import Unauthorized
from getc.net.endpoint import parse_endpoints
from getc.testing import Certificates
from getc.v3.schema.auth import AuthenticateResponse
from tests.security.sweep import Sweep
from tests.support.api_support import supported_apis
from tests.support.auth_servers import AuthServer, Served
from tests.support.grpc_server import GrpcServer, ServerCall
from tests.support.leftovers import open_clients
from tests.support.servers import answer_of, read_request, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PASSWORD = 'correct horse'
GUESS = 'wrong-pony-4711'
VALUE = 'launch-code-0815'
OTHER = 'launch-code-9999'
ENCODED = [base64.b64encode(f'root:{word}'.encode()).decode() for word in (PASSWORD, GUESS)]
PASSWORDS = [PASSWORD, GUESS, *ENCODED]
VALUES = [VALUE, OTHER]


@pytest.fixture
def sweep(capfd: pytest.CaptureFixture[str]) -> Iterator[Sweep]:
    """Records all logs, and checks at the end what gevent has printed."""
    with Sweep(PASSWORDS, VALUES) as sweep:
        yield sweep
        sweep.check_logs()
    printed = ''.join(capfd.readouterr())
    assert [secret for secret in PASSWORDS + VALUES if secret in printed] == []


def ignore(result: getc.EtcdResult) -> None:
    """A callback that does not print the result, because results show values."""


def exercise(client: getc.Client, sweep: Sweep, wait_until: Callable[..., None]) -> None:
    """Use every verb of a client, with success and with errors."""
    client.set('/s/a', VALUE)
    seen: list[str | None] = []
    watcher = client.on_change('/s', lambda result: seen.append(result.value), initial=True)
    mirror = client.mirror('/s')
    keeper = client.keep_node('/s/kept', VALUE, ttl=60)
    client.update('/s/a', OTHER, prev_value=VALUE)
    client.append('/s', VALUE)
    client.set('/s/b', VALUE, ttl=60)
    client.refresh('/s/b', ttl=60, prev_value=VALUE)
    keeper.update(OTHER)
    wait_until(lambda: OTHER in seen and OTHER in mirror.values())
    sweep.expect_error(lambda: client.set('/s/a', VALUE, prev_value=VALUE), getc.TestFailed)
    sweep.expect_error(lambda: client.set('/s/a', VALUE, prev_value=VALUE, prev_index=1), getc.TestFailed)
    sweep.expect_error(lambda: client.delete('/s/a', prev_value=VALUE), getc.TestFailed)
    sweep.expect_error(lambda: client.refresh('/s/a', ttl=5, prev_value=VALUE), getc.TestFailed)
    sweep.expect_error(lambda: client.create('/s/a', VALUE), getc.NodeExist)
    sweep.expect_error(lambda: client.update('/s/none', VALUE), getc.KeyNotFound)
    sweep.expect_error(lambda: client.update('/s/none', VALUE, prev_value=OTHER), getc.KeyNotFound)
    sweep.expect_error(lambda: client.set('/s', VALUE), getc.errors.NotFile)
    sweep.expect_error(lambda: client.set('/s/a/b', VALUE), getc.errors.NotDir)
    sweep.expect_error(lambda: client.append('/s/a', VALUE), getc.errors.NotDir)
    sweep.expect_error(lambda: client.keep_node('/s/a', VALUE, ttl=5), getc.NodeExist)
    sweep.expect_error(lambda: client.wait('/s/a', timeout=0.01), getc.ConnectionError)
    sweep.expect_error(lambda: client.set('/s/a', VALUE + '\ud800'), ValueError, shows_locals=False)
    sweep.expect_error(lambda: client.get('/s/a').node.json(), ValueError, shows_locals=False)  # type: ignore[union-attr]
    sweep.expect_error(lambda: client.set('/s/a', VALUE, dir=True), ValueError, shows_locals=False)
    client.delete('/s/kept')
    wait_until(lambda: keeper.last_error is not None)
    sweep.check_errors(keeper.last_error)
    sweep.check()
    keeper.stop()
    watcher.stop()
    sweep.check()


def test_memory_shows_no_secret(sweep: Sweep, wait_until: Callable[..., None]) -> None:
    with getc.etcd('memory://') as client:
        exercise(client, sweep, wait_until)
    sweep.expect_error(lambda: client.set('/a', VALUE), getc.ClientClosed)
    sweep.check()


def tokens() -> list[str]:
    """Return the tokens of all open clients."""
    held = [
        server.auth_token.current
        for client in open_clients()
        if (v3 := client._opened.v3)
        for server in v3._rpc._servers.values()
    ]
    return [bytes(value).decode() for token in held if token for _, value in token]


def test_etcd_with_users_shows_no_secret(
    auth_server: AuthServer, sweep: Sweep, wait_until: Callable[..., None]
) -> None:
    """Also with wrong passwords, and with an etcd that is paused or killed."""
    auth_server.enable_auth()
    client, guess = auth_server.login(), auth_server.login('root', GUESS)
    client.get('/')
    sweep.others += tokens()
    assert sweep.others or auth_server.api == 'v2'
    exercise(client, sweep, wait_until)
    for call in (
        lambda: guess.get('/s/a'),
        lambda: guess.set('/s/a', VALUE),
        lambda: guess.keep_node('/s/k', VALUE),
        lambda: guess.on_change('/s', ignore),
        lambda: guess.mirror('/s'),
        lambda: guess.wait('/s'),
        lambda: guess.ready(60),
    ):
        sweep.expect_error(call, Unauthorized)
    if auth_server.api == 'v3':
        exercise_v3(client, guess, sweep)
    auth_server.server.pause()
    for call in (lambda: client.set('/s/a', VALUE, timeout=0.1), lambda: guess.set('/s/a', VALUE, timeout=0.1)):
        sweep.expect_error(call, getc.TimedOut)
    auth_server.server.resume()
    keeper = client.keep_node('/s/kept', VALUE, ttl=2)
    watcher = client.on_change('/s', ignore)
    auth_server.server.kill()
    sweep.expect_error(lambda: client.set('/s/a', VALUE), getc.ConnectionError)
    sweep.expect_error(lambda: guess.set('/s/a', VALUE), getc.ConnectionError)
    sweep.expect_error(lambda: client.keep_node('/s/k', VALUE, timeout=0.1), getc.TimedOut)
    wait_until(lambda: keeper.state is KeeperState.LOST and watcher.last_error is not None)
    sweep.check_errors(keeper.last_error, watcher.last_error)
    sweep.check()
    client.close()
    sweep.expect_error(lambda: client.set('/s/a', VALUE), getc.ClientClosed)


def exercise_v3(client: getc.Client, guess: getc.Client, sweep: Sweep) -> None:
    """Provoke the errors of the v3 services, and tokens that become invalid."""
    auth, kv = client.v3.auth, client.v3.kv
    auth.user_add('somebody', GUESS)
    auth.user_change_password('somebody', PASSWORD)
    auth.authenticate('somebody', PASSWORD)
    for call in (
        lambda: auth.user_add('somebody', GUESS),
        lambda: auth.user_add('', GUESS),
        lambda: auth.user_change_password('nobody', GUESS),
        lambda: auth.authenticate('somebody', GUESS),
        lambda: kv.put(b'/s/a', VALUE.encode(), lease=4711),
        lambda: guess.v3.lease.keep_alive(4711),
        lambda: guess.v3.watch.create(b'/s'),
    ):
        sweep.expect_error(call, getc.EtcdError, shows_locals=False)  # these calls have the password as an argument
    for call in (
        lambda: kv.put(b'/s/a', VALUE),  # type: ignore[arg-type]
        lambda: auth.user_add('somebody', GUESS + '\ud800'),
    ):
        sweep.expect_error(call, TypeError, ValueError, shows_locals=False)
    auth.disable()
    auth.enable()
    client.set('/s/a', VALUE)
    sweep.others += tokens()
    sweep.check()


def test_etcd_with_mutual_tls_shows_no_key(
    certificates: Certificates, served: Served, sweep: Sweep, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    """Also with the server's files, and with a damaged key."""
    me = certificates.client
    key = Path(me.key).read_text()
    sweep.others += key.splitlines()[1:-1]
    broken = tmp_path / 'broken.key'
    broken.write_text(key[: len(key) // 2])
    with served(certificates.mutual()) as server:
        for api in supported_apis(server.binary):
            options: Any = {'api': api, 'ca': certificates.ca, 'cert': me.cert}
            with getc.etcd(server.url, key=me.key, **options) as client:
                exercise(client, sweep, wait_until)
            with getc.etcd(server.url, api=api, ca=certificates.ca) as client:
                sweep.expect_error(lambda client=client: client.set('/s/a', VALUE), getc.ConnectionError)
            sweep.expect_error(lambda options=options: getc.etcd(server.url, key=str(broken), **options), OSError)


def test_invalid_options_show_no_secret(sweep: Sweep) -> None:
    """Whatever part of the URL or of the options is invalid."""
    for url in (
        f'http://root:{GUESS}@127.0.0.1:port',
        f'ftp://root:{GUESS}@127.0.0.1',
        f'http://root:{GUESS}@127.0.0.1/path',
        f'http://root:{GUESS}@',
        f'root:{GUESS}@127.0.0.1',
        f'http://root:{GUESS}@[::1',
        f'http://127.0.0.1,http://root:{GUESS}@127.0.0.1:99999',
    ):
        sweep.expect_error(lambda url=url: getc.etcd(url), ValueError, shows_locals=False)
    sweep.expect_error(lambda: getc.etcd(password=GUESS), ValueError, shows_locals=False)
    sweep.expect_error(lambda: getc.etcd('memory://', username='a', password=GUESS), ValueError, shows_locals=False)
    with getc.etcd(f'http://root:{GUESS}@127.0.0.1:1', api='v2') as client:
        sweep.expect_error(lambda: client.set('/a', VALUE), getc.ConnectionRefused)
        assert GUESS not in client.url + repr(client)


# -- servers that echo requests: their responses are in local variables while they are parsed


def echoes(request: bytes) -> dict[str, bytes]:
    """Responses that contain the request, by where they contain it."""
    line = request.replace(b'\r\n', b' ')
    quoted = line.decode('latin-1').replace('"', "'").encode('latin-1')
    return {
        'status line': line + b'\r\n\r\n',
        'reason': b'HTTP/1.1 200 ' + line + b'\r\nContent-Length: x\r\nContent-Length: y\r\n\r\n',
        'length': b'HTTP/1.1 200 OK\r\nContent-Length: ' + line + b'\r\n\r\n',
        'chunk size': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n' + line + b'\r\n',
        'encoding': b'HTTP/1.1 200 OK\r\nContent-Encoding: ' + line + b'\r\nContent-Length: 0\r\n\r\n',
        'content type': b'HTTP/1.1 200 OK\r\nContent-Type: ' + line + b'\r\nContent-Length: 0\r\n\r\n',
        'page': answer_of(line, headers='Content-Type: text/html\r\n'),
        'broken JSON': answer_of(b'{"' + quoted),
        'JSON of another shape': answer_of(b'{"action":"' + quoted + b'","node":{"key":"' + quoted + b'"}}'),
        'redirect': b'HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/' + line + b'\r\nContent-Length: 0\r\n\r\n',
        'message': answer_of(b'{"message":"' + quoted + b'"}', status='500 Oops'),
        'refusal': answer_of(b'{"message":"' + quoted + b'"}', status='401 No'),
        'error': answer_of(b'{"errorCode":209,"message":"' + quoted + b'","cause":"' + quoted + b'"}', status='400 No'),
        'test failed': answer_of(b'{"errorCode":101,"message":"Compare failed","cause":"' + quoted + b'"}'),
    }


PLACES = [*echoes(b'')]


@pytest.mark.parametrize('place', PLACES)
def test_v2_server_that_echoes_the_request_shows_no_secret(sweep: Sweep, place: str) -> None:
    def echo(sock: gevent.socket.socket) -> None:
        while request := read_request(sock):
            sock.sendall(echoes(request)[place])
            if place in ('status line', 'reason', 'length', 'chunk size'):
                return

    with serving(echo) as endpoint:
        with getc.etcd(endpoint.url, api='v2', username='root', password=GUESS, timeout=60) as client:
            sweep.expect_error(lambda: client.set('/a', VALUE), shows_locals=False)
            sweep.expect_error(lambda: client.set('/a', VALUE, prev_value=OTHER), shows_locals=False)
            sweep.expect_error(lambda: client.delete('/a', prev_value=VALUE), shows_locals=False)
            if place == 'refusal':
                sweep.expect_error(lambda: client.on_change('/a', ignore), shows_locals=False)
    assert len(sweep.errors) >= 3


@contextmanager
def echoing(script: Callable[[ServerCall, bytes], object], token: str) -> Iterator[str]:
    """A gRPC server that issues a token, and answers each call by the script."""

    def answer(call: ServerCall) -> None:
        message = call.receive() or b''
        if call.path.endswith('/Authenticate') and token:
            call.answer(AuthenticateResponse(token=token).SerializeToString())
        else:
            script(call, message)

    with GrpcServer(answer) as server:
        yield server.endpoint.url


HEAD = ((b':status', b'200'), (b'content-type', b'application/grpc'))


def visible(call: ServerCall, message: bytes) -> bytes:
    """Return the message and the token in characters that a header may have."""
    request = b' '.join([message, call.headers.get(b'token', b'')])
    return bytes(byte if 32 < byte < 127 else 95 for byte in request)


def in_refusal(call: ServerCall, message: bytes) -> None:
    call.head([*HEAD, (b'grpc-status', b'3'), (b'grpc-message', visible(call, message))], end=True)


def in_unavailable(call: ServerCall, message: bytes) -> None:
    call.head([*HEAD, (b'grpc-status', b'14'), (b'grpc-message', visible(call, message))], end=True)


def in_status(call: ServerCall, message: bytes) -> None:
    call.head([*HEAD, (b'grpc-status', visible(call, message))], end=True)


def in_type(call: ServerCall, message: bytes) -> None:
    call.head([(b':status', b'200'), (b'content-type', visible(call, message))], end=True)


def in_answer(call: ServerCall, message: bytes) -> None:
    call.answer(b'\xff' + message)


def in_goaway(call: ServerCall, message: bytes) -> None:
    call.connection.goaway(0, 11, visible(call, message))
    gevent.sleep(0.01)
    call.connection.cut()


def in_garbage(call: ServerCall, message: bytes) -> None:
    call.connection.raw(message * 10)


@pytest.mark.parametrize('token', ['', 'token-1234567.89'], ids=['of a password', 'of a token'])
@pytest.mark.parametrize('script', [in_refusal, in_unavailable, in_status, in_type, in_answer, in_goaway, in_garbage])
def test_v3_server_that_echoes_the_request_shows_no_secret(
    capfd: pytest.CaptureFixture[str], script: Callable[[ServerCall, bytes], object], token: str
) -> None:
    """Password, token and value.  Records only the logs of getc, because the server is in the same process."""
    others = [token] if token else []
    with Sweep(PASSWORDS, VALUES, others=others, loggers=('getc',)) as sweep, echoing(script, token) as url:
        with getc.etcd(url, api='v3', username='root', password=GUESS, timeout=60) as client:
            sweep.expect_error(lambda: client.set('/a', VALUE), shows_locals=False)
            sweep.expect_error(lambda: client.set('/a', VALUE, prev_value=OTHER), shows_locals=False)
            sweep.expect_error(lambda: client.v3.kv.put(b'/a', VALUE.encode()), shows_locals=False)
            gevent.sleep(0)
            sweep.check_logs()
    assert len(sweep.errors) == 3


def test_sweep_finds_a_secret_in_an_error_and_in_a_log() -> None:
    class Careless(getc.EtcException):
        pass

    def fail(password: str) -> None:
        raise Careless('it was', password)

    with Sweep([GUESS], [VALUE]) as sweep:
        with pytest.raises(AssertionError, match='Careless shows'):
            sweep.expect_error(lambda: fail(GUESS), shows_locals=False)
        logging.getLogger('anything').debug('%s', VALUE)
        with pytest.raises(AssertionError, match='the logs shows'):
            sweep.check()


def test_sweep_finds_a_secret_in_local_variables() -> None:
    url = '-'.join(['parse', 'this', 'pony@x'])
    with Sweep(['parse-this-pony'], []) as sweep:
        with pytest.raises(AssertionError, match='url shows'):
            sweep.expect_error(lambda: parse_endpoints(url), ValueError)
