"""A healthy etcd cluster of three members, and a proxy in front of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import getc
from getc.testing import EtcdCluster, FaultProxies


@pytest.fixture
def cluster(etcd_cluster: EtcdCluster) -> EtcdCluster:
    """Three healthy members without keys."""
    return etcd_cluster


@pytest.fixture
def proxies(etcd_faults: FaultProxies) -> FaultProxies:
    """A proxy in front of each member, in their order."""
    return etcd_faults


@pytest.fixture
def open_client(cluster: EtcdCluster) -> Iterator[Callable[..., getc.Client]]:
    """Open clients of the cluster or of given URLs whose first endpoint is a given member; closed after the test."""
    with ExitStack() as opened:

        def open_client(first: int, urls: list[str] | None = None, **options: Any) -> getc.Client:
            urls = urls or [member.url for member in cluster.members]
            options.setdefault('api', 'v3')
            return opened.enter_context(getc.etcd(urls[first:] + urls[:first], **options))

        yield open_client
        cluster.recover()  # or closing the clients would wait for members that do not answer
