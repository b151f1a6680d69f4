"""Skips tests of an API that the etcd under test does not support."""

from __future__ import annotations

from typing import Any

import pytest

from getc.testing import EtcdBinary
from getc.testing.binaries import Api

__all__ = ['skip_unless_supported', 'supported_apis']


def skip_unless_supported(api: Any, binary: EtcdBinary) -> None:
    """Skip the test if the etcd does not support the API; etcd 3.5 was the last one with v2."""
    if not binary.supports(api):
        pytest.skip(f'{binary} does not support the {api} API')


def supported_apis(binary: EtcdBinary) -> list[Api]:
    """Return the APIs that the etcd supports."""
    apis: tuple[Api, ...] = ('v3', 'v2')
    return [api for api in apis if binary.supports(api)]
