"""The page of differences between v2 and v3: each line has its tests, and no difference is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.docs.examples import REPOSITORY

PAGE = (REPOSITORY / 'docs' / 'differences.rst').read_text('utf-8')
TESTS = re.findall(r'``(tests/[\w/]+\.py)::(\w+)``', PAGE)
TABLE = PAGE[PAGE.index('.. list-table::') :]
ROWS = [re.split(r'^     - ', row, flags=re.MULTILINE) for row in re.split(r'^   \* - ', TABLE, flags=re.MULTILINE)[2:]]


def functions_of(path: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(path.read_text('utf-8'))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def differing() -> set[str]:
    """The tests that are marked ``v3_differs``."""
    found = set()
    for path in (REPOSITORY / 'tests' / 'contract').glob('test_*.py'):
        for name, function in functions_of(path).items():
            if any('v3_differs' in ast.unparse(decorator) for decorator in function.decorator_list):
                found.add(name)
    return found


def test_every_line_has_a_test_of_each_api() -> None:
    """One for what v2 does, one for what v3 does."""
    assert len(ROWS) >= 25
    for row in ROWS:
        assert len(row) == 2, row
        for cell in row:
            assert len(re.findall(r'``tests/', cell)) == 1, cell


def test_every_test_in_which_v3_differs_is_on_the_page() -> None:
    """With a mark a test is left out on v3: then it says here what is there instead."""
    named = {name for _, name in TESTS}
    assert len(differing()) >= 15
    assert differing() - named == set()


def test_every_test_of_a_difference_is_on_the_page() -> None:
    """Those of v3 do not go without their line."""
    named = {name for _, name in TESTS}
    for file in ('test_v2_differences.py', 'test_v3_differences.py'):
        tests = {name for name in functions_of(REPOSITORY / 'tests' / 'contract' / file) if name.startswith('test_')}
        assert tests - named <= {
            'test_explicit_directory_has_indices',
            'test_refresh_with_a_condition_is_compared_then_swapped',
            'test_ttl_may_be_as_long_as_a_lease_and_no_longer',
        }
