"""Configuration of Sphinx: ``make docs``."""

from __future__ import annotations

from sphinx.application import Sphinx

import getc

project = 'getc'
author = 'the getc authors'
copyright = f'2026, {author}'
version = release = getc.__version__

extensions = ['sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build', '_generated']
default_role = 'any'  # a name in single backquotes is a link; an unknown one fails the build
nitpicky = True
nitpick_ignore_regex = [
    # Names of the standard library: the build loads no inventory of another site.
    ('py:.*', r'(collections|datetime|os)\..*|(Attribute|Connection|ConnectionRefused|OS|Type|Timeout|Value)Error'),
    # Internal names in signatures.
    ('py:.*', r'getc\.(backends|client|daemons|grpc|net|recipes|timing|transactions|v3)\..*'),
    ('py:.*', r'getc\.testing\.stack_traces\..*|gevent\..*'),
]

autodoc_member_order = 'bysource'
autodoc_class_signature = 'separated'  # users do not call most constructors
autodoc_default_options = {'exclude-members': '__init__, __new__'}
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_typehints_format = 'short'
autodoc_type_aliases = {'Timeout': 'float | None'}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 160
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = 'alabaster'
html_static_path = ['_static']
html_css_files = ['custom.css']
html_title = f'getc {release}'
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {'**': ['about.html', 'navigation.html', 'searchbox.html']}
html_theme_options = {
    'description': 'etcd for gevent: servers that stay registered, configuration that is never silently stale',
    'fixed_sidebar': True,
    'page_width': '1080px',
    'sidebar_width': '230px',
    'show_powered_by': False,
    'font_family': 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif',
    'head_font_family': 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif',
    'font_size': '16px',
    'code_font_size': '0.86em',
}


def keep_first_line(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Keep the first line of a property's docstring from Napoleon, which takes the text before a colon for a type."""
    if what == 'property':
        lines[:0] = ['..', '']  # an empty comment as the first line


def setup(app: Sphinx) -> None:
    """Connect the event handlers.  Sphinx calls this function after it has read this file."""
    app.connect('autodoc-process-docstring', keep_first_line, priority=400)  # before Napoleon, at 500
