"""Dashboard and alerts against the real things: a real Prometheus scrapes a real Keyward in front of a real Redis, under traffic.

    live.py KEYWARD

Every name of a metric and every word of a label that stands under deploy/ must be one that Keyward shows; every expression of the
dashboard must return data; and the alerts that an attack, a wrong URL and a half-done rotation are for must fire.
"""

import json
import math
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

import names

PATIENCE = 90
ATTACKER = "127.0.0.2"  # a source of its own, so that its lockout hits nobody else

ATTACK_ALERTS = {"KeywardAuthFailures", "KeywardAuthBruteForce", "KeywardDangerousCommandDenied", "KeywardTlsHandshakeFailures"}
ROTATION_ALERT = "KeywardUpstreamRefusesCredential"


def wait_for(what, look):
    """Asks until there is an answer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {PATIENCE} s in vain for {what}")
        time.sleep(0.05)


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options).stdout


class Child:
    """A process that writes its log to a file, ended by its own id."""

    def __init__(self, log, *command, **options):
        self.log = log
        self.process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, **options)

    def running(self):
        """True, or the end of the test with what the process said."""
        if self.process.poll() is not None:
            raise SystemExit(f"{self.process.args[0]} ended:\n{self.log.read_text()}")
        return True

    def said(self, pattern):
        found = re.search(pattern, self.log.read_text())
        return found.group(1) if found else not self.running()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Client:
    """Just enough of RESP: sends a request, returns the first line of the reply."""

    def __init__(self, port, ca, source="127.0.0.1"):
        context = ssl.create_default_context(cafile=ca)
        raw = socket.create_connection(("127.0.0.1", port), 10, (source, 0))
        self.socket = context.wrap_socket(raw, server_hostname="localhost")
        self.file = self.socket.makefile("rb")

    def __call__(self, *words):
        request = b"*%d\r\n" % len(words)
        for word in words:
            request += b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode())
        self.socket.sendall(request)
        return self.reply()

    def reply(self):
        line = self.file.readline().decode().rstrip()
        if line.startswith("$") and line != "$-1":
            self.file.read(int(line[1:]) + 2)
        elif line[:1] in "*>" and line[1:].isdigit():
            for _ in range(int(line[1:])):
                self.reply()
        return line

    def close(self):
        # Ends the TLS stream in order.
        try:
            self.socket.unwrap()
        except (OSError, ValueError):
            pass
        self.socket.close()


def make_revocation_list(dir):
    """An empty one, by the CA of `keyward dev-certs`."""
    (dir / "index").write_text("")
    (dir / "number").write_text("01\n")
    (dir / "ca.conf").write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={dir}/index\ncrlnumber={dir}/number\ndefault_md=sha256\ndefault_crl_days=30\n"
    )
    run("openssl", "ca", "-gencrl", "-config", dir / "ca.conf", "-cert", dir / "certs/ca.pem", "-keyfile", dir / "certs/ca.key",
        "-out", dir / "client.crl")


class Stack:
    """Redis, Keyward and Prometheus."""

    def __init__(self, keyward, dir, children):
        self.dir = dir
        self.children = children
        self.redis_password = secrets.token_urlsafe(32)
        self.app_password = secrets.token_urlsafe(32)
        for name, content in (("redis.password", self.redis_password), ("app.password", self.app_password)):
            (dir / name).write_text(content + "\n")
            (dir / name).chmod(0o600)
        run(keyward, "dev-certs", "--out", dir / "certs")
        make_revocation_list(dir)
        self.ca = str(dir / "certs/ca.pem")
        (dir / "redis.conf").write_text(
            f"port 0\nunixsocket {dir}/redis.sock\nsave \"\"\ndir {dir}\nrequirepass {self.redis_password}\n"
        )
        redis = self.start("redis-server", dir / "redis.conf")
        wait_for("Redis", lambda: redis.running() and (dir / "redis.sock").exists())
        (dir / "keyward.toml").write_text(f"""
[admin]
address = "127.0.0.1:0"

[[upstream]]
name          = "main"
url           = "unix://{dir}/redis.sock"
password_file = "redis.password"

[[listener]]
name     = "gateway"
address  = "127.0.0.1:0"
upstream = "main"

[listener.tls]
certificate_file    = "certs/server.pem"
key_file            = "certs/server.key"
client_ca_file      = "certs/ca.pem"
client_crl_file     = "client.crl"
client_certificates = "optional"

[[user]]
name          = "app"
password_file = "app.password"
acl           = "safe"
""")
        # Under the system calls that the systemd unit leaves it, and with this test as its service manager.
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind(str(dir / "notify.sock"))
        manager.settimeout(PATIENCE)
        environment = {**clean_environment(), "NOTIFY_SOCKET": str(dir / "notify.sock"), "WATCHDOG_USEC": "2000000"}
        filtered = [sys.executable, Path(__file__).with_name("filtered.py"), names.DEPLOY / "systemd/keyward.service"]
        server = self.start(*filtered, keyward, "run", "--config", dir / "keyward.toml", log="keyward.log", env=environment)
        for wanted in (b"READY=1", b"WATCHDOG=1"):
            while wanted not in manager.recv(4096):
                pass
        listening = r'"event":"%s".*?"address":"([^"]+)"'
        self.port = int(wait_for("the listener", lambda: server.said(listening % "listening")).rsplit(":", 1)[1])
        self.admin = wait_for("the admin listener", lambda: server.said(listening % "admin_listening"))
        wait_for("readiness", self.ready)

        config = yaml.safe_load((names.DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(names.RULES)]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [self.admin]
        (dir / "prometheus.yml").write_text(yaml.safe_dump(config))
        prometheus = self.start(
            "prometheus", f"--config.file={dir}/prometheus.yml", f"--storage.tsdb.path={dir}/tsdb", "--web.listen-address=127.0.0.1:0"
        )
        self.prometheus = wait_for("Prometheus", lambda: prometheus.said(r'msg="Listening on".*?address=(\S+)'))
        # increase() sees what happens after the first scrape.
        wait_for("the first scrape", lambda: self.ask("query", query="up == 1"))

    def start(self, *command, log=None, **options):
        child = Child(self.dir / (log or f"{Path(command[0]).name}.log"), *map(str, command), **options)
        self.children.append(child)
        return child

    def get(self, url):
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()

    def ready(self):
        try:
            return self.get(f"http://{self.admin}/readyz")
        except OSError:
            return None

    def ask(self, what, **parameters):
        """A question to Prometheus's API: the list of results."""
        try:
            answer = json.loads(self.get(f"http://{self.prometheus}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"))
        except urllib.error.HTTPError as error:
            # Still starting, or a wrong expression.
            if error.code == 503:
                return []
            raise SystemExit(f"Prometheus refuses {parameters}: {error.read().decode()}") from error
        except OSError:
            return []
        data = answer["data"]
        return data["result"] if isinstance(data, dict) else data

    def firing(self):
        """Names of the alerts that fire."""
        return {alert["metric"]["alertname"] for alert in self.ask("query", query='ALERTS{alertstate="firing"}')}

    def client(self, source="127.0.0.1"):
        return Client(self.port, self.ca, source)


def clean_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("KEYWARD_", "REDIS_"))}


class Traffic(threading.Thread):
    """What a day brings, again and again."""

    def __init__(self, stack):
        super().__init__(daemon=True)
        self.stack, self.over, self.fault = stack, threading.Event(), None

    def run(self):
        try:
            subscriber = self.stack.client()
            self.expect(subscriber("AUTH", "app", self.stack.app_password), "+OK")
            subscriber("SUBSCRIBE", "news")
            threading.Thread(target=self.attack, daemon=True).start()
            while not self.over.is_set():
                self.day()
        except Exception as error:  # whatever it was, the test has failed
            self.fault = error

    def expect(self, reply, wanted):
        assert reply.startswith(wanted), f"{reply!r} instead of {wanted}"

    def attack(self):
        """Wrong passwords until the source is locked out. Keyward answers them ever more slowly."""
        while not self.over.is_set():
            try:
                stranger = self.stack.client(ATTACKER)
                stranger("AUTH", "app", "a-wrong-guess")
                stranger.close()
            except OSError:
                return

    def day(self):
        client = self.stack.client()
        self.expect(client("GET", "k"), "-NOAUTH")
        self.expect(client("AUTH", "nobody", "a-wrong-password"), "-WRONGPASS") if self.once() else None
        self.expect(client("AUTH", "app", self.stack.app_password), "+OK")
        for index in range(20):
            self.expect(client("SET", f"k{index}", "v" * 100), "+OK")
            self.expect(client("GET", f"k{index}"), "$100")
        self.expect(client("LPUSH", "k0", "x"), "-WRONGTYPE")
        self.expect(client("MULTI"), "+OK")
        client("INCR", "n")
        client("EXEC")
        self.expect(client("FLUSHALL"), "-NOPERM")
        self.expect(client("KEYS", "*"), "-NOPERM")
        client.close()
        for first_bytes in (b"PING\r\n", b""):
            # redis:// to a TLS port, and a port scan.
            raw = socket.create_connection(("127.0.0.1", self.stack.port), 10)
            if first_bytes:
                raw.sendall(first_bytes)
                raw.recv(100)
            raw.close()
        self.over.wait(0.05)

    def once(self):
        """Few wrong names, or the clients' own source is locked out."""
        self.wrong = getattr(self, "wrong", 0) + 1
        return self.wrong <= 3


def check_names(stack):
    """Names and label words under deploy/ are those that Keyward shows."""
    page = stack.get(f"http://{stack.admin}/metrics")
    shown = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M))
    faults = []
    for name, file in names.mentioned():
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if name not in shown and shown.get(base) != "histogram":
            faults.append(f"{file}: no metric is called {name}")
    documented = dict(re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|", (names.DEPLOY / "docs/metrics.md").read_text(), re.M))
    faults += [f"docs/metrics.md: {name} is not there as a {kind}" for name, kind in shown.items() if documented.get(name) != kind]
    expressions = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in names.rules()]
    for title, expr in [*expressions, *names.dashboard_expressions()]:
        for name, matchers in names.selectors(expr):
            for label, op, value in matchers:
                if label in {"job", "instance", "le"} or value == ".+":
                    continue
                there = set(re.findall(rf'^{name}\{{(?:.*,)?{label}="((?:[^"\\]|\\.)*)"', page, re.M))
                wanted = names.words(value) if op in {"=~", "!~"} else [value]
                faults += [f"{title}: {name} has no {label}={word!r}" for word in wanted if word not in there]
    return sorted(set(faults))


def finite(result):
    return any(math.isfinite(float(series["value"][1])) for series in result)


def rotate_half_way(stack):
    """Redis has a new password, and Keyward's file the old one."""
    new = "another-" + stack.redis_password

    def admin(password, *words):
        run("redis-cli", "-s", stack.dir / "redis.sock", "--no-auth-warning", *words, env={**os.environ, "REDISCLI_AUTH": password})

    admin(stack.redis_password, "CONFIG", "SET", "requirepass", new)
    # Connections that are logged in stay so; new ones are what sees it.
    admin(new, "CLIENT", "KILL", "TYPE", "normal")


def main(keyward):
    with tempfile.TemporaryDirectory(prefix="keyward-live-") as name:
        dir = Path(name)
        children, traffic = [], None
        try:
            stack = Stack(keyward, dir, children)
            faults = check_names(stack)
            traffic = Traffic(stack)
            traffic.start()

            expressions = list(names.dashboard_expressions())
            pending = expressions
            deadline = time.monotonic() + PATIENCE
            while (pending or not ATTACK_ALERTS <= stack.firing()) and time.monotonic() < deadline and not traffic.fault:
                pending = [(title, expr) for title, expr in pending if not finite(stack.ask("query", query=expr))]
                time.sleep(0.2)
            faults += [f"dashboard: no data for {title}: {expr}" for title, expr in pending]
            faults += [f"alert: {alert} does not fire" for alert in sorted(ATTACK_ALERTS - stack.firing())]
            if traffic.fault:
                faults.append(f"traffic: {traffic.fault!r}")
            # The traffic may fail from here on: Redis is about to refuse Keyward.
            rotate_half_way(stack)
            wait_for("the alert about the credential", lambda: ROTATION_ALERT in stack.firing())
            firing = stack.firing()
        finally:
            if traffic:
                traffic.over.set()
                traffic.join(15)
            for child in reversed(children):
                child.stop()
        if faults:
            print((dir / "keyward.log").read_text()[-2000:])
    if faults:
        raise SystemExit("\n".join(faults))
    print(f"{len(expressions)} expressions of the dashboard have data; firing: {', '.join(sorted(firing))}")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()))
