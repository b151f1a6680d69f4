"""Compares the speed of getc with that of other clients: ``make bench``, or ``python -m tools.bench --help``.

One etcd, one slice of work at a time, each client in a process and a virtual environment of its own.  In every round
all clients run one slice, in random order.  The result is the median over the rounds of the ratio to another client in
the same round, so that a machine that slows down affects all clients alike.

* ``cases.py``: the cases.
* ``clients/``: the clients; each one is a small file (see ``registry.py``).
* ``worker/``: the code that runs in the process of a client.
* ``worker_process.py``, ``environments.py``: starts that process in its virtual environment.
* ``server.py``: prepares the etcd.
* ``runner.py``: runs the rounds.
* ``scale.py``: the cost of thousands of daemons and nodes, for getc and Go.
* ``against.py``: compares with the getc of another commit.
* ``frames.py``: counts the Python calls of single operations.
* ``stats.py``, ``report.py``, ``tables.py``, ``chart.py``: statistics and reports.
"""
