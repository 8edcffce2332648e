#!/usr/bin/env bash
# Keyward, HAProxy, nginx, stunnel, hitch and Redis's own TLS side by side in one run, on a bare Debian or Ubuntu with a Rust toolchain:
# installs what is missing, builds Keyward, measures, prints tables, and leaves nothing running. Everything stays on 127.0.0.1.
#
#   benches/compare.sh                  a look at everything, one short round of each (about a quarter of an hour)
#   benches/compare.sh quick            does it all work: fewer clients, two subjects less (three minutes, five on a busy machine)
#   benches/compare.sh full             the tables to quote: 5 rounds, longer windows (an hour to an hour and a half; let the machine do nothing else)
#   benches/compare.sh full load        one part of it; the parts are:
#     load        CPU per request and throughput under redis-benchmark: 50, 500 and 2,000 clients, pipelines of 1 and 16
#     runs        the same for whole runs of redis-benchmark, from its start to its end, with handshakes and logins
#     sizes       as load, with values of 64 KiB and 1 MiB
#     syscalls    system calls per request, 50 clients
#     memory      memory of an idle TLS connection and the connections to Redis, with 1,000 and 5,000 clients
#     handshake   CPU of a TLS handshake (P-256, TLS 1.3, no resumption), AUTH, PING and close
#     stream      growth of memory while a value of 512 MiB passes, SET and GET
#
# What each number of "load", "sizes" and "syscalls" is: redis-benchmark is started, and when every client is past its handshake and
# some requests, a window of time is opened. In it, requests are those that Redis counted as executed (INFO commandstats), CPU is the
# processes' own CPU clocks (nanoseconds, user and system, threads that ended and child processes included). So neither handshakes nor
# the start nor the end are in the numbers. One window of SET and one of GET make one round. The rounds are interleaved: all subjects take
# their turn in each round, in an order that turns. A ratio ("x Redis TLS") is to Redis's own TLS in the same round; the table has the
# median of the rounds' ratios and, in brackets, the smallest and the largest: where those lie apart, do not believe the median.
# "others" under a table is the share of the machine that processes which are none of ours took meanwhile: it should be near 0.
#
#   columns   proxy, Redis, together   CPU in microseconds per request (which is seconds per million requests)
#             x Redis TLS              together, as a multiple of Redis's own TLS; the next one is that of the throughput
#
# Environment (defaults of quick / none / full in parentheses):
#   KEYWARD_BENCH_ROUNDS=5             rounds (1 / 1 / 5)
#   KEYWARD_BENCH_SECONDS=2            length of one window (0.5 / 1 / 2)
#   KEYWARD_BENCH_SHAPES="50x1 500x1"  clients x pipeline
#   KEYWARD_BENCH_SUBJECTS="keyward-shared-2 haproxy redis-tls"   keyward-{shared,dedicated}-WORKERS, {haproxy,nginx,hitch}[-WORKERS]
#                                      (2 workers if not said), stunnel, redis-tls, redis-plain
#   KEYWARD_BENCH_REQUESTS=100000      requests of one whole run (50000 / 100000 / 100000)
#   KEYWARD_BENCH_SIZES="65536 1048576"          bytes of the values of "sizes"
#   KEYWARD_BENCH_CONNECTIONS="1000 5000"        idle connections of "memory"
#   KEYWARD_BENCH_HANDSHAKES=500       handshakes of one round
#   KEYWARD_BENCH_STREAM_MB=512        size of the value of "stream"; Redis needs about three times as much memory
#   KEYWARD_BENCH_LIMIT=14400          seconds after which the run stops and prints what it has
#   KEYWARD_BENCH_JSON=FILE            every single measurement, for tables of your own
#   KEYWARD_BENCH_BINARY=FILE          a keyward that is built already
set -euo pipefail
cd "$(dirname "$0")/.."
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
need() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need redis-server redis-server
need redis-benchmark redis-tools
need haproxy haproxy
need stunnel stunnel4
need hitch hitch
need ss iproute2
need strace strace
need python3 python3
[ -n "${KEYWARD_BENCH_BINARY:-}" ] || need cc gcc
{ PATH=$PATH:/usr/sbin command -v nginx >/dev/null 2>&1 && [ -e /usr/lib/nginx/modules/ngx_stream_module.so ]; } || missing+=(nginx-light libnginx-mod-stream)
install() {
  as_root apt-get update -q >/dev/null && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" >/dev/null
}
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}" >&2
  # The packages' own services are not wanted: a policy file keeps them from starting.
  policy=/usr/sbin/policy-rc.d
  made_policy=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    made_policy=1
  fi
  install "${missing[@]}"
  [ -z "$made_policy" ] || as_root rm -f "$policy"
fi
# Not every distribution and kernel has a perf that fits; strace counts system calls too, if less faithfully.
perf --version >/dev/null 2>&1 || install linux-perf 2>/dev/null || echo "no linux-perf here: strace will count system calls" >&2
if [ -z "${KEYWARD_BENCH_BINARY:-}" ]; then
  echo "building keyward (the first time takes a few minutes)" >&2
  cargo build --release --quiet
  export KEYWARD_BENCH_BINARY=$PWD/target/release/keyward
fi
# Two descriptors a client in a proxy: thousands of clients need room.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
PATH=$PATH:/usr/sbin:/sbin PYTHONDONTWRITEBYTECODE=1 exec python3 benches/compare "$@"
