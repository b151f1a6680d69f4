"""The example on the command line, and that it uses the public API only."""

from __future__ import annotations

import ast
import io
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from examples.zones.__main__ import main
from examples.zones.board import Screen
from examples.zones.tour import PLAYERS, Tour
from getc.testing import VirtualTime
from tests.support.environments import without_coverage

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = sorted((REPOSITORY / 'examples').rglob('*.py'))
TESTS = sorted(Path(__file__).parent.glob('*.py'))


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_process_state() -> Iterator[None]:
    """Restore what the command sets for the whole process."""
    loggers = {name: logging.getLogger(name) for name in ('getc', 'zones')}
    levels = {name: logger.level for name, logger in loggers.items()}
    handlers = {name: list(logger.handlers) for name, logger in loggers.items()}
    hub = gevent.get_hub()
    not_errors = hub.NOT_ERROR
    yield
    hub.NOT_ERROR = not_errors
    for name, logger in loggers.items():
        logger.setLevel(levels[name])
        logger.handlers[:] = handlers[name]


def imported_modules(path: Path) -> set[str]:
    """Return the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or '.')
    return found


@pytest.mark.parametrize('path', [*MODULES, *TESTS], ids=[path.name for path in [*MODULES, *TESTS]])
def test_example_imports_only_the_public_api(path: Path) -> None:
    """Of getc, and of getc.testing in tests."""
    assert {name for name in imported_modules(path) if name.partition('.')[0] == 'getc'} <= {'getc', 'getc.testing'}


def test_tour_shows_every_step_and_ends_with_status_0(
    etcd_clock: VirtualTime, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a minute of virtual time."""
    assert main([]) == 0
    out = capsys.readouterr().out
    assert 25 < etcd_clock.elapsed < 60
    for player in PLAYERS:
        assert re.search(rf'matchmaker: {player} goes to the \w+$', out, re.MULTILINE)
    for line in (
        '-- an operator sets /cfg/drain/a',
        'a: drains',
        '-- zone c is disconnected from etcd',
        'c: has drained and stops',
        '-- every player has kept its place and its gold',
    ):
        assert line in out
    assert re.search(r'^canyon +[abc] +\d+ +\d+  ann \d+, \w+ \d+$', out, re.MULTILINE)
    assert '\x1b' not in out


def test_tour_redraws_a_table_on_a_terminal(etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place, in colors unless NO_COLOR is set, with log messages below."""
    for no_color, colors in ((None, True), ('1', False)):
        monkeypatch.setenv('TERM', 'xterm')
        monkeypatch.setenv('NO_COLOR', no_color) if no_color else monkeypatch.delenv('NO_COLOR', raising=False)
        terminal = Terminal()
        screen = Screen(terminal)
        logger = logging.getLogger('zones')
        logger.setLevel(logging.INFO)
        logger.addHandler(screen)
        try:
            assert Tour(screen).run()
        finally:
            logger.removeHandler(screen)
        out = terminal.getvalue()
        assert out.count('\x1b[2J') == 1
        assert out.count('\x1b[H') > 100
        assert ('\x1b[36ma' in out) is colors
        assert ('\x1b[33mnone' in out) is colors
        assert 'zone c is disconnected from etcd' in out


def test_tour_ends_with_status_130_at_ctrl_c() -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, '-m', 'examples.zones']
    environment = without_coverage()
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=pipe, stderr=pipe, text=True) as tour:
        assert tour.stdout is not None and tour.stderr is not None
        assert 'zones a and b start' in tour.stdout.readline()
        tour.send_signal(signal.SIGINT)
        assert (tour.wait(60), tour.stderr.read()) == (130, '')


def test_help_shows_how_to_run_each_role(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['--help'])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for text in ('examples.zones zone a', 'examples.zones seat', 'examples.zones board', 'etcdctl put /cfg/step 0.2'):
        assert text in out


def test_seat_fails_with_a_message_when_no_shard_has_an_owner(etcd_store, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a traceback."""
    assert main(['seat', 'ann', '--url', etcd_store.url]) == 1
    assert capsys.readouterr().err == 'none of 0 shards with an owner has a free seat (4 each)\n'
