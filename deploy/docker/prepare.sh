#!/bin/sh
# What compose.yaml needs and no repository should hold: two passwords, a private CA, a certificate for the name "keyward", and .env with
# the owner of the files. Runs the image keyward:0.1.0, or the program that KEYWARD names. What is there already stays.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
keyward() {
  if [ -n "${KEYWARD:-}" ]; then "$KEYWARD" "$@"
  else docker run --rm --network none --user "$(id -u):$(id -g)" --volume "$PWD/secrets:/secrets" --workdir / keyward:0.1.0 "$@"; fi
}
dir=/secrets
[ -z "${KEYWARD:-}" ] || dir=$PWD/secrets
for name in redis app; do
  [ -e "secrets/$name.password" ] || keyward gen-password --write "$dir/$name.password"
done
[ -e secrets/server.pem ] || keyward dev-certs --out "$dir" --host keyward
printf 'KEYWARD_UID=%s\nKEYWARD_GID=%s\n' "$(id -u)" "$(id -g)" >.env
echo "ready: docker compose up -d --wait"
