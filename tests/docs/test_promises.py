"""The page of promises: each has its test.  And whatever test a page names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.docs.examples import REPOSITORY

PAGES = [*sorted((REPOSITORY / 'docs').glob('*.rst')), *sorted((REPOSITORY / 'docs/recipes').glob('*.rst'))]
NAMED = re.compile(r'``(tests/[\w/]+\.py)::(\w+)``')
PROMISES = re.split(r'^   \* - ', (REPOSITORY / 'docs' / 'promises.rst').read_text('utf-8'), flags=re.MULTILINE)[1:]


def names_in(path: Path) -> set[str]:
    functions = (node for node in ast.walk(ast.parse(path.read_text('utf-8'))) if isinstance(node, ast.FunctionDef))
    return {function.name for function in functions if function.name.startswith('test_')}


@pytest.mark.parametrize('page', PAGES, ids=[str(page.relative_to(REPOSITORY / 'docs')) for page in PAGES])
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    """In the file that is named."""
    missing = [
        (path, name) for path, name in NAMED.findall(page.read_text('utf-8')) if name not in names_in(REPOSITORY / path)
    ]
    assert missing == []


def test_every_promise_names_its_test() -> None:
    """None stands there without."""
    assert len(PROMISES) >= 30
    assert [promise for promise in PROMISES if not NAMED.search(promise)] == []
