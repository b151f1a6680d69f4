"""Endpoints and their URLs."""

from __future__ import annotations

import pytest

from getc.net.endpoint import parse_endpoints


@pytest.mark.parametrize(
    ('url', 'urls'),
    [
        ('http://127.0.0.1:2379', ['http://127.0.0.1:2379']),
        ('http://localhost', ['http://localhost:2379']),
        ('https://etcd.example:443/', ['https://etcd.example:443']),
        ('http://[::1]:4001', ['http://[::1]:4001']),
        ('HTTP://Etcd', ['http://etcd:2379']),
        ('http://☃.net', ['http://xn--n3h.net:2379']),
        ('http://[fe80::1%eth0]', ['http://[fe80::1%eth0]:2379']),
        ('http://a, http://b:1', ['http://a:2379', 'http://b:1']),
        (['http://a', 'http://b,http://a'], ['http://a:2379', 'http://b:2379']),
        ('http://user:secret@a', ['http://a:2379']),
        ('unix:///run/etcd.sock', ['unix:///run/etcd.sock']),
        ('unixs://user:secret@/run/a%2Cb c,unix:///run/%C3%A4', ['unixs:///run/a%2Cb%20c', 'unix:///run/%C3%A4']),
        ('unix:/run/etcd.sock', ['unix:///run/etcd.sock']),
    ],
)
def test_parse_endpoints_accepts_a_url_several_with_commas_or_a_list(url: str | list[str], urls: list[str]) -> None:
    """Duplicates are dropped, and credentials are not part of ``Endpoint.url``."""
    assert [endpoint.url for endpoint in parse_endpoints(url)] == urls


def test_parse_endpoints_decodes_credentials_and_hides_them() -> None:
    endpoint = parse_endpoints('https://us%40er:s%2Fecret@etcd')[0]
    assert (endpoint.username, endpoint.password) == ('us@er', 's/ecret')
    assert 'ecret' not in repr(endpoint) + str(endpoint)


@pytest.mark.parametrize(
    ('url', 'message'),
    [
        ('', 'no URL'),
        ([], 'no URL'),
        ('127.0.0.1:2379', 'has no scheme'),
        ('/run/etcd.sock', "'/run/etcd.sock' has no scheme: write 'unix:///run/etcd.sock' for a unix socket"),
        ('/ann:secret@etcd', "write 'unix://...@etcd' for a unix socket"),
        ('ftp://a', 'unknown scheme'),
        ('http://', 'no host'),
        ('http://a b', 'no host'),
        ('http://a:port', 'invalid host'),
        ('http://a:99999', 'invalid host'),
        ('http://[::1', 'invalid host'),
        ('http://bad..name', 'invalid host'),
        ('http://' + 'a' * 64, 'invalid host'),
        ('http://' + 'é' * 70, 'invalid host'),
        ('http://[fe80::1%²]', 'invalid host'),
        ('http://a/v2/keys', 'more than a host and a port'),
        ('http://a?x=1', 'more than a host and a port'),
        (
            'unix://run/etcd.sock',
            r"'unix://run/etcd.sock' is not a unix socket: write unix:///path, with three slashes",
        ),
        ('unix://', 'is not a unix socket'),
        ('unix:///run/', 'a directory'),
        ('unix:///run/etcd.sock?x=1', 'is not a unix socket'),
        ('unix:///a%00b', 'is not a unix socket'),
        ('unix:///' + 'a' * 107, 'longer than 107 bytes'),
        ('unix://root:sec,ret@/a', r"'unix://\.\.\.@/a' has a comma before the @"),
        (['etcd+srv://a'], r'etcd\+srv:// must be the only URL'),
        ('http://a,etcd+srv://b', r'etcd\+srv:// must be the only URL'),
        ('http://a,b', "'b' has no scheme: write 'http://b'"),
        ('http://root:sec,ret@a', r"'http://\.\.\.@a' has a comma before the @: write %2C"),
    ],
)
def test_parse_endpoints_raises_value_error_for_an_invalid_url(url: str | list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_endpoints(url)


@pytest.mark.parametrize(
    'url',
    [
        'http://u:secret@a/path',
        'u:secret@host',
        'ftp://u:secret@a',
        'http://u:secret@a:x',
        'http://u:secret,2@a',
        'http://u:1,secret@a',
        'http://u:secret,2@a,b',
        'http://a,http://u:secret,2@b',
        'http://a@b,u:secret@c',
        'http://u:secret,http://2@a',
        'http://u:1,secret://2@a',
        ['http://a', 'http://u:secret,2@b'],
    ],
)
def test_parse_endpoints_does_not_show_the_password_of_an_invalid_url(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_endpoints(url)
    assert 'secret' not in str(caught.value)
    assert caught.value.__cause__ is None


def test_parse_endpoints_raises_type_error_for_other_types() -> None:
    with pytest.raises(TypeError, match='a URL must be a str, not int'):
        parse_endpoints([1])  # type: ignore[list-item]


def test_endpoint_of_a_unix_socket_has_the_path_as_its_host() -> None:
    """And ``localhost`` as the name of the server, as in gRPC."""
    plain, secure = parse_endpoints('unix:///run/a%20b,unixs:///run/c')
    assert (plain.host, plain.port, plain.authority, plain.is_unix, plain.is_secure) == (
        '/run/a b',
        0,
        'localhost',
        True,
        False,
    )
    assert (secure.host, secure.is_unix, secure.is_secure) == ('/run/c', True, True)
