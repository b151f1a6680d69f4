"""The layer check finds what it is there to find."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_layers import broken_rules, main

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small package in order."""
    files = {
        '__init__.py': 'from getc.client import Client\nfrom getc import errors\n',
        'errors.py': '',
        'timing.py': 'from getc.errors import TimedOut\n',
        'model.py': 'import getc.errors\n',
        'wire/__init__.py': '',
        'wire/http2.py': 'import json\nfrom getc.wire import schema\n',
        'wire/schema.py': 'from getc.results import Node\n',
        'transport/__init__.py': '',
        'transport/channel.py': 'import gevent\nfrom getc.grpc.http2 import Frames\nfrom ..errors import TimedOut\n',
        'client.py': 'from getc.transport import channel\n',
        'testing/__init__.py': 'import getc\n',
        'recipes/__init__.py': 'import getc\nfrom getc.timing import now\n',
    }
    for name, text in files.items():
        path = tmp_path / 'getc' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
    return tmp_path


def add(tree: Path, name: str, line: str) -> None:
    path = tree / 'getc' / name
    path.write_text((path.read_text('utf-8') if path.exists() else '') + line + '\n', encoding='utf-8')


def test_check_passes_when_every_import_goes_down(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its status is 0."""
    assert broken_rules(tree) == []
    assert main([str(tree)]) == 0
    assert 'every import goes down' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('name', 'line', 'message'),
    [
        ('errors.py', 'from getc.results import Node', 'errors.py:1: getc.errors (layer 0) imports getc.results'),
        ('wire/http2.py', 'from getc.transport import channel', 'http2.py:3: getc.grpc.http2 (layer 2) imports'),
        ('wire/http2.py', 'from ..transport.channel import Channel', 'getc.grpc.channel (layer 3): upward'),
        ('model.py', 'def late():\n    import getc.client', 'model.py:3: getc.results (layer 1) imports getc.client'),
        ('model.py', 'if TYPE_CHECKING:\n    from getc.client import Client', 'model.py:3: getc.results (layer 1)'),
        ('transport/channel.py', 'import getc', 'getc.grpc.channel (layer 3) imports getc (layer 9): upward'),
        ('recipes/__init__.py', 'from getc.testing import x', 'imports getc.testing (layer 10): sideways'),
        ('wire/schema.py', 'import gevent.socket', 'imports gevent.socket: no gevent and no I/O below layer 3'),
        ('stray.py', '', 'stray.py:1: getc.stray stands in no layer'),
        ('model.py', 'import getc.nowhere', 'imports getc.nowhere, which stands in no layer'),
        ('wire/schema.py', 'from . import http2', 'a circle: getc.grpc.http2 -> getc.v3.schema -> getc.grpc.http2'),
        ('errors.py', 'def f():\n    from .timing import now', 'a circle: getc.errors -> getc.timing -> getc.errors'),
    ],
)
def test_check_fails_and_says_where_when_a_rule_is_broken(
    tree: Path, capsys: pytest.CaptureFixture[str], name: str, line: str, message: str
) -> None:
    """The line names the file, the line, and the rule."""
    add(tree, name, line)
    assert main([str(tree)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1, lines
    assert message in lines[0]


def test_check_passes_on_getc() -> None:
    """The tree that this is part of is in order."""
    assert broken_rules(REPOSITORY) == []


def test_check_fails_when_there_is_no_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong folder does not pass for one in order."""
    assert main([str(tmp_path)]) == 2
    assert 'has no getc/' in capsys.readouterr().out
