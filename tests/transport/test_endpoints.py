"""URLs, and the choice of the server that is asked."""

from __future__ import annotations

import pytest

from getc.transport.endpoints import Endpoint, Endpoints, parse_endpoints


@pytest.mark.parametrize(
    ('url', 'shown'),
    [
        ('http://127.0.0.1:2379', ['http://127.0.0.1:2379']),
        ('http://localhost', ['http://localhost:2379']),
        ('https://etcd.example:443/', ['https://etcd.example:443']),
        ('http://[::1]:4001', ['http://[::1]:4001']),
        ('HTTP://Etcd', ['http://etcd:2379']),
        ('http://a, http://b:1', ['http://a:2379', 'http://b:1']),
        (['http://a', 'http://b,http://a'], ['http://a:2379', 'http://b:2379']),
        ('http://user:secret@a', ['http://a:2379']),
    ],
)
def test_parse_endpoints_reads_every_form(url: str | list[str], shown: list[str]) -> None:
    """One URL, several with commas, or a list; doubles once; shown without credentials."""
    assert [endpoint.url for endpoint in parse_endpoints(url)] == shown


def test_parse_endpoints_decodes_credentials_and_hides_them() -> None:
    """They are read from the URL, and in no representation."""
    endpoint = parse_endpoints('https://us%40er:s%2Fecret@etcd')[0]
    assert (endpoint.username, endpoint.password) == ('us@er', 's/ecret')
    assert 'ecret' not in repr(endpoint) + str(endpoint)


@pytest.mark.parametrize(
    ('url', 'message'),
    [
        ('', 'no URL'),
        ([], 'no URL'),
        ('127.0.0.1:2379', 'known schemes: http://, https://'),
        ('ftp://a', 'known schemes'),
        ('http://', 'no host'),
        ('http://a b', 'no host'),
        ('http://a:port', 'no such'),
        ('http://a:99999', 'no such'),
        ('http://[::1', 'no such'),
        ('http://a/v2/keys', 'more than a host and a port'),
        ('http://a?x=1', 'more than a host and a port'),
    ],
)
def test_parse_endpoints_refuses_what_is_no_url_of_an_etcd(url: str | list[str], message: str) -> None:
    """A ValueError that says what is wrong."""
    with pytest.raises(ValueError, match=message):
        parse_endpoints(url)


@pytest.mark.parametrize('url', ['http://u:secret@a/path', 'u:secret@host', 'ftp://u:secret@a', 'http://u:secret@a:x'])
def test_parse_endpoints_shows_no_password_when_it_refuses(url: str) -> None:
    """Nor does the traceback's cause."""
    with pytest.raises(ValueError) as caught:
        parse_endpoints(url)
    assert 'secret' not in str(caught.value)
    assert caught.value.__cause__ is None


def test_parse_endpoints_refuses_what_is_no_text() -> None:
    """A TypeError."""
    with pytest.raises(TypeError, match='a URL is text'):
        parse_endpoints([1])  # type: ignore[list-item]


def test_endpoints_stay_with_one_until_it_fails() -> None:
    """The failure of another moves nothing; the last one is never banned."""
    a, b, c = (Endpoint('http', name, 1) for name in 'abc')
    endpoints = Endpoints([a, b, c])
    assert list(endpoints.in_turn()) == [a, b, c]
    endpoints.failed(b)
    assert endpoints.current == a
    endpoints.failed(a)
    assert list(endpoints.in_turn()) == [b, c, a]
    endpoints.failed(b)
    endpoints.failed(c)
    assert list(endpoints.in_turn()) == [a, b, c]
    assert endpoints.first == a
