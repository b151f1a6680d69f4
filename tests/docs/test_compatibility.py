"""The page of compatibility: its table is that of a run on every supported line of etcd, in which all tests passed."""

from __future__ import annotations

import re

import pytest

from tests.docs.examples import REPOSITORY
from tools.servers.__main__ import TABLE
from tools.servers.lines import BUILT_LINES, LINES, newest_of
from tools.servers.results import SKIPPED, Count, Results, rst_table
from tools.servers.run import FOLDERS

PAGE = (REPOSITORY / 'docs' / 'compatibility.rst').read_text('utf-8')


def read_rows(text: str) -> list[list[str]]:
    """Return the cells of a list-table, the head first.

    Raises:
        ValueError: A row has another number of cells than the head.
    """
    rows = []
    for row in re.split(r'^   \* - ', text, flags=re.MULTILINE)[1:]:
        rows.append([cell.strip() for cell in re.split(r'^     - ', row, flags=re.MULTILINE)])
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f'not every row has {len(rows[0]) if rows else 0} cells')
    return rows


def test_table_has_a_column_for_each_line_and_a_row_for_each_folder() -> None:
    head, *rows = read_rows(TABLE.read_text('utf-8'))
    versions = [cell.removeprefix('etcd ') for cell in head[1:]]
    newest = [newest_of(line) for line in BUILT_LINES]
    assert [version if version in LINES else version.rpartition('.')[0] for version in versions] == list(LINES)
    assert versions[-len(newest) :] == newest, 'run `make test-servers ARGS=--write` after an update of etcd'
    assert [row[0] for row in rows] == [*(f'``tests/{folder}``' for folder in FOLDERS), *SKIPPED]


def test_every_test_has_passed_on_every_line() -> None:
    """Those of the v2 API are skipped from etcd 3.6 on, and only there."""
    head, *rows = read_rows(TABLE.read_text('utf-8'))
    counts = {row[0]: [int(cell.replace(',', '')) for cell in row[1:]] for row in rows}
    for folder in FOLDERS:
        assert all(count > 0 for count in counts[f'``tests/{folder}``'])
    lacks_v2 = [cell.split()[1] >= '3.6' for cell in head[1:]]
    assert [count > 100 for count in counts['skipped: no v2 API']] == lacks_v2
    assert [count == 0 for count in counts['skipped: no v2 API']] == [not lacks for lacks in lacks_v2]


def test_page_includes_the_table() -> None:
    """The generated file is what the tool writes, and names the commit."""
    assert f'.. include:: {TABLE.relative_to(REPOSITORY / "docs")}' in PAGE
    text = TABLE.read_text('utf-8')
    head, *rows = read_rows(text)
    found = re.match(r'\.\. Made by `make test-servers ARGS=--write` on (.*)\.\n', text)
    assert found is not None
    commits = re.findall(r'\bcommit (\S+?)(?:,|$)', found.group(1))
    assert commits and all(re.fullmatch('[0-9a-f]{12}', commit) for commit in commits), 'on changed source code'
    runs = []
    for column, title in enumerate(head[1:], 1):
        passed = {folder: int(row[column].replace(',', '')) for folder, row in zip(FOLDERS, rows, strict=False)}
        results = Results(title.removeprefix('etcd '), '', 1.0, {name: Count(count) for name, count in passed.items()})
        without_api, others = (int(row[column].replace(',', '')) for row in rows[-2:])
        results.folders[FOLDERS[0]].skipped = without_api + others
        results.without_api = without_api
        runs.append(results)
    assert rst_table(runs, FOLDERS, found.group(1)) == text


@pytest.mark.parametrize('line', LINES)
def test_page_names_each_line(line: str) -> None:
    assert re.search(rf'\b{re.escape(line)}\b', PAGE)


def test_each_difference_of_a_version_names_a_test() -> None:
    tables = [
        table for table in re.split(r'^\.\. list-table::', PAGE, flags=re.MULTILINE) if ':class: compatibility' in table
    ]
    assert len(tables) == 2
    for table in tables:
        head, *rows = read_rows(re.split(r'^(?=\S)', table, flags=re.MULTILINE)[0])
        assert head == ['etcd', head[1], 'What getc does']
        assert len(rows) >= 5
        assert [row[0] for row in rows if '``tests/' not in row[2]] == []


def test_incomplete_table_is_noticed() -> None:
    with pytest.raises(ValueError, match='not every row has 3 cells'):
        read_rows('   * - Tests\n     - etcd 3.6.1\n     - etcd 3.7.3\n   * - ``tests/v3``\n     - 1\n')
