"""Which tests use a real etcd, and which API of it."""

from __future__ import annotations

from typing import Any

import pytest

from getc.testing import EtcdBinary
from getc.testing.binaries import Api

__all__ = ['needs_etcd', 'skip_unless_supported', 'supported_apis']


def skip_unless_supported(api: Any, binary: EtcdBinary) -> None:
    """Skip the test if the etcd does not support the API; etcd 3.5 was the last one with v2."""
    if not binary.supports(api):
        pytest.skip(f'{binary} does not support the {api} API')


def supported_apis(binary: EtcdBinary) -> list[Api]:
    """Return the APIs that the etcd supports."""
    apis: tuple[Api, ...] = ('v3', 'v2')
    return [api for api in apis if binary.supports(api)]


def needs_etcd(item: pytest.Item) -> bool:
    """True if the test uses a real etcd: by a fixture, or by a parameter that names an API."""
    callspec = getattr(item, 'callspec', None)
    parameters = callspec.params.values() if callspec is not None else ()
    fixtures: list[str] = getattr(item, 'fixturenames', [])
    return 'etcd_binary' in fixtures or any(isinstance(value, str) and value in ('v2', 'v3') for value in parameters)
