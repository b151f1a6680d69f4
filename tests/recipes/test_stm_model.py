"""atomically against a model: whatever random programs do at the same time, they could have run one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import gevent
from hypothesis import given
from hypothesis import strategies as st

import getc
import getc.recipes.stm
import getc.timing
from getc.recipes import STM
from getc.testing import EtcdServer
from getc.transactions import TransactionResult
from tests.support.sequences import example_settings

KEYS = 3

PATIENT = 60.0

Step = tuple[str, int]

steps = st.tuples(st.sampled_from(['get', 'get', 'set', 'set', 'delete', 'pause']), st.integers(0, KEYS - 1))
programs = st.lists(st.lists(steps, min_size=1, max_size=6), min_size=2, max_size=4)
starts = st.lists(st.booleans(), min_size=KEYS, max_size=KEYS)

_numbers = count()


class Model:
    """The store as a dict, with the interface of an STM."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    def get(self, key: str) -> Any:
        if key not in self.values:
            raise getc.KeyNotFound('Key not found', key)
        return getc.Value(key, value=self.values[key])

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.get(key)
        del self.values[key]


def run(
    program: list[Step], name: str, key_of: Callable[[int], str], store: Any, pause: Callable[[], None]
) -> list[object]:
    """Run a program; return what it has seen.  What it writes depends on that."""
    seen: list[object] = []
    for kind, number in program:
        key = key_of(number)
        if kind == 'pause':
            pause()
        elif kind == 'set':
            store.set(key, f'{name}: {seen}')
        else:
            try:
                seen.append(store.get(key).value if kind == 'get' else store.delete(key))
            except getc.KeyNotFound as error:
                seen.append(error.cause)
    return seen


@dataclass
class History:
    """The commits of the programs.

    Attributes:
        commits: For each program the index of its last commit, and whether it has written nothing.
        seen: What each program has seen in its last run.
    """

    commits: dict[int, tuple[int, bool]] = field(default_factory=dict)
    seen: dict[int, list[object]] = field(default_factory=dict)


def run_together(client: getc.Client, plans: list[list[Step]], key_of: Callable[[int], str]) -> History:
    """Run the programs at the same time, and record their commits."""
    history = History()
    execute: Any = client._transact

    def start(number: int) -> None:
        def transact(operation: Any, deadline: Any) -> Any:
            result = execute(operation, deadline)
            if isinstance(result, TransactionResult):
                history.commits[number] = (result.etcd_index, not result.results)
            return result

        def program(stm: STM) -> None:
            history.seen[number] = run(plans[number], f'p{number}', key_of, stm, lambda: gevent.sleep(0))

        # Each greenlet has a client method of its own, so that a commit is recorded for its program.
        getc.recipes.stm.atomically(transact, program, getc.timing.Deadline(PATIENT), is_idempotent=False)

    gevent.joinall([gevent.spawn(start, number) for number in range(len(plans))], raise_error=True)
    return history


def check(client: getc.Client, plans: list[list[Step]], exists: list[bool]) -> None:
    """Run the programs, and then one after the other on the model, in the order of their commits."""
    top = f'/model/{next(_numbers)}'
    values: dict[str, str] = {}
    for number, is_there in enumerate(exists):
        if is_there:
            values[f'{top}/{number}'] = 'start'
            client.set(f'{top}/{number}', 'start')

    def key_of(number: int) -> str:
        return f'{top}/{number}'

    history = run_together(client, plans, key_of)
    model = Model(values)
    # A program that has only read comes after the write of the same index: it has seen that.
    committed = sorted(history.commits, key=lambda number: history.commits[number])
    for number in committed:
        seen = run(plans[number], f'p{number}', key_of, model, lambda: None)
        assert history.seen[number] == seen, (number, history)
    # A program without reads and writes has no commit.
    assert all(not history.seen[number] for number in set(history.seen) - set(committed))
    found = {}
    for number in range(KEYS):
        try:
            found[key_of(number)] = client.get(key_of(number)).value
        except getc.KeyNotFound:
            pass
    assert found == model.values


@example_settings(300)
@given(plans=programs, exists=starts)
def test_programs_in_memory_are_serializable(plans: list[list[Step]], exists: list[bool]) -> None:
    with getc.etcd('memory://') as client:
        check(client, plans, exists)


@example_settings(60)
@given(plans=programs, exists=starts)
def test_programs_on_etcd_are_serializable(
    plans: list[list[Step]], exists: list[bool], etcd_server: EtcdServer
) -> None:
    with getc.etcd(etcd_server.url, api='v3') as client:
        check(client, plans, exists)
