#!/usr/bin/env bash
# The main job, shown end to end on a bare Debian or Ubuntu with a Rust toolchain: installs redis-server if it is missing, starts a
# real one with a random password, makes certificates, starts Keyward, and proves over real TLS connections what it promises.
set -euo pipefail
cd "$(dirname "$0")/.."
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
command -v redis-server >/dev/null 2>&1 || missing+=(redis-server)
command -v redis-cli >/dev/null 2>&1 || missing+=(redis-tools)
command -v cc >/dev/null 2>&1 || missing+=(gcc libc6-dev)
python=/usr/bin/python3
[ -x "$python" ] && "$python" -c 'import ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}"
  as_root apt-get update -q >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qy --no-install-recommends "${missing[@]}" >/dev/null
fi
echo "building keyward (the first time takes a few minutes)"
cargo build --release --quiet
keyward=$PWD/target/release/keyward

dir=$(mktemp -d)
redis_pid='' keyward_pid=''
cleanup() {
  [ -z "$keyward_pid" ] || { kill "$keyward_pid" 2>/dev/null && wait "$keyward_pid" 2>/dev/null; } || true
  [ -z "$redis_pid" ] || { kill "$redis_pid" 2>/dev/null && wait "$redis_pid" 2>/dev/null; } || true
  rm -rf "$dir"
}
trap cleanup EXIT

echo "making two passwords and the certificates"
"$keyward" gen-password --write "$dir/redis.password" 2>/dev/null
"$keyward" gen-password --write "$dir/app.password" 2>/dev/null
"$keyward" dev-certs --out "$dir/certs" 2>/dev/null
app_password=$(cat "$dir/app.password")

echo "starting redis-server with a random password, on a unix socket of its own"
# The configuration comes by standard input: the password stands in no file but its own, and in no process list.
printf 'port 0\nunixsocket %s/redis.sock\nunixsocketperm 700\nsave ""\ndir %s\nrequirepass %s\n' \
  "$dir" "$dir" "$(cat "$dir/redis.password")" | redis-server - >"$dir/redis.log" &
redis_pid=$!
for _ in $(seq 200); do [ -S "$dir/redis.sock" ] && break; sleep 0.05; done

cat >"$dir/keyward.toml" <<TOML
[admin]
address = "127.0.0.1:0"

[[upstream]]
name          = "main"
url           = "unix://$dir/redis.sock"
password_file = "$dir/redis.password"

[[listener]]
name     = "gateway"
address  = "127.0.0.1:0"
upstream = "main"
tls      = { certificate_file = "$dir/certs/server.pem", key_file = "$dir/certs/server.key" }

[[user]]
name          = "default"
password_file = "$dir/app.password"
acl           = "safe"
TOML
"$keyward" check --quiet --config "$dir/keyward.toml"
echo "starting keyward"
"$keyward" run --config "$dir/keyward.toml" 2>"$dir/keyward.log" &
keyward_pid=$!
for _ in $(seq 200); do grep -q '"event":"ready"' "$dir/keyward.log" && break; sleep 0.05; done
address() { sed -n "s/.*\"event\":\"$1\".*\"address\":\"\([^\"]*\)\".*/\1/p" "$dir/keyward.log" | head -1; }
port=$(address listening); port=${port##*:}
admin=$(address admin_listening)
metrics() { "$python" -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())' "http://$admin/metrics"; }
metrics >"$dir/before"

failed=0
prove() { # what, expected beginning or pattern, then what was heard
  local what=$1 wanted=$2 heard=$3
  if printf '%s' "$heard" | grep -qE -- "$wanted"; then
    printf 'ok    %-44s %s\n' "$what" "$(printf '%s' "$heard" | head -1)"
  else
    printf 'FAIL  %-44s %s\n' "$what" "$heard"; failed=1
  fi
}
plain() { timeout 5 redis-cli -h localhost -p "$port" "$@" 2>&1 || true; }
cli() { plain --tls --cacert "$dir/certs/ca.pem" "$@"; }
as_app() { REDISCLI_AUTH=$app_password cli "$@"; }

echo
prove "no password: GET" '^NOAUTH' "$(cli GET secret)"
prove "a wrong password" 'WRONGPASS' "$(REDISCLI_AUTH=guess cli PING)"
prove "the right password: PING" '^PONG' "$(as_app PING)"
prove "SET (AUTH to Redis was injected)" '^OK' "$(as_app SET precious data)"
prove "FLUSHALL" '^NOPERM' "$(as_app FLUSHALL)"
prove "KEYS *" '^NOPERM' "$(as_app KEYS '*')"
prove "the data is still there: GET" '^data' "$(as_app GET precious)"
prove "redis:// instead of rediss://" 'this port needs TLS' "$(plain PING)"

if ! "$dir/venv/bin/python" -c 'import redis' >/dev/null 2>&1; then
  venv=$dir/venv
  if [ -x tests/.venv/bin/python ] && tests/.venv/bin/python -c 'import redis' >/dev/null 2>&1; then
    venv=$PWD/tests/.venv
  else
    "$python" -m venv "$venv" && "$venv/bin/pip" install -q --disable-pip-version-check redis==7.1.0
  fi
fi
prove "redis-py asyncio: from_url(\"rediss://...\")" '^ok' "$(KEYWARD_PASSWORD=$app_password timeout 20 "$venv/bin/python" - "$port" "$dir/certs/ca.pem" <<'PY' 2>&1 | tail -1
import asyncio, os, sys
import redis.asyncio as redis

async def main():
    url = f"rediss://:{os.environ['KEYWARD_PASSWORD']}@localhost:{sys.argv[1]}/0?ssl_ca_certs={sys.argv[2]}"
    r = redis.from_url(url, decode_responses=True, health_check_interval=30)
    async with r.pipeline(transaction=True) as pipe:
        _, value = await pipe.set("py", "thon").get("py").execute()
    assert value == "thon" and await r.ping()
    try:
        await r.flushall()
    except redis.RedisError as error:
        print("ok: a transaction, PING, and FLUSHALL refused:", type(error).__name__)
    await r.aclose()

asyncio.run(main())
PY
)"
prove "keyward healthcheck" '^healthy' "$(KEYWARD_ADMIN=$admin REDIS_URL=unix://$dir/redis.sock "$keyward" healthcheck 2>&1)"

echo
echo "metrics that moved:"
metrics >"$dir/after"
diff "$dir/before" "$dir/after" | sed -n 's/^> \(keyward_\(auth_failures\|commands_denied\|commands_total\|tls_handshake_failures_total\|connections_total\).*\)/  \1/p' || true
for secret in "$app_password" "$(cat "$dir/redis.password")"; do
  if grep -qF -- "$secret" "$dir/keyward.log" "$dir/after"; then echo "FAIL  a password is in the log or the metrics"; failed=1; fi
done

echo
if [ "$failed" = 0 ]; then
  echo "All of it holds. How to go on:"
  echo "  target/release/keyward dev            the same to play with: it stays until Ctrl-C"
  echo "  deploy/gateway.toml, README.md        a gateway or a sidecar of your own"
  echo "  tests/run.sh                          every test"
else
  echo "Something failed; Keyward's log:"; cat "$dir/keyward.log"
fi
exit "$failed"
