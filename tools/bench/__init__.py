"""How fast getc is beside other clients: ``make bench``, or ``python -m tools.bench --help``.

One etcd, one slice of work at a time, each client in a process and a virtual environment of its own.
All of them do a slice in every round, in random order, and what counts is the median over the rounds of
the ratio to another client in the same round: a machine that slows down slows all of them.

* ``cases.py``: what is measured.
* ``contestants/``: who is measured; one more is one small file (see ``roster.py``).
* ``worker/``: what runs in a contestant's process.
* ``performer.py``, ``environments.py``: that process, from outside.
* ``ground.py``: the etcd.
* ``conductor.py``: the rounds.
* ``crowds.py``: what thousands of daemons and nodes cost, which only getc is asked for.
* ``figures.py``, ``report.py``, ``tables.py``, ``picture.py``: what comes of it.
"""
