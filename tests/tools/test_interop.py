"""Building the Go program of ``tools/interop``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.interop import __main__ as command
from tools.interop import build as building
from tools.interop.build import BuildFailed, CannotBuild, build, is_built, required_version
from tools.servers.lines import newest_of

FAKE_GO = """#!/bin/sh
echo "$*" >> "{log}"
[ "$1" = "{fails}" ] && {{ echo "it is $1 that fails" >&2; exit 3; }}
while [ $# -gt 0 ]; do [ "$1" = -o ] && echo program > "$2"; shift; done
exit 0
"""


class FakeGo:
    """A command ``go`` on PATH that logs its arguments, and builds nothing."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / 'go'
        self._log = folder / 'log'
        self.fail('nothing')

    def fail(self, subcommand: str) -> None:
        self._path.write_text(FAKE_GO.format(log=self._log, fails=subcommand), 'utf-8')
        self._path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self._log.read_text('utf-8').splitlines() if self._log.exists() else []


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / 'source'
    folder.mkdir()
    for name in ('main.go', 'go.mod', 'go.sum'):
        (folder / name).write_text(name, 'utf-8')
    monkeypatch.setattr(building, 'SOURCE', folder)
    return folder


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    folder = tmp_path / 'bin'
    folder.mkdir()
    monkeypatch.setenv('PATH', str(folder))
    return FakeGo(folder)


def test_client_has_the_version_of_the_newest_server() -> None:
    assert required_version() == newest_of('3.7')


def test_program_is_built_once(source: Path, go: FakeGo, tmp_path: Path) -> None:
    binary, steps = tmp_path / 'built' / 'interop', list[str]()
    assert not is_built(binary)
    assert build(binary, report=steps.append) == binary
    assert is_built(binary) and binary.read_text() == 'program\n'
    assert [call.split()[0] for call in go.calls] == ['mod', 'build']
    assert len(steps) == 2
    build(binary, report=steps.append)
    assert len(go.calls) == len(steps) == 2


@pytest.mark.parametrize('name', ['main.go', 'go.mod', 'go.sum', 'further.go'])
def test_program_is_built_again_when_its_source_has_changed(
    source: Path, go: FakeGo, tmp_path: Path, name: str
) -> None:
    binary = build(tmp_path / 'interop')
    (source / name).write_text('changed', 'utf-8')
    assert not is_built(binary)
    build(binary)
    assert is_built(binary) and len(go.calls) == 4


def test_failed_build_leaves_no_program(source: Path, go: FakeGo, tmp_path: Path) -> None:
    go.fail('build')
    with pytest.raises(BuildFailed, match='go build -trimpath failed with status 3: it is build that fails'):
        build(tmp_path / 'interop')
    assert not (tmp_path / 'interop').exists()
    go.fail('mod')
    with pytest.raises(
        CannotBuild, match=r'go mod download failed with status 3: it is mod that fails\nlet Go .* reach a module proxy'
    ):
        build(tmp_path / 'interop')


def test_build_without_go_names_the_remedy(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', str(tmp_path / 'empty'))
    with pytest.raises(CannotBuild, match=r'install Go 1\.26 or newer .* and run `make interop`'):
        build(tmp_path / 'interop')


def test_command_prints_the_steps_and_the_reason_of_a_failure(
    source: Path, go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / 'go.mod').write_text('require go.etcd.io/etcd/client/v3 v3.9.9\n')
    binary = tmp_path / 'interop'
    monkeypatch.setattr(command, 'BINARY', binary)
    for name in ('build', 'is_built'):
        function = getattr(building, name)
        monkeypatch.setattr(command, name, lambda function=function, **options: function(binary, **options))
    go.fail('build')
    assert command.main([]) == 1
    assert 'it is build that fails' in capsys.readouterr().err
    assert command.main(['--if-possible']) == 1
    go.fail('mod')
    assert command.main([]) == 1
    assert 'SKIPPED' not in capsys.readouterr().err
    assert command.main(['--if-possible']) == 0
    assert 'SKIPPED: go mod download failed with status 3: it is mod that fails' in capsys.readouterr().err
    go.fail('nothing')
    assert command.main([]) == 0
    assert 'downloading the modules' in capsys.readouterr().out
    assert command.main([]) == 0
    assert 'is up to date' in capsys.readouterr().out


@pytest.mark.slow
def test_source_is_formatted_and_vetted() -> None:
    try:
        build()
    except CannotBuild as error:
        pytest.skip(str(error))
    source = building.SOURCE
    unformatted = subprocess.run(['gofmt', '-l', '.'], cwd=source, capture_output=True, text=True, check=True)
    assert unformatted.stdout == ''
    subprocess.run(['go', 'vet', '.'], cwd=source, check=True)
