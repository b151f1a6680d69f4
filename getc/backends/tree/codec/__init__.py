"""The directory tree on the flat keys of etcd v3: operations as requests, responses as results and errors.

The node ``/servers/a`` is the key ``/servers/a``, and its value the raw bytes, as every other program expects.  A
directory exists while a key below it exists, or while its marker does: the key with a slash at the end, ``/servers/``.

``keyspace`` maps nodes to keys.  ``read``, ``write``, ``append`` and ``delete`` build requests and parse their
responses.  ``txn_failure`` makes the error of a transaction whose compares failed, ``responses`` checks the shape of
responses, and ``events`` turns events of a watch into results.  No I/O.
"""

from __future__ import annotations

__all__: list[str] = []
