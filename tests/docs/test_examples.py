"""Every example of the documentation runs, and shows what it says."""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import gevent
import pytest

import getc
import getc.backends.v2.messages
import getc.net.tls
import getc.operations
import getc.timing
from getc.net.endpoint import parse_endpoints
from getc.testing import EtcdServer, VirtualTime
from tests.docs.examples import REPOSITORY, Example, Kind, docstring_examples, examples_of, run
from tests.support.api_support import skip_unless_supported

ADDRESS = re.compile(r'http://(?:127\.0\.0\.1|10\.0\.0\.\d+):2379(?:,http://10\.0\.0\.\d+:2379)*')
"""The servers in the examples: one of the test is there instead."""

PAGES = [
    REPOSITORY / 'README.rst',
    *sorted((REPOSITORY / 'docs').glob('*.rst')),
    *sorted((REPOSITORY / 'docs/recipes').glob('*.rst')),
]
MODULES = sorted((REPOSITORY / 'getc').rglob('*.py'))
IN_VIRTUAL_TIME = {'docs/index.rst': 'it waits for a TTL of 42 s'}
"""Pages whose examples are not run on a real etcd, and why."""

ONLY_V3 = {'docs/recipes/transactions.rst': 'v2 has no transactions'}
"""Pages whose examples are not run over v2, and why."""

BESIDES = (getc.operations, getc.timing, getc.net.tls, getc.backends.v2.messages)
"""Modules whose names the examples of other modules use."""

INCLUDED = re.compile(r'^ *\.\. literalinclude:: (\S+)$', re.MULTILINE)
"""Files of which a page shows a piece.  Those of the example are run by its own tests, and some are these tests."""

_numbers = itertools.count()


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def module_of(path: Path) -> str:
    return name_of(path).removesuffix('.py').removesuffix('/__init__').replace('/', '.')


def to_run(path: Path) -> list[Example]:
    """The sessions and programs of a page."""
    return [example for example in examples_of(path) if example.kind in (Kind.SESSION, Kind.PROGRAM)]


WITH_EXAMPLES = [path for path in PAGES if to_run(path)]
ON_A_SERVER = [path for path in WITH_EXAMPLES if name_of(path) not in IN_VIRTUAL_TIME]
WITH_TESTS = [path for path in PAGES if any(example.kind is Kind.TESTS for example in examples_of(path))]


@pytest.fixture
def api() -> str | None:
    """What the examples speak to a server; None for what they would."""
    return None


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, api: str | None) -> Iterator[Callable[..., getc.Client]]:
    """``getc.etcd``, also for the examples; the clients that it made are closed after the test."""
    opened: list[getc.Client] = []
    real = getc.etcd

    def etcd(url: Any, **options: Any) -> getc.Client:
        if str(url).startswith('http'):
            options.setdefault('api', api)
        opened.append(real(url, **options))
        return opened[-1]

    monkeypatch.setattr(getc, 'etcd', etcd)
    yield etcd
    for client in opened:
        client.close()


def at(url: str, example: Example) -> Example:
    """The example with this server instead of its own."""
    return replace(example, source=ADDRESS.sub(url, example.source))


def reader() -> dict[str, Any]:
    """The names of a reader who has just started Python: none."""
    return {'__name__': '__example__'}


@pytest.mark.parametrize('path', WITH_EXAMPLES, ids=name_of)
def test_examples_of_a_page_run_in_memory(path: Path, etcd_clock: VirtualTime, connect: Any) -> None:
    """From top to bottom, as a reader would try them."""
    url = f'memory://page-{next(_numbers)}'
    names = reader()
    for example in to_run(path):
        run(at(url, example), names)


@pytest.mark.parametrize('api', ['v3', 'v2'])
@pytest.mark.parametrize('path', ON_A_SERVER, ids=name_of)
def test_examples_of_a_page_run_on_a_real_etcd(path: Path, connect: Any, api: str, etcd_server: EtcdServer) -> None:
    """With the same outcome, over both APIs."""
    skip_unless_supported(api, etcd_server.binary)
    if api == 'v2' and name_of(path) in ONLY_V3:
        pytest.skip(ONLY_V3[name_of(path)])
    names = reader()
    for example in to_run(path):
        run(at(etcd_server.url, example), names)
    assert 'etcd' not in names or names['etcd'].api == api


@pytest.mark.slow
@pytest.mark.parametrize('path', WITH_TESTS, ids=name_of)
def test_tests_that_a_page_shows_pass(path: Path, pytester: pytest.Pytester) -> None:
    """In a run of pytest of their own, where the plugin is all there is."""
    sources = [example.source for example in examples_of(path) if example.kind is Kind.TESTS]
    files = {f'test_{number}': source for number, source in enumerate(sources)}
    pytester.makepyfile(**files)
    result = pytester.runpytest_subprocess('-W', 'error', '-p', 'no:cacheprovider', '-p', 'no:hypothesispytest')
    result.assert_outcomes(passed=len(re.findall(r'^def test_', '\n'.join(sources), re.MULTILINE)))


@pytest.mark.parametrize('path', PAGES, ids=name_of)
def test_no_example_of_a_page_is_left_out(path: Path) -> None:
    """Every block says what it is; every prompt and every Python block is among the examples that run."""
    text = path.read_text('utf-8')
    examples = examples_of(path)
    kinds = Counter(example.kind for example in examples)
    assert [str(example) for example in examples if example.kind is Kind.UNKNOWN] == []
    assert sum(prompts(example) for example in examples) == len(re.findall(r'^ *>>> ', text, re.MULTILINE))
    assert kinds[Kind.PROGRAM] + kinds[Kind.TESTS] == text.count('code-block:: python')
    assert kinds.total() - kinds[Kind.SESSION] == text.count('code-block::')
    assert not re.search(r'\.\. (code|sourcecode|doctest|testcode|parsed-literal)::', text)
    assert [
        name for name in INCLUDED.findall(text) if not name.startswith(('../examples/', '../tests/examples/'))
    ] == []
    assert not re.search(r'^(?! *\.\.).*::$', text, re.MULTILINE)
    assert '+SKIP' not in text


def prompts(example: Example) -> int:
    return example.source.count('>>> ') if example.kind is Kind.SESSION else 0


def test_pages_have_the_examples_that_a_reader_expects() -> None:
    """So many sessions and programs are found: finding none would pass every other test here."""
    assert len(WITH_EXAMPLES) >= 4
    assert len(to_run(REPOSITORY / 'README.rst')) >= 10
    assert len(WITH_TESTS) == 3


# -- docstrings

DOCSTRINGS = [example for path in MODULES for example in docstring_examples(path)]
TESTS_OF_DOCSTRINGS = [example for example in DOCSTRINGS if example.kind is Kind.TESTS]
CLIENT = ('getc/__init__.py', 'getc/client.py')
OF_THE_CLIENT = [example for example in DOCSTRINGS if name_of(example.path) in CLIENT]
PURE = ('getc/grpc/http2/', 'getc/grpc/framing', 'getc/backends/tree/codec/', 'getc/v3/schema/')
SKETCHES = [
    example for example in DOCSTRINGS if example.kind is Kind.PROGRAM and name_of(example.path).startswith(PURE)
]
"""Codecs have no sockets, so their programs name things that are not there.  Their sessions run."""

OF_THE_REST = [example for example in DOCSTRINGS if example not in (*OF_THE_CLIENT, *TESTS_OF_DOCSTRINGS, *SKETCHES)]


def test_docstrings_have_the_examples_that_are_counted() -> None:
    """What is called an example is found, and of a kind that is run."""
    text = '\n'.join(path.read_text('utf-8') for path in MODULES)
    assert len(DOCSTRINGS) >= text.count('Example::') >= 6
    assert {example.kind for example in DOCSTRINGS} <= {Kind.SESSION, Kind.PROGRAM, Kind.TESTS}
    assert sum(prompts(example) for example in DOCSTRINGS) == len(re.findall(r'^ *>>> ', text, re.MULTILINE))


@pytest.mark.parametrize('example', OF_THE_CLIENT, ids=str)
def test_example_of_a_docstring_runs_until_its_client_is_closed(
    example: Example, etcd_clock: VirtualTime, connect: Any
) -> None:
    """Even one that goes on for ever."""
    url = f'memory://docstring-{next(_numbers)}'
    etcd = connect(url)
    names = {**reader(), 'getc': getc, 'gevent': gevent, 'etcd': etcd}
    running = gevent.spawn(run, at(url, example), names)
    etcd_clock.advance(60)
    etcd.close()
    running.get(timeout=60)


@pytest.mark.parametrize('example', OF_THE_REST, ids=str)
def test_example_of_a_docstring_runs(example: Example, connect: Any, etcd_server: EtcdServer) -> None:
    """With the names of its module, on a real etcd where it needs one."""
    names = {
        **{name: getattr(module, name) for module in BESIDES for name in module.__all__},
        **vars(import_module(module_of(example.path))),
        'getc': getc,
        'gevent': gevent,
        # What examples of the lower layers take from those above:
        'parse_endpoints': parse_endpoints,
        'endpoint': parse_endpoints(etcd_server.url)[0],
        'request': b'\n\x04/cfg',  # of /etcdserverpb.KV/Range, for that key
    }
    run(at(etcd_server.url, example), names)


@pytest.mark.parametrize('example', SKETCHES, ids=str)
def test_sketch_in_a_docstring_is_python(example: Example) -> None:
    """Though it does not run by itself."""
    assert ast.parse(example.source).body


@pytest.mark.parametrize('example', TESTS_OF_DOCSTRINGS, ids=str)
def test_test_of_a_docstring_passes(example: Example, pytester: pytest.Pytester) -> None:
    """In a run of pytest of its own."""
    pytester.makepyfile('import getc\nimport pytest\n\n' + example.source)
    result = pytester.runpytest_subprocess('-W', 'error', '-p', 'no:cacheprovider', '-p', 'no:hypothesispytest')
    result.assert_outcomes(passed=example.source.count('def test_'))
