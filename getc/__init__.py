"""etcd for gevent: servers that stay registered, configuration that is never silently stale.

    import getc

    etcd = getc.etcd('http://127.0.0.1:2379')
    etcd.set('/hello', 'Hello, world')
    keeper = etcd.keep_node('/servers/a', '10.0.0.7:7000', ttl=10)
    watcher = etcd.on_change('/cfg', lambda result: print(result.key, result.value))

Everything blocks the calling greenlet only; nothing needs to be monkey-patched.
"""

from __future__ import annotations

from getc import errors
from getc.client import Client, etcd
from getc.daemons.keeper import Keeper, KeeperState
from getc.daemons.watcher import Changes, Watcher, WatcherState
from getc.errors import (
    ClientClosed,
    ConnectionError,
    ConnectionRefused,
    DirNotEmpty,
    EtcdError,
    EtcException,
    EventIndexCleared,
    HTTPError,
    IndexNaN,
    InvalidField,
    InvalidForm,
    KeyNotFound,
    LeaderElect,
    NodeExist,
    NodeLost,
    NotDir,
    NotFile,
    NotSupported,
    Overtaken,
    PrevValueRequired,
    ProtocolError,
    RaftInternal,
    RefreshTTLRequired,
    RefreshValue,
    RootROnly,
    TestFailed,
    TimedOut,
    TTLNaN,
    Unauthorized,
    WatcherCleared,
)
from getc.model import (
    ComparedThenDeleted,
    ComparedThenSwapped,
    Created,
    Deleted,
    Directory,
    EtcdResult,
    Expired,
    Got,
    Node,
    Set,
    Updated,
    Value,
)

__version__ = '0.1.0'

__all__ = [
    'Changes',
    'Client',
    'ClientClosed',
    'ComparedThenDeleted',
    'ComparedThenSwapped',
    'ConnectionError',
    'ConnectionRefused',
    'Created',
    'Deleted',
    'DirNotEmpty',
    'Directory',
    'EtcException',
    'EtcdError',
    'EtcdResult',
    'EventIndexCleared',
    'Expired',
    'Got',
    'HTTPError',
    'IndexNaN',
    'InvalidField',
    'InvalidForm',
    'Keeper',
    'KeeperState',
    'KeyNotFound',
    'LeaderElect',
    'Node',
    'NodeExist',
    'NodeLost',
    'NotDir',
    'NotFile',
    'NotSupported',
    'Overtaken',
    'PrevValueRequired',
    'ProtocolError',
    'RaftInternal',
    'RefreshTTLRequired',
    'RefreshValue',
    'RootROnly',
    'Set',
    'TTLNaN',
    'TestFailed',
    'TimedOut',
    'Unauthorized',
    'Updated',
    'Value',
    'Watcher',
    'WatcherCleared',
    'WatcherState',
    'errors',
    'etcd',
]
