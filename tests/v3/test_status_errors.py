"""The error for each status of etcd."""

from __future__ import annotations

import pickle

import pytest

from getc import errors
from getc.grpc.framing import Status
from getc.retry import PERMANENT, Outcome, outcome_of
from getc.v3.status_errors import BY_TEXT, TIMEOUT_TEXTS, error_of_status, is_auth_disabled, is_stale_token
from tools.servers.error_texts import statuses_in
from tools.servers.schema import ERRORS_TABLE, read_table

PATH = '/etcdserverpb.KV/Put'
URL = 'http://127.0.0.1:2379'

TABLE = [
    # code, message, class, errno, whether a write may have happened
    (3, 'etcdserver: key is not provided', errors.InvalidArgument, 3, False),
    (3, 'etcdserver: authentication failed, invalid user ID or password', errors.Unauthorized, 110, False),
    (3, 'etcdserver: user name is empty', errors.Unauthorized, 110, False),
    (5, 'etcdserver: requested lease not found', errors.LeaseNotFound, 5, False),
    (5, 'etcdserver: member not found', errors.NotFound, 5, False),
    (9, 'etcdserver: lease already exists', errors.AlreadyExists, 6, False),
    (6, 'there already', errors.AlreadyExists, 6, False),
    (7, 'etcdserver: permission denied', errors.PermissionDenied, 7, False),
    (2, 'permission denied', errors.PermissionDenied, 7, False),  # so says its lock and its election
    (8, 'etcdserver: mvcc: database space exceeded', errors.NoSpace, 8, True),  # said after the write, too
    (8, 'etcdserver: too many requests', errors.TooManyRequests, 8, False),
    (8, 'grpc: received message larger than max (9 vs. 8)', errors.ResourceExhausted, 8, False),
    (9, 'etcdserver: not leader', errors.FailedPrecondition, 9, False),
    (11, 'etcdserver: mvcc: required revision has been compacted', errors.EventIndexCleared, 401, False),
    (11, 'etcdserver: mvcc: required revision is a future revision', errors.FutureRevision, 11, False),
    (11, 'etcdserver: too large lease TTL', errors.OutOfRange, 11, False),
    (12, 'unknown service etcdserverpb.KV', errors.NotSupported, None, False),
    (16, 'etcdserver: invalid auth token', errors.Unauthorized, 110, False),
    (16, 'who are you', errors.Unauthorized, 16, False),
    # These say that it was not finished, not that it was refused.
    (1, 'context canceled', errors.TimedOut, None, True),
    (4, 'context deadline exceeded', errors.TimedOut, None, True),
    (2, 'context deadline exceeded', errors.TimedOut, None, True),
    (2, 'raft: something', errors.RaftInternal, 2, True),
    (10, 'aborted', errors.RaftInternal, 10, True),
    (13, 'oh dear', errors.RaftInternal, 13, True),
    (15, 'etcdserver: corrupt cluster', errors.RaftInternal, 300, True),
    (14, 'etcdserver: request timed out', errors.Unavailable, 14, True),
    (14, 'etcdserver: leader changed', errors.LeaderElect, 301, True),
    (14, 'etcdserver: no leader', errors.NoLeader, 14, False),
    (14, 'etcdserver: rpc not supported for learner', errors.Unavailable, 14, False),
    (14, 'etcdserver: not capable', errors.Unavailable, 14, False),
    # The same from etcd 3.6 on.
    (9, 'etcdserver: rpc not supported for learner', errors.Unavailable, 14, False),
    (9, 'etcdserver: not capable', errors.Unavailable, 14, False),
    (9, 'etcdserver: cluster version not found during downgrade', errors.Unavailable, 14, False),
    (14, 'etcdserver: cluster version not found during downgrade', errors.Unavailable, 14, False),
    (14, 'etcdserver: unhealthy cluster', errors.Unavailable, 14, False),
    (77, 'what', errors.RaftInternal, 77, True),  # a code that gRPC does not define
]


@pytest.mark.parametrize(('code', 'message', 'kind', 'errno', 'maybe_applied'), TABLE)
def test_status_is_mapped_to_class_code_and_maybe_applied(
    code: int, message: str, kind: type[errors.EtcException], errno: int | None, maybe_applied: bool
) -> None:
    error = error_of_status(Status(code, message), PATH, is_write=True, url=URL)
    assert type(error) is kind
    assert error.endpoint == URL
    assert message.removeprefix('etcdserver: ') in str(error)
    assert error.maybe_applied is maybe_applied
    if errno is not None:
        assert error.errno == errno
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.endpoint) == (kind, str(error), URL)
    assert again.maybe_applied is maybe_applied


# -- every status of etcd 3.4 to 3.7

CODES = {
    'Canceled': 1,
    'Unknown': 2,
    'InvalidArgument': 3,
    'DeadlineExceeded': 4,
    'NotFound': 5,
    'PermissionDenied': 7,
    'ResourceExhausted': 8,
    'FailedPrecondition': 9,
    'OutOfRange': 11,
    'Unavailable': 14,
    'DataLoss': 15,
    'Unauthenticated': 16,
}

USUAL_CLASSES: dict[str, type[errors.EtcException]] = {
    'Canceled': errors.TimedOut,
    'InvalidArgument': errors.InvalidArgument,
    'DeadlineExceeded': errors.TimedOut,
    'NotFound': errors.NotFound,
    'PermissionDenied': errors.PermissionDenied,
    'ResourceExhausted': errors.ResourceExhausted,
    'FailedPrecondition': errors.FailedPrecondition,
    'OutOfRange': errors.OutOfRange,
    'Unavailable': errors.Unavailable,
    'DataLoss': errors.RaftInternal,
    'Unauthenticated': errors.Unauthorized,
}
"""The class for most texts of a code; subclasses of it count as well."""

OTHER_CLASSES: dict[str, type[errors.EtcException]] = {
    'Peer URLs already exists': errors.AlreadyExists,
    'authentication failed, invalid user ID or password': errors.Unauthorized,
    'cluster version not found during downgrade': errors.Unavailable,
    'lease already exists': errors.AlreadyExists,
    'leader changed': errors.LeaderElect,
    'member ID already exist': errors.AlreadyExists,
    'mvcc: required revision has been compacted': errors.EventIndexCleared,
    'not capable': errors.Unavailable,
    'revision of auth store is old': errors.Unauthorized,
    'role name already exists': errors.AlreadyExists,
    'role name not found': errors.NotFound,
    'rpc not supported for learner': errors.Unavailable,
    'user name already exists': errors.AlreadyExists,
    'user name is empty': errors.Unauthorized,
    'user name not found': errors.NotFound,
}
"""The class where the code says less than the text."""

STATUSES = [fact.split(': ', 1) for fact in sorted(read_table(ERRORS_TABLE))]


@pytest.mark.parametrize(('name', 'text'), STATUSES)
def test_every_status_of_etcd_has_its_class_whatever_its_code(name: str, text: str) -> None:
    """etcd sends some statuses with code 2, as do its locks and elections: the text decides."""
    short = text.removeprefix('etcdserver: ')
    kind = OTHER_CLASSES.get(short, USUAL_CLASSES[name])
    known = [error_of_status(Status(code, text), PATH, is_write=True, url=URL) for code in (CODES[name], 2)]
    for error in known:
        assert isinstance(error, kind)
        assert short in str(error)
    assert type(known[0]) is type(known[1])
    assert known[0].maybe_applied is known[1].maybe_applied
    refused = (errors.InvalidArgument, errors.FailedPrecondition, errors.NotFound, errors.AlreadyExists)
    if isinstance(known[0], (*refused, errors.Unauthorized, errors.OutOfRange, errors.EventIndexCleared)):
        assert (known[0].maybe_applied, outcome_of(known[0])) == (False, Outcome.REFUSED)


def test_every_text_that_is_mapped_is_one_of_etcd() -> None:
    texts = {text.removeprefix('etcdserver: ') for _, text in STATUSES}
    others = {'context canceled', 'context deadline exceeded', 'election: no leader', 'election: not leader'}
    assert (BY_TEXT.keys() | TIMEOUT_TEXTS) - others == texts - others


def test_table_of_statuses_has_every_line() -> None:
    assert [len(read_table(ERRORS_TABLE, line)) for line in ('3.4', '3.5', '3.6', '3.7')] == [49, 61, 63, 63]


def test_statuses_are_read_from_go() -> None:
    source = """
    ErrGRPCEmptyKey = status.Error(codes.InvalidArgument, "etcdserver: key is not provided")
    ErrGPRCLearner  = status.New(codes.Unavailable, "etcdserver: not for learner").Err()
    """
    assert statuses_in(source) == {
        'InvalidArgument: etcdserver: key is not provided',
        'Unavailable: etcdserver: not for learner',
    }
    for other in ('', source + 'ErrOther = status.New(code, text)'):
        with pytest.raises(ValueError, match='another form'):
            statuses_in(other)


def test_error_of_a_read_never_has_maybe_applied() -> None:
    for code, message in [
        (14, 'etcdserver: request timed out'),
        (4, 'late'),
        (14, 'etcdserver: leader changed'),
        (2, 'oh'),
    ]:
        error = error_of_status(Status(code, message), PATH, is_write=False, url=URL)
        assert error.maybe_applied is False


@pytest.mark.parametrize(
    ('code', 'message', 'is_stale'),
    [
        (16, 'etcdserver: invalid auth token', True),
        (3, 'etcdserver: revision of auth store is old', True),
        (3, 'etcdserver: user name is empty', True),
        (16, 'whatever', True),
        (3, 'etcdserver: authentication failed, invalid user ID or password', False),
        (7, 'etcdserver: permission denied', False),
    ],
)
def test_token_is_stale_when_another_one_may_be_accepted(code: int, message: str, is_stale: bool) -> None:
    """A new token does not help against wrong credentials and missing permissions."""
    assert is_stale_token(Status(code, message)) is is_stale


def test_auth_is_disabled_when_etcd_refuses_to_issue_tokens() -> None:
    assert is_auth_disabled(Status(9, 'etcdserver: authentication is not enabled'))
    assert not is_auth_disabled(Status(9, 'etcdserver: not leader'))


@pytest.mark.parametrize('is_write', [False, True])
def test_response_that_grpc_cannot_send_raises_response_too_large(is_write: bool) -> None:
    """Beyond 2 GiB the server refuses to send it, after the call was applied."""
    status = Status(8, 'grpc: trying to send message larger than max (2147483648 vs. 2147483647)')
    error = error_of_status(status, '/etcdserverpb.KV/Range', is_write=is_write, url='http://a:1')
    assert isinstance(error, errors.ResponseTooLarge)
    assert (error.maybe_applied, error.is_outage, outcome_of(error) in PERMANENT) == (is_write, False, True)


def test_request_that_a_grpc_proxy_cannot_send_was_not_applied() -> None:
    """``etcd grpc-proxy`` uses the text for responses, with its own limit."""
    status = Status(8, 'trying to send message larger than max (1700000 vs. 1572864)')
    error = error_of_status(status, '/etcdserverpb.KV/Put', is_write=True, url='http://a:1')
    assert type(error) is errors.ResourceExhausted
    assert 'raise --max-send-bytes of etcd grpc-proxy' in str(error)
    assert (error.maybe_applied, error.endpoint) == (False, 'http://a:1')
