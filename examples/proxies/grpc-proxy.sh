#!/bin/sh
# etcd's gRPC proxy: one watch of etcd for many clients that watch the same range.
exec etcd grpc-proxy start \
    --endpoints=127.0.0.1:2379 \
    --listen-addr=127.0.0.1:23790 \
    --advertise-client-url=127.0.0.1:23790 \
    --dial-keepalive-time=10s \
    --dial-keepalive-timeout=5s
