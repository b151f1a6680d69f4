"""fast_init: the generated __init__ behaves like that of dataclass."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

from getc import operations, results
from getc._dataclasses import fast_init


@dataclass(frozen=True, slots=True)
class Plain:
    key: str
    size: int = 1
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError('too small')
        object.__setattr__(self, 'key', self.key.upper())


@dataclass(frozen=True, slots=True)
class PlainChild(Plain):
    more: bool = False


@fast_init
@dataclass(frozen=True, slots=True)
class Fast(Plain):
    more: bool = False


@pytest.mark.parametrize('arguments', [('a',), ('a', 2), ('a', 2, ('x',)), ('a', 2, ('x',), True)])
def test_fast_init_sets_fields_by_position_and_by_name(arguments: tuple[object, ...]) -> None:
    """Including inherited fields and defaults."""
    slow = PlainChild(*arguments)  # type: ignore[arg-type]
    names = ('key', 'size', 'names', 'more')
    for made in (Fast(*arguments), Fast(**dict(zip(names, arguments, strict=False)))):  # type: ignore[arg-type]
        assert [getattr(made, name) for name in names] == [getattr(slow, name) for name in names]
        assert made == Fast(*arguments)  # type: ignore[arg-type]
        assert repr(made) == repr(slow).replace('PlainChild', 'Fast')


def test_fast_init_keeps_checks_immutability_replace_and_pickling() -> None:
    made = Fast('a', 2)
    assert made.key == 'A'
    with pytest.raises(FrozenInstanceError):
        made.size = 3  # type: ignore[misc]
    assert replace(made, size=3) == Fast('A', 3)
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(ValueError, match='too small'):
        Fast('a', -1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'key'"):
        Fast()  # type: ignore[call-arg]


def test_fast_init_keeps_the_signature() -> None:
    assert str(inspect.signature(Fast)) == str(inspect.signature(PlainChild))


@pytest.mark.parametrize('kind', [results.Node, results.Value, results.Directory, results.EtcdResult, operations.Put])
def test_dataclasses_of_every_call_use_fast_init(kind: type) -> None:
    assert hasattr(kind.__init__, '__wrapped__')  # type: ignore[misc]
