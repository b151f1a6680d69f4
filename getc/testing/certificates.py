"""Certificates made on the fly, good ones and bad ones, and how an etcd serves with them.

They are made by the package ``cryptography``, which comes with the extra ``getc[test]`` and is imported only when
the first one is made.  The ``openssl`` program would have been the other way: it is not on every machine, its
versions and LibreSSL do not take the same options (a certificate that has expired is where they differ), and it
takes several processes for each.
"""

from __future__ import annotations

import datetime
import itertools
import shutil
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import gevent.ssl

from getc.testing.processes import Guard

__all__ = ['Certificate', 'Certificates', 'ServerTLS']

DAY = datetime.timedelta(days=1)

LOOPBACK = ('localhost', '127.0.0.1', '::1')


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, in files.

    Attributes:
        cert: The path of the certificate, PEM.
        key: The path of its key, PEM.
    """

    cert: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """How an etcd serves its clients over TLS.

    Attributes:
        certificate: What it shows.
        authority: The path of the authority's certificate that clients need one of; None: they need none.
        client: What we show it when we ask after its health; None for nothing.
    """

    certificate: Certificate
    authority: str | None = None
    client: Certificate | None = None

    def options(self) -> dict[str, str]:
        """etcd's own options for it."""
        options = {'cert-file': self.certificate.cert, 'key-file': self.certificate.key}
        if self.authority is not None:
            options |= {'client-cert-auth': 'true', 'trusted-ca-file': self.authority}
        return options

    def client_options(self) -> dict[str, Any]:
        """Options of :func:`getc.etcd` for one who asks after its health, and trusts it whatever it shows."""
        shown = {} if self.client is None else {'cert': self.client.cert, 'key': self.client.key}
        return {'verify': False, **shown}

    def context(self) -> ssl.SSLContext:
        """A context with gevent's sockets, for the same one."""
        context: ssl.SSLContext = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if self.client is not None:
            context.load_cert_chain(self.client.cert, self.client.key)
        return context


class Certificates:
    """An authority of its own, and what it has signed, in files that do not outlive this program.

    Each certificate is made when it is first asked for, in a few milliseconds.  Also a context manager, which
    closes it.

    Example::

        from getc.testing import Certificates, EtcdServer

        with Certificates() as certificates:
            with EtcdServer(tls=certificates.mutual()) as server:
                me = certificates.client
                with getc.etcd(server.url, ca=certificates.ca, cert=me.cert, key=me.key) as etcd:
                    etcd.set('/hello', 'Hello, world')
            with EtcdServer(tls=certificates.serving(certificates.expired)) as server:
                with getc.etcd(server.url, ca=certificates.ca) as etcd:
                    try:
                        etcd.get('/hello')
                    except getc.ConnectionError as error:
                        assert 'certificate has expired' in str(error)

    Args:
        name: What the authority is called.

    Raises:
        ImportError: The package ``cryptography`` is not there.
    """

    def __init__(self, name: str = 'getc test authority') -> None:
        from getc.testing.authority import Authority  # not above: getc.testing works without its package

        self._authority = Authority(name)
        self._stranger = Authority(name)
        self._directory = tempfile.mkdtemp(prefix='getc-tls-')
        self._guard: Guard | None = Guard(self._directory)
        self._numbers = itertools.count(1)

    @cached_property
    def ca(self) -> str:
        """The path of the authority's own certificate, for :func:`getc.etcd`'s ``ca``."""
        return self._write('ca.pem', self._authority.pem)

    @cached_property
    def server(self) -> Certificate:
        """A good one for a server on the loopback interface."""
        return self.issue('server')

    @cached_property
    def client(self) -> Certificate:
        """A good one for a client; to etcd's authentication it is the user ``client``."""
        return self.issue('client', hosts=())

    @cached_property
    def expired(self) -> Certificate:
        """One that was good until yesterday."""
        return self.issue('expired', lifetime=-DAY)

    @cached_property
    def early(self) -> Certificate:
        """One that will be good from tomorrow on."""
        return self._stored(self._authority.issue('early', LOOPBACK, 3 * DAY, begins=DAY))

    @cached_property
    def misnamed(self) -> Certificate:
        """A good one for a host that nobody here is."""
        return self.issue('misnamed', hosts=('elsewhere.example',))

    @cached_property
    def unknown(self) -> Certificate:
        """One that is good but for its authority: another one, of the same name."""
        return self._stored(self._stranger.issue('unknown', LOOPBACK, DAY))

    def issue(self, name: str, *, hosts: Sequence[str] = LOOPBACK, lifetime: datetime.timedelta = DAY) -> Certificate:
        """Make one, for servers and clients alike.

        Args:
            name: Its common name: to etcd's authentication, the user.
            hosts: The names and addresses of the server that shows it.
            lifetime: How long from now it is good; less than none for one that has expired.
        """
        return self._stored(self._authority.issue(name, hosts, lifetime))

    def serving(self, certificate: Certificate | None = None) -> ServerTLS:
        """TLS with this certificate; ``server`` if it is None.  Clients show none."""
        return ServerTLS(certificate or self.server)

    def mutual(self, certificate: Certificate | None = None) -> ServerTLS:
        """The same, and clients have to show a certificate of this authority."""
        return ServerTLS(certificate or self.server, self.ca, self.client)

    def close(self) -> None:
        """Remove the files."""
        if self._guard is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._guard.dismiss()
            self._guard = None

    def __enter__(self) -> Certificates:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stored(self, pair: tuple[bytes, bytes]) -> Certificate:
        stem = str(next(self._numbers))
        return Certificate(self._write(f'{stem}.pem', pair[0]), self._write(f'{stem}.key.pem', pair[1]))

    def _write(self, name: str, content: bytes) -> str:
        path = Path(self._directory, name)
        path.touch(mode=0o600)
        path.write_bytes(content)
        return str(path)
