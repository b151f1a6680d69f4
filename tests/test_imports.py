"""What ``import getc`` loads: nothing that a later ``gevent.monkey.patch_all()`` would leave half patched."""

from __future__ import annotations

import subprocess
import sys

import pytest

from getc.testing import EtcdServer

HTTP = "[name for name in ('requests', 'urllib3') if name in sys.modules]"


def run(program: str, *arguments: str) -> str:
    """Run it in a process of its own, where a warning is an error, and return its output."""
    command = [sys.executable, '-W', 'error', '-c', program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('package', ['getc', 'getc.testing'])
def test_import_loads_no_http_library(package: str) -> None:
    """Programs on v3 never need one; the harness only names where they are."""
    assert run(f'import sys, {package}; print({HTTP})') == '[]\n'


def test_import_leaves_https_usable_after_a_later_patch() -> None:
    """gevent warns of modules that hold on to the unpatched ssl, whose contexts recurse without end."""
    program = """
import getc
import gevent.monkey
gevent.monkey.patch_all()
import ssl, requests
ssl.create_default_context().minimum_version = ssl.TLSVersion.TLSv1_2
try:
    requests.get('https://127.0.0.1:1/')
except requests.ConnectionError as error:
    print(type(error).__name__)
"""
    assert run(program) == 'ConnectionError\n'


def test_client_loads_an_http_library_when_v2_is_first_spoken(etcd_server: EtcdServer) -> None:
    """Making the client is not enough, so that it can be made before the program is patched."""
    program = f"""
import sys, getc
with getc.etcd(sys.argv[1], api='v2') as etcd:
    print({HTTP})
    try:
        etcd.get('/hello')
    except getc.EtcException:
        pass
    print({HTTP})
"""
    assert run(program, etcd_server.url) == "[]\n['requests', 'urllib3']\n"


def test_program_on_v3_loads_no_http_library(etcd_server: EtcdServer) -> None:
    """Whatever it does."""
    program = f"""
import sys, getc
with getc.etcd(sys.argv[1], api='v3') as etcd:
    etcd.set('/hello', 'world', ttl=60)
    etcd.get('/hello')
    with etcd.mirror('/'), etcd.keep_node('/servers/a'):
        pass
    etcd.v3.maintenance.status()
    print({HTTP})
"""
    assert run(program, etcd_server.url) == '[]\n'
