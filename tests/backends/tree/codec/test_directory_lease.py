"""The lease of a directory, which the nodes in it join."""

from __future__ import annotations

import pytest

from getc.backends.tree.codec.directory_lease import (
    NO_LEASE,
    DirectoryLease,
    is_refused_for_lease,
    join_compares,
    marker_reads,
    nearest_lease,
)
from getc.errors import ProtocolError
from getc.operations import Put
from getc.v3.schema.kv import RangeResponse, TxnRequest
from getc.v3.schema.mvccpb import KeyValue
from tests.backends.tree.codec.messages import compares, does, found, kv, response

DIRECTORIES = ['/a', '/a/b', '/a/b/c']
KEY = '/a/b/c'


def leases_in(joined: DirectoryLease, count: int = 128) -> list[tuple[object, ...]]:
    return compares(TxnRequest(compare=join_compares(DIRECTORIES, joined, count)))


def test_no_directory_above_has_a_lease_when_none_is_joined() -> None:
    assert leases_in(NO_LEASE) == [('lease', b'/a/b/c/', 0), ('lease', b'/a/b/', 0), ('lease', b'/a/', 0)]
    assert leases_in(NO_LEASE, 2) == [('lease', b'/a/b/c/', 0), ('lease', b'/a/b/', 0)]


def test_directories_below_the_joined_one_have_no_lease() -> None:
    """What is above it does not count."""
    assert leases_in(DirectoryLease('/a/b', 7)) == [('lease', b'/a/b/', 7), ('lease', b'/a/b/c/', 0)]
    assert leases_in(DirectoryLease('/a', 7), 2) == [('lease', b'/a/', 7), ('lease', b'/a/b/c/', 0)]
    assert leases_in(DirectoryLease('/a', 7), 1) == [('lease', b'/a/', 7)]


def test_nearest_directory_with_a_lease_is_found_from_its_marker() -> None:
    assert does(marker_reads(['/a', '/a/b'])) == [('range', b'/a/'), ('range', b'/a/b/')]

    def read(*leases: int | None) -> list[RangeResponse]:
        kvs = [[] if lease is None else [KeyValue(key=b'x', lease=lease)] for lease in leases]
        return [RangeResponse(kvs=each) for each in kvs]

    assert nearest_lease(DIRECTORIES, read(5, 6, 0)) == DirectoryLease('/a/b', 6)
    assert nearest_lease(DIRECTORIES, read(5, None, None)) == DirectoryLease('/a', 5)
    assert nearest_lease(DIRECTORIES, read(0, None, 0)) == nearest_lease([], []) == NO_LEASE


@pytest.mark.parametrize(
    ('put', 'above', 'inside', 'itself', 'is_for_lease'),
    [
        (Put(KEY, 'x'), False, False, False, True),
        (Put(KEY, 'x'), False, False, True, True),
        (Put(KEY, dir=True), False, False, False, True),
        (Put(KEY, 'x'), True, False, False, False),
        (Put(KEY, 'x'), False, True, False, False),
        (Put(KEY, 'x', ttl=5), False, False, False, False),
        (Put(KEY, 'x', prev_exist=False), False, False, False, True),
        (Put(KEY, 'x', prev_exist=False), False, False, True, False),
        (Put(KEY, 'x', prev_exist=True), False, False, True, True),
        (Put(KEY, 'x', prev_exist=True), False, False, False, False),
        (Put(KEY, 'x', prev_value='old'), False, False, True, True),
        (Put(KEY, 'x', prev_value='new'), False, False, True, False),
        (Put(KEY, 'x', prev_index=5), False, False, True, True),
        (Put(KEY, 'x', prev_index=6), False, False, True, False),
    ],
    ids=repr,
)
def test_lease_has_refused_a_write_when_nothing_else_has(
    put: Put, above: bool, inside: bool, itself: bool, is_for_lease: bool
) -> None:
    kvs = [[], [kv('/a/b')] * above, [kv('/a/b/c/x')] * inside, [kv(KEY, 'old')] * itself]
    failure = response(*(found(*each) for each in kvs), succeeded=False)
    assert is_refused_for_lease(put, failure, is_strict=True) is is_for_lease
    assert not is_refused_for_lease(put, failure, is_strict=False)


def test_malformed_failure_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match='malformed response of etcd v3'):
        is_refused_for_lease(Put(KEY, 'x'), response(found(), succeeded=False), is_strict=True)
