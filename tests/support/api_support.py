"""Which API a test needs: not every etcd speaks both."""

from __future__ import annotations

from typing import Any

import pytest

from getc.testing import EtcdBinary
from getc.testing.binaries import Api

__all__ = ['skip_unless_spoken', 'spoken']


def skip_unless_spoken(api: Any, binary: EtcdBinary) -> None:
    """Skip the test where the etcd of the run does not speak the API: v2 ended with etcd 3.5."""
    if not binary.supports(api):
        pytest.skip(f'{binary} does not speak the {api} API')


def spoken(binary: EtcdBinary) -> list[Api]:
    """The APIs that the etcd of the run speaks."""
    apis: tuple[Api, ...] = ('v3', 'v2')
    return [api for api in apis if binary.supports(api)]
