#!/usr/bin/env bash
# The systemd units and their files, by systemd's own tools.
#   systemd.sh KEYWARD
set -euo pipefail
keyward=$(realpath "$1")
cd "$(dirname "$0")/../../deploy/systemd"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# It only warns of unknown keys, so nothing must be said at all. The programs must be there.
sed "s#/usr/bin/keyward#$keyward#" keyward.service >"$dir/keyward.service"
cp keyward.socket "$dir"
said=$(systemd-analyze verify --man=no "$dir/keyward.service" "$dir/keyward.socket" 2>&1 || true)
[ -z "$said" ] || { echo "systemd-analyze verify: $said"; exit 1; }
# Exposure in tenths: at most 1.5, of 10.
systemd-analyze security --offline=yes --threshold=15 --no-pager "$dir/keyward.service" >"$dir/exposure" ||
  { cat "$dir/exposure"; exit 1; }
tail -1 "$dir/exposure"

mkdir -p "$dir/root/etc/keyward/secrets"
echo secret >"$dir/root/etc/keyward/secrets/redis-password"
systemd-sysusers --root="$dir/root" "$PWD/keyward.sysusers" 2>/dev/null
grep -q '^keyward:' "$dir/root/etc/passwd"
if [ "$(id -u)" = 0 ]; then
  systemd-tmpfiles --root="$dir/root" --create "$PWD/keyward.tmpfiles"
  modes=$(cd "$dir/root/etc/keyward" && stat -c '%a %n' . secrets secrets/redis-password | tr '\n' ' ')
  [ "$modes" = '750 . 750 secrets 640 secrets/redis-password ' ] || { echo "systemd-tmpfiles: $modes"; exit 1; }
fi

# What the unit runs before each start and reload, with every line of the default file in force.
printf '[[upstream]]\nname = "main"\nurl = "unix:///run/redis.sock"\n[[listener]]\nname = "local"\naddress = "unix:%s"\nsocket_mode = "0644"\nlogin = "none"\nunsafe_no_login = true\n' \
  "$dir/keyward.sock" >"$dir/keyward.toml"
mapfile -t variables < <(sed -n 's/^#\(KEYWARD_.*\)/\1/p' keyward.default)
if ! env -i "${variables[@]}" "KEYWARD_CONFIG=$dir/keyward.toml" "$keyward" check >"$dir/check" 2>&1 ||
  [ "${#variables[@]}" -lt 3 ] || grep -q 'no environment variable' "$dir/check"; then
  cat "$dir/check"
  exit 1
fi

# Sockets as systemd really gives them: its own tool opens one (mode 0644), waits for a client and starts the program.
systemd-socket-activate --listen="$dir/keyward.sock" --fdname=local \
  "$keyward" run --config "$dir/keyward.toml" --admin off >"$dir/activated" 2>&1 &
activated=$!
answer=$(timeout 60 python3 - "$dir/keyward.sock" <<'END'
import socket, sys, time
client = socket.socket(socket.AF_UNIX)
while client.connect_ex(sys.argv[1]):
    time.sleep(0.02)
client.sendall(b"NOSUCHCOMMAND\r\n")
print(client.recv(100).decode().split(" ")[0])
END
) || true
kill "$activated" && wait "$activated" || true
[ "$answer" = -NOPERM ] || [ "$answer" = -ERR ] || { echo "no answer through the socket of systemd: $answer"; cat "$dir/activated"; exit 1; }
[ -S "$dir/keyward.sock" ] || { echo "the socket of systemd was taken away"; exit 1; }
echo "the unit, its user, its directories and its default file are good"
