"""Certificates, keys and authorities that are replaced at run time: each new connection uses the new files."""

from __future__ import annotations

import os
import re
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
from tests.support.auth_servers import Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Files:
    """The certificate files of a server and of a client, which a renewal agent replaces.

    Attributes:
        ca: The client's authority file.
        client: The client's certificate and key.
        serving: The server's files.
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
        """Replace all files by those of an authority."""
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
    """Files of the first authority."""
    files = Files(tmp_path)
    files.renew(certificates)
    return files


@pytest.fixture(scope='module')
def other_authority() -> Iterator[Certificates]:
    """Another authority."""
    with Certificates('another authority') as other_authority:
        yield other_authority


def truncate(path: str) -> None:
    """Truncate a file, as while it is being written."""
    Path(path).write_bytes(Path(path).read_bytes()[:100])


# -- the files


def test_files_are_read_once_while_they_are_unchanged(files: Files) -> None:
    contexts = files.tls.contexts('h2')
    assert len({id(contexts.current()) for _ in range(100)}) == 1


def replace(path: str) -> None:
    """Replace atomically."""
    shutil.copy(path, path + '.new')
    os.replace(path + '.new', path)


def rewrite(path: str) -> None:
    """Overwrite the same file with content of the same length."""
    before = os.stat(path)
    Path(path).write_bytes(Path(path).read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def rewrite_with_same_mtime(path: str) -> None:
    """Overwrite and restore the mtime, as ``cp --preserve`` does."""
    before = os.stat(path)
    while os.stat(path).st_ctime_ns == before.st_ctime_ns:  # ctime has a coarse resolution
        Path(path).write_bytes(Path(path).read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_symlink(path: str) -> None:
    """Replace a symbolic link, as Kubernetes does."""
    os.rename(path, path + '.1')
    shutil.copy(path + '.1', path + '.2')
    os.symlink(path + '.1', path)
    os.remove(path)
    os.symlink(path + '.2', path)


@pytest.mark.parametrize('change', [replace, rewrite, rewrite_with_same_mtime, replace_symlink])
@pytest.mark.parametrize('which', ['ca', 'cert', 'key'])
def test_files_are_read_again_when_one_has_changed(files: Files, change: Callable[[str], None], which: str) -> None:
    contexts = files.tls.contexts()
    before = contexts.current()
    change(str(getattr(files.tls, which)))
    assert contexts.current() is not before
    assert contexts.current() is contexts.current()


@pytest.mark.parametrize('which', ['ca', 'cert', 'key'])
@pytest.mark.parametrize(
    'damage', [truncate, os.remove, lambda path: Path(path).write_bytes(b'')], ids=['cut', 'no', 'empty']
)
def test_unusable_file_is_named_and_read_again(
    files: Files, certificates: Certificates, which: str, damage: Callable[[str], None]
) -> None:
    """The error names the file; the next connection after a repair succeeds."""
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


def test_certificate_that_does_not_match_its_key_is_reported(files: Files, other_authority: Certificates) -> None:
    """The two files do not change atomically."""
    contexts = files.tls.contexts()
    shutil.copy(other_authority.client.cert, files.client.cert)
    with pytest.raises(UnusableFile, match='the key does not match the certificate'):
        contexts.current()
    shutil.copy(other_authority.client.key, files.client.key)
    assert contexts.current() is contexts.current()


def test_encrypted_key_is_refused_without_a_prompt(files: Files, certificates: Certificates) -> None:
    """OpenSSL would prompt on the terminal and block the hub."""
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


def test_etcd_raises_when_a_file_is_unusable(files: Files) -> None:
    """Before any network I/O."""
    truncate(files.client.cert)
    for api in ('v2', 'v3', None):
        with pytest.raises(OSError, match='cannot be used'):
            getc.etcd('https://127.0.0.1:1', api=api, ca=files.ca, cert=files.client.cert, key=files.client.key)
    with pytest.raises(OSError, match='No such file'):
        getc.etcd('https://127.0.0.1:1', ca='/no/such/file')


def test_autodetection_does_not_read_the_files_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files may be missing at that moment: only that connection fails."""
    monkeypatch.setattr(VersionProbe, 'read', lambda self, deadline: (3, 3))
    with getc.etcd('https://127.0.0.1:1', ca=files.ca) as client:
        os.remove(files.ca)
        assert 'No such file' in error_of_write(client)
        assert client.api == 'v2'


def test_ca_is_not_read_when_verification_is_off() -> None:
    assert isinstance(TLS(ca='/no/such/file', verify=False).contexts(), TLSContexts)


# -- a real etcd


@pytest.mark.parametrize('api', ['v2', 'v3'])
def test_client_survives_a_rotation_of_certificates_and_authority(
    files: Files, other_authority: Certificates, api: str, served: Served, wait_until: Callable[..., None]
) -> None:
    """The server changes first, then the client's files, with a truncated file in between; the client is not reopened.

    Each failed attempt names the reason, no request was sent, and the daemons recover.
    """
    options = {'api': api, 'ca': files.ca, 'cert': files.client.cert, 'key': files.client.key}
    with served(files.serving, api=api) as server, getc.etcd(server.url, **options) as client:
        keeper = client.keep_node('/kept', ttl=3)
        watcher = client.on_change('/cfg', lambda result: None)
        client.set('/cfg/a', '1')
        server.kill()
        files.renew_server(other_authority)
        server.start()
        assert 'pass its CA file as ca=' in error_of_write(client)
        shutil.copy(other_authority.ca, files.ca)
        assert re.search('(requires a|authority of the) client certificate', error_of_write(client))
        truncate(files.client.cert)
        assert f'{files.client.cert} with {files.client.key} cannot be used: ' in error_of_write(client)
        files.renew_client(other_authority)
        client.set('/cfg/a', '2')
        wait_until(lambda: watcher.state is WatcherState.LIVE and keeper.state is KeeperState.KEPT)


def error_of_write(client: getc.Client) -> str:
    """Return the message of the error of a write that was certainly not applied."""
    with pytest.raises(getc.ConnectionError) as caught:
        client.set('/cfg/a', 'secret', timeout=60)
    assert caught.value.maybe_applied is False
    return str(caught.value)


@pytest.mark.parametrize('api', ['v2', 'v3'])
def test_open_connections_survive_when_the_files_are_removed(
    files: Files, certificates: Certificates, api: str, served: Served
) -> None:
    """They were opened with valid files."""
    options = {'api': api, 'ca': files.ca, 'cert': files.client.cert, 'key': files.client.key}
    with served(certificates.mutual(), api=api) as server, getc.etcd(server.url, **options) as client:
        client.set('/a', '1')
        for path in (files.ca, files.client.cert, files.client.key):
            os.remove(path)
        assert client.get('/a').value == '1'
        client.clear()
        gevent.sleep(0)
        assert 'No such file' in error_of_write(client)
        files.renew_client(certificates)
        assert client.get('/a').value == '1'
