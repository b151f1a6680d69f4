"""A Go program on etcd's own client, ``go.etcd.io/etcd/client/v3``, for tests of interoperability and the benchmark.

``make interop`` builds it into ``.interop``.  ``tests/support/interop.py`` drives it in tests, and ``tools/bench``
measures it.

* ``go.mod``, ``go.sum``: the versions.
* ``main.go``: the two subcommands, ``serve`` and ``bench``.
* ``serve.go``: commands and events.  ``kv.go``: reads, writes, transactions, watches, leases.  ``concurrency.go``:
  sessions, Mutex, Election, STM.  ``recipes.go``: RWMutex, queues, barriers.  ``naming.go``: endpoints, gRPC resolver.
* ``build.py``: builds the program, and finds it.  ``__main__.py``: ``python -m tools.interop``.
"""
