"""For testing programs that use gevent and etcd: virtual time, and a real etcd.

With pytest nothing needs to be imported: the plugin ``getc.testing.plugin`` comes with getc, and its
fixtures ``etcd``, ``etcd_clock`` and ``etcd_server`` are there.  What they stand on can be used
without pytest, too: :class:`VirtualTime` and :class:`EtcdServer`.
"""

from __future__ import annotations

from getc.testing.binaries import EtcdBinary, EtcdNotFound, find_etcd
from getc.testing.server import EtcdServer, ServerFailed
from getc.testing.virtual import VirtualTime

__all__ = ['EtcdBinary', 'EtcdNotFound', 'EtcdServer', 'ServerFailed', 'VirtualTime', 'find_etcd']
