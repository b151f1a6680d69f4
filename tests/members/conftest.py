"""Three members of a real etcd, well before each test, and proxies in front of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import getc
from getc.testing import EtcdCluster, FaultProxies


@pytest.fixture
def cluster(etcd_cluster: EtcdCluster) -> EtcdCluster:
    """Three members that are well, without keys."""
    return etcd_cluster


@pytest.fixture
def proxies(etcd_faults: FaultProxies) -> FaultProxies:
    """A proxy in front of each, in their order."""
    return etcd_faults


@pytest.fixture
def open_client(cluster: EtcdCluster) -> Iterator[Callable[..., getc.Client]]:
    """Clients of the cluster, or of URLs, that ask one of them first; closed after the test."""
    with ExitStack() as opened:

        def open_client(first: int, urls: list[str] | None = None, **options: Any) -> getc.Client:
            urls = urls or [member.url for member in cluster.members]
            options.setdefault('api', 'v3')
            return opened.enter_context(getc.etcd(urls[first:] + urls[:first], **options))

        yield open_client
        cluster.mend()  # or the end of the clients would wait for who does not answer
