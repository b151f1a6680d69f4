"""The layer check reports each broken rule."""

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
        'results.py': 'import getc.errors\n',
        'grpc/http2/__init__.py': '',
        'grpc/http2/frames.py': 'import json\nfrom getc.grpc.http2 import events\n',
        'grpc/http2/events.py': 'from getc.results import Node\n',
        'grpc/__init__.py': '',
        'grpc/channel.py': 'import gevent\nfrom getc.grpc.http2.frames import Frames\nfrom ..errors import TimedOut\n',
        'backends/__init__.py': '',
        'backends/base.py': '',
        'backends/tree/__init__.py': 'from getc.backends import base\n',
        'backends/v2/__init__.py': 'from getc.backends import base\n',
        'backends/connect.py': 'from getc.backends import tree, v2\n',
        'client.py': 'from getc.backends.connect import x\nfrom getc.grpc import channel\n',
        'testing/__init__.py': 'import getc\n',
        'cli/__init__.py': 'import getc\nfrom getc.timing import now\n',
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
        ('errors.py', 'from getc.net import tls', 'errors.py:1: getc.errors (layer 0) imports getc.net'),
        ('grpc/channel.py', 'from getc.v3 import kv', 'channel.py:4: getc.grpc.channel (layer 2) imports getc.v3'),
        ('grpc/channel.py', 'from ..v3.kv import KV', 'imports getc.v3.kv (layer 3): upward'),
        (
            'results.py',
            'def late():\n    import getc.client',
            'results.py:3: getc.results (layer 0) imports getc.client',
        ),
        ('results.py', 'if TYPE_CHECKING:\n    from getc.client import Client', 'results.py:3: getc.results (layer 0)'),
        ('grpc/channel.py', 'import getc', 'getc.grpc.channel (layer 2) imports getc (layer 12): upward'),
        ('backends/base.py', 'from getc.backends import v2', 'getc.backends.base (layer 4) imports getc.backends.v2'),
        ('backends/v2/__init__.py', 'from getc.backends import tree', 'these two must not know each other'),
        ('backends/tree/__init__.py', 'from getc.backends.v2 import http', 'upward'),
        ('testing/__init__.py', 'from getc.cli import x', 'these two must not know each other'),
        ('grpc/http2/events.py', 'import gevent.socket', 'imports gevent.socket: no I/O and no clock here'),
        ('grpc/http2/events.py', 'from time import monotonic', 'imports time: no I/O and no clock here'),
        ('stray.py', '', 'stray.py:1: getc.stray is in no layer'),
        ('results.py', 'import getc.nowhere', 'imports getc.nowhere, which is in no layer'),
        ('grpc/http2/events.py', 'from . import frames', 'a cycle: getc.grpc.http2.frames -> getc.grpc.http2.events'),
        ('errors.py', 'def f():\n    from .timing import now', 'a cycle: getc.errors -> getc.timing -> getc.errors'),
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
    """getc itself keeps the rules."""
    assert broken_rules(REPOSITORY) == []


def test_check_fails_when_there_is_no_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong folder is an error, not a success."""
    assert main([str(tmp_path)]) == 2
    assert 'has no getc/' in capsys.readouterr().out
