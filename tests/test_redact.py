"""Redaction of secrets in the texts of servers."""

from __future__ import annotations

import pytest

from getc.backends.v2.codec import result_of
from getc.backends.v2.messages import Response
from getc.errors import EtcdError, InvalidField, InvalidForm, KeyNotFound, Unauthorized
from getc.grpc.framing import Status
from getc.operations import Put
from getc.redact import redact, secrets_of
from getc.v3.schema.auth import AuthenticateRequest
from getc.v3.schema.kv import Compare, PutRequest, RangeRequest, RequestOp, TxnRequest
from getc.v3.status_errors import error_of_status


def test_redact_replaces_every_secret_of_at_least_four_characters() -> None:
    assert redact('a secret, a secret and e', ['secret', 'e', '']) == 'a ..., a ... and e'


def test_redact_replaces_the_longer_secret_when_one_is_part_of_another() -> None:
    for secrets in (['pass', 'password1'], ['password1', 'pass']):
        assert redact('refused: password1, pass', secrets) == 'refused: ..., ...'


def test_secrets_of_yields_values_and_passwords_at_any_depth() -> None:
    """Keys and user names are not secret."""
    put = PutRequest(key=b'/a', value=b'one')
    txn = TxnRequest(
        compare=[Compare(key=b'/b', value=b'two')],
        success=[RequestOp(request_put=put), RequestOp(request_range=RangeRequest(key=b'/c'))],
        failure=[RequestOp(request_txn=TxnRequest(success=[RequestOp(request_put=PutRequest(value=b'\xff'))]))],
    )
    assert sorted(secrets_of(txn)) == ['one', 'two', '\N{REPLACEMENT CHARACTER}']
    assert list(secrets_of(AuthenticateRequest(name='root', password='hunter2'))) == ['hunter2']
    assert list(secrets_of(RangeRequest(key=b'/a', limit=5))) == []


def test_status_error_shows_no_secret_and_keeps_its_class() -> None:
    """Also if a secret is part of a text of etcd itself."""
    expected = error_of_status(Status(3, 'no hunter2 here'), '/a', is_write=False, secrets=['hunter2'])
    assert str(expected) == '[3] no ... here'
    known = Status(16, 'etcdserver: invalid auth token')
    assert isinstance(error_of_status(known, '/a', is_write=False, secrets=['invalid']), Unauthorized)


@pytest.mark.parametrize(
    ('body', 'expected'),
    [
        ('{"errorCode":209,"message":"no two!","cause":"hunter2"}', InvalidField('no ...', '...')),
        ('{"errorCode":210,"message":"Bad form","cause":"value=two!"}', InvalidForm('Bad form')),
        ('{"errorCode":100,"message":"Key not found","cause":"/two"}', KeyNotFound('Key not found', '/two')),
        ('{"message":"not hunter2"}', Unauthorized('not ...')),
    ],
)
def test_v2_error_shows_no_secret(body: str, expected: EtcdError) -> None:
    """It shows the key, even if the key contains a value."""
    put = Put('/two/a', 'two!', prev_value='/two')
    answer = Response(401, {'Content-Type': 'application/json'}, body.encode(), ('hunter2',))
    with pytest.raises(type(expected)) as caught:
        result_of(put, answer)
    assert str(caught.value) == str(expected)
