"""Certificates generated for tests: etcd servers with valid and invalid ones."""

from __future__ import annotations

import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import getc
from getc.testing import Certificate, Certificates, EtcdBinary, EtcdCluster, EtcdServer, ServerTLS
from getc.testing.processes import poll_until
from tests.support.api_support import supported_apis


@pytest.fixture(scope='module')
def certificates() -> Iterator[Certificates]:
    with Certificates() as certificates:
        yield certificates


Served = Callable[[ServerTLS], EtcdServer]


@pytest.fixture
def served(etcd_binary: EtcdBinary) -> Served:
    """Run an etcd with this TLS configuration."""
    return lambda tls: EtcdServer(binary=etcd_binary.path, tls=tls)


def test_server_with_mutual_tls_serves_clients_with_a_certificate(certificates: Certificates, served: Served) -> None:
    """Over each API; ``clear`` and ``restart`` work as without TLS."""
    me = certificates.client
    with served(certificates.mutual()) as server:
        assert server.url.startswith('https://')
        for api in supported_apis(server.binary):
            with getc.etcd(server.url, api=api, ca=certificates.ca, cert=me.cert, key=me.key) as etcd:
                assert etcd.set('/a', api).value == api
            with getc.etcd(server.url, api=api, ca=certificates.ca) as etcd, pytest.raises(getc.ConnectionError):
                etcd.get('/a')
        server.restart()
        server.clear()
        for api in supported_apis(server.binary):
            with getc.etcd(server.url, api=api, ca=certificates.ca, cert=me.cert, key=me.key) as etcd:
                with pytest.raises(getc.KeyNotFound):
                    etcd.get('/a')


@pytest.mark.parametrize(
    ('kind', 'complaint'),
    [
        ('expired', 'expired'),
        ('not_yet_valid', 'not yet valid'),
        ('wrong_host', 'not valid for'),
        ('untrusted', 'local issuer'),
    ],
)
def test_client_rejects_the_server_when_its_certificate_is_invalid(
    certificates: Certificates, served: Served, kind: str, complaint: str
) -> None:
    """Over each API, with the reason; without verification the client is served."""
    certificate: Certificate = getattr(certificates, kind)
    with served(certificates.one_way(certificate)) as server:
        for api in supported_apis(server.binary):
            with getc.etcd(server.url, api=api, ca=certificates.ca) as etcd:
                with pytest.raises(getc.ConnectionError, match=complaint):
                    etcd.get('/a')
            with getc.etcd(server.url, api=api, verify=False) as etcd:
                assert etcd.set('/a', '1').value == '1'


def test_cluster_serves_clients_with_mutual_tls(certificates: Certificates, etcd_binary: EtcdBinary) -> None:
    """Health checks and status requests of the harness work over TLS as well."""
    me = certificates.client
    options = {'ca': certificates.ca, 'cert': me.cert, 'key': me.key}
    cluster = EtcdCluster(2, binary=etcd_binary.path, tls=certificates.mutual())
    with cluster, getc.etcd(cluster.urls, api='v3', **options) as etcd:
        etcd.set('/a', '1')
        cluster.move_leader(1 - cluster.leader())
        cluster.clear()
        with pytest.raises(getc.KeyNotFound):
            etcd.get('/a')


def test_files_are_private_and_removed_by_close(tmp_path: Path) -> None:
    """No other user can read a key, and no ``repr`` contains one."""
    with Certificates() as certificates:
        made = certificates.issue('somebody', hosts=['::1', 'a.example'])
        context = ssl.create_default_context(cafile=certificates.ca)
        context.load_cert_chain(made.cert, made.key)
        assert stat.S_IMODE(Path(made.key).stat().st_mode) == 0o600
        assert made.key not in repr(made)
        assert certificates.server is certificates.server
    assert not Path(made.key).parent.exists()
    certificates.close()  # twice is fine


def test_files_are_removed_when_the_program_is_killed() -> None:
    code = (
        'import sys; from getc.testing import Certificates; '
        'c = Certificates(); print(c.server.key, flush=True); sys.stdin.readline()'
    )
    with subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        key = Path(program.stdout.readline().decode().strip())
        assert key.exists()
        program.kill()
    assert poll_until(lambda: not key.parent.exists(), 60)


def test_testing_is_imported_without_cryptography_when_no_certificate_is_used() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        'from getc.testing import Certificates, EtcdCluster\n'
        'try: Certificates()\n'
        'except ImportError: print("missing")'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == 'missing\n'
