"""The tree on etcd v3's flat keys: operations as ranges and transactions, responses as results and errors.

The node ``/servers/a`` is the key ``/servers/a``, its value the raw bytes, as every other program expects.  A directory
is there when a key below it is, or when its marker is: the key with a slash at the end, ``/servers/``.

``paths`` maps nodes to keys, ``writing`` and ``deleting`` make transactions and read their outcome, ``reading`` reads
nodes and lists directories, ``events`` tells what a watch saw.  No I/O.
"""

from __future__ import annotations

__all__: list[str] = []
