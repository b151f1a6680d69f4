"""Tests of child processes and of the guard that kills them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from getc.testing import wait_until
from tests.support.programs import is_running

GUARDED = """
import sys
from getc.testing.processes import Guard, Process
guard = Guard(sys.argv[1])
child = Process(['/bin/sleep', '600'])
guard.watch(child.pid)
print(child.pid, flush=True)
sys.stdin.readline()
"""


def test_guard_kills_the_child_and_removes_the_directory_when_the_program_is_killed(tmp_path: Path) -> None:
    """The child does not use the directory: an etcd ends by itself when its data are removed, which hides a failure."""
    directory = tmp_path / 'data'
    directory.mkdir()
    program = subprocess.Popen(
        [sys.executable, '-c', GUARDED, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        assert is_running(pid)
        program.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_running(pid) and not directory.exists(), 60)
