"""README.rst: it renders anywhere, and what it promises is kept by a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import docutils.core
import docutils.nodes
import pytest

import getc
from getc.testing import VirtualTime
from tests.docs.examples import REPOSITORY, Kind, examples_of, run

README = REPOSITORY / 'README.rst'
QUIET = {'report_level': 5, 'halt_level': 5, 'file_insertion_enabled': False, 'input_encoding': 'utf-8'}


@pytest.fixture(scope='module')
def document() -> docutils.nodes.document:
    """README as PyPI and other hosts see it: by docutils alone."""
    settings = {**QUIET, 'report_level': 1, 'warning_stream': False}
    return docutils.core.publish_doctree(README.read_text('utf-8'), settings_overrides=settings)


def links_to_tests(node: docutils.nodes.Node) -> Iterator[tuple[str, str]]:
    """The test and the path of each link to a test."""
    for link in node.findall(docutils.nodes.reference):
        if link.get('refuri', '').startswith('tests/'):
            yield link.astext(), link['refuri']


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text('utf-8'))) if isinstance(node, ast.FunctionDef)}


def test_readme_renders_without_a_warning(document: docutils.nodes.document) -> None:
    """Neither a mistake nor a role that only Sphinx knows is in it."""
    complaints = [message.astext() for message in document.findall(docutils.nodes.system_message)]
    assert complaints == []
    assert list(document.findall(docutils.nodes.problematic)) == []
    assert document['title'] == 'getc'


def test_every_link_to_a_test_leads_to_one(document: docutils.nodes.document) -> None:
    """The file is there, and has a test of that name."""
    links = list(links_to_tests(document))
    assert len(links) >= 5
    for name, path in links:
        assert name.startswith('test_')
        assert name in functions_of(REPOSITORY / path), f'{path} has no {name}'


def test_every_promise_has_its_test(document: docutils.nodes.document) -> None:
    """There are four."""
    (section,) = [
        section
        for section in document.findall(docutils.nodes.section)
        if section.next_node(docutils.nodes.title).astext() == 'What it promises'
    ]
    promises = list(section.findall(docutils.nodes.list_item))
    assert len(promises) == 4
    for promise in promises:
        assert list(links_to_tests(promise)), promise.astext()


def test_every_file_that_is_linked_is_there(document: docutils.nodes.document) -> None:
    """Also those that are no tests."""
    for link in document.findall(docutils.nodes.reference):
        target = link.get('refuri', '')
        assert target.startswith('https://') or not target or (REPOSITORY / target).is_file(), target


def test_first_program_is_eight_lines_that_do_what_they_say(
    etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node is kept, what is there is told, then every change."""
    program = examples_of(README)[0]
    assert program.kind is Kind.PROGRAM
    assert sum(bool(line.strip()) for line in program.source.splitlines()) == 8
    connect = getc.etcd
    monkeypatch.setattr(getc, 'etcd', lambda url: connect('memory://first-program'))
    with connect('memory://first-program') as other:
        other.set('/cfg/rate', '20')
        names: dict[str, object] = {}
        run(program, names)
        assert capsys.readouterr().out.splitlines()[-1] == '/servers/a 10.0.0.7:7000'
        etcd_clock.advance(600)
        other.set('/cfg/rate', '30')
        etcd_clock.advance(1)
        assert '/cfg/rate 30\n' in capsys.readouterr().out
        assert other.get('/servers/a').value == '10.0.0.7:7000'
        etcd = names['etcd']
        assert isinstance(etcd, getc.Client)
        etcd.close()
