#!/bin/sh
# etcd's gateway: a TCP proxy that picks the members of the cluster in turn.
exec etcd gateway start \
    --endpoints=127.0.0.1:2379 \
    --listen-addr=127.0.0.1:23790 \
    --retry-delay=1s
