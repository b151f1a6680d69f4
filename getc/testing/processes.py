"""Child processes that block no greenlet and never outlive the program, not even one that is killed.

Neither ``subprocess`` nor ``gevent.subprocess`` fits: the one waits by blocking and does not work where
the program is patched, the other keeps a watcher on the loop, so that virtual time would never move on
by itself.  Here a child is spawned by the system's own call, and asked now and then, in real time.
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

__all__ = ['Guard', 'Process', 'output_of', 'poll_until']

POLL = 0.01
"""Seconds between two looks at a child."""

STOPPED = 'TtXZ'
"""What Linux calls a thread that does not run: stopped by a signal or a debugger, or at its end."""

WATCHDOG = """
while read -r line; do pid=$line; done
[ -n "$pid" ] && kill -KILL "$pid" 2>/dev/null
rm -rf -- "$1"
"""
"""Reads the pid to guard, a line each; the last one counts, and an empty line is none.  The pipe closes
when our process ends, in whatever way: then the child and its files go."""


class Process:
    """A child in a process group of its own, so that a Ctrl-C in the terminal does not reach it.

    Args:
        command: The path of the program, and its arguments.
        output: The file descriptor that takes what it prints, errors too; None for nowhere.
        stdin: The file descriptor that it reads from; None for nothing.
        env: Its environment; None for ours.

    Raises:
        OSError: It cannot be run.

    Attributes:
        pid: Its number.
        status: Its exit status, minus the signal that ended it; None while it runs.
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
            # Or a child would ignore them too: Python ignores SIGPIPE, a shell has its background jobs ignore SIGINT.
            setsigdef=[signal.SIGPIPE, signal.SIGINT],
        )

    def has_ended(self) -> bool:
        """True once it is gone.  Does not block."""
        if self.status is None:
            try:
                # gevent's, where the program is patched, may wait for what its own watchers reap.
                pid, status = monkey.get_original('os', 'waitpid')(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody waits for all children, and was faster
                self.status = 0
            else:
                self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def send(self, number: signal.Signals) -> None:
        """Signal it, unless it is gone."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def pause(self, timeout: float = 10.0) -> None:
        """Stop it from running (SIGSTOP), and wait until no thread of it does, for so many seconds at most."""
        self.send(signal.SIGSTOP)
        # The signal returns before it has reached each of them, and one that still runs may still answer.
        poll_until(lambda: self.has_ended() or all(state in STOPPED for state in self._thread_states()), timeout)

    def _thread_states(self) -> Iterator[str]:
        """What each of its threads does, as one letter; nothing where the system does not tell."""
        for path in Path(f'/proc/{self.pid}/task').glob('*/stat'):
            try:
                yield path.read_text('utf-8', 'replace').rpartition(')')[2].split()[0]
            except OSError:
                pass  # it has ended meanwhile

    def kill(self, timeout: float = 10.0) -> None:
        """End it now, and wait until it is gone, for so many seconds at most."""
        self.send(signal.SIGKILL)
        poll_until(self.has_ended, timeout)


def poll_until(condition: Callable[[], object], timeout: float) -> bool:
    """True as soon as the condition holds, False if it does not within so many real seconds."""
    # The machine's clock on purpose: processes do not live in virtual time.
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= end:
            return False
        real_sleep(POLL)
    return True


def output_of(command: list[str], *, timeout: float = 10.0) -> str:
    """What the command prints.  Blocks the greenlet only.

    Raises:
        OSError: It cannot be run, fails, or takes longer than the timeout, in seconds.
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
    """Kills a process and removes a directory when this process ends without having done so.

    It holds after SIGKILL too: a shell waits for the end of a pipe that only this process has open.

    Args:
        directory: Removed with all that is in it.
    """

    def __init__(self, directory: str) -> None:
        reading, self._pipe = os.pipe()  # neither is inherited
        try:
            self._shell = Process(['/bin/sh', '-c', WATCHDOG, 'etcd-guard', directory], stdin=reading)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(reading)

    def watch(self, pid: int | None) -> None:
        """From now on guard this process, and no other; None for none."""
        os.write(self._pipe, b'\n' if pid is None else b'%d\n' % pid)

    def dismiss(self) -> None:
        """The process has ended and the directory is gone: nothing is left to guard."""
        self._shell.kill()  # first, or it would act on the end of the pipe
        os.close(self._pipe)
