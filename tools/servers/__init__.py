"""Real etcd servers of every supported line, and the tests that need a server on each of them.

* ``3.5/``, ``3.6/``, ``3.7/``: a Go module each; ``go.mod`` names the version, ``go.sum`` pins the dependencies.
* ``lines.py``: the lines, and where their binaries are.  ``build.py``: building them with Go.
* ``run.py``: runs the tests on a server.  ``results.py``: the outcome, counted by folder, and the table of all runs.
* ``schema.py``, ``error_texts.py``: etcd's messages, RPCs and statuses by line, as the tables in ``tests/v3/tables``.
* ``__main__.py``: ``python -m tools.servers build`` ``python -m tools.servers test`` and so on.
"""
