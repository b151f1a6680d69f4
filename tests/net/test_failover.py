"""A call on its way through the servers: who is asked, for how long, and what becomes known of them."""

from __future__ import annotations

import copy
import gc
import itertools
import math
import pickle
import random
import weakref
from collections.abc import Callable

import gevent
import pytest

from getc.errors import (
    ClientClosed,
    ConnectionError,
    ConnectionRefused,
    EtcException,
    HTTPError,
    KeyNotFound,
    NoLeader,
    ProtocolError,
    RaftInternal,
    TimedOut,
    TooManyRequests,
)
from getc.net.failover import call_with_failover, retry_until_served
from getc.net.selector import ConnectionState, Endpoint, EndpointSelector
from getc.retry import Effect
from getc.testing import VirtualTime
from getc.timing import Deadline

A, B, C = (Endpoint('http', name, 1) for name in 'abc')

Answer = str | EtcException


class Growing(random.Random):
    """Chance without chance: who fails later rests a bit longer, though no time passes."""

    drawn = 0

    def uniform(self, a: float, b: float) -> float:
        self.drawn += 1
        return a + (b - a) * self.drawn / 1000


class Servers:
    """Each answers the same, or one thing after the other; an error is raised.

    Attributes:
        asked: Whom, in turn, by the letters of their names.
        shares: Seconds that each attempt had.
    """

    def __init__(self, **answers: Answer | list[Answer]) -> None:
        self.asked = ''
        self.shares: list[float] = []
        self._answers = answers

    def __call__(self, endpoint: Endpoint, share: Deadline) -> str:
        self.asked += endpoint.host
        self.shares.append(round(share.remaining(), 3))
        answer = self._answers[endpoint.host]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, EtcException):
            raise answer
        return answer


@pytest.fixture
def endpoints(etcd_clock: VirtualTime) -> EndpointSelector:
    return EndpointSelector([A, B, C], rng=Growing())


def ask(endpoints: EndpointSelector, servers: Servers, effect: Effect = Effect.NONE, timeout: float | None = 12) -> str:
    return call_with_failover(endpoints, servers, Deadline(timeout), effect)


@pytest.mark.parametrize(
    'error', [ConnectionRefused('x'), NoLeader('x'), HTTPError(404), HTTPError(503), ProtocolError('x')]
)
@pytest.mark.parametrize('effect', Effect)
def test_next_one_is_asked_when_nothing_was_done(
    endpoints: EndpointSelector, effect: Effect, error: EtcException
) -> None:
    """Any call; who answers is asked first from then on."""
    servers = Servers(a=error, b='b', c='c')
    assert ask(endpoints, servers, effect) == 'b'
    assert ask(endpoints, servers, effect) == 'b'
    assert servers.asked == 'abb'


def test_attempt_leaves_time_for_the_others_and_one_more(endpoints: EndpointSelector) -> None:
    """A quarter of the time of three servers for the first, which is asked again last; all is theirs who is alone."""
    refused = ConnectionRefused('x')
    servers = Servers(a=[refused, 'a'], b=ConnectionRefused('x'), c=ConnectionRefused('x'))
    assert ask(endpoints, servers) == 'a'
    assert servers.shares == [3, 4, 6, 12]
    alone = Servers(a='a')
    ask(EndpointSelector([A]), alone)
    ask(EndpointSelector([A]), alone, timeout=None)
    assert alone.shares == [12, math.inf]


def test_one_that_is_due_first_is_asked_once_more_when_all_failed(endpoints: EndpointSelector) -> None:
    """And then it is told at once: nobody waits for servers to come back."""
    servers = Servers(a=ConnectionRefused('a'), b=ConnectionRefused('b'), c=ConnectionRefused('c'))
    with pytest.raises(ConnectionRefused, match='a'):
        ask(endpoints, servers)
    assert servers.asked == 'abca'
    with pytest.raises(ConnectionRefused):
        ask(EndpointSelector([A]), servers)
    assert servers.asked == 'abca' + 'aa'


def test_write_that_may_have_happened_is_raised(endpoints: EndpointSelector) -> None:
    """It says so, and is not sent again; one that may happen twice is, and the last error says so."""
    unknown = TimedOut('a', maybe_applied=True)
    servers = Servers(a=unknown, b=ConnectionRefused('b'), c=ConnectionRefused('c'))
    with pytest.raises(TimedOut) as caught:
        ask(endpoints, servers, Effect.NON_IDEMPOTENT)
    assert caught.value.maybe_applied
    assert servers.asked == 'a'
    servers = Servers(a=ConnectionRefused('a'), b=[unknown, ConnectionRefused('b')], c=ConnectionRefused('c'))
    with pytest.raises(ConnectionRefused) as refused:
        ask(endpoints, servers, Effect.IDEMPOTENT)
    assert refused.value.maybe_applied
    assert servers.asked == 'bcab'


def test_deadline_that_has_passed_ends_it(endpoints: EndpointSelector, etcd_clock: VirtualTime) -> None:
    """However many there are."""
    servers = Servers(a=TimedOut('a'), b='b', c='c')

    def slow(endpoint: Endpoint, share: Deadline) -> str:
        gevent.sleep(5)
        return servers(endpoint, share)

    asking = gevent.spawn(call_with_failover, endpoints, slow, Deadline(4), Effect.NONE)
    etcd_clock.advance(6)
    assert isinstance(asking.exception, TimedOut)
    assert servers.asked == 'a'


def test_nobody_is_asked_and_blamed_without_time(endpoints: EndpointSelector) -> None:
    """That it cannot be done in no time says nothing of the servers."""
    servers = Servers(a='a', b='b', c='c')
    with pytest.raises(TimedOut, match='no time to ask http://a:1') as caught:
        ask(endpoints, servers, Effect.NON_IDEMPOTENT, timeout=0)
    assert not caught.value.maybe_applied
    assert (servers.asked, endpoints.current, endpoints.state) == ('', A, None)


@pytest.mark.parametrize(
    ('error', 'timeout', 'is_blamed'),
    [
        (TimedOut('x'), 0.0001, False),
        (TimedOut('x'), 0.05, False),
        (TimedOut('x'), 5 / 6, True),  # a renewal of a node with a TTL of 5 s
        (TimedOut('x'), None, True),
        (ConnectionRefused('x'), 0.0001, True),
        (HTTPError(503), None, True),
        (NoLeader('no leader'), None, True),
        # These are answers.
        (HTTPError(403), None, False),
        (RaftInternal('Not a file', errno=300), None, False),
        (ProtocolError('x'), None, False),
    ],
)
def test_silence_is_blamed_on_who_had_the_time_to_answer(
    endpoints: EndpointSelector, error: EtcException, timeout: float | None, is_blamed: bool
) -> None:
    """Who has next to none finds nothing out, unless the server is plainly down."""
    with pytest.raises(type(error)):
        ask(endpoints, Servers(a=error, b=error, c=error), timeout=timeout)
    assert (endpoints.state is ConnectionState.SUSPENDED) is is_blamed


def test_refusal_is_an_answer(endpoints: EndpointSelector) -> None:
    """The server is well: it is the one to ask, and the client is connected."""
    down: dict[str, Answer | list[Answer]] = {name: ConnectionRefused(name) for name in 'abc'}
    with pytest.raises(ConnectionRefused):
        ask(endpoints, Servers(**down))
    assert endpoints.state is ConnectionState.SUSPENDED
    for refusal in (KeyNotFound('no'), TooManyRequests('later')):
        servers = Servers(**{**down, 'b': refusal})
        with pytest.raises(type(refusal)):
            ask(endpoints, servers)
        assert (endpoints.current, endpoints.state) == (B, ConnectionState.CONNECTED)
    with pytest.raises(ClientClosed):
        ask(endpoints, Servers(a='a', b=ClientClosed('x'), c='c'))
    assert endpoints.candidates()[0] == B


def test_stream_that_is_open_is_no_answer(endpoints: EndpointSelector) -> None:
    """A server that hangs takes connections, too: who opens a stream there knows nothing of it yet."""
    servers = Servers(a=[ConnectionRefused('a'), 'a'], b='b', c='c')
    endpoints.served(A)
    assert call_with_failover(endpoints, servers, Deadline(10), Effect.NONE, is_answered=False) == 'b'
    assert endpoints.current == B  # for a has failed
    endpoints.failed(B)
    assert endpoints.current == C
    call_with_failover(endpoints, servers, Deadline(10), Effect.NONE, is_answered=False)
    assert endpoints.candidates() == [C, A, B]


# -- who is patient


def failing(times: int, error: Callable[[], EtcException], asked: list[float], clock: VirtualTime) -> str:
    asked.append(clock.elapsed)
    if len(asked) <= times:
        raise error()
    return 'well'


@pytest.mark.parametrize('error', [ConnectionError, NoLeader, TooManyRequests])
def test_patient_waits_between_attempts(etcd_clock: VirtualTime, error: Callable[[], EtcException]) -> None:
    """With full jitter, less often each time, at least about once a second."""
    asked: list[float] = []
    waiting = gevent.spawn(retry_until_served, lambda: failing(40, error, asked, etcd_clock), Deadline(None))
    etcd_clock.advance(60)
    assert waiting.value == 'well'
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert all(gap <= min(1.0, 0.05 * 2**number) + 1e-6 for number, gap in enumerate(gaps))
    assert len(set(gaps)) > 30
    assert max(gaps) > 0.5


def test_patient_gives_up_at_the_deadline_and_at_a_refusal(etcd_clock: VirtualTime) -> None:
    """With what the last attempt met."""
    asked: list[float] = []
    waiting = gevent.spawn(retry_until_served, lambda: failing(10**6, ConnectionError, asked, etcd_clock), Deadline(3))
    etcd_clock.advance(4)
    assert isinstance(waiting.exception, ConnectionError)
    assert 2 <= asked[-1] <= 3
    with pytest.raises(KeyNotFound):
        retry_until_served(lambda: failing(10**6, KeyNotFound, asked, etcd_clock), Deadline(None))


# -- what the attempts have met


def test_error_names_what_each_attempt_met_the_last_one_first(endpoints: EndpointSelector) -> None:
    """And is chained to them; pickled or copied it says the same."""
    met = {
        'a': HTTPError(503, 'overloaded', endpoint='http://a:1'),
        'b': ConnectionRefused('http://b:1 refuses connections', endpoint='http://b:1'),
        'c': TimedOut('no answer from http://c:1 within 2 s', endpoint='http://c:1'),
    }
    with pytest.raises(EtcException) as caught:
        ask(endpoints, Servers(a=[met['a'], copy.copy(met['a'])], b=met['b'], c=met['c']))
    error = caught.value
    assert error.earlier == ('no answer from http://c:1 within 2 s', 'http://b:1 refuses connections')
    assert str(error) == f'http://a:1: HTTP 503: overloaded; before that: {"; ".join(error.earlier)}'
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(twin), twin.earlier, twin.endpoint) == (str(error), error.earlier, 'http://a:1')
    chained = []
    cause: BaseException | None = error
    while cause is not None:
        chained.append(cause)
        cause = cause.__cause__ or cause.__context__
    assert set(met.values()) <= set(chained)


def test_error_of_one_kind_is_told_once(endpoints: EndpointSelector) -> None:
    """A single server that refuses twice needs no list."""
    with pytest.raises(ConnectionRefused) as caught:
        ask(
            EndpointSelector([A]),
            Servers(a=[ConnectionRefused('http://a:1 refuses'), ConnectionRefused('http://a:1 refuses')]),
        )
    assert str(caught.value) == 'http://a:1 refuses'
    assert caught.value.__cause__ is not None
    again = ConnectionRefused('http://a:1 refuses')
    with pytest.raises(ConnectionRefused):
        ask(EndpointSelector([A]), Servers(a=again))
    assert again.__cause__ is None  # there would be no end to it


def test_log_of_an_outage_names_each_reason_once(endpoints: EndpointSelector, caplog: pytest.LogCaptureFixture) -> None:
    """What the attempts before have met stands beside it, for their own servers."""
    refused = {name: ConnectionRefused(f'http://{name}:1 refuses', endpoint=f'http://{name}:1') for name in 'abc'}
    with pytest.raises(ConnectionRefused, match='before that'):
        ask(endpoints, Servers(**refused))
    gevent.sleep(0)
    (line,) = [record.getMessage() for record in caplog.records if 'SUSPENDED' in record.getMessage()]
    assert line.endswith(': no server answers: http://a:1 refuses; http://b:1 refuses; http://c:1 refuses')


def test_error_of_an_attempt_is_freed_when_another_one_succeeds(endpoints: EndpointSelector) -> None:
    """At once, not by the next run of the garbage collector."""

    def attempt(endpoint: Endpoint, share: Deadline) -> weakref.ref[ConnectionRefused]:
        if endpoint == A:
            error = ConnectionRefused('http://a:1 refuses')
            met.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error
        return met[0]

    met: list[weakref.ref[ConnectionRefused]] = []
    gc.disable()
    try:
        assert call_with_failover(endpoints, attempt, Deadline(12), Effect.NONE)() is None
    finally:
        gc.enable()


def test_cause_of_the_last_error_is_kept(endpoints: EndpointSelector) -> None:
    """What the system said comes first in a traceback."""
    last = ConnectionRefused('http://b:1 refuses', endpoint='http://b:1')
    last.__cause__ = system = OSError('no')
    with pytest.raises(ConnectionRefused) as caught:
        ask(EndpointSelector([A, B], rng=Growing()), Servers(a=[NoLeader('no leader'), last], b=NoLeader('no leader')))
    assert caught.value.__cause__ is system
    assert isinstance(caught.value.__context__, NoLeader)


def test_patient_reader_names_what_came_before_the_silence(etcd_clock: VirtualTime) -> None:
    """A page once, and then nothing: the page is why."""
    answers = iter([HTTPError(503, 'overloaded'), TimedOut('no answer'), TimedOut('no answer')])

    def read() -> str:
        gevent.sleep(1)
        raise next(answers)

    reading = gevent.spawn(retry_until_served, read, Deadline(2.5))
    etcd_clock.advance(5)
    assert str(reading.exception) == 'no answer; before that: HTTP 503: overloaded'
