"""Tests of programs that use gevent and etcd: virtual time, fault injection, real etcd servers, and leak checks.

pytest needs no imports: getc installs the plugin ``pytest_getc`` with the fixtures ``etcd``, ``etcd_clock``,
``etcd_store``, ``etcd_server``, ``etcd_cluster``, ``etcd_faults`` and ``etcd_binary``.  The classes behind them work
without pytest as well: :class:`VirtualTime`, :class:`MemoryStore`, :class:`EtcdServer`, :class:`EtcdCluster`,
:class:`FaultProxy`, :class:`Certificates`, :class:`no_leaks`, :class:`hub_watch` and :func:`wait_until`.
"""

from __future__ import annotations

from getc.testing.binaries import EtcdBinary, EtcdNotFound, find_etcd
from getc.testing.certificates import Certificate, Certificates, ServerTLS
from getc.testing.cluster import EtcdCluster
from getc.testing.hub_watchdog import Blockage, HubBlocked, hub_watch
from getc.testing.leaks import Leak, Leaked, no_leaks
from getc.testing.member import Member, MemberState
from getc.testing.memory import MemoryLink, MemoryStore
from getc.testing.proxies import FaultProxies
from getc.testing.proxy import FaultProxy
from getc.testing.server import EtcdServer, ServerFailed
from getc.testing.tcp_faults import Fault, FaultyLink
from getc.testing.virtual_time import VirtualTime
from getc.testing.wait import wait_until

__all__ = [
    'Blockage',
    'Certificate',
    'Certificates',
    'EtcdBinary',
    'EtcdCluster',
    'EtcdNotFound',
    'EtcdServer',
    'Fault',
    'FaultProxies',
    'FaultProxy',
    'FaultyLink',
    'HubBlocked',
    'Leak',
    'Leaked',
    'Member',
    'MemberState',
    'MemoryLink',
    'MemoryStore',
    'ServerFailed',
    'ServerTLS',
    'VirtualTime',
    'find_etcd',
    'hub_watch',
    'no_leaks',
    'wait_until',
]
