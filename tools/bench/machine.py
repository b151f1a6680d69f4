"""The machine of a run."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

__all__ = ['describe_machine']


def describe_machine() -> dict[str, str]:
    """Return the processor, memory, system and Python of this machine, without its host name."""
    return {
        'processor': _found('/proc/cpuinfo', r'model name\s*:\s*(.+)') or platform.processor() or platform.machine(),
        'cores': str(os.cpu_count()),
        'memory': _memory(),
        'system': f'{platform.system()} {platform.release().partition("-")[0]} {platform.machine()}',
        'python': platform.python_version(),
    }


def _memory() -> str:
    kilobytes = _found('/proc/meminfo', r'MemTotal:\s*(\d+) kB')
    return f'{int(kilobytes) / 2**20:.0f} GiB' if kilobytes else 'unknown'


def _found(path: str, pattern: str) -> str:
    try:
        match = re.search(pattern, Path(path).read_text('utf-8', 'replace'))
    except OSError:
        return ''
    return match[1].strip() if match else ''
