"""``import getc`` loads no HTTP library, so that a later ``gevent.monkey.patch_all()`` patches everything."""

from __future__ import annotations

import subprocess
import sys

import pytest

from getc.testing import EtcdServer

HTTP = "[name for name in ('requests', 'urllib3') if name in sys.modules]"


def run(program: str, *arguments: str) -> str:
    """Run a program in a new process, with warnings as errors, and return its output."""
    command = [sys.executable, '-W', 'error', '-c', program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('package', ['getc', 'getc.testing'])
def test_import_loads_no_http_library(package: str) -> None:
    assert run(f'import sys, {package}; print({HTTP})') == '[]\n'


def test_https_works_when_the_program_is_patched_after_the_import() -> None:
    """Contexts of an unpatched ssl module would recurse infinitely; gevent warns of modules that hold such contexts."""
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


def test_client_loads_an_http_library_at_its_first_v2_call(etcd_server: EtcdServer) -> None:
    """Not when it is created, which may be before the program is patched."""
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


@pytest.mark.parametrize('api', ['v3', None])
def test_program_that_uses_v3_loads_no_http_library(etcd_server: EtcdServer, api: str | None) -> None:
    """Also if the API is detected."""
    program = f"""
import sys, getc
with getc.etcd(sys.argv[1], api={api!r}) as etcd:
    etcd.set('/hello', 'world', ttl=60)
    etcd.get('/hello')
    with etcd.mirror('/'), etcd.keep_node('/servers/a'):
        pass
    etcd.v3.maintenance.status()
    print(etcd.api, {HTTP})
"""
    assert run(program, etcd_server.url) == 'v3 []\n'
