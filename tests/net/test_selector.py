"""URLs, and the choice of the server that is asked."""

from __future__ import annotations

import random

import gevent
import pytest

from getc.errors import HTTPError
from getc.net.selector import ConnectionState, Endpoint, EndpointSelector, parse_endpoints
from getc.testing import VirtualTime


@pytest.mark.parametrize(
    ('url', 'shown'),
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
        ('127.0.0.1:2379', 'has no scheme'),
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


A, B, C = (Endpoint('http', name, 1) for name in 'abc')


class Middle(random.Random):
    """Chance without chance: every rest is as long as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_endpoints_stay_with_one_until_it_fails() -> None:
    """The failure of another moves nothing, and rest only puts it last."""
    endpoints = EndpointSelector([A, B, C])
    assert endpoints.candidates() == [A, B, C]
    endpoints.failed(B)
    assert (endpoints.current, endpoints.candidates()) == (A, [A, C, B])
    endpoints.failed(A)
    assert (endpoints.current, endpoints.first) == (C, A)


def test_endpoints_stay_with_the_one_that_answered() -> None:
    """Also when the first one could be asked again: going back and forth would lose connections."""
    endpoints = EndpointSelector([A, B, C])
    endpoints.failed(A)
    endpoints.served(B)
    endpoints.served(A)
    endpoints.served(B)
    assert endpoints.candidates() == [B, C, A]


def test_no_server_is_ever_banned(etcd_clock: VirtualTime) -> None:
    """Where all rest, the one whose rest ends first is asked first, and all of them are asked."""
    endpoints = EndpointSelector([A, B, C], rng=Middle())
    for endpoint, seconds in ((A, 0.5), (A, 1.0), (A, 0.0), (C, 0.5), (C, 0.0), (B, 0.0)):
        endpoints.failed(endpoint)
        etcd_clock.advance(seconds)
    assert endpoints.candidates() == [B, C, A]
    assert EndpointSelector([A]).candidates() == [A]


def test_server_that_is_back_is_asked_soon_when_the_others_fall_silent(etcd_clock: VirtualTime) -> None:
    """However often it failed before: attempts of one after the other take turns, and come to it as the third."""
    endpoints = EndpointSelector([A, B, C], rng=Middle())
    endpoints.served(A)
    for _ in range(10):
        endpoints.failed(C)
        etcd_clock.advance(2)
    asked = []
    for _ in range(3):
        asked.append(endpoints.candidates()[0])
        etcd_clock.advance(0.67)
        endpoints.failed(asked[-1])
    assert asked == [A, B, C]


def test_rest_grows_with_each_failure_and_ends(etcd_clock: VirtualTime) -> None:
    """0.5 s, 1 s, 2 s at most; an answer makes it small again."""
    endpoints = EndpointSelector([A, B, C], rng=Middle())
    endpoints.served(C)
    rests = []
    for _ in range(5):
        endpoints.failed(A)
        began = etcd_clock.elapsed
        while endpoints.candidates() == [C, B, A]:
            etcd_clock.advance(0.25)
        rests.append(etcd_clock.elapsed - began)
    assert rests == [0.5, 1, 2, 2, 2]
    endpoints.served(A)
    endpoints.served(C)
    endpoints.failed(A)
    etcd_clock.advance(0.5)
    assert endpoints.candidates() == [C, A, B]


def test_failure_that_many_calls_meet_is_one(etcd_clock: VirtualTime) -> None:
    """A connection that breaks under a thousand calls is no reason to rest for half a minute."""
    endpoints = EndpointSelector([A, B], rng=Middle())
    for _ in range(1000):
        endpoints.failed(A)
    endpoints.served(B)
    etcd_clock.advance(0.5)
    assert endpoints.candidates() == [B, A]
    endpoints.failed(B)
    assert endpoints.candidates() == [A, B]


def test_state_is_told_when_it_changes() -> None:
    """CONNECTED with the first answer, SUSPENDED when every server has failed; each once."""
    states: list[ConnectionState] = []
    endpoints = EndpointSelector([A, B], on_state=states.append)
    assert endpoints.state is None
    endpoints.served(A)
    endpoints.served(A)
    endpoints.failed(A)
    assert states == [ConnectionState.CONNECTED]
    endpoints.failed(B)
    endpoints.failed(A)
    assert states == [ConnectionState.CONNECTED, ConnectionState.SUSPENDED]
    endpoints.served(B)
    assert states[2:] == [ConnectionState.CONNECTED] == [endpoints.state]


def test_switches_and_states_are_logged_without_credentials(caplog: pytest.LogCaptureFixture) -> None:
    """What was asked, what is asked now."""
    caplog.set_level('INFO', 'getc')
    secret = Endpoint('http', 'a', 1, 'root', 'secret')
    endpoints = EndpointSelector([secret, B])
    endpoints.served(secret)
    endpoints.failed(secret)
    endpoints.failed(B)
    gevent.sleep(0)
    assert 'http://a:1: no answer; http://b:1 is asked from now on' in caplog.text
    assert 'SUSPENDED: no server answers: http://a:1: no answer; http://b:1: no answer' in caplog.text
    assert 'secret' not in caplog.text


def test_turn_asks_the_next_server_that_is_well(etcd_clock: VirtualTime) -> None:
    """The current one is not resting: it is asked again when it is its turn."""
    first, second, third = parse_endpoints('http://a,http://b,http://c')
    endpoints = EndpointSelector([first, second, third])
    endpoints.served(first)
    endpoints.failed(second)
    endpoints.turn()
    assert endpoints.current == third
    endpoints.turn()
    assert endpoints.current == first
    alone = EndpointSelector([first])
    alone.turn()
    assert alone.current == first


def test_server_that_is_passed_over_is_not_asked_first_where_all_are_cooling_down(etcd_clock: VirtualTime) -> None:
    """Also if the others cool down for less long than the current one does."""
    endpoints = EndpointSelector([A, B], rng=Middle())
    endpoints.failed(B)
    etcd_clock.advance(0.1)
    endpoints.failed(A)
    assert endpoints.current == B
    endpoints.judge(B, HTTPError(404, 'no etcd'))
    assert endpoints.current == A
    endpoints.judge(A, HTTPError(404, 'no etcd'))
    assert endpoints.current == B
