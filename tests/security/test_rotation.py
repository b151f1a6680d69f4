"""Certificates, keys and authorities that are replaced while the program runs: each new connection has the new ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

import getc
from getc.backends.autodetect import VersionProbe
from getc.daemons.keeper import KeeperState
from getc.daemons.watcher import WatcherState
from getc.net.tls import TLS, TLSContexts, UnusableFile
from getc.testing import Certificate, Certificates, ServerTLS
from tests.security.conftest import Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Files:
    """The files of a server and of a client, as an agent that renews them leaves them.

    Attributes:
        ca: The client's of the authority.
        client: The client's own.
        serving: The server's.
    """

    def __init__(self, folder: Path) -> None:
        self.ca = str(folder / 'ca.pem')
        self.client = Certificate(str(folder / 'client.pem'), str(folder / 'client.key'))
        self.serving = ServerTLS(
            Certificate(str(folder / 'server.pem'), str(folder / 'server.key')),
            str(folder / 'server-ca.pem'),
            Certificate(str(folder / 'probe.pem'), str(folder / 'probe.key')),
        )

    def renew(self, certificates: Certificates) -> None:
        """Put those of an authority in the place of all."""
        self.renew_server(certificates)
        self.renew_client(certificates)

    def renew_server(self, certificates: Certificates) -> None:
        tls = self.serving
        assert tls.authority is not None
        assert tls.client is not None
        shutil.copy(certificates.ca, tls.authority)
        for source, target in ((certificates.server, tls.certificate), (certificates.client, tls.client)):
            shutil.copy(source.cert, target.cert)
            shutil.copy(source.key, target.key)

    def renew_client(self, certificates: Certificates) -> None:
        shutil.copy(certificates.ca, self.ca)
        shutil.copy(certificates.client.cert, self.client.cert)
        shutil.copy(certificates.client.key, self.client.key)

    @property
    def tls(self) -> TLS:
        return TLS(ca=self.ca, cert=self.client.cert, key=self.client.key)


@pytest.fixture
def files(tmp_path: Path, certificates: Certificates) -> Files:
    """Those of the first authority."""
    files = Files(tmp_path)
    files.renew(certificates)
    return files


@pytest.fixture(scope='module')
def others() -> Iterator[Certificates]:
    """Another authority."""
    with Certificates('another authority') as others:
        yield others


def cut(path: str) -> None:
    """Leave it half written."""
    Path(path).write_bytes(Path(path).read_bytes()[:100])


# -- the files


def test_files_are_read_once_while_they_stay_the_same(files: Files) -> None:
    """However many connections are made."""
    contexts = files.tls.contexts('h2')
    assert len({id(contexts.current()) for _ in range(100)}) == 1


def replace(path: str) -> None:
    """The safe way."""
    shutil.copy(path, path + '.new')
    os.replace(path + '.new', path)


def rewrite(path: str) -> None:
    """The plain way: the same file, as long as before."""
    before = os.stat(path)
    Path(path).write_bytes(Path(path).read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def rewrite_with_its_time(path: str) -> None:
    """As a copy does that keeps the times."""
    before = os.stat(path)
    while os.stat(path).st_ctime_ns == before.st_ctime_ns:  # its clock has coarse ticks
        Path(path).write_bytes(Path(path).read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def link_elsewhere(path: str) -> None:
    """As Kubernetes does it."""
    os.rename(path, path + '.1')
    shutil.copy(path + '.1', path + '.2')
    os.symlink(path + '.1', path)
    os.remove(path)
    os.symlink(path + '.2', path)


@pytest.mark.parametrize('change', [replace, rewrite, rewrite_with_its_time, link_elsewhere])
@pytest.mark.parametrize('which', ['ca', 'cert', 'key'])
def test_files_are_read_again_when_one_has_changed(files: Files, change: Callable[[str], None], which: str) -> None:
    """Whichever it is, and however it was changed."""
    contexts = files.tls.contexts()
    before = contexts.current()
    change(str(getattr(files.tls, which)))
    assert contexts.current() is not before
    assert contexts.current() is contexts.current()


@pytest.mark.parametrize('which', ['ca', 'cert', 'key'])
@pytest.mark.parametrize(
    'damage', [cut, os.remove, lambda path: Path(path).write_bytes(b'')], ids=['cut', 'no', 'empty']
)
def test_files_that_are_no_good_are_told_and_read_again(
    files: Files, certificates: Certificates, which: str, damage: Callable[[str], None]
) -> None:
    """By name; as soon as they are good again, that is all."""
    contexts = files.tls.contexts()
    path = str(getattr(files.tls, which))
    damage(path)
    for _ in range(2):
        with pytest.raises(UnusableFile, match='cannot be used: ') as caught:
            contexts.current()
        assert path in str(caught.value)
    with pytest.raises(UnusableFile):
        files.tls.contexts()
    files.renew_client(certificates)
    assert contexts.current().cert_store_stats()['x509_ca'] == 1


def test_certificate_that_is_new_before_its_key_is_told(files: Files, others: Certificates) -> None:
    """They are two files, and do not change at once."""
    contexts = files.tls.contexts()
    shutil.copy(others.client.cert, files.client.cert)
    with pytest.raises(UnusableFile, match='the key does not match the certificate'):
        contexts.current()
    shutil.copy(others.client.key, files.client.key)
    assert contexts.current() is contexts.current()


def test_encrypted_key_is_refused_and_nobody_is_asked(files: Files, certificates: Certificates) -> None:
    """OpenSSL would ask on the terminal, and the hub would wait."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(Path(files.client.key).read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b'passphrase'),
    )
    Path(files.client.key).write_bytes(encrypted)
    with pytest.raises(UnusableFile, match='the key is encrypted'):
        files.tls.contexts()


def test_client_is_not_made_of_bad_files(files: Files) -> None:
    """At once, before any I/O but reading them."""
    cut(files.client.cert)
    for api in ('v2', 'v3', None):
        with pytest.raises(OSError, match='cannot be used'):
            getc.etcd('https://127.0.0.1:1', api=api, ca=files.ca, cert=files.client.cert, key=files.client.key)
    with pytest.raises(OSError, match='No such file'):
        getc.etcd('https://127.0.0.1:1', ca='/no/such/file')


def test_client_that_chooses_its_api_does_not_read_them_again_for_it(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be away just then: that connection fails, like any other."""
    monkeypatch.setattr(VersionProbe, 'ask', lambda self, deadline: (3, 3))
    with getc.etcd('https://127.0.0.1:1', ca=files.ca) as client:
        os.remove(files.ca)
        assert 'No such file' in refused(client)
        assert client.api == 'v2'


def test_authority_is_not_read_by_who_does_not_verify() -> None:
    """It is not used."""
    assert isinstance(TLS(ca='/no/such/file', verify=False).contexts(), TLSContexts)


# -- a real etcd


@pytest.mark.parametrize('api', ['v2', 'v3'])
def test_client_lives_through_new_certificates_and_a_new_authority(
    files: Files, others: Certificates, api: str, served: Served, wait_until: Callable[..., None]
) -> None:
    """The server changes first, then the client's files, by way of half a file: nothing is started anew.

    Each attempt says what is wrong meanwhile, nothing of it was sent, and the daemons come back by themselves.
    """
    options = {'api': api, 'ca': files.ca, 'cert': files.client.cert, 'key': files.client.key}
    with served(files.serving, api=api) as server, getc.etcd(server.url, **options) as client:
        keeper = client.keep_node('/kept', ttl=3)
        watcher = client.on_change('/cfg', lambda result: None)
        client.set('/cfg/a', '1')
        server.kill()
        files.renew_server(others)
        server.start()
        assert 'give the file of its certificate authority as ca' in refused(client)
        shutil.copy(others.ca, files.ca)
        assert 'a client certificate' in refused(client) or 'authority of the client certificate' in refused(client)
        cut(files.client.cert)
        assert f'{files.client.cert} with {files.client.key} cannot be used: ' in refused(client)
        files.renew_client(others)
        client.set('/cfg/a', '2')
        wait_until(lambda: watcher.state is WatcherState.LIVE and keeper.state is KeeperState.KEPT)


def refused(client: getc.Client) -> str:
    """How a write fails, of which certainly nothing was done."""
    with pytest.raises(getc.ConnectionError) as caught:
        client.set('/cfg/a', 'secret', timeout=60)
    assert caught.value.maybe_applied is False
    return str(caught.value)


@pytest.mark.parametrize('api', ['v2', 'v3'])
def test_connections_that_are_there_go_on(files: Files, certificates: Certificates, api: str, served: Served) -> None:
    """Bad files do them no harm: they began with good ones."""
    options = {'api': api, 'ca': files.ca, 'cert': files.client.cert, 'key': files.client.key}
    with served(certificates.mutual(), api=api) as server, getc.etcd(server.url, **options) as client:
        client.set('/a', '1')
        for path in (files.ca, files.client.cert, files.client.key):
            os.remove(path)
        assert client.get('/a').value == '1'
        client.clear()
        gevent.sleep(0)
        assert 'No such file' in refused(client)
        files.renew_client(certificates)
        assert client.get('/a').value == '1'
