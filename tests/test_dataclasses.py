"""A value that is quick to make is in no other way different."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

from getc import operations, results
from getc._dataclasses import fast_init


@dataclass(frozen=True, slots=True)
class Slow:
    key: str
    size: int = 1
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError('too small')
        object.__setattr__(self, 'key', self.key.upper())


@dataclass(frozen=True, slots=True)
class SlowChild(Slow):
    more: bool = False


@fast_init
@dataclass(frozen=True, slots=True)
class Quick(Slow):
    more: bool = False


@pytest.mark.parametrize('arguments', [('a',), ('a', 2), ('a', 2, ('x',)), ('a', 2, ('x',), True)])
def test_fields_are_set_by_position_and_by_name(arguments: tuple[object, ...]) -> None:
    """Those of the base, too; what is left out has its default."""
    slow = SlowChild(*arguments)  # type: ignore[arg-type]
    names = ('key', 'size', 'names', 'more')
    for made in (Quick(*arguments), Quick(**dict(zip(names, arguments, strict=False)))):  # type: ignore[arg-type]
        assert [getattr(made, name) for name in names] == [getattr(slow, name) for name in names]
        assert made == Quick(*arguments)  # type: ignore[arg-type]
        assert repr(made) == repr(slow).replace('SlowChild', 'Quick')


def test_it_is_checked_frozen_replaced_and_pickled_as_before() -> None:
    """By dataclass's own means."""
    made = Quick('a', 2)
    assert made.key == 'A'
    with pytest.raises(FrozenInstanceError):
        made.size = 3  # type: ignore[misc]
    assert replace(made, size=3) == Quick('A', 3)
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(ValueError, match='too small'):
        Quick('a', -1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'key'"):
        Quick()  # type: ignore[call-arg]


def test_its_signature_is_the_same() -> None:
    """For documentation and for people."""
    assert str(inspect.signature(Quick)) == str(inspect.signature(SlowChild))


@pytest.mark.parametrize('kind', [results.Node, results.Value, results.Directory, results.EtcdResult, operations.Put])
def test_values_of_every_call_are_quick(kind: type) -> None:
    """So they say that they were wrapped."""
    assert hasattr(kind.__init__, '__wrapped__')  # type: ignore[misc]
