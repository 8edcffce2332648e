#!/usr/bin/env bash
# Makes the Debian package: target/debian/keyward_VERSION_ARCHITECTURE.deb. It runs on the Debian release it was made on, and later ones.
#   deploy/debian/build.sh             builds the release program first
#   deploy/debian/build.sh PROGRAM     packs this one
# Needs cargo-deb, which is built and installed by cargo if it is missing (a minute or two), and dpkg-dev.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo_deb=3.8.0

if ! cargo deb --version >/dev/null 2>&1; then
  cargo install --quiet cargo-deb --version "$cargo_deb" --locked
fi
if [ $# -gt 0 ]; then
  program=$(realpath "$1")
else
  cargo build --release --locked --bin keyward
  program=$(cargo metadata --format-version 1 --no-deps --locked | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/keyward
fi

# cargo-deb takes programs from the release directory of cargo's target directory: this is one of its own.
stage=$PWD/target/debian-stage
rm -rf "$stage"
mkdir -p "$stage/release"
cp "$program" "$stage/release/keyward"
"$program" man >"$stage/keyward.1"
"$program" completions bash >"$stage/keyward.bash"
"$program" completions zsh >"$stage/_keyward"
"$program" completions fish >"$stage/keyward.fish"
deploy/sbom.py "$stage/sbom.cdx.json"

mkdir -p target/debian
CARGO_TARGET_DIR=$stage cargo deb --quiet --no-build --locked --strip --no-dbgsym --output "$PWD/target/debian/"
