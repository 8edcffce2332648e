"""The pages under deploy/: their configurations are good, their links lead somewhere, every alert has its paragraph, and what an
administrator is told to type into a shell does what it says.

    documentation.py KEYWARD
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import names
from live import Child, clean_environment, wait_for

ROOT = names.DEPLOY.parent
PAGES = sorted(names.DEPLOY.rglob("*.md"))
SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-a-long-secret\n"


def configurations(text):
    """Blocks that are marked ```toml keyward."""
    return re.findall(r"^```toml keyward\n(.*?)^```", text, re.M | re.S)


def good(text, keyward, dir):
    """What `keyward check` finds wrong, with the files that the configuration names made in a directory of this test."""
    place = {"certificate_file": "server.pem", "key_file": "server.key", "ca_file": "ca.pem", "client_ca_file": "ca.pem"}
    (dir / "password").write_text(SECRET)
    (dir / "password").chmod(0o600)

    def local(found):
        return f'{found.group(1)}"{dir / place.get(found.group(2), "password")}"'

    text = re.sub(r'(\b(\w+_file)\s*=\s*)"[^"]*"', local, text)
    (dir / "keyward.toml").write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KEYWARD_", "REDIS_"))}
    done = subprocess.run([keyward, "check", "--config", dir / "keyward.toml"], env=environment, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [done.stderr]


def tight_user(keyward, dir):
    """The lines of security-model.md, typed against a real Redis: faults."""
    section = (names.DEPLOY / "docs/security-model.md").read_text().split("## A tight Redis user for Keyward")[1]
    lines = re.search(r"^```sh\n(.*?)^```", section, re.M | re.S).group(1)
    (dir / "users.acl").write_text(f"user default on >{SECRET.strip()} ~* &* +@all\n")
    (dir / "keyward.toml").write_text(
        f'[admin]\naddress = "off"\n[[upstream]]\nname = "main"\nurl = "unix://{dir}/redis.sock"\nusername = "keyward"\n'
        'password_file = "redis-password"\nrequire_least_privilege = true\n'
        f'[[listener]]\nname = "main"\naddress = "unix:{dir}/keyward.sock"\nlogin = "none"\n'
    )
    # redis-cli without arguments leads to this Redis.
    (dir / "bin").mkdir()
    (dir / "bin/keyward").symlink_to(keyward)
    (dir / "bin/redis-cli").write_text(f'#!/bin/sh\nexec {shutil.which("redis-cli")} -s {dir}/redis.sock "$@"\n')
    (dir / "bin/redis-cli").chmod(0o755)
    environment = {**clean_environment(), "PATH": f"{dir}/bin:{os.environ['PATH']}", "REDISCLI_AUTH": SECRET.strip()}

    def shell(text):
        return subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=dir, env=environment, capture_output=True, text=True, check=False)

    server = Child(dir / "redis.log", "redis-server", "--port", "0", "--unixsocket", f"{dir}/redis.sock", "--aclfile", f"{dir}/users.acl",
                   "--save", "", "--dir", dir)
    faults = []
    try:
        wait_for("Redis", lambda: server.running() and (dir / "redis.sock").exists())
        shell("keyward gen-password --write redis-password")
        done = shell(lines)
        if done.returncode or done.stdout.split() != ["OK"] * 4:
            faults.append(f"security-model.md: its lines say {done.stdout!r} and {done.stderr!r}")
        doctor = shell("keyward doctor --config keyward.toml")
        wanted = [r"^ok +auth", r"^ok +privileges", r"^ok +around-login"]
        faults += [f"security-model.md: no {line} afterwards:\n{doctor.stdout}" for line in wanted if not re.search(line, doctor.stdout, re.M)]
        faults += [f"security-model.md: {line} is not saved" for line in ("user default off", "user admin on", "user keyward on")
                   if line not in (dir / "users.acl").read_text()]
        if "NOAUTH" not in shell("redis-cli PING 2>&1").stdout or "WRONGPASS" not in shell("redis-cli PING 2>&1").stdout:
            faults.append("security-model.md: whoever was `default` still gets in")
    finally:
        server.stop()
    return faults


def anchors(text):
    """As the usual renderers make them from headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page, text):
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists():
            yield f"{page.name}: {target} is not there"
        elif anchor and anchor not in anchors(path.read_text()):
            yield f"{page.name}: {target} has no such heading"


def main(keyward):
    faults, checked = [], 0
    with tempfile.TemporaryDirectory(prefix="keyward-pages-") as name:
        dir = Path(name)
        subprocess.run([keyward, "dev-certs", "--out", dir], check=True, capture_output=True)
        for page in PAGES:
            text = page.read_text()
            faults += broken_links(page, text)
            for block in configurations(text):
                checked += 1
                faults += [f"{page.name}: {fault}" for fault in good(block, keyward, dir)]
        (dir / "redis").mkdir()
        faults += tight_user(keyward, dir / "redis")

    runbook = names.DEPLOY / "docs/runbook.md"
    paragraphs = re.findall(r"^## (.*)$", runbook.read_text(), re.M)
    if paragraphs != names.alerts():
        faults.append(f"runbook.md and the alerts differ, or their order: {set(paragraphs) ^ set(names.alerts())}")
    for rule in names.rules():
        wanted = f"deploy/docs/runbook.md#{rule.get('alert', '').lower()}"
        if "alert" in rule and rule["annotations"]["runbook_url"] != wanted:
            faults.append(f"{rule['alert']}: its runbook_url is not {wanted}")
    tests = "".join(path.read_text() for path in sorted((names.DEPLOY / "prometheus").glob("keyward.rules*.test.yml")))
    faults += [f"{alert} has no unit test" for alert in names.alerts() if f"name: {alert} fires" not in tests]

    index = (names.DEPLOY / "README.md").read_text()
    front = (ROOT / "README.md").read_text()
    faults += broken_links(ROOT / "README.md", front)
    if f"{len(names.alerts())} alerts" not in front:
        faults.append("the README of the project counts the alerts wrongly")
    for entry in names.DEPLOY.iterdir():
        if entry.name != "README.md" and f"]({entry.name}" not in index:
            faults.append(f"README.md does not name {entry.name}")
    count = re.search(r"(\d+) alerts and (\d+) recording rules", index).groups()
    if [int(number) for number in count] != [len(names.alerts()), len(names.rules()) - len(names.alerts())]:
        faults.append("README.md counts the alerts wrongly")

    # Variables that Keyward knows, or that belong to what stands beside it.
    known = set(re.findall(r'"((?:KEYWARD|REDIS)_[A-Z_]+)"', (ROOT / "src/config/env.rs").read_text()))
    others = {"KEYWARD_UID", "KEYWARD_GID", "KEYWARD_REVISION"}
    for path in names.DEPLOY.rglob("*"):
        if path.is_file():
            for variable in set(re.findall(r"\bKEYWARD_[A-Z_]+\b", path.read_text())) - known - others:
                faults.append(f"{path.relative_to(names.DEPLOY)}: there is no variable {variable}")
    if faults:
        raise SystemExit("\n".join(faults))
    print(f"{len(PAGES)} pages, {checked} configurations, {len(paragraphs)} alerts with a paragraph")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()))
