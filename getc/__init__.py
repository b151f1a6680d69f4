"""An etcd client for gevent: keeps servers registered, and follows configuration without missing a change.

Example::

    import getc

    etcd = getc.etcd('http://127.0.0.1:2379')
    etcd.set('/hello', 'Hello, world')
    keeper = etcd.keep_node('/servers/a', '10.0.0.7:7000', ttl=10)
    watcher = etcd.on_change('/cfg', lambda result: print(result.key, result.value))

A call blocks only the calling greenlet.  Monkey-patching is not needed.
"""

from __future__ import annotations

from getc import errors
from getc.client import Client, etcd
from getc.daemons.changes import Changes
from getc.daemons.keeper import Keeper, KeeperState
from getc.daemons.mirror import Mirror
from getc.daemons.watcher import Watcher, WatcherState
from getc.errors import (
    AlreadyExists,
    ClientClosed,
    ConnectionError,
    ConnectionRefused,
    DirNotEmpty,
    EtcdError,
    EtcException,
    EventIndexCleared,
    FailedPrecondition,
    FutureRevision,
    HTTPError,
    IndexNaN,
    InvalidArgument,
    InvalidField,
    InvalidForm,
    KeyNotFound,
    LeaderElect,
    LeaseNotFound,
    NodeExist,
    NodeLost,
    NoLeader,
    NoSpace,
    NotDir,
    NotFile,
    NotFound,
    NotSupported,
    OutOfRange,
    Overtaken,
    PermissionDenied,
    PrevValueRequired,
    ProtocolError,
    RaftInternal,
    RefreshTTLRequired,
    RefreshValue,
    ResourceExhausted,
    ResponseTooLarge,
    RootROnly,
    TestFailed,
    TimedOut,
    TooManyRequests,
    TTLNaN,
    Unauthorized,
    Unavailable,
    WatcherCleared,
)
from getc.net.selector import ConnectionState
from getc.recipes.candidacy import Candidacy
from getc.recipes.leader import Leader
from getc.recipes.leader_loop import LeaderLoop
from getc.recipes.lock import Lock
from getc.recipes.rwlock import RWLock
from getc.recipes.stm import STM
from getc.recipes.transaction import TransactionBuilder
from getc.results import (
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
from getc.transactions import Guard

__version__ = '0.1.0'

__all__ = [
    'STM',
    'AlreadyExists',
    'Candidacy',
    'Changes',
    'Client',
    'ClientClosed',
    'ComparedThenDeleted',
    'ComparedThenSwapped',
    'ConnectionError',
    'ConnectionRefused',
    'ConnectionState',
    'Created',
    'Deleted',
    'DirNotEmpty',
    'Directory',
    'EtcException',
    'EtcdError',
    'EtcdResult',
    'EventIndexCleared',
    'Expired',
    'FailedPrecondition',
    'FutureRevision',
    'Got',
    'Guard',
    'HTTPError',
    'IndexNaN',
    'InvalidArgument',
    'InvalidField',
    'InvalidForm',
    'Keeper',
    'KeeperState',
    'KeyNotFound',
    'Leader',
    'LeaderElect',
    'LeaderLoop',
    'LeaseNotFound',
    'Lock',
    'Mirror',
    'NoLeader',
    'NoSpace',
    'Node',
    'NodeExist',
    'NodeLost',
    'NotDir',
    'NotFile',
    'NotFound',
    'NotSupported',
    'OutOfRange',
    'Overtaken',
    'PermissionDenied',
    'PrevValueRequired',
    'ProtocolError',
    'RWLock',
    'RaftInternal',
    'RefreshTTLRequired',
    'RefreshValue',
    'ResourceExhausted',
    'ResponseTooLarge',
    'RootROnly',
    'Set',
    'TTLNaN',
    'TestFailed',
    'TimedOut',
    'TooManyRequests',
    'TransactionBuilder',
    'Unauthorized',
    'Unavailable',
    'Updated',
    'Value',
    'Watcher',
    'WatcherCleared',
    'WatcherState',
    'errors',
    'etcd',
]
