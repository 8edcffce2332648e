#!/usr/bin/env bash
# What takes clients off the connections that they share: real clients' traffic through a Keyward with TLS and `connections = "shared"`,
# and the same at Redis's own TLS, on a bare Debian or Ubuntu with a Rust toolchain. Installs what is missing (the clients into
# target/pins), builds Keyward, prints a table, and leaves nothing running. Everything stays on 127.0.0.1; three to four minutes.
#
#   benches/pins.sh                    all traffic
#   benches/pins.sh celery sidekiq     some of it; there is
#     redis-py-cache      50 tasks of asyncio: SET, GET, hashes, pipelines, MULTI pipelines
#     redis-py-watch      20 tasks with WATCH ... MULTI ... EXEC
#     redis-py-lock       20 tasks with redis-py's Lock, which a script releases
#     redis-py-pubsub     20 subscribers, 2 publishers
#     redis-py-consumers  10 of BRPOP, 10 of XREADGROUP, 5 producers
#     celery              2 workers of 4 processes, 8 threads with tasks, groups, chords, retries; results in Redis
#     bullmq              2 worker processes, a process with 2 queues: jobs, delays, priorities, second tries, flows, a scheduler
#     sidekiq             2 processes of 10 threads, 4 threads that give jobs: at once, later, in bulk, with second tries; statistics
#
#   columns   connections without Keyward   to Redis, at peak, when the clients use Redis's own TLS
#             clients, to Redis             connections at peak, of clients to Keyward and of all to Redis (Keyward's health check is one)
#             own                           of those to Redis, at peak, the ones that belonged to one session at the time
#             requests, shared              how many Keyward forwarded; the share of them that travelled on shared connections
#             per flush                     requests that left together on a shared connection, on average
#             errors                        what clients and workers met that they must not, also unexpected values; 0 or the run fails
#             pinned                        sessions that needed a connection for longer than one request: keyward_sessions_pinned at
#                                           peak and, in brackets, keyward_session_pins_total
#   "Own" is more than "pinned" by those that wait in BRPOP and the like, or have one request under way that may not be shared.
#   Peaks are looked for every 50 ms; the counts have no gaps.
#
# Environment:
#   KEYWARD_BENCH_SECONDS=8                     how long each traffic lasts
#   KEYWARD_BENCH_SUBJECT=keyward-shared-1      keyward-{shared,dedicated}-WORKERS
#   KEYWARD_BENCH_LIMIT=1800                    seconds after which the run stops and prints what it has
#   KEYWARD_BENCH_BINARY=FILE                   a keyward that is built already
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/packages.sh
need redis-server redis-server
need python3 python3
need node nodejs
need npm npm
need ruby ruby
need sidekiq ruby-sidekiq
[ -n "${KEYWARD_BENCH_BINARY:-}" ] || need cc gcc
# python3 on the PATH may be one without the venv module; Debian's own has it.
python=python3
"$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || python=/usr/bin/python3
"$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
install_missing >&2
# Clients of known versions, so that two runs can be compared; Sidekiq is the distribution's.
tools=$PWD/target/pins
clients="celery[redis]==5.7.0 redis==8.1.0 bullmq@6.7.0 ioredis@5.11.1"
if [ "$(cat "$tools/installed" 2>/dev/null)" != "$clients" ]; then
  echo "installing $clients" >&2
  rm -rf "$tools"
  mkdir -p "$tools"
  "$python" -m venv "$tools/venv"
  # shellcheck disable=SC2086 # two words each
  "$tools/venv/bin/pip" install -q --disable-pip-version-check ${clients%% bullmq*}
  # shellcheck disable=SC2086
  npm install --silent --no-audit --no-fund --prefix "$tools" ${clients#*redis==* }
  echo "$clients" >"$tools/installed"
fi
if [ -z "${KEYWARD_BENCH_BINARY:-}" ]; then
  echo "building keyward (the first time takes a few minutes)" >&2
  cargo build --release --quiet
  export KEYWARD_BENCH_BINARY=$PWD/target/release/keyward
fi
PYTHONDONTWRITEBYTECODE=1 PINS_TOOLS=$tools exec python3 benches/pins "$@"
