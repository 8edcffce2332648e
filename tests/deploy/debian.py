"""The Debian package: what is in it, that it starts nothing by itself, and that its configuration is good once the secrets are there.

    debian.py KEYWARD

It is made with this program by the same script as a release, looked at by dpkg-deb and, where it is installed, lintian, and installed,
upgraded and purged in a directory of its own (as root).
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Documentation besides.
EXPECTED = {
    "./etc/default/keyward": "-rw-r--r--",
    "./etc/keyward/keyward.toml": "-rw-r--r--",
    "./usr/bin/keyward": "-rwxr-xr-x",
    "./usr/lib/systemd/system/keyward.service": "-rw-r--r--",
    "./usr/lib/systemd/system/keyward.socket": "-rw-r--r--",
    "./usr/lib/sysusers.d/keyward.conf": "-rw-r--r--",
    "./usr/lib/tmpfiles.d/keyward.conf": "-rw-r--r--",
    "./usr/share/bash-completion/completions/keyward": "-rw-r--r--",
    "./usr/share/fish/vendor_completions.d/keyward.fish": "-rw-r--r--",
    "./usr/share/man/man1/keyward.1.gz": "-rw-r--r--",
    "./usr/share/zsh/vendor-completions/_keyward": "-rw-r--r--",
}
DOCUMENTATION = "./usr/share/doc/keyward/"
DOCUMENTS = {"README.md", "changelog.Debian.gz", "copyright", "docs/configuration.md", "docs/metrics.md", "docs/runbook.md",
             "examples/keyward.toml", "examples/users.acl", "sbom.cdx.json"}
# The synopsis is Cargo's description; no bug of Debian asks for this package.
NOT_OURS = "description-synopsis-starts-with-article,initial-upload-closes-no-bugs"


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}")
    return done.stdout


def demand(condition, fault):
    if not condition:
        raise SystemExit(fault)


def listing(package):
    """Mode of every file; nobody but root may write."""
    files = {}
    for line in run("dpkg-deb", "--contents", package).splitlines():
        mode, owner, _, _, _, name = line.split(None, 5)
        demand(owner in {"0/0", "root/root"} and "w" not in mode[5] + mode[8], f"others may write: {line}")
        if not mode.startswith("d"):
            files[name] = mode
    return files


def environment(**more):
    return {**{name: value for name, value in os.environ.items() if not name.startswith(("KEYWARD_", "REDIS_"))}, **more}


def check(program, file):
    done = subprocess.run([program, "check", "--show", "--config", file], env=environment(), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def shipped_configuration(root):
    """Refused before the secrets are there, good afterwards; it listens on loopback alone."""
    program, file = root / "usr/bin/keyward", root / "etc/keyward/keyward.toml"
    demand("keyward" in run(program, "--version"), "the program does not run")
    here = root / "etc/keyward/here.toml"
    here.write_text(file.read_text().replace("/etc/keyward/secrets", str(root / "etc/keyward/secrets")))
    code, _, said = check(program, here)
    for secret in ("redis-password", "app-password"):
        demand(code == 78 and secret in said, f"without secrets: {code}\n{said}")
    secrets = root / "etc/keyward/secrets"
    secrets.mkdir()
    run(program, "gen-password", "--write", secrets / "app-password")
    run(program, "gen-password", "--write", secrets / "redis-password")
    code, shown, said = check(program, here)
    demand(code == 0, f"with secrets: {code}\n{said}")
    addresses = re.findall(r"^\[+(?:listener|admin)\S* .*?address = (\S+)", shown, re.M)
    demand(len(addresses) == 2 and all(address.startswith("127.0.0.1:") for address in addresses), shown)


def installation(package, root):
    """As dpkg does it, under another root: scripts run with DPKG_ROOT."""
    (root / "var/lib/dpkg/updates").mkdir(parents=True)
    (root / "var/lib/dpkg/info").mkdir()
    (root / "var/lib/dpkg/status").touch()
    (root / "etc").mkdir()

    def dpkg(*arguments):
        run("dpkg", f"--root={root}", "--force-script-chrootless", "--force-depends", "--force-confold", *arguments,
            env=environment(DEBIAN_FRONTEND="noninteractive"))

    dpkg("--install", package)
    demand(re.search("^keyward:", (root / "etc/passwd").read_text(), re.M), "no user")
    enabled = [path for path in root.rglob("*.wants/*") if path.name.startswith("keyward")]
    demand(not enabled, f"it is enabled: {enabled}")
    file = root / "etc/keyward/keyward.toml"
    mine = file.read_text() + "# mine\n"
    file.write_text(mine)
    dpkg("--install", package)
    demand(file.read_text() == mine, "an upgrade took the operator's configuration away")
    dpkg("--remove", "keyward")
    demand(file.exists() and not (root / "usr/bin/keyward").exists(), "removing takes the program and leaves the configuration")
    dpkg("--purge", "keyward")
    demand(not file.exists(), "purging leaves the configuration")


def main(keyward):
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    newest = (ROOT / "deploy/debian/changelog").read_text().split("\n", 1)[0]
    demand(newest.startswith(f"keyward ({version}-1) "), f"deploy/debian/changelog begins with {newest}, and Cargo.toml has {version}")
    package = Path(run(ROOT / "deploy/debian/build.sh", keyward).splitlines()[-1])
    demand(package.name.startswith(f"keyward_{version}-1_"), package)

    files = listing(package)
    documents = {name.removeprefix(DOCUMENTATION) for name in files if name.startswith(DOCUMENTATION)}
    others = {name: mode for name, mode in files.items() if not name.startswith(DOCUMENTATION)}
    demand(others == EXPECTED, f"in the package, or not: {sorted(set(others.items()) ^ set(EXPECTED.items()))}")
    demand(documents >= DOCUMENTS, f"documents: {sorted(DOCUMENTS - documents)}")
    depends = run("dpkg-deb", "--field", package, "Depends")
    demand("libc6" in depends and "systemd-sysusers" in depends, depends)
    with tempfile.TemporaryDirectory(prefix="keyward-debian-") as name:
        dir = Path(name)
        run("dpkg-deb", "--control", package, dir / "control")
        conffiles = (dir / "control/conffiles").read_text().split()
        demand(sorted(conffiles) == ["/etc/default/keyward", "/etc/keyward/keyward.toml"], conffiles)
        run("dpkg-deb", "--extract", package, dir / "extracted")
        shipped_configuration(dir / "extracted")
        if os.geteuid() == 0:
            (dir / "installed").mkdir()
            installation(package, dir / "installed")
    looked = "lintian is not installed"
    if shutil.which("lintian"):
        run("lintian", "--allow-root", "--fail-on", "error,warning", "--suppress-tags", NOT_OURS, package)
        looked = "lintian finds nothing"
    print(f"{package.name}: {len(files)} files; {looked}")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()))
