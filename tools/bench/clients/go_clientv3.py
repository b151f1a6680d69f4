"""etcd's own client in Go, as a program of its own: ``tools/interop/bench.go``.  Left out where there is no Go.

``tree-set`` is the guarded transaction that getc's ``set`` sends, and ``lock`` a Mutex of one session.  In the cases of
scale a Go program does what serves the same purpose: see ``tools/interop/bench_scale.go``.
"""

TITLE = 'Go (clientv3)'
API = 'v3'
ROLE = 'peer'
REQUIRES = ()
MODES = ('go',)
WATCHES = 5_000  # they share a connection
SCALE = True
