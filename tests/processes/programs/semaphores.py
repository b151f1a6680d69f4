"""Holds a slot of the semaphore ``/slots/a`` until it is killed or reads a line; prints ``in`` when it has got one.

semaphores.py URL API LIMIT TTL
"""

from __future__ import annotations

import sys

import gevent

import getc
from getc.recipes import Semaphore

url, api, limit, ttl = sys.argv[1:]

with getc.etcd(url, api=api) as etcd, Semaphore(etcd, '/slots/a', int(limit), ttl=int(ttl)):
    print('in', flush=True)
    gevent.get_hub().threadpool.apply(sys.stdin.readline)
