"""TLS errors name the reason and the remedy, and a write that failed with one was not sent."""

from __future__ import annotations

import datetime
import errno
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import gevent.ssl
import pytest

import getc
from getc.testing import Certificate, Certificates, EtcdServer
from tests.support.api_support import supported_apis
from tests.support.auth_servers import Served
from tests.support.servers import answer_of, read_request, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

APIS = ('v2', 'v3')
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
PAGES = {
    'Go': b'HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n',
    'nginx': answer_of(
        b'<title>400 The plain HTTP request was sent to HTTPS port</title>',
        status='400 Bad Request',
        headers='Content-Type: text/html\r\n',
    ),
    'TLS alert': b'\x15\x03\x01\x00\x02\x02\x46',
}


@contextmanager
def tls_server(
    certificate: Certificate, *, ca: str | None = None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Iterator[str]:
    """Run a server that does the handshake, and requires a client certificate of an authority if one is given."""
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    context.set_alpn_protocols(['h2', 'http/1.1'])
    context.maximum_version = version
    if ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca)

    def shake_hands(sock: gevent.socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            secure.recv(1)
            gevent.sleep(30)

    with serving(shake_hands, scheme='https') as endpoint:
        yield endpoint.url


def error_of_write(url: str, api: Any, **options: Any) -> getc.ConnectionError:
    """Return the error of a write there, which was not applied and names the endpoint."""
    with getc.etcd(url, api=api, timeout=60, **options) as client, pytest.raises(getc.ConnectionError) as caught:
        client.set('/a', 'secret')
    assert not isinstance(caught.value, getc.TimedOut)
    assert caught.value.maybe_applied is False
    assert caught.value.endpoint == url
    assert url in str(caught.value)
    return caught.value


# -- server certificates


@pytest.mark.parametrize('api', APIS)
@pytest.mark.parametrize(
    ('kind', 'expected'),
    [
        ('expired', 'certificate has expired: renew the certificate of the server'),
        ('not_yet_valid', 'certificate is not yet valid: check the clock of this machine'),
        ('wrong_host', "not valid for '127.0.0.1': use a URL with one of its subjectAltNames"),
        ('untrusted', 'unable to get local issuer certificate: pass its CA file as ca='),
    ],
)
def test_bad_certificate_is_reported_with_its_remedy(
    certificates: Certificates, api: str, kind: str, expected: str
) -> None:
    with tls_server(getattr(certificates, kind)) as url:
        error = error_of_write(url, api, ca=certificates.ca)
    assert str(error).startswith(f'the certificate of {url} is not trusted: ')
    assert expected in str(error)


@pytest.mark.parametrize('api', APIS)
def test_common_name_alone_does_not_name_the_server(certificates: Certificates, api: str) -> None:
    """Go's clients ignore the common name, too."""
    with tls_server(certificates.issue('localhost', hosts=())) as url:
        error = error_of_write(url.replace('127.0.0.1', 'localhost'), api, ca=certificates.ca)
    assert "not valid for 'localhost': use a URL with one of its subjectAltNames" in str(error)


@pytest.mark.parametrize('api', APIS)
def test_private_authority_is_not_trusted_without_ca(certificates: Certificates, api: str) -> None:
    """Without ``ca`` the authorities of the system are used."""
    with tls_server(certificates.server) as url:
        assert 'pass its CA file as ca=' in str(error_of_write(url, api))


# -- client certificates


@pytest.mark.parametrize('version', VERSIONS, ids=['1.2', '1.3'])
@pytest.mark.parametrize('api', APIS)
def test_rejected_client_certificate_is_reported(certificates: Certificates, api: str, version: ssl.TLSVersion) -> None:
    """With TLS 1.3 the alert comes after the client's half of the handshake, when the request is on its way."""
    expired = certificates.issue('late', hosts=(), lifetime=datetime.timedelta(days=-1))
    with Certificates() as others, tls_server(certificates.server, ca=certificates.ca, version=version) as url:
        shown = {
            'requires a client certificate': {},
            'the client certificate has expired': {'cert': expired.cert, 'key': expired.key},
            'does not trust the authority of the client certificate': {
                'cert': others.client.cert,
                'key': others.client.key,
            },
        }
        for expected, options in shown.items():
            assert expected in str(error_of_write(url, api, ca=certificates.ca, **options))


@pytest.mark.parametrize('api', APIS)
def test_rejected_client_certificate_is_reported_when_the_connection_is_gone_at_once(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    """The alert and the end of the connection arrive before the first call is sent, as from a fast server."""

    def no_peer(sock: gevent.socket.socket) -> Any:
        gevent.socket.wait_read(sock.fileno())  # the alert
        raise OSError(errno.ENOTCONN, 'Transport endpoint is not connected')

    module = 'getc.grpc.channel' if api == 'v3' else 'getc.backends.v2.http_pool'
    monkeypatch.setattr(f'{module}.peer_address', no_peer)
    with tls_server(certificates.server, ca=certificates.ca) as url:
        assert 'requires a client certificate' in str(error_of_write(url, api, ca=certificates.ca))


@pytest.mark.parametrize('api', [*APIS, None])
def test_etcd_with_mutual_tls_requires_a_client_certificate(
    certificates: Certificates, served: Served, api: str | None
) -> None:
    me = certificates.client
    with served(certificates.mutual(), api=api) as server:
        with getc.etcd(server.url, api=api, ca=certificates.ca, cert=me.cert, key=me.key) as client:
            assert client.set('/a', '1').value == '1'
        # Servers built with an older Go (etcd 3.5.1) send the same alert for no certificate and for a wrong one.
        expected = str(error_of_write(server.url, api, ca=certificates.ca))
        assert re.search('requires a client certificate(, or rejects this one: check|: pass) cert= and key=', expected)


@pytest.mark.parametrize('api', APIS)
def test_revoked_certificate_is_named_as_a_reason(certificates: Certificates, api: str) -> None:
    """etcd completes the handshake, looks up its revocation list, and closes the connection without an alert."""
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.cert, certificates.server.key)
    context.set_alpn_protocols(['h2', 'http/1.1'])

    def shake_hands_and_close(sock: gevent.socket.socket) -> None:
        context.wrap_socket(sock, server_side=True).close()

    with (
        serving(shake_hands_and_close, scheme='https') as endpoint,
        getc.etcd(endpoint.url, api=api, timeout=30, ca=certificates.ca) as client,
        pytest.raises(getc.ConnectionError, match=r'\(revoked\?\): check cert='),
    ):
        client.get('/a')


@pytest.mark.parametrize('api', APIS)
def test_daemons_work_over_mutual_tls(
    certificates: Certificates, served: Served, api: str, wait_until: Callable[..., None]
) -> None:
    """Host names are verified."""
    me = certificates.client
    options: Any = {'api': api, 'ca': certificates.ca, 'cert': me.cert, 'key': me.key}
    with served(certificates.mutual(), api=api) as server, getc.etcd(server.url, **options) as client:
        servers = client.mirror('/servers')
        keeper = client.keep_node('/servers/a', 'x', ttl=5)
        wait_until(lambda: dict(servers) == {'/servers/a': 'x'})
        assert keeper.ensure()


@pytest.mark.parametrize('api', [*APIS, None])
@pytest.mark.parametrize('piece', [b'', b'\0'], ids=['silence', 'a byte now and then'])
def test_handshake_that_never_ends_times_out(certificates: Certificates, api: Any, piece: bytes) -> None:
    """By the deadline of the call; nothing was sent."""

    def trickle(sock: gevent.socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(b'\x16\x03\x03\x40\x00')  # a record of 16 KiB begins
        while True:
            sock.sendall(piece)
            gevent.sleep(0.02)

    with serving(trickle, scheme='https') as endpoint:
        with getc.etcd(endpoint.url, api=api, timeout=0.3, ca=certificates.ca) as client:
            with pytest.raises(getc.TimedOut) as caught:
                client.set('/a', '1')
    assert caught.value.maybe_applied is False


# -- TLS on one side only


@pytest.mark.parametrize('api', [*APIS, None])
def test_https_url_of_a_plain_etcd_is_reported(certificates: Certificates, served: Served, api: str | None) -> None:
    with served(api=api) as server:
        url = server.url.replace('http:', 'https:')
        assert 'use http:// in the URL' in str(error_of_write(url, api, ca=certificates.ca))


@pytest.mark.parametrize('api', APIS)
def test_https_url_of_a_plain_http_server_is_reported(certificates: Certificates, api: str) -> None:
    """The server answers 400 to the TLS record."""

    def answer(sock: gevent.socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(b'HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')

    with serving(answer, scheme='https') as endpoint:
        expected = str(error_of_write(endpoint.url, api, ca=certificates.ca))
    assert 'the server does not use TLS: use http:// in the URL' in expected


@pytest.mark.parametrize('api', APIS)
def test_http_url_of_an_etcd_with_tls_is_reported(certificates: Certificates, served: Served, api: str) -> None:
    """The server closes the connection without a response."""
    with served(certificates.one_way(), api=api) as server:
        url = server.url.replace('https:', 'http:')
        with getc.etcd(url, api=api) as client, pytest.raises(getc.ConnectionError, match='https://') as caught:
            client.set('/a', '1')
    assert caught.value.endpoint == url


def test_connection_reset_before_the_request_was_read_is_reported() -> None:
    """The system resets the connection then; how much an etcd with TLS reads is not deterministic."""

    def close(sock: gevent.socket.socket) -> None:
        sock.recv(5)
        sock.close()

    with serving(close) as endpoint, getc.etcd(endpoint.url, api='v3') as client:
        with pytest.raises(getc.ConnectionError, match=r'without a response.*or the server may require TLS.*https://'):
            client.set('/a', '1')


@pytest.mark.parametrize('page', PAGES)
@pytest.mark.parametrize('api', APIS)
def test_http_url_of_a_tls_server_is_reported(api: str, page: str) -> None:
    """The server says so in a page or an alert, so nothing was applied."""

    def answer(sock: gevent.socket.socket) -> None:
        read_request(sock) if api == 'v2' else sock.recv(65_536)
        sock.sendall(PAGES[page])

    with serving(answer) as endpoint:
        expected = str(error_of_write(endpoint.url, api))
    assert 'the server requires TLS: use https:// in the URL' in expected


def test_error_with_https_in_a_key_is_not_taken_for_a_tls_error() -> None:
    """etcd's errors are JSON."""

    def answer(sock: gevent.socket.socket) -> None:
        while read_request(sock):
            body = b'{"errorCode":209,"message":"Invalid field","cause":"/HTTPS","index":7}'
            sock.sendall(answer_of(body, status='400 Bad Request'))

    with serving(answer) as endpoint, getc.etcd(endpoint.url, api='v2') as client:
        with pytest.raises(getc.errors.InvalidField):
            client.set('/HTTPS', '1')


def test_etcd_with_tls_answers_a_client_with_the_ca(certificates: Certificates, served: Served) -> None:
    """With the same options as in the tests above."""
    with served(certificates.one_way()) as server:
        assert isinstance(server, EtcdServer)
        for api in supported_apis(server.binary):
            with getc.etcd(server.url, api=api, ca=certificates.ca) as client:
                assert client.set('/a', api).value == api
