"""Every RPC is called by the tests of this folder; tests of that check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from getc.v3 import schema

HERE = Path(__file__).parent

FILE = """
import getc
import pytest
from getc.v3 import rpc
from getc.v3.schema.lock import Lock as SERVICE

@pytest.fixture
def lock(monkeypatch):
    monkeypatch.setattr(rpc, 'call_with_failover', lambda *_, **__: 'an answer')
    return getc.etcd('http://127.0.0.1:1').v3.lock

def test_lock(lock):
    lock.lock(b'name', lease=1)

def test_unlock(lock, monkeypatch):
    if {is_answered}:
        lock.unlock(b'key')
    else:
        monkeypatch.undo()
        with pytest.raises(getc.ConnectionError):
            lock.unlock(b'key')
"""


def service_of(path: Path) -> str | None:
    """Return the SERVICE of a test file."""
    for statement in ast.parse(path.read_text('utf-8')).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == 'SERVICE':
            return ast.unparse(statement.value).removeprefix('schema.')
    return None


def test_every_service_has_a_file_that_calls_every_rpc_of_it() -> None:
    services = [service_of(path) for path in sorted(HERE.glob('test_*.py'))]
    assert sorted(filter(None, services)) == sorted(service.__name__ for service in schema.SERVICES)


def test_every_rpc_belongs_to_a_service() -> None:
    paths = [method.path for method in schema.methods()]
    assert len(paths) == len(set(paths)) == 49


def run(pytester: pytest.Pytester, is_answered: bool, *options: str) -> pytest.RunResult:
    """Run a test file with the conftest of this folder."""
    pytester.makeconftest((HERE / 'conftest.py').read_text('utf-8'))
    pytester.makepyfile(FILE.replace('{is_answered}', str(is_answered)))
    return pytester.runpytest_subprocess('-W', 'error', '-p', 'no:cacheprovider', *options)


@pytest.fixture(autouse=True)
def _finds_getc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PYTHONPATH', str(HERE.parents[1]))


def test_file_passes_when_every_rpc_was_answered(pytester: pytest.Pytester) -> None:
    run(pytester, True).assert_outcomes(passed=2)


def test_file_fails_when_an_rpc_was_not_answered(pytester: pytest.Pytester) -> None:
    """A call without an answer of a server does not count."""
    result = run(pytester, False)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines('*no test of test_*.py has called Unlock')


def test_check_is_skipped_when_only_some_tests_of_a_file_run(pytester: pytest.Pytester) -> None:
    run(pytester, False, '-k', 'test_lock').assert_outcomes(passed=1, deselected=1)
    name = next(path.name for path in pytester.path.glob('test_*.py'))
    run(pytester, False, f'{name}::test_lock').assert_outcomes(passed=1)
