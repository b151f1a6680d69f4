"""Fault proxies in front of all members of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

from getc.testing.proxy import FaultProxy

__all__ = ['FaultProxies']


class FaultProxies(Sequence[FaultProxy]):
    """A :class:`FaultProxy` in front of each of several servers, in their order.  A context manager.

    Args:
        targets: The servers' URLs.

    Example::

        from getc.testing import EtcdCluster, FaultProxies

        with EtcdCluster() as cluster, FaultProxies(member.url for member in cluster.members) as proxies:
            with getc.etcd(proxies.url) as etcd:
                proxies[0].cut()
                etcd.set('/a', '1')      # through another member
    """

    def __init__(self, targets: Iterable[str]) -> None:
        self._proxies = [FaultProxy(target) for target in targets]

    @property
    def url(self) -> str:
        """The URLs of all proxies, as :func:`getc.etcd` takes them."""
        return ','.join(proxy.url for proxy in self._proxies)

    def heal(self) -> None:
        """Undo the faults of every proxy."""
        for proxy in self._proxies:
            proxy.heal()

    @overload
    def __getitem__(self, index: int) -> FaultProxy: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[FaultProxy]: ...

    def __getitem__(self, index: int | slice) -> FaultProxy | Sequence[FaultProxy]:
        return self._proxies[index]

    def __len__(self) -> int:
        return len(self._proxies)

    def __enter__(self) -> FaultProxies:
        try:
            for proxy in self._proxies:
                proxy.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        for proxy in self._proxies:
            proxy.stop()
