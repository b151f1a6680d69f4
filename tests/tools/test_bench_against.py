"""The benchmark with the getc of another commit: ``--against``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.bench import __main__ as command
from tools.bench.against import NoCommit, clients_of, compare, comparison_table, extract
from tools.bench.cases import CASES
from tools.bench.environments import prepare
from tools.bench.registry import BenchClient, find_clients
from tools.bench.runner import Results
from tools.bench.stats import Sample, Spread
from tools.bench.worker_process import WorkerFailed, WorkerProcess

NOWHERE = 'http://127.0.0.1:1'

CLIENT = """
import getc

TITLE = 'a fake getc'
API = 'v3'
ROLE = 'ours'
REQUIRES = ()
MODES = ('threads',)


class Client:
    def __init__(self, url):
        pass

    def get(self, key):
        return getc.VALUE * 8

    def set(self, key, value):
        pass
"""

GET = next(case for case in CASES if case.name == 'get-1-64')
SET = next(case for case in CASES if case.name == 'set-1-64')


def git(folder: Path, *arguments: str) -> None:
    identity = ['-c', 'user.name=a', '-c', 'user.email=a@b', '-c', 'commit.gpgsign=false']
    subprocess.run(['git', *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two versions of a package ``getc``, tagged ``old`` and ``new``."""
    git(tmp_path, 'init', '-q')
    package = tmp_path / 'getc'
    package.mkdir()
    for tag in ('old', 'new'):
        (package / '__init__.py').write_text(f'VALUE = {tag[0]!r}\n', 'utf-8')
        (tmp_path / 'tools.py').write_text(tag, 'utf-8')
        git(tmp_path, 'add', '.')
        git(tmp_path, 'commit', '-q', '-m', f'Add the {tag} version')
        git(tmp_path, 'tag', tag)
    return tmp_path


@pytest.fixture
def ours(tmp_path: Path) -> BenchClient:
    folder = tmp_path / 'clients'
    folder.mkdir()
    (folder / 'fake.py').write_text(CLIENT, 'utf-8')
    (client,) = find_clients(folder)
    return client


def test_package_of_a_commit_is_extracted_once(repository: Path) -> None:
    commit, folder = extract('old', repository)
    assert folder == repository / f'.venv-bench-at-{commit}' and len(commit) == 7
    assert [path.name for path in folder.iterdir()] == ['getc']
    assert (folder / 'getc' / '__init__.py').read_text('utf-8') == "VALUE = 'o'\n"
    (folder / 'getc' / 'mark').touch()
    assert extract(commit, repository) == (commit, folder)
    assert (folder / 'getc' / 'mark').exists()
    assert extract('new', repository)[1] != folder


def test_unknown_revisions_and_commits_without_the_package_are_errors(repository: Path) -> None:
    with pytest.raises(NoCommit, match=r'older.*: the commit does not exist'):
        extract('older', repository)
    git(repository, 'rm', '-q', '-r', 'getc')
    git(repository, 'commit', '-q', '-m', 'Remove the package')
    with pytest.raises(NoCommit, match='getc'):
        extract('HEAD', repository)


def test_older_client_runs_the_package_of_its_commit(repository: Path, ours: BenchClient) -> None:
    commit, folder = extract('old', repository)
    same, older = clients_of(commit, folder, [ours])
    assert same == ours
    assert (older.name, older.label) == (f'fake@{commit}', f'a fake getc at {commit}')
    request = {'work': 'get', 'in_flight': 1, 'size': 8, 'seconds': 0.01}
    with WorkerProcess(prepare(older), NOWHERE) as process:
        assert process.run(request, timeout=60)['operations'] >= 1
        with pytest.raises(WorkerFailed, match="got 'oooooooo' where a value of size 4 was set"):
            process.run(request | {'size': 4}, timeout=60)


def test_process_does_not_start_with_another_package(repository: Path, ours: BenchClient) -> None:
    """Where something precedes the folder on the path of the process."""
    commit, folder = extract('old', repository)
    _, older = clients_of(commit, folder, [ours])
    (folder / 'getc').rename(folder / 'lost')
    with pytest.raises(WorkerFailed, match=f'getc was imported from .*, not from {folder}'):
        WorkerProcess(prepare(older), NOWHERE)


def test_other_clients_are_measured_once(tmp_path: Path, ours: BenchClient) -> None:
    peer = BenchClient(Path('peer.py'), 'a peer', 'v3', 'peer', (), 'threads')
    assert [one.label for one in clients_of('abc', tmp_path, [ours, peer])] == [
        'a fake getc',
        'a peer',
        'a fake getc at abc',
    ]


@pytest.fixture
def results(tmp_path: Path, ours: BenchClient) -> Results:
    _, older = clients_of('abc', tmp_path, [ours])
    found = Results()
    found.samples[GET] = {
        ours: [Sample(99, 1.0), Sample(50, 1.0), None, Sample(98, 2.0)],
        older: [Sample(100, 2.0), Sample(40, 1.0), Sample(100, 1.0), Sample(100, 1.0)],
    }
    found.samples[SET] = {ours: [Sample(90)] * 3, older: [Sample(100)] * 3}
    return found


def test_comparison_is_the_median_of_the_ratios_of_each_round(results: Results) -> None:
    get, set = compare(results, [GET, SET])
    assert get.rate == Spread(0.99, 0.985, 1.12) and get.cpu == Spread(1.0, 0.75, 1.5)
    assert (get.verdict(0.03), get.verdict(0.005)) == ('', 'unclear')
    assert set.rate == Spread(0.9, 0.9, 0.9) and set.cpu is None and set.verdict(0.03) == 'SLOWER'
    assert [row[2:] for row in comparison_table([get, set], 'abc', 0.03).rows] == [
        ('0.990 (0.985-1.120)', '1.000 (0.750-1.500)', ''),
        ('0.900 (0.900-0.900)', '', 'SLOWER'),
    ]


def test_status_is_1_when_a_case_is_slower_or_unclear_or_nothing_was_compared(
    results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = dict.fromkeys(('processor', 'cores', 'memory', 'system', 'python'), '')
    screen = command.Screen()

    def status(found: Results, tolerance: float) -> int:
        report = command.Report(found, [GET, SET], '2025-01-31', machine, '3.5.1', rounds=3, seconds=0.5)
        return command.print_comparison(screen, report, 'abc', tolerance)

    assert status(results, 0.03) == 1
    assert '1 of 2 are slower than abc by more than 3.0%, 0 unclear' in capsys.readouterr().out
    del results.samples[SET]
    assert status(results, 0.005) == 1
    shown = capsys.readouterr().out
    assert '0 of 1 are slower than abc by more than 0.5%, 1 unclear' in shown and 'take more --rounds' in shown
    assert status(results, 0.2) == 0
    assert status(Results(), 0.2) == 1


def test_unknown_revision_on_the_command_line_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(['--against', 'no-such-revision']) == 2
    assert 'the commit does not exist' in capsys.readouterr().err


@pytest.mark.slow
def test_short_comparison_with_the_last_commit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ['--against', 'HEAD', '--clients', 'getc_v3', '--cases', 'get-1-64,lock-1,connect', '--rounds', '3']
    status = command.main([*arguments, '--seconds', '0.05', '--tolerance', '99', '--output', str(tmp_path)])
    shown = capsys.readouterr().out
    assert status == 0, shown
    assert '0 of 3 are slower' in shown
    assert (tmp_path / 'results.json').exists()
