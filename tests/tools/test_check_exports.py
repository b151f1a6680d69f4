"""The export check finds what it is there to find."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from tools.check_exports import main

NUMBERS = itertools.count()

FILES = {
    '__init__.py': '"""The package."""\nfrom {package}.keys import Key, normal\n__all__ = ["Key", "normal"]\n',
    'empty.py': '',
    'keys.py': '''
"""Keys."""
from typing import Protocol
__all__ = ["ROOT", "Key", "Keyed", "normal"]
ROOT = "/"
class Keyed(Protocol):
    """Has a key."""
    def path(self):
        """Where it is."""
class Key:
    """A key."""
    def path(self): return self.name
    def _private(self): pass
    @property
    def name(self):
        """Its name."""
def normal(key):
    """Normal form."""
def _private(): pass
''',
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in order, of a name of its own."""
    folder = tmp_path / f'sample{next(NUMBERS)}'
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text.replace('{package}', folder.name), encoding='utf-8')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    return folder


def test_check_passes_when_all_is_public_and_told(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its status is 0."""
    status = main([package.name])
    assert 'every public name is there and documented' in capsys.readouterr().out
    assert status == 0


@pytest.mark.parametrize(
    ('file', 'old', 'new', 'message'),
    [
        ('keys.py', '"normal"]', '"normal", "nothing"]', 'which does not exist'),
        ('keys.py', '["ROOT", "Key"', '["Key", "ROOT"', 'is not sorted'),
        ('keys.py', '"normal"]', '"normal", "normal"]', 'a name twice'),
        ('keys.py', '"Keyed", ', '', 'keys.Keyed is neither in __all__ nor private'),
        ('keys.py', 'def _private(): pass', 'def public():\n    "Public."', 'keys.public is neither in __all__'),
        ('keys.py', '"""Normal form."""', 'pass', 'keys.normal has no docstring'),
        ('keys.py', '"""A key."""', '', 'keys.Key has no docstring'),
        ('keys.py', '"""Its name."""', 'pass', 'keys.Key.name has no docstring'),
        ('keys.py', '"""Where it is."""', 'pass', 'keys.Key.path has no docstring'),
        ('keys.py', '"""Keys."""', 'X = 1', 'keys has no docstring'),
        ('keys.py', '__all__ =', 'names =', 'keys has no __all__'),
        ('__init__.py', '__all__ =', 'class Key(Key): __module__ = Key.__module__\n__all__ =', 'Key is not'),
    ],
)
def test_check_fails_and_says_what_when_a_rule_is_broken(
    package: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, message: str
) -> None:
    """The line names the module and the rule."""
    path = package / file
    text = path.read_text('utf-8')
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding='utf-8')
    status = main([package.name])
    assert message in capsys.readouterr().out
    assert status == 1
