"""The pages in docs/: they build, and every public name is among them."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

import getc
import getc.testing
from tests.docs.examples import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as ``make docs`` does, but elsewhere."""
    output = tmp_path_factory.mktemp('site')
    options = ['-q', '-W', '--keep-going', '-b', 'html', '-d', str(output / '.doctrees')]
    command = [sys.executable, '-m', 'sphinx', *options, str(REPOSITORY / 'docs'), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stderr) == (0, '')
    return output


def documented(site: Path) -> set[str]:
    """The full names of all that the pages document."""
    with (site / 'objects.inv').open('rb') as file:
        inventory = InventoryFile.load(file, '', lambda base, target: target)
    return {name for kind, names in inventory.items() if kind.startswith('py:') for name in names}


def public_methods(kind: type) -> set[str]:
    """The public methods and properties of a class of getc, wherever they come from."""
    return {
        name
        for base in kind.__mro__
        if base.__module__.startswith('getc.')
        for name, member in vars(base).items()
        if not name.startswith('_') and (inspect.isfunction(member) or isinstance(member, property))
    }


def test_every_public_name_is_documented(site: Path) -> None:
    """The sections of the API page lack none of ``getc.__all__``, nor of the harness."""
    names = {f'getc.{name}' for name in getc.__all__} | {f'getc.testing.{name}' for name in getc.testing.__all__}
    assert names - documented(site) == set()


def test_every_method_of_the_client_is_documented(site: Path) -> None:
    """In the API page."""
    undocumented = {name for name in public_methods(getc.Client) if f'getc.Client.{name}' not in documented(site)}
    assert undocumented == set()


@pytest.mark.parametrize('kind', [getc.EtcdResult, getc.Node, getc.Value, getc.Changes, getc.testing.EtcdServer])
def test_every_method_of_what_a_client_returns_is_documented(site: Path, kind: type) -> None:
    """And of the server for tests."""
    path = f'getc.testing.{kind.__name__}' if kind is getc.testing.EtcdServer else f'getc.{kind.__name__}'
    own = {name for name in public_methods(kind) if name in vars(kind)}
    assert {name for name in own if f'{path}.{name}' not in documented(site)} == set()


def test_every_error_is_explained_with_its_number() -> None:
    """On the page of errors."""
    rows = (REPOSITORY / 'docs' / 'errors.rst').read_text('utf-8').splitlines()
    kinds = [kind for kind in vars(getc).values() if inspect.isclass(kind) and issubclass(kind, getc.EtcException)]
    assert len(kinds) > 20
    for kind in kinds:
        told = [row for row in rows if f'`{kind.__name__}`' in row]
        assert told, kind
        number = getattr(kind, 'errno', 0)
        if isinstance(number, int) and number:
            assert any(re.search(rf'\b{number}\b', row) for row in told), kind


def test_every_page_is_reached_from_the_first(site: Path) -> None:
    """It is in the table of contents."""
    index = (site / 'index.html').read_text('utf-8')
    pages = [path.stem for path in (REPOSITORY / 'docs').glob('*.rst') if path.stem != 'index']
    assert len(pages) >= 9
    assert [page for page in pages if f'href="{page}.html"' not in index] == []


def test_every_table_of_a_kind_of_its_own_has_a_style() -> None:
    """Else it has that of other tables, where the name of a test leaves no room for the promise beside it."""
    style = (REPOSITORY / 'docs' / '_static' / 'custom.css').read_text('utf-8')
    pages = (REPOSITORY / 'docs').glob('*.rst')
    kinds = {kind for page in pages for kind in re.findall(r'^ +:class: (\w+)$', page.read_text('utf-8'), re.MULTILINE)}
    assert {'promises', 'differences'} <= kinds
    assert [kind for kind in kinds if f'table.{kind} ' not in style] == []


@pytest.mark.parametrize('page', ['README.rst', 'docs/installation.rst'])
def test_page_says_how_to_start_an_etcd(page: str) -> None:
    """Without one the first line of the first example fails."""
    assert re.search(r'^   \$ etcd$', (REPOSITORY / page).read_text('utf-8'), re.MULTILINE)
