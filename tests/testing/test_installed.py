"""An installation of getc from its wheel, in a fresh virtual environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = ('getc', 'pytest_getc.py', 'setup.py', 'pyproject.toml', 'README.rst', 'LICENSE')

TEN_LINES = """\
import getc
import pytest

def test_presence_ends_with_its_server(etcd, etcd_clock):
    keeper = etcd.keep_node('/servers/a', '10.0.0.7:7000', ttl=10)
    etcd_clock.advance(600)
    assert etcd.get('/servers/a').value == '10.0.0.7:7000'
    etcd_clock.stall(30)
    with pytest.raises(getc.NodeLost):
        keeper.ensure()
"""


def run(*command: str, cwd: Path, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Run a command without the environment variables of this run."""
    hidden = ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'PYTEST_ADDOPTS', 'PYTEST_PLUGINS')
    env = {name: text for name, text in os.environ.items() if name not in hidden}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def pip(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(str(python), '-m', 'pip', '--disable-pip-version-check', *arguments, cwd=cwd)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Return the Python of an empty virtual environment; skip the test if pip cannot install anything in it."""
    made = run(sys.executable, '-m', 'venv', str(tmp_path / 'venv'), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    python = tmp_path / 'venv' / 'bin' / 'python'
    download = pip(python, 'download', '--quiet', '--no-deps', '--dest', 'download', 'hpack>=4', cwd=tmp_path)
    if download.returncode:
        pytest.skip(f'no package index is available: {download.stderr.strip().splitlines()[-1]}')
    return python


@pytest.fixture
def wheel(fresh: Path, tmp_path: Path) -> Path:
    """Build the wheel of getc from a copy of its sources."""
    sources = tmp_path / 'sources'
    sources.mkdir()
    for name in SOURCES:
        path = REPOSITORY / name
        if path.is_dir():
            shutil.copytree(path, sources / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(path, sources / name)
    built = pip(fresh, 'wheel', '--quiet', '--no-deps', '--wheel-dir', str(tmp_path), str(sources), cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    (found,) = tmp_path.glob('getc-*.whl')
    return found


@pytest.mark.timeout(600)
def test_ten_line_test_passes_when_only_the_wheel_is_installed(fresh: Path, wheel: Path, tmp_path: Path) -> None:
    """``pip install 'getc[test]'`` installs pytest, the plugin and an etcd; no imports or setup are needed."""
    installed = pip(fresh, 'install', '--quiet', f'getc[test] @ {wheel.as_uri()}', cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    tests = tmp_path / 'tests'
    tests.mkdir()
    (tests / 'test_presence.py').write_text(TEN_LINES, encoding='utf-8')
    (tests / 'test_real.py').write_text(
        'import getc\n\ndef test_server(etcd_server):\n    with getc.etcd(etcd_server.url) as etcd:\n'
        "        assert etcd.set('/a', 'x').value == 'x'\n",
        encoding='utf-8',
    )
    result = run(str(fresh), '-m', 'pytest', '-W', 'error', '-v', '-rs', cwd=tests)
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'test_presence_ends_with_its_server PASSED' in result.stdout
    assert 'test_server PASSED' in result.stdout
    assert 'plugins: getc-' in result.stdout


@pytest.mark.timeout(600)
def test_plugin_works_with_pytest_7_0(fresh: Path, wheel: Path, tmp_path: Path) -> None:
    """pluggy 1.0 has no new-style hook wrappers."""
    installed = pip(fresh, 'install', '--quiet', str(wheel), 'pytest==7.0.1', 'pluggy==1.0.0', cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    tests = tmp_path / 'tests'
    tests.mkdir()
    (tests / 'test_presence.py').write_text(TEN_LINES, encoding='utf-8')
    (tests / 'pytest.ini').write_text('[pytest]\netcd_leaks = true\netcd_hub_limit = 60\n', encoding='utf-8')
    (tests / 'test_callback.py').write_text(
        'def test_callback(etcd, etcd_clock):\n    def check(result):\n        assert not result\n\n'
        "    etcd.on_change('/a', check)\n    etcd.set('/a', 'x')\n    etcd_clock.advance(1)\n",
        encoding='utf-8',
    )
    result = run(str(fresh), '-m', 'pytest', '-v', cwd=tests)
    assert '1 failed, 1 passed' in result.stdout, result.stdout + result.stderr
