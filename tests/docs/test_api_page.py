"""The page of the API: it names what the classes have, without a build of the pages."""

from __future__ import annotations

import inspect
import re

import pytest

import getc
import getc.recipes
from tests.docs.examples import REPOSITORY

ALIASES = {'orphan'}
"""Other names of a method, which the page does not repeat."""

KINDS = [
    getc.Client,
    getc.Keeper,
    getc.Lock,
    getc.RWLock,
    getc.Candidacy,
    getc.Leader,
    getc.LeaderLoop,
    getc.recipes.Term,
]


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.__name__)
def test_api_page_names_every_method_and_property_of(kind: type) -> None:
    """The members that the page lists below the class are its public methods and properties."""
    page = (REPOSITORY / 'docs' / 'api.rst').read_text('utf-8')
    name = f'getc.recipes.{kind.__name__}' if kind is getc.recipes.Term else f'getc.{kind.__name__}'
    section = page.split(f'.. autoclass:: {name}\n')[1].split('\n.. ')[0]
    listed = set(re.findall(r'^   \.\. auto(?:method|property):: (\w+)$', section, re.MULTILINE))
    members = {
        member
        for member, value in inspect.getmembers(kind)
        if not member.startswith('_') and (callable(value) or isinstance(value, property))
    }
    assert listed == members - ALIASES
