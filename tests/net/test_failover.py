"""Failover: the order and the timeouts of the attempts, and what they record in the selector."""

from __future__ import annotations

import contextlib
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
from getc.net.endpoint import Endpoint
from getc.net.failover import call_with_failover, retry_until_served
from getc.net.selector import ConnectionState, EndpointFinder, EndpointSelector
from getc.retry import Effect
from getc.testing import VirtualTime
from getc.timing import Deadline

A, B, C = (Endpoint('http', name, 1) for name in 'abc')

Response = str | EtcException


class GrowingCooldown(random.Random):
    """Draws slightly larger numbers each time: the cool-downs end in the order of the failures."""

    drawn = 0

    def uniform(self, a: float, b: float) -> float:
        self.drawn += 1
        return a + (b - a) * self.drawn / 1000


class Servers:
    """Attempts with the given responses: one for all attempts, or a list; an error is raised.

    Attributes:
        called: The hosts that were called, in order.
        timeouts: Seconds that each attempt had.
    """

    def __init__(self, **responses: Response | list[Response]) -> None:
        self.called = ''
        self.timeouts: list[float] = []
        self._responses = responses

    def __call__(self, endpoint: Endpoint, deadline: Deadline) -> str:
        self.called += endpoint.host
        self.timeouts.append(round(deadline.remaining(), 3))
        response = self._responses[endpoint.host]
        if isinstance(response, list):
            response = response.pop(0)
        if isinstance(response, EtcException):
            raise response
        return response


@pytest.fixture
def endpoints(etcd_clock: VirtualTime) -> EndpointSelector:
    return EndpointSelector([A, B, C], rng=GrowingCooldown())


def call(
    endpoints: EndpointSelector, servers: Servers, effect: Effect = Effect.NONE, timeout: float | None = 12
) -> str:
    return call_with_failover(endpoints, servers, Deadline(timeout), effect)


@pytest.mark.parametrize(
    'error', [ConnectionRefused('x'), NoLeader('x'), HTTPError(404), HTTPError(503), ProtocolError('x')]
)
@pytest.mark.parametrize('effect', Effect)
def test_next_endpoint_is_called_when_nothing_was_applied(
    endpoints: EndpointSelector, effect: Effect, error: EtcException
) -> None:
    """For every effect; the endpoint that responded becomes the current one."""
    servers = Servers(a=error, b='b', c='c')
    assert call(endpoints, servers, effect) == 'b'
    assert call(endpoints, servers, effect) == 'b'
    assert servers.called == 'abb'


def test_attempt_leaves_time_for_the_others_and_a_repetition(endpoints: EndpointSelector) -> None:
    """With three endpoints the first attempt has a quarter of the time; a single endpoint has all of it."""
    refused = ConnectionRefused('x')
    servers = Servers(a=[refused, 'a'], b=ConnectionRefused('x'), c=ConnectionRefused('x'))
    assert call(endpoints, servers) == 'a'
    assert servers.timeouts == [3, 4, 6, 12]
    alone = Servers(a='a')
    call(EndpointSelector([A]), alone)
    call(EndpointSelector([A]), alone, timeout=None)
    assert alone.timeouts == [12, math.inf]


def test_endpoint_with_the_earliest_end_of_its_cooldown_is_called_again_when_all_failed(
    endpoints: EndpointSelector,
) -> None:
    servers = Servers(a=ConnectionRefused('a'), b=ConnectionRefused('b'), c=ConnectionRefused('c'))
    with pytest.raises(ConnectionRefused, match='a'):
        call(endpoints, servers)
    assert servers.called == 'abca'
    with pytest.raises(ConnectionRefused):
        call(EndpointSelector([A]), servers)
    assert servers.called == 'abca' + 'aa'


def test_non_idempotent_write_that_may_have_been_applied_is_not_repeated(endpoints: EndpointSelector) -> None:
    """An idempotent write is repeated, and ``maybe_applied`` of the last error covers all attempts."""
    unknown = TimedOut('a', maybe_applied=True)
    servers = Servers(a=unknown, b=ConnectionRefused('b'), c=ConnectionRefused('c'))
    with pytest.raises(TimedOut) as caught:
        call(endpoints, servers, Effect.NON_IDEMPOTENT)
    assert caught.value.maybe_applied
    assert servers.called == 'a'
    servers = Servers(a=ConnectionRefused('a'), b=[unknown, ConnectionRefused('b')], c=ConnectionRefused('c'))
    with pytest.raises(ConnectionRefused) as refused:
        call(endpoints, servers, Effect.IDEMPOTENT)
    assert refused.value.maybe_applied
    assert servers.called == 'bcab'


def test_no_endpoint_is_called_after_the_deadline(endpoints: EndpointSelector, etcd_clock: VirtualTime) -> None:
    servers = Servers(a=TimedOut('a'), b='b', c='c')

    def slow(endpoint: Endpoint, deadline: Deadline) -> str:
        gevent.sleep(5)
        return servers(endpoint, deadline)

    calling = gevent.spawn(call_with_failover, endpoints, slow, Deadline(4), Effect.NONE)
    etcd_clock.advance(6)
    assert isinstance(calling.exception, TimedOut)
    assert servers.called == 'a'


def test_no_attempt_is_made_without_time(endpoints: EndpointSelector) -> None:
    servers = Servers(a='a', b='b', c='c')
    with pytest.raises(TimedOut, match='the deadline passed before http://a:1 could be called') as caught:
        call(endpoints, servers, Effect.NON_IDEMPOTENT, timeout=0)
    assert not caught.value.maybe_applied
    assert (servers.called, endpoints.current, endpoints.state) == ('', A, None)


@pytest.mark.parametrize(
    ('error', 'timeout', 'is_suspended'),
    [
        (TimedOut('x'), 0.0001, False),
        (TimedOut('x'), 0.05, False),
        (TimedOut('x'), 5 / 6, True),  # a renewal of a node with a TTL of 5 s
        (TimedOut('x'), None, True),
        (ConnectionRefused('x'), 0.0001, True),
        (HTTPError(503), None, True),
        (NoLeader('no leader'), None, True),
        # Responses, not outages.
        (HTTPError(403), None, False),
        (RaftInternal('Not a file', errno=300), None, False),
        (ProtocolError('x'), None, False),
    ],
)
def test_timeout_marks_the_endpoint_down_only_after_enough_time(
    endpoints: EndpointSelector, error: EtcException, timeout: float | None, is_suspended: bool
) -> None:
    """With very little time a timeout does not indicate an outage; other errors still do."""
    with pytest.raises(type(error)):
        call(endpoints, Servers(a=error, b=error, c=error), timeout=timeout)
    assert (endpoints.state is ConnectionState.SUSPENDED) is is_suspended


def test_refusal_marks_the_endpoint_up(endpoints: EndpointSelector) -> None:
    down: dict[str, Response | list[Response]] = {name: ConnectionRefused(name) for name in 'abc'}
    with pytest.raises(ConnectionRefused):
        call(endpoints, Servers(**down))
    assert endpoints.state is ConnectionState.SUSPENDED
    for refusal in (KeyNotFound('no'), TooManyRequests('later')):
        servers = Servers(**{**down, 'b': refusal})
        with pytest.raises(type(refusal)):
            call(endpoints, servers)
        assert (endpoints.current, endpoints.state) == (B, ConnectionState.CONNECTED)
    with pytest.raises(ClientClosed):
        call(endpoints, Servers(a='a', b=ClientClosed('x'), c='c'))
    assert endpoints.candidates()[0] == B


def test_opened_stream_does_not_mark_the_endpoint_up(endpoints: EndpointSelector) -> None:
    """A server that hangs accepts streams, too."""
    servers = Servers(a=[ConnectionRefused('a'), 'a'], b='b', c='c')
    endpoints.mark_up(A)
    assert call_with_failover(endpoints, servers, Deadline(10), Effect.NONE, is_answered=False) == 'b'
    assert endpoints.current == B  # because a has failed
    endpoints.mark_down(B)
    assert endpoints.current == C
    call_with_failover(endpoints, servers, Deadline(10), Effect.NONE, is_answered=False)
    assert endpoints.candidates() == [C, A, B]


def test_timeout_of_a_short_part_does_not_mark_the_endpoint_down(
    endpoints: EndpointSelector, etcd_clock: VirtualTime
) -> None:
    """Three healthy servers with a latency of 70 ms, and a timeout of 0.25 s: each attempt has 62 ms."""

    def attempt(endpoint: Endpoint, deadline: Deadline) -> str:
        gevent.sleep(min(0.07, deadline.remaining()))
        if deadline.has_passed():
            raise TimedOut('no response')
        return endpoint.host

    calling = gevent.spawn(call_with_failover, endpoints, attempt, Deadline(0.25), Effect.NONE)
    etcd_clock.advance(0.3)
    assert isinstance(calling.exception, TimedOut)
    assert (endpoints.current, endpoints.state, endpoints.candidates()) == (A, None, [A, B, C])


def test_timeout_of_a_write_that_is_not_repeated_marks_the_endpoint_down(
    endpoints: EndpointSelector, etcd_clock: VirtualTime
) -> None:
    """Its part is for the connection only: the response has until the end of the call."""

    def attempt(endpoint: Endpoint, deadline: Deadline) -> str:
        gevent.sleep(0.25)
        raise TimedOut('no response', maybe_applied=True)

    calling = gevent.spawn(call_with_failover, endpoints, attempt, Deadline(0.25), Effect.NON_IDEMPOTENT)
    etcd_clock.advance(0.3)
    assert isinstance(calling.exception, TimedOut)
    assert endpoints.current == B


def test_renewal_of_a_short_ttl_reaches_the_only_healthy_endpoint(
    endpoints: EndpointSelector, etcd_clock: VirtualTime
) -> None:
    """A renewal of a TTL of 1 s has a sixth of a second, so that each of three endpoints has 42 ms."""

    def attempt(endpoint: Endpoint, deadline: Deadline) -> str:
        gevent.sleep(0.01 if endpoint == C else deadline.remaining())
        if endpoint != C:
            raise TimedOut('no response')
        return endpoint.host

    for seconds in (0.1, 0.02):  # once after the endpoints that hang, and then at once
        calling = gevent.spawn(call_with_failover, endpoints, attempt, Deadline(1 / 6), Effect.IDEMPOTENT)
        etcd_clock.advance(seconds)
        assert calling.value == 'c'


# -- retry_until_served


def failing(times: int, error: Callable[[], EtcException], called: list[float], clock: VirtualTime) -> str:
    called.append(clock.elapsed)
    if len(called) <= times:
        raise error()
    return 'ok'


@pytest.mark.parametrize('error', [ConnectionError, NoLeader, TooManyRequests])
def test_retry_waits_with_full_jitter_between_attempts(
    etcd_clock: VirtualTime, error: Callable[[], EtcException]
) -> None:
    """The bound of the delay doubles each time, up to one second."""
    called: list[float] = []
    waiting = gevent.spawn(retry_until_served, lambda: failing(40, error, called, etcd_clock), Deadline(None))
    etcd_clock.advance(60)
    assert waiting.value == 'ok'
    gaps = [later - earlier for earlier, later in itertools.pairwise(called)]
    assert all(gap <= min(1.0, 0.05 * 2**number) + 1e-6 for number, gap in enumerate(gaps))
    assert len(set(gaps)) > 30
    assert max(gaps) > 0.5


def test_retry_ends_at_the_deadline_and_at_a_refusal(etcd_clock: VirtualTime) -> None:
    called: list[float] = []
    waiting = gevent.spawn(retry_until_served, lambda: failing(10**6, ConnectionError, called, etcd_clock), Deadline(3))
    etcd_clock.advance(4)
    assert isinstance(waiting.exception, ConnectionError)
    assert 2 <= called[-1] <= 3
    with pytest.raises(KeyNotFound):
        retry_until_served(lambda: failing(10**6, KeyNotFound, called, etcd_clock), Deadline(None))


# -- errors of earlier attempts


def test_error_names_the_errors_of_earlier_attempts_latest_first(endpoints: EndpointSelector) -> None:
    """The error is chained to them, and pickling and copying keep its text."""
    errors = {
        'a': HTTPError(503, 'overloaded', endpoint='http://a:1'),
        'b': ConnectionRefused('http://b:1 refused the connection', endpoint='http://b:1'),
        'c': TimedOut('no response from http://c:1 within 2 s', endpoint='http://c:1'),
    }
    with pytest.raises(EtcException) as caught:
        call(endpoints, Servers(a=[errors['a'], copy.copy(errors['a'])], b=errors['b'], c=errors['c']))
    error = caught.value
    assert error.earlier == ('no response from http://c:1 within 2 s', 'http://b:1 refused the connection')
    assert str(error) == f'http://a:1: HTTP 503: overloaded; before that: {"; ".join(error.earlier)}'
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(twin), twin.earlier, twin.endpoint) == (str(error), error.earlier, 'http://a:1')
    chained = []
    cause: BaseException | None = error
    while cause is not None:
        chained.append(cause)
        cause = cause.__cause__ or cause.__context__
    assert set(errors.values()) <= set(chained)


def test_equal_errors_are_named_once(endpoints: EndpointSelector) -> None:
    with pytest.raises(ConnectionRefused) as caught:
        call(
            EndpointSelector([A]),
            Servers(a=[ConnectionRefused('http://a:1 refuses'), ConnectionRefused('http://a:1 refuses')]),
        )
    assert str(caught.value) == 'http://a:1 refuses'
    assert caught.value.__cause__ is not None
    again = ConnectionRefused('http://a:1 refuses')
    with pytest.raises(ConnectionRefused):
        call(EndpointSelector([A]), Servers(a=again))
    assert again.__cause__ is None  # an error is not chained to itself


def test_log_of_an_outage_names_each_reason_once(endpoints: EndpointSelector, caplog: pytest.LogCaptureFixture) -> None:
    """The errors of earlier attempts are the reasons of their own endpoints."""
    refused = {name: ConnectionRefused(f'http://{name}:1 refuses', endpoint=f'http://{name}:1') for name in 'abc'}
    with pytest.raises(ConnectionRefused, match='before that'):
        call(endpoints, Servers(**refused))
    gevent.sleep(0)
    (line,) = [record.getMessage() for record in caplog.records if 'SUSPENDED' in record.getMessage()]
    assert line.endswith(': no server answers: http://a:1 refuses; http://b:1 refuses; http://c:1 refuses')


def test_error_of_an_attempt_is_freed_when_another_one_succeeds(endpoints: EndpointSelector) -> None:
    """Without the garbage collector: there is no reference cycle."""

    def attempt(endpoint: Endpoint, deadline: Deadline) -> weakref.ref[ConnectionRefused]:
        if endpoint == A:
            error = ConnectionRefused('http://a:1 refuses')
            refs.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error
        return refs[0]

    refs: list[weakref.ref[ConnectionRefused]] = []
    gc.disable()
    try:
        assert call_with_failover(endpoints, attempt, Deadline(12), Effect.NONE)() is None
    finally:
        gc.enable()


def test_cause_of_the_last_error_is_kept(endpoints: EndpointSelector) -> None:
    """The previous attempt becomes its context then."""
    last = ConnectionRefused('http://b:1 refuses', endpoint='http://b:1')
    last.__cause__ = system = OSError('no')
    with pytest.raises(ConnectionRefused) as caught:
        call(
            EndpointSelector([A, B], rng=GrowingCooldown()),
            Servers(a=[NoLeader('no leader'), last], b=NoLeader('no leader')),
        )
    assert caught.value.__cause__ is system
    assert isinstance(caught.value.__context__, NoLeader)


def test_retry_names_the_error_before_the_timeouts(etcd_clock: VirtualTime) -> None:
    errors = iter([HTTPError(503, 'overloaded'), TimedOut('no response'), TimedOut('no response')])

    def read() -> str:
        gevent.sleep(1)
        raise next(errors)

    reading = gevent.spawn(retry_until_served, read, Deadline(2.5))
    etcd_clock.advance(5)
    assert str(reading.exception) == 'no response; before that: HTTP 503: overloaded'


@pytest.mark.parametrize('is_served', [False, True])
def test_retry_leaves_no_error_in_a_reference_cycle(is_served: bool) -> None:
    """Without the garbage collector."""
    refs: list[weakref.ref[EtcException]] = []

    def read() -> str:
        if refs and is_served:
            return 'ok'
        error = ConnectionRefused('refused') if not refs else KeyNotFound('no')
        refs.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    gc.disable()
    try:
        with contextlib.suppress(KeyNotFound):
            retry_until_served(read, Deadline(12))
        assert [ref() for ref in refs] == [None] * (1 if is_served else 2)
    finally:
        gc.enable()


def test_call_continues_on_the_new_endpoints_when_the_list_is_replaced_during_it(endpoints: EndpointSelector) -> None:
    """No attempt is made on an endpoint that was removed meanwhile, and the repetition uses a new one."""
    new = Endpoint('http', 'd', 1)
    called = []

    def attempt(endpoint: Endpoint, deadline: Deadline) -> str:
        called.append(endpoint)
        if endpoint == new:
            return 'served'
        endpoints.replace([C, new] if endpoint == A else [new])
        raise ConnectionRefused(f'{endpoint} is down')

    assert call_with_failover(endpoints, attempt, Deadline(10), Effect.NON_IDEMPOTENT) == 'served'
    assert called == [A, C, new]


def test_call_waits_for_endpoints_when_there_are_none() -> None:
    endpoints = EndpointSelector()

    class Finder(EndpointFinder):
        def wait(self, deadline: Deadline) -> None:
            endpoints.replace([B])

        def on_all_down(self) -> None:
            raise AssertionError

    endpoints.finder = Finder()
    assert call_with_failover(endpoints, lambda endpoint, _: endpoint, Deadline(10), Effect.NONE) == B
