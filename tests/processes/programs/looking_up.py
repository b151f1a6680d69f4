"""Finds an etcd by DNS SRV, in a process and in its forked child, and prints the endpoints that each uses.

    looking_up.py URL patched|plain

The DNS server is a greenlet of this process, which a blocking query would stop.
"""

from __future__ import annotations

import os
import sys

if sys.argv[2] == 'patched':
    from gevent import monkey

    monkey.patch_all()

import dns.message
import dns.resolver
import dns.rrset
import gevent
import gevent.socket

import getc

url, kind = sys.argv[1:]
port = url.rpartition(':')[2]
sock = gevent.socket.socket(gevent.socket.AF_INET, gevent.socket.SOCK_DGRAM)
sock.bind(('127.0.0.1', 0))


def serve() -> None:
    while True:
        data, peer = sock.recvfrom(4096)
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        name = query.question[0].name
        if 'ssl' not in str(name):
            response.answer.append(dns.rrset.from_text(name, 60, 'IN', 'SRV', f'0 0 {port} localhost.'))
        sock.sendto(response.to_wire(), peer)


gevent.spawn(serve)
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers = ['127.0.0.1']
resolver.port = sock.getsockname()[1]
dns.resolver.default_resolver = resolver

etcd = getc.etcd('etcd+srv://example.com')
etcd.set('/a', '1')
print('parent', etcd.get('/a').value, *etcd.endpoints, flush=True)
pid = os.fork()
if not pid:
    if kind == 'plain':
        gevent.reinit()
    print('child', etcd.get('/a').value, *etcd.endpoints, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
etcd.close()
