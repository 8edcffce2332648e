#!/usr/bin/env bash
# Everything that has to pass, on a bare Debian or Ubuntu with a Rust toolchain: installs what is missing, then runs every check
# and every test. Longer proofs are the same command with larger numbers:
#   KEYWARD_FUZZ_SECONDS=600   seconds for each fuzz target (20)
#   KEYWARD_ORACLE_PAIRS=100000  user and command pairs put before the live server (3000)
#   KEYWARD_TEST_BIG_MB=512    size of the big values (64)
#   KEYWARD_MODEL_SESSIONS=2500  random sessions in each of the four tests of the model (120), of
#   KEYWARD_MODEL_STEPS=80     so many steps each (40); KEYWARD_MODEL_SEED=… repeats a run that failed, by the seed it printed
#   KEYWARD_TEST_SOURCES=10000000      sources that guess passwords, for memory and time (200000)
#   KEYWARD_TEST_ATTACK_SECONDS=30     how long each attack on the login lasts (1)
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
say() { printf '\n== %s\n' "$*"; }
. tests/packages.sh

say "what the tests need"
need redis-server redis-server
need redis-cli redis-tools
need redis-benchmark redis-tools
need promtool prometheus
need fail2ban-regex fail2ban
need openssl openssl
need cc gcc
need python3 python3
python3 -c 'import ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
install_missing
if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
  rustup component add rustfmt clippy
fi
# python3 on the PATH may be one without the venv module; Debian's own has it.
python=python3
"$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || python=/usr/bin/python3
if ! tests/.venv/bin/python -c 'import redis; assert redis.__version__ == "7.1.0"' >/dev/null 2>&1; then
  rm -rf tests/.venv
  "$python" -m venv tests/.venv
  tests/.venv/bin/pip install -q --disable-pip-version-check redis==7.1.0
fi
# Two descriptors a client: the tests that open many need room.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

say "form: cargo fmt"
cargo fmt --check
say "form: cargo clippy"
cargo clippy --all-targets --quiet -- -D warnings
say "tests: cargo test"
# A test that hangs is a fault of its own: the name of the last one that runs is in the output.
timeout --kill-after=10 1500 cargo test
say "tests: the end-to-end tests again with connections to Redis that clients share"
KEYWARD_TEST_CONNECTIONS=shared timeout --kill-after=10 900 cargo test --test e2e
say "documentation: cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet --lib

say "deployment: images, manifests, the unit, rules, dashboard, pages"
cargo build --quiet
bash tests/deploy/run.sh target/debug/keyward

say "fuzzing"
seconds=${KEYWARD_FUZZ_SECONDS:-20}
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
  if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    cargo install --quiet cargo-fuzz --version 0.13.2 --locked
  fi
  for target in $(cd tests/fuzz && cargo +nightly fuzz list --fuzz-dir . 2>/dev/null); do
    echo "$target for $seconds s"
    # 2 GiB and 10 s for one input: hanging and hoarding are faults too.
    # Text is hard to guess: some targets begin with examples and have a list of words.
    inputs=("tests/fuzz/corpus/$target")
    options=()
    mkdir -p "${inputs[0]}"
    [ ! -d "tests/fuzz/seeds/$target" ] || inputs+=("tests/fuzz/seeds/$target")
    [ ! -f "tests/fuzz/$target.dict" ] || options+=("-dict=tests/fuzz/$target.dict")
    if ! cargo +nightly fuzz run --fuzz-dir tests/fuzz "$target" "${inputs[@]}" -- ${options[@]+"${options[@]}"} \
        -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=0 >target/fuzz-"$target".log 2>&1; then
      tail -40 target/fuzz-"$target".log
      exit 1
    fi
    grep -E '^(Done|#[0-9]+.*DONE)' target/fuzz-"$target".log || tail -2 target/fuzz-"$target".log
  done
else
  echo "skipped: no nightly toolchain"
fi

say "all of it passed in $((SECONDS - started)) s"
