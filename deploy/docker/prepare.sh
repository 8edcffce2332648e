#!/bin/sh
# What compose.yaml needs and no repository should hold: two passwords, Redis's users, a private CA, a certificate for the name "keyward",
# and .env with the owner of the files. Runs the image keyward:0.1.0, or the program that KEYWARD names. What is there already stays.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
program=${KEYWARD:-}
unset KEYWARD
dir=/secrets
[ -z "$program" ] || dir=$PWD/secrets
# As in compose.yaml; `keyward acl upstream` goes by it.
export REDIS_URL=unix://keyward@/run/redis/redis.sock REDIS_PASSWORD_FILE="$dir/redis.password"
export KEYWARD_USER=app KEYWARD_PASSWORD_FILE="$dir/app.password" KEYWARD_ACL=safe
keyward() {
  if [ -n "$program" ]; then
    "$program" "$@"
  else
    docker run --rm --network none --user "$(id -u):$(id -g)" --volume "$PWD/secrets:/secrets" --workdir / \
      --env REDIS_URL --env REDIS_PASSWORD_FILE --env KEYWARD_USER --env KEYWARD_PASSWORD_FILE --env KEYWARD_ACL keyward:0.1.0 "$@"
  fi
}

for name in redis app; do
  [ -e "secrets/$name.password" ] || keyward gen-password --write "$dir/$name.password"
done
[ -e secrets/server.pem ] || keyward dev-certs --out "$dir" --host keyward
if [ ! -e secrets/redis.acl ]; then
  # ACL SETUSER keyward on ..., the form for Redis's own command, as a line of an ACL file.
  rules=$(keyward acl upstream)
  printf 'user default off\nuser %s >%s\n' "${rules#ACL SETUSER }" "$(cat secrets/redis.password)" >secrets/redis.acl
fi
printf 'KEYWARD_UID=%s\nKEYWARD_GID=%s\n' "$(id -u)" "$(id -g)" >.env
echo "ready: docker compose up -d --wait"
