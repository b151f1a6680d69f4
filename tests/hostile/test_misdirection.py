"""Redirects, proxies, and responses that do not belong to the request: nothing is disclosed or mistaken."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import gevent
import pytest
from gevent.socket import socket

import getc
from getc.testing import wait_until
from tests.hostile import http2_peers, http_peers
from tests.hostile.harness import HostileServer, Peer, Trap, healthy_server, opened, v2_response
from tests.support.servers import answer_of, read_request, serving

pytestmark = pytest.mark.timeout(300)

CREDENTIALS: dict[str, Any] = {'username': 'root', 'password': 'hunter2'}


@pytest.mark.parametrize(
    ('api', 'status'),
    [
        ('v2', 300),
        ('v2', 301),
        ('v2', 302),
        ('v2', 303),
        ('v2', 307),
        ('v2', 308),
        ('v3', 302),
        (None, 301),
        (None, 307),
    ],
)
def test_redirect_is_not_followed(api: str | None, status: int) -> None:
    """No call and no daemon connects to the other port."""
    with Trap() as trap:
        where = f'Location: {trap.url}/v2/keys/a\r\nRefresh: 0; url={trap.url}\r\nContent-Length: 0\r\n\r\n'
        page = f'HTTP/1.1 {status} Elsewhere\r\n{where}'.encode()

        def lead(sock: socket) -> None:
            while sock.recv(65_536):
                sock.sendall(page)

        with serving(lead) as endpoint, opened(api, endpoint.url, timeout=60, **CREDENTIALS) as client:
            errors = []
            for call in (
                lambda: client.get('/a'),
                lambda: client.set('/a', '1'),
                lambda: client.wait('/a', timeout=0.1),
                lambda: client.keep_node('/k', timeout=0.1),
                lambda: client.on_change('/a', print, wait=False),
            ):
                try:
                    call()
                except (getc.HTTPError, getc.ProtocolError, getc.ConnectionError) as error:
                    errors.append(str(error))
            gevent.sleep(0.05)
        assert trap.visits == 0
        assert len(errors) == 4
        assert not [text for text in errors if trap.url in text]


def test_redirect_is_not_followed_by_a_watch() -> None:
    """Also after a successful read."""
    with Trap() as trap:

        def lead(sock: socket) -> None:
            while request := read_request(sock):
                if b'wait=true' in request:
                    sock.sendall(answer_of(b'', status='307 Elsewhere', headers=f'Location: {trap.url}/\r\n'))
                else:
                    sock.sendall(v2_response())

        with serving(lead) as endpoint, opened('v2', endpoint.url, **CREDENTIALS) as client:
            watcher = client.on_change('/a', print, wait=False)
            wait_until(lambda: isinstance(watcher.last_error, getc.HTTPError))
        assert trap.visits == 0


def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Passwords are not read from ``.netrc`` either."""
    netrc = tmp_path / 'netrc'
    netrc.write_text('machine 127.0.0.1 login root password hunter2\n')
    seen: list[bytes] = []

    def record(sock: socket) -> None:
        while request := read_request(sock):
            seen.append(request)
            sock.sendall(v2_response())

    with Trap() as trap, serving(record) as endpoint:
        for name in ('http_proxy', 'HTTP_PROXY', 'https_proxy', 'all_proxy', 'ALL_PROXY'):
            monkeypatch.setenv(name, trap.url)
        monkeypatch.setenv('NETRC', str(netrc))
        with opened('v2', endpoint.url) as client:
            assert client.get('/a').value == 'good'
    assert trap.visits == 0
    assert b'uthorization' not in seen[0]


def test_password_of_one_server_is_not_sent_to_another() -> None:
    """Where it stands in the URL of that one."""
    seen: dict[str, bytes] = {}

    def refuse(sock: socket) -> None:
        seen['first'] = read_request(sock)

    def respond(sock: socket) -> None:
        seen['second'] = read_request(sock)
        sock.sendall(v2_response())

    with serving(refuse) as first, serving(respond) as second:
        url = first.url.replace('http://', 'http://root:hunter2@')
        with opened('v2', url, second.url) as client:
            assert client.get('/a').value == 'good'
    assert b'Authorization: Basic' in seen['first']
    assert b'uthorization' not in seen['second']


@pytest.mark.parametrize('gap', [0, 0.05], ids=['in one piece', 'later'])
def test_unrequested_response_is_not_taken_for_the_next(gap: float) -> None:
    """Of two responses to one request the second is dropped."""

    def twice(sock: socket) -> None:
        while read_request(sock):
            sock.sendall(v2_response('right') + (b'' if gap else v2_response('poison')))
            if gap:
                gevent.sleep(gap)
                sock.sendall(v2_response('poison'))

    with serving(twice) as endpoint, opened('v2', endpoint.url) as client:
        for _ in range(5):
            assert client.get('/a').value == 'right'
            gevent.sleep(2 * gap)


MEMORY = {
    'v2': 'gzip bomb|endless body|endless chunks|endless chunks of a byte|endless headers|deep JSON|huge integer|'
    'absurd length|length over the limit',
    'v3': 'gzip bomb|HPACK bomb|thousands of fields|endless response|endless messages|huge message|'
    'endless CONTINUATION|endless PING|endless empty DATA|deeply nested groups',
}
PEERS = {('v2', peer.name): peer for peer in http_peers.PEERS} | {('v3', peer.name): peer for peer in http2_peers.PEERS}


@pytest.mark.parametrize(
    ('api', 'peer'),
    [(api, PEERS[api, name]) for api, names in MEMORY.items() for name in names.split('|')],
    ids=str,
)
def test_hostile_server_does_not_fill_the_memory_of_a_client(api: str, peer: Peer) -> None:
    """A few times the limit of a response, at most."""
    with healthy_server(api) as url, opened(api, url) as client:
        client.get('/a')  # allocates what is allocated once
    with HostileServer(peer) as server:
        gc.collect()
        tracemalloc.start()
        try:
            with opened(api, server.url, timeout=100) as client, pytest.raises(getc.EtcException) as caught:
                client.get('/a')
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert not isinstance(caught.value, getc.TimedOut)
    assert peak < 80 * 1024 * 1024
