"""The status page in a real browser: Keyward with problems and without, light and dark, wide and narrow.

    status_page.py KEYWARD CHROMIUM OUT

What the policy does not allow would be in the browser's console, and the style sheet would not apply: the screenshots begin with the
background that it gives them. The pictures stay in OUT, for people to look at.
"""

import json
import os
import re
import secrets
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.request
import zlib
from html.parser import HTMLParser
from pathlib import Path

from live import ATTACKER, PATIENCE, Child, Client, clean_environment, wait_for

BACKGROUND = {"light": (0xF6, 0xF6, 0xF3), "dark": (0x13, 0x15, 0x18)}
SCHEME = {"light": "1", "dark": "0"}
SIZES = {"wide": (1280, 2600), "narrow": (400, 5200)}
# Names that would do harm if they were not escaped.
SOON = "so<script>on&lt;"
NO_CONTENT = {"script", "iframe", "form", "object", "embed", "base"}


class Page(HTMLParser):
    """What there is to see, and what must not be there."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.faults = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in NO_CONTENT:
            self.faults.append(f"there is a <{tag}>")
        for name, value in attrs:
            if name == "style" or name.startswith("on"):
                self.faults.append(f"<{tag}> has {name}")
            if name in {"src", "href", "action"} and not re.match(r"(/|\?|data:image/svg)", value or ""):
                self.faults.append(f"<{tag}> leads to {value}")

    def handle_data(self, data):
        self.words.append(data)


def picture(path):
    """Width, height and the colour of the first pixel of a PNG."""
    data = path.read_bytes()
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert depth == 8 and kind in (2, 6), f"{path}: a form that Chromium does not write"
    at, packed = 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    rows = zlib.decompress(packed)
    # Whatever the filter of the first row: with nothing above and to the left, its first pixel is itself.
    return width, height, tuple(rows[1:4])


def browse(chromium, url, width, height, scheme, *more):
    """Runs Chromium once; what it printed, and what came into its console."""
    with tempfile.TemporaryDirectory(prefix="keyward-chromium-") as profile:
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1",
             f"--window-size={width},{height}", f"--blink-settings=preferredColorScheme={SCHEME[scheme]}", "--enable-logging=stderr",
             f"--user-data-dir={profile}", *more, url],
            env={**clean_environment(), "HOME": profile}, capture_output=True, text=True, timeout=PATIENCE, check=True,
        )
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def configuration(dir, upstreams, listeners):
    text = '[admin]\naddress = "127.0.0.1:0"\n'
    for name, url in upstreams:
        text += f'[[upstream]]\nname = "{name}"\nurl = "{url}"\npassword_file = "redis.password"\n'
    for name, upstream, certificate in listeners:
        text += f'[[listener]]\nname = "{name}"\naddress = "127.0.0.1:0"\nupstream = "{upstream}"\n'
        text += f'tls = {{ certificate_file = "{certificate}.pem", key_file = "{certificate}.key" }}\n'
    return text + '[[user]]\nname = "app"\npassword_file = "app.password"\n[[user]]\nname = "reports"\npassword_file = "reports.password"\n'


def start(keyward, dir, name, text, children):
    (dir / f"{name}.toml").write_text(text)
    server = Child(dir / f"{name}.log", keyward, "run", "--config", dir / f"{name}.toml", "--log-format", "json", env=clean_environment())
    children.append(server)
    return "http://" + wait_for("the admin listener", lambda: server.said(r'"event":"admin_listening".*?"address":"([^"]+)"'))


def status(url):
    with urllib.request.urlopen(f"{url}/status.json", timeout=PATIENCE) as answer:
        return json.load(answer)


def refuse(url, listener, certificate, password):
    """A client that is served, and others that are refused: so the tables have rows and the charts lines."""
    address = next(known["address"] for known in status(url)["listeners"] if known["name"] == listener)
    port = int(address.rsplit(":", 1)[1])
    app = Client(port, certificate)
    assert app("AUTH", "app", password) == "+OK"
    for number in range(500):
        assert app("SET", f"k{number}", "v") == "+OK"
    for command in (["FLUSHALL"], ["KEYS", "*"]):
        assert app(*command).startswith("-NOPERM"), command
    for _ in range(12):
        stranger = Client(port, certificate, ATTACKER)
        stranger("AUTH", "reports", "a-wrong-guess")
        stranger.close()
        if status(url)["refused"]["lockouts_total"]:
            break
    wait_for("who is refused", lambda: (lambda now: now["logins_total"] >= 3 and now["commands_total"] == 2)(status(url)["refused"]))
    # Open until the pictures are taken.
    return app


def look(chromium, url, name, wanted, out):
    """Every picture of one page, and what is in it."""
    faults = []
    page = f"{url}/status?refresh=off"
    dom, console = browse(chromium, page, 1280, 800, "light", "--dump-dom")
    faults += [f"{name}: {line}" for line in console]
    parsed = Page(dom)
    faults += [f"{name}: {fault}" for fault in parsed.faults]
    text = " ".join(" ".join(parsed.words).split())
    faults += [f"{name}: {word!r} is not to be seen" for word in wanted if word not in text]
    if "b" not in parsed.tags or parsed.tags.count("svg") < 3:
        faults.append(f"{name}: figures or charts are missing")
    for size, (width, height) in SIZES.items():
        for scheme, background in BACKGROUND.items():
            file = out / f"status-{name}-{size}-{scheme}.png"
            _, console = browse(chromium, page, width, height, scheme, f"--screenshot={file}")
            faults += [f"{file.name}: {line}" for line in console]
            seen = picture(file)
            if seen != (width, height, background):
                faults.append(f"{file.name}: {seen} instead of {(width, height, background)}: does the style sheet apply?")
            if file.stat().st_size < 20_000:
                faults.append(f"{file.name} is nearly empty")
    return faults


def main(keyward, chromium, out):
    children = []
    with tempfile.TemporaryDirectory(prefix="keyward-status-") as name:
        dir = Path(name)
        try:
            for file in ("redis.password", "app.password", "reports.password"):
                (dir / file).write_text(secrets.token_urlsafe(32) + "\n")
                (dir / file).chmod(0o600)
            password = (dir / "redis.password").read_text().strip()
            # No more than Keyward needs, or that would be a problem.
            subprocess.run([keyward, "dev-certs", "--out", dir], check=True, capture_output=True)
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=soon", "-days", "5",
                 "-addext", "subjectAltName=DNS:localhost", "-keyout", dir / f"{SOON}.key", "-out", dir / f"{SOON}.pem"],
                check=True, capture_output=True,
            )
            (dir / f"{SOON}.key").chmod(0o600)
            url = f"unix://{dir}/redis.sock"
            good = configuration(dir, [("main", url)], [("gateway", "main", "server")])
            (dir / "good.toml").write_text(good)
            rules = subprocess.run([keyward, "acl", "upstream", "--config", dir / "good.toml"], env=clean_environment(), check=True,
                                   capture_output=True, text=True).stdout
            rules = next(line for line in rules.splitlines() if line.startswith("ACL SETUSER "))
            rules = " ".join(rules.split()[3:])
            (dir / "redis.conf").write_text(f'port 0\nunixsocket {dir}/redis.sock\nsave ""\ndir {dir}\nuser default {rules} on >{password}\n')
            redis = Child(dir / "redis.log", "redis-server", dir / "redis.conf")
            children.append(redis)
            wait_for("Redis", lambda: redis.running() and (dir / "redis.sock").exists())

            well = start(keyward, dir, "good", good, children)
            ill = start(keyward, dir, "ill", configuration(
                dir, [("main", url), ("sessions", "redis://127.0.0.1:1")], [("gateway", "main", SOON), ("sessions", "sessions", "server")]
            ), children)
            wait_for("a healthy one", lambda: (lambda now: now["phase"] == "serving" and not now["problems"])(status(well)))
            wait_for("one that is not", lambda: status(ill)["problems_total"] >= 2)

            faults = look(chromium, well, "well", ["All is well", "gateway", "reports", "up", "None.", "Password age"], out)
            app = refuse(ill, "gateway", dir / f"{SOON}.pem", (dir / "app.password").read_text().strip())
            faults += look(chromium, ill, "ill", [
                "Who is being refused", "bad_password", "FLUSHALL", "KEYS", "500 in the last hour", "5 problems",
                "Somebody guesses passwords at gateway", "Redis (sessions) cannot be used", "Start Redis, or correct host and port in the upstream's url.",
                "A certificate of gateway expires", f"{SOON}.pem", "Replace certificate and key files", "down",
            ], out)
            app.close()
        finally:
            for child in reversed(children):
                child.stop()
    if faults:
        raise SystemExit("\n".join(faults))
    print(f"2 pages, {2 * len(SIZES) * len(BACKGROUND)} pictures in {out}, nothing in the console")


if __name__ == "__main__":
    target = Path(sys.argv[3])
    target.mkdir(parents=True, exist_ok=True)
    main(str(Path(sys.argv[1]).resolve()), sys.argv[2], target)
