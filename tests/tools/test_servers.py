"""Building etcd servers, and counting the tests on them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from tools.servers import __main__ as command
from tools.servers import lines
from tools.servers.__main__ import main
from tools.servers.lines import BUILT_LINES, NoGo, build, is_built, newest_of
from tools.servers.results import Count, Results, dump, read_junit, rst_table, text_table

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.contract.test_keys" name="test_a" />
<testcase classname="tests.contract.test_keys" name="test_b"><failure message="no"/></testcase>
<testcase classname="tests.v3.test_kv" name="test_c"><skipped message="v2"/></testcase>
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
    assert results.folders == {'contract': Count(1, 1, 0), 'v3': Count(0, 1, 1)}
    assert results.names == ['tests.contract.test_keys::test_b', 'tests.v3.test_kv.TestPut::test_d']
    assert not results.is_good


def test_run_without_tests_is_not_good() -> None:
    assert not Results('3.7.3', '', 1.0).is_good
    assert not Results('3.7.3', '', 1.0, {'v3': Count(0, 0, 5)}).is_good
    assert Results('3.7.3', '', 1.0, {'v3': Count(1, 0, 5)}).is_good


def test_tables_have_a_column_for_each_server(results: Results) -> None:
    other = Results('3.6.16', 'make servers', 30.0, {'contract': Count(1234, 0, 7)})
    table = text_table([other, results], ['contract', 'v3']).splitlines()
    assert table[0].split() == ['etcd', '3.6.16', 'etcd', '3.7.3']
    assert table[2].split() == ['contract', '1,234', '1', 'of', '2', 'FAILED']
    assert table[3].split() == ['v3', '-', '1', 'of', '1', 'FAILED']
    assert table[4].split() == ['skipped', '7', '1']
    rst = rst_table([other, results], ['contract'])
    assert '   * - ``tests/contract``\n     - 1,234\n     - 1 of 2 FAILED\n' in rst


def test_dump_is_json_with_every_count(results: Results) -> None:
    (run,) = json.loads(dump([results]))
    assert run['version'] == '3.7.3'
    assert run['folders']['v3'] == {'passed': 0, 'failed': 1, 'skipped': 1}
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


def test_build_without_go_names_the_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(NoGo, match=r'GETC_ETCD=/path/to/etcd make test'):
        build('3.7', tmp_path)


@pytest.mark.parametrize('arguments', [['build', '2.0'], ['test', '9.9']])
def test_unknown_line_is_refused_with_the_known_ones(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert '3.5' in capsys.readouterr().err


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
