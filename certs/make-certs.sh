#!/usr/bin/env bash
# A development CA and what it issues, in certs/out. Further host names: certs/make-certs.sh --host NAME
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo run --release --quiet -- dev-certs --out certs/out "$@"
