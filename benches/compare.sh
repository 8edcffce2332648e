#!/usr/bin/env bash
# Keyward (with shared and with dedicated connections to Redis), HAProxy, nginx, stunnel and Redis's own TLS side by side under
# redis-benchmark, with plaintext Redis for reference.
# Interleaved rounds; medians of throughput and of CPU seconds per million requests (from /proc) of the proxy, of Redis, and together.
#   KEYWARD_BENCH_ROUNDS=5 KEYWARD_BENCH_REQUESTS=200000 KEYWARD_BENCH_CLIENTS="50 500" KEYWARD_BENCH_PIPELINES="1 16"
#   KEYWARD_BENCH_WORKERS="2 1"   worker threads; one Keyward of each kind for each number
#   KEYWARD_BENCH_PEERS="haproxy nginx stunnel"
set -euo pipefail
cd "$(dirname "$0")/.."
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
missing=()
for pair in redis-server:redis-server redis-benchmark:redis-tools haproxy:haproxy stunnel:stunnel4; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
done
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing+=(libnginx-mod-stream nginx-light)
if [ ${#missing[@]} -gt 0 ]; then
  as_root apt-get update -q >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >/dev/null
fi
cargo build --release --quiet
keyward=$PWD/target/release/keyward
ulimit -n "$(ulimit -Hn)"
dir=$(mktemp -d)
pids=()
cleanup() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$dir"; }
trap cleanup EXIT
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

"$keyward" gen-password --write "$dir/password" 2>/dev/null
password=$(cat "$dir/password")
"$keyward" dev-certs --out "$dir" 2>/dev/null
cat "$dir/server.pem" "$dir/server.key" >"$dir/both.pem"
chmod 600 "$dir/both.pem"
plain=$(port) tls=$(port) ha=$(port) ng=$(port) stun=$(port)
common="save \"\"\ndir $dir\nrequirepass $password\nmaxclients 20000\n"
printf "port $plain\nbind 127.0.0.1\ntls-port $tls\ntls-cert-file $dir/server.pem\ntls-key-file $dir/server.key\ntls-ca-cert-file $dir/ca.pem\ntls-auth-clients no\ntls-protocols TLSv1.3\n$common" |
  redis-server - >"$dir/redis.log" & redis=$!; pids+=("$redis")
cat >"$dir/haproxy.cfg" <<CFG
global
  nbthread 2
  maxconn 5000
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen redis
  bind 127.0.0.1:$ha ssl crt $dir/both.pem
  server redis 127.0.0.1:$plain
CFG
haproxy -f "$dir/haproxy.cfg" -db >"$dir/haproxy.log" 2>&1 & haproxy=$!; pids+=("$haproxy")
printf "foreground = yes\npid =\nsyslog = no\n[redis]\naccept = 127.0.0.1:$stun\nconnect = 127.0.0.1:$plain\ncert = $dir/both.pem\nsslVersionMin = TLSv1.3\n" >"$dir/stunnel.conf"
stunnel "$dir/stunnel.conf" >"$dir/stunnel.log" 2>&1 & stunnel=$!; pids+=("$stunnel")
cat >"$dir/nginx.conf" <<CFG
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 2;
daemon off;
master_process on;
pid $dir/nginx.pid;
error_log $dir/nginx.log;
events { worker_connections 10000; }
stream {
  server {
    listen 127.0.0.1:$ng ssl;
    ssl_certificate $dir/server.pem;
    ssl_certificate_key $dir/server.key;
    ssl_protocols TLSv1.3;
    proxy_pass 127.0.0.1:$plain;
  }
}
CFG
nginx -c "$dir/nginx.conf" 2>"$dir/nginx.err" & nginx=$!; pids+=("$nginx")
subjects=()
for workers in ${KEYWARD_BENCH_WORKERS:-2}; do
  for mode in shared dedicated; do
    front=$(port)
    REDIS_URL=redis://127.0.0.1:$plain/0 REDIS_PASSWORD_FILE=$dir/password KEYWARD_LISTEN=127.0.0.1:$front KEYWARD_ADMIN=127.0.0.1:0 \
      KEYWARD_TLS_CERT=$dir/server.pem KEYWARD_TLS_KEY=$dir/server.key KEYWARD_PASSWORD_FILE=$dir/password KEYWARD_ACL=safe \
      KEYWARD_WORKERS=$workers KEYWARD_CONNECTIONS=$mode KEYWARD_LOG=error "$keyward" run 2>>"$dir/keyward.log" &
    pids+=("$!")
    subjects+=("keyward-$mode-$workers:$front:$!")
  done
done
for peer in ${KEYWARD_BENCH_PEERS:-haproxy nginx stunnel}; do
  case $peer in
    haproxy) subjects+=("haproxy:$ha:$haproxy") ;;
    nginx) subjects+=("nginx:$ng:$nginx") ;;
    stunnel) subjects+=("stunnel:$stun:$stunnel") ;;
  esac
done
export REDISCLI_AUTH=$password
for p in $tls $(printf '%s\n' "${subjects[@]}" | cut -d: -f2); do
  for _ in $(seq 200); do
    [ "$(redis-cli -h 127.0.0.1 -p "$p" --tls --cacert "$dir/ca.pem" PING 2>/dev/null)" = PONG ] && break
    sleep 0.05
  done
done

REDIS_PID=$redis DIR=$dir CA=$dir/ca.pem python3 - "${subjects[@]}" "redis-tls:$tls:0" "redis-plain:$plain:0" <<'PY'
import os, re, statistics, subprocess, sys

rounds = int(os.environ.get("KEYWARD_BENCH_ROUNDS", "3"))
requests = int(os.environ.get("KEYWARD_BENCH_REQUESTS", "200000"))
clients = os.environ.get("KEYWARD_BENCH_CLIENTS", "50 500").split()
pipelines = os.environ.get("KEYWARD_BENCH_PIPELINES", "1 16").split()
tick = os.sysconf("SC_CLK_TCK")
redis = int(os.environ["REDIS_PID"])
subjects = [(n, p, int(pid)) for n, p, pid in (a.split(":") for a in sys.argv[1:])]

def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]

def cpu(pid):
    if not pid:
        return 0.0
    if not os.path.exists(f"/proc/{pid}"):
        raise SystemExit(f"process {pid} has ended: " + open(os.environ["DIR"] + "/haproxy.log").read())
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    # Workers that are processes of their own (nginx) count too.
    return (int(fields[11]) + int(fields[12])) / tick + sum(cpu(child) for child in children(pid))

def run(name, port, pid, c, p):
    n = requests * (4 if p != "1" else 1)
    command = ["redis-benchmark", "-h", "127.0.0.1", "-p", port, "-a", os.environ["REDISCLI_AUTH"], "-q", "-d", "64", "-r", "10000",
               "-n", str(n), "-c", c, "-P", p, "-t", "set,get"]
    if name != "redis-plain":
        command += ["--tls", "--cacert", os.environ["CA"]]
    before = cpu(pid), cpu(redis)
    out = subprocess.run(command, capture_output=True, text=True, timeout=600).stdout.replace("\r", "\n")
    after = cpu(pid), cpu(redis)
    rates = [float(x) for x in re.findall(r"(?:SET|GET): ([0-9.]+) requests per second", out)]
    if len(rates) != 2:
        raise SystemExit(f"{name}: redis-benchmark failed:\n{out}")
    million = 2 * n / 1e6
    return sum(rates) / 2, (after[0] - before[0]) / million, (after[1] - before[1]) / million

results = {}
for _ in range(rounds):
    for c in clients:
        for p in pipelines:
            for name, port, pid in subjects:
                results.setdefault((c, p, name), []).append(run(name, port, pid, c, p))

print(f"64-byte values, GET and SET, medians of {rounds} interleaved rounds; CPU in seconds per million requests")
print(f"{'clients':>7} {'pipe':>4} {'':20} {'requests/s':>11} {'CPU proxy':>10} {'CPU Redis':>10} {'together':>9} {'x Redis TLS':>12}")
for c in clients:
    for p in pipelines:
        med = {n: [statistics.median(x) for x in zip(*results[c, p, n])] for n, _, _ in subjects}
        base = sum(med["redis-tls"][1:])
        for name, _, _ in subjects:
            rate, proxy, server = med[name]
            print(f"{c:>7} {p:>4} {name:20} {rate:11.0f} {proxy:10.2f} {server:10.2f} {proxy + server:9.2f} {(proxy + server) / base:12.2f}")
        if (c, p, "haproxy") in results:
            for name, _, _ in subjects:
                if name.startswith("keyward"):
                    print(f"{'':13}{name} : haproxy    CPU of the proxy {med[name][1] / med['haproxy'][1]:.2f}, throughput {med[name][0] / med['haproxy'][0]:.2f}")
PY
