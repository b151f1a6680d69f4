"""Child processes that do not block other greenlets and are killed when this program ends, also by SIGKILL.

``subprocess`` blocks the hub while it waits and does not work in monkey-patched programs.  ``gevent.subprocess``
keeps a child watcher active on the loop, so that virtual time would not advance by itself.  Here children are
started by ``posix_spawn`` and polled in real time.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gevent import monkey

from getc.testing.virtual_loop import real_sleep

__all__ = ['Guard', 'Process', 'check_output', 'poll_until']

POLL_INTERVAL = 0.01
"""Seconds between two polls of a child."""

STOPPED_STATES = 'TtXZ'
"""Thread states in Linux's /proc for threads that do not run: stopped, traced, dead, zombie."""

WATCHDOG = """
while read -r line; do pid=$line; done
[ -n "$pid" ] && kill -KILL "$pid" 2>/dev/null
rm -rf -- "$1"
"""
"""Reads pids to guard from a pipe, one a line; the last one counts, and an empty line stands for none.  The pipe
closes when our process ends for whatever reason; then the script kills the child and removes its files."""


class Process:
    """A child in a process group of its own, so that Ctrl-C in the terminal does not reach it.

    Args:
        command: The path of the program, and its arguments.
        output: A file descriptor for its standard output and standard error; None for /dev/null.
        stdin: A file descriptor for its standard input; None for /dev/null.
        env: Its environment; None for that of this process.

    Raises:
        OSError: The program cannot be run.

    Attributes:
        pid: The process id.
        status: The exit status, or minus the number of the signal that ended it; None while it runs.
    """

    def __init__(
        self,
        command: list[str],
        *,
        output: int | None = None,
        stdin: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        files = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0) if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
            if output is None
            else (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        self.status: int | None = None
        self.pid = os.posix_spawn(
            command[0],
            command,
            dict(os.environ if env is None else env),
            file_actions=files,
            setpgroup=0,
            # Children inherit ignored signals: Python ignores SIGPIPE, and shells ignore SIGINT in background jobs.
            setsigdef=[signal.SIGPIPE, signal.SIGINT],
        )

    def has_ended(self) -> bool:
        """Return True if the process has ended.  Does not block."""
        if self.status is None:
            try:
                # The original: gevent's waitpid in patched programs may wait for a child that gevent has reaped.
                pid, status = monkey.get_original('os', 'waitpid')(self.pid, os.WNOHANG)
            except ChildProcessError:  # reaped by other code that waits for all children
                self.status = 0
            else:
                self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def pause(self, timeout: float = 10.0) -> None:
        """Send SIGSTOP, and wait until no thread of the process runs, for at most ``timeout`` seconds."""
        self.send_signal(signal.SIGSTOP)
        # kill(2) returns before all threads have stopped, and one that still runs may still send a response.
        poll_until(lambda: self.has_ended() or all(state in STOPPED_STATES for state in self._thread_states()), timeout)

    def _thread_states(self) -> Iterator[str]:
        """Yield the state of each thread as one letter; nothing where there is no /proc."""
        for path in Path(f'/proc/{self.pid}/task').glob('*/stat'):
            try:
                yield path.read_text('utf-8', 'replace').rpartition(')')[2].split()[0]
            except OSError:
                pass  # the thread has ended meanwhile

    def kill(self, timeout: float = 10.0) -> None:
        """Send SIGKILL, and wait until the process has ended, for at most ``timeout`` seconds."""
        self.send_signal(signal.SIGKILL)
        poll_until(self.has_ended, timeout)


def poll_until(condition: Callable[[], object], timeout: float) -> bool:
    """Wait until the condition is true.

    Returns:
        True as soon as the condition is true; False if that took longer than ``timeout`` seconds of real time.
    """
    # The real clock, since processes do not follow virtual time.
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= end:
            return False
        real_sleep(POLL_INTERVAL)
    return True


def check_output(command: list[str], *, timeout: float = 60.0) -> str:
    """Run a command and return its output.  Blocks the calling greenlet only.

    Raises:
        OSError: The command cannot be run, fails, or takes longer than ``timeout`` seconds.
    """
    with tempfile.TemporaryFile() as output:
        child = Process(command, output=output.fileno())
        if not poll_until(child.has_ended, timeout):
            child.kill()
            raise OSError(f'{command[0]} did not end within {timeout:g} s')
        output.seek(0)
        text = output.read().decode('utf-8', 'replace')
    if child.status:
        raise OSError(f'{command[0]} ended with status {child.status}: {text.strip()[-200:]}')
    return text


class Guard:
    """Kills a child process and removes a directory when this process ends without having done so.

    Works after SIGKILL as well: a shell waits for the end of a pipe that only this process holds open.

    Args:
        directory: The directory to remove with its contents.
    """

    def __init__(self, directory: str) -> None:
        reading, self._pipe = os.pipe()  # not inherited by other children
        try:
            self._shell = Process(['/bin/sh', '-c', WATCHDOG, 'etcd-guard', directory], stdin=reading)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(reading)

    def watch(self, pid: int | None) -> None:
        """Guard this process instead of the previous one; None for no process."""
        os.write(self._pipe, b'\n' if pid is None else b'%d\n' % pid)

    def dismiss(self) -> None:
        """End the guard without any action.  Call it once the child has ended and the directory is removed."""
        self._shell.kill()  # before the pipe is closed, or the shell would act on that
        os.close(self._pipe)
