"""The error of a transaction whose compares failed."""

from __future__ import annotations

import pytest

from getc.backends.tree.codec.txn_failure import error_from_failure, failure_reads, missing_node_error
from getc.errors import EtcdError, KeyNotFound, NodeExist, NotDir, NotFile, ProtocolError, TestFailed
from getc.operations import Put
from getc.v3.schema.kv import ResponseOp
from tests.backends.tree.codec.messages import INDEX, does, found, kv, put, response

KEY = '/a/b/c'
ABOVE, INSIDE, ITSELF = kv('/a/b'), kv('/a/b/c/x'), kv('/a/b/c', 'old')
SET, CREATE, UPDATE, SWAP = (
    Put(KEY, 'x'),
    Put(KEY, 'x', prev_exist=False),
    Put(KEY, 'x', prev_exist=True),
    Put(KEY, 'x', prev_value='secret', prev_index=4),
)


@pytest.mark.parametrize(
    ('operation', 'above', 'inside', 'itself', 'error'),
    [
        (SET, True, True, True, NotDir),
        (SET, False, True, True, NotFile),
        (SET, False, True, False, NotFile),
        (CREATE, True, True, True, NotDir),
        (CREATE, False, True, False, NodeExist),
        (CREATE, False, False, True, NodeExist),
        (UPDATE, True, True, False, NotDir),
        (UPDATE, False, True, False, NotFile),
        (UPDATE, False, False, False, KeyNotFound),
        (SWAP, True, True, True, NotDir),
        (SWAP, False, True, True, NotFile),
        (SWAP, False, False, False, KeyNotFound),
        (SWAP, False, False, True, TestFailed),
    ],
)
def test_error_is_the_first_of_a_fixed_order(
    operation: Put, above: bool, inside: bool, itself: bool, error: type[EtcdError]
) -> None:
    """104, then 102 (of a create: 105), then 100, then 101, as on etcd v2; values are not named."""
    kvs = [[], [ABOVE] * above, [INSIDE] * inside, [ITSELF] * itself]
    failure = error_from_failure(operation, response(*(found(*each) for each in kvs), succeeded=False))
    assert failure.index == INDEX
    assert type(failure) is error
    assert 'secret' not in str(failure) and 'old' not in str(failure)
    if error is NotDir:
        assert failure.cause == '/a/b'
    elif error is TestFailed:
        assert failure.cause == 'prev_value differs, prev_index differs: 4 != 5'
    else:
        assert failure.cause == KEY


def test_ancestors_are_not_read_when_not_strict() -> None:
    assert does(failure_reads('/a/b', is_strict=False)) == [('range', b'/a/b/', b'/a/b0'), ('range', b'/a/b')]
    failure = error_from_failure(SET, response(found(INSIDE), found(), succeeded=False), is_strict=False)
    assert type(failure) is NotFile


def test_missing_node_is_not_a_directory_when_an_ancestor_is_a_value() -> None:
    assert type(missing_node_error(KEY, [[], [ABOVE]], 7)) is NotDir
    error = missing_node_error(KEY, [[], []], 7)
    assert (type(error), error.cause, error.index) == (KeyNotFound, KEY, 7)


@pytest.mark.parametrize('results', [[], [found()] * 3, [found()] * 5, [found(), found(), found(), put()]])
def test_malformed_failure_is_a_protocol_error_of_a_write_that_may_be_applied(results: list[ResponseOp]) -> None:
    with pytest.raises(ProtocolError, match='malformed response of etcd v3') as caught:
        error_from_failure(SET, response(*results, succeeded=False))
    assert caught.value.maybe_applied
