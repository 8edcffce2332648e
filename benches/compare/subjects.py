"""What is compared: a Redis, and before it one proxy after the other. Each is a process of ours with a configuration of its own."""

import ctypes
import grp
import os
import pwd
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import clients
import measure

NAMES = ["keyward-shared-1", "keyward-shared-2", "keyward-dedicated-2", "haproxy", "nginx", "stunnel", "hitch", "redis-tls", "redis-plain"]


def _descriptors():
    """Raises the limit of open files as far as it goes, for us and for those that we start; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(hard, 65536), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        except (ValueError, OSError):
            continue  # beyond the hard limit only root may go, and not everywhere
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


# Clients that every subject is set up for, at two descriptors each in a proxy.
CONNECTIONS = min(9000, (_descriptors() - 1000) // 2)
_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A subject did not do what was asked of it; the message says what."""


def _die_with_parent():
    # However the harness ends, its processes end with it: PR_SET_PDEATHSIG.
    _libc.prctl(1, signal.SIGTERM)


def free_port():
    # Below the range that outgoing connections take their ports from: thousands of them come and go here.
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Lab:
    """A directory for certificates, password, configurations and logs, and the processes that run in it."""

    def __init__(self, keyward):
        # Orphans of ours come to us (PR_SET_CHILD_SUBREAPER), so that they can be seen to their end.
        _libc.prctl(36, 1)
        self.keyward = keyward
        self.dir = tempfile.mkdtemp(prefix="keyward-bench-")
        os.chmod(self.dir, 0o700)
        self.running = []
        # Where each Keyward shows its metrics, by the subject's name.
        self.admin = {}
        quiet = dict(check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)
        subprocess.run([keyward, "gen-password", "--write", self.path("password")], **quiet)
        subprocess.run([keyward, "dev-certs", "--out", self.dir], **quiet)
        with open(self.path("password")) as file:
            self.password = file.read().strip()
        with open(self.path("both.pem"), "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as both:
            for part in ("server.pem", "server.key"):
                with open(self.path(part)) as file:
                    both.write(file.read())
        self.tls = clients.tls_context(self.path("ca.pem"))

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def spawn(self, name, command, environment=None, stdin=None):
        log = open(self.path(name + ".log"), "ab")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("KEYWARD_", "REDIS"))}
        process = subprocess.Popen(
            command, env=inherited | (environment or {}), stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=log, stderr=log,
            preexec_fn=_die_with_parent,
        )
        log.close()
        self.running.append(process)
        if stdin:
            process.stdin.write(stdin.encode())
            process.stdin.close()
        return process

    def stop(self, process):
        if process in self.running:
            self.running.remove(process)
        family = measure.tree(process.pid)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Workers that their master has left behind are our children now.
        for pid in family[1:]:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass

    def close(self):
        for process in list(self.running):
            self.stop(process)
        shutil.rmtree(self.dir, ignore_errors=True)

    def log_tail(self, name):
        try:
            with open(self.path(name + ".log"), errors="replace") as file:
                return " | ".join(file.read().strip().splitlines()[-3:])[-300:]
        except FileNotFoundError:
            return ""


class Redis:
    """A redis-server with a plaintext and a TLS port."""

    def __init__(self, lab):
        self.lab = lab
        self.plain, self.tls = free_port(), free_port()
        settings = [
            f"port {self.plain}", "bind 127.0.0.1", f"tls-port {self.tls}", f"tls-cert-file {lab.path('server.pem')}",
            f"tls-key-file {lab.path('server.key')}", f"tls-ca-cert-file {lab.path('ca.pem')}", "tls-auth-clients no",
            "tls-protocols TLSv1.3", 'save ""', f"dir {lab.dir}", f"requirepass {lab.password}", f"maxclients {CONNECTIONS + 500}",
        ]
        self.process = lab.spawn("redis", ["redis-server", "-"], stdin="\n".join(settings) + "\n")
        wait_ready(lab, "redis", self.process, self.plain, False)
        self.control = clients.Client(self.plain, None, lab.password)

    @property
    def pids(self):
        return [self.process.pid]

    def requests(self):
        """How many SET and GET have been executed."""
        calls = self.control.info("commandstats")
        return sum(int(calls[f"cmdstat_{name}"].split(",")[0].split("=")[1]) for name in ("set", "get") if f"cmdstat_{name}" in calls)

    def connections(self):
        """Connections of others than ourselves."""
        return int(self.control.info("clients")["connected_clients"]) - 1

    def fill(self, size, keys):
        """The keys that redis-benchmark will ask for, and nothing else."""
        self.control.command("FLUSHALL")
        for key in range(keys):
            self.control.command("SET", f"key:{key:012}", "x" * size)

    def stop(self):
        self.control.close()
        self.lab.stop(self.process)


class Subject:
    """One row of the tables. `pids` are those of the proxy: none where Redis itself is the subject."""

    def __init__(self, lab, redis, name):
        self.lab, self.redis, self.name = lab, redis, name
        self.encrypted = name != "redis-plain"
        self.port = redis.tls if self.encrypted else redis.plain
        self.process = None
        self.family = []

    def ensure(self):
        """Starts the process if it does not run (any more); raises `Failed` if it cannot."""
        if self.name in ("redis-tls", "redis-plain") or (self.process and self.process.poll() is None):
            return
        self.stop()
        self.port = free_port()
        kind, *rest = self.name.split("-")
        self.process = STARTERS[kind](self.lab, self.redis, self.name, self.port, *rest)
        wait_ready(self.lab, self.name, self.process, self.port, True)
        self.family = measure.tree(self.process.pid)

    @property
    def pids(self):
        return self.family

    def context(self):
        return self.lab.tls if self.encrypted else None

    def connect(self):
        return clients.Client(self.port, self.context(), self.lab.password)

    def check(self):
        """Raises `Failed` if the process has ended."""
        if self.process and self.process.poll() is not None:
            raise Failed(f"ended with {self.process.returncode}: {self.lab.log_tail(self.name)}")

    def stop(self):
        if self.process:
            self.lab.stop(self.process)
            self.process, self.family = None, []


def wait_ready(lab, name, process, port, encrypted):
    end = time.monotonic() + 15
    while True:
        if process.poll() is not None:
            raise Failed(f"does not start: {lab.log_tail(name)}")
        try:
            clients.Client(port, lab.tls if encrypted else None, lab.password).close()
            return
        except (OSError, clients.Unexpected) as error:
            if time.monotonic() > end:
                raise Failed(f"does not answer ({error}): {lab.log_tail(name)}") from error
            time.sleep(0.05)


def _keyward(lab, redis, name, port, mode, workers="2"):
    lab.admin[name] = f"127.0.0.1:{free_port()}"
    settings = {
        "REDIS_URL": f"redis://127.0.0.1:{redis.plain}/0", "REDIS_PASSWORD_FILE": lab.path("password"), "KEYWARD_LISTEN": f"127.0.0.1:{port}",
        "KEYWARD_ADMIN": lab.admin[name], "KEYWARD_TLS_CERT": lab.path("server.pem"), "KEYWARD_TLS_KEY": lab.path("server.key"),
        "KEYWARD_PASSWORD_FILE": lab.path("password"), "KEYWARD_ACL": "safe", "KEYWARD_WORKERS": workers, "KEYWARD_CONNECTIONS": mode,
        "KEYWARD_LOG": "error",
    }
    return lab.spawn(name, [lab.keyward, "run"], settings)


def _haproxy(lab, redis, name, port, workers="2"):
    config = lab.write(name + ".cfg", f"""\
global
  nbthread {workers}
  maxconn {CONNECTIONS}
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen redis
  bind 127.0.0.1:{port} ssl crt {lab.path('both.pem')}
  server redis 127.0.0.1:{redis.plain}
""")
    return lab.spawn(name, ["haproxy", "-f", config, "-db"])


def _nginx(lab, redis, name, port, workers="2"):
    config = lab.write(name + ".conf", f"""\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes {workers};
daemon off;
pid {lab.path(name + '.pid')};
error_log {lab.path(name + '.log')};
events {{ worker_connections {2 * CONNECTIONS}; }}
stream {{
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {lab.path('server.pem')};
    ssl_certificate_key {lab.path('server.key')};
    ssl_protocols TLSv1.3;
    proxy_timeout 1h;
    proxy_pass 127.0.0.1:{redis.plain};
  }}
}}
""")
    return lab.spawn(name, ["nginx", "-c", config, "-e", lab.path(name + ".log")])


def _stunnel(lab, redis, name, port):
    config = lab.write(name + ".conf", f"""\
foreground = yes
pid =
syslog = no
debug = err
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[redis]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{redis.plain}
cert = {lab.path('both.pem')}
sslVersionMin = TLSv1.3
""")
    return lab.spawn(name, ["stunnel", config])


def _hitch(lab, redis, name, port, workers="2"):
    # It refuses to run workers as root; the certificate is read before it becomes somebody else.
    account = pwd.getpwnam("nobody")
    drop = f'user = "nobody"\ngroup = "{grp.getgrgid(account.pw_gid).gr_name}"\n' if os.geteuid() == 0 else ""
    config = lab.write(name + ".conf", f"""\
frontend = "[127.0.0.1]:{port}"
backend = "[127.0.0.1]:{redis.plain}"
pem-file = "{lab.path('both.pem')}"
ocsp-dir = ""
tls-protos = TLSv1.3
workers = {workers}
backlog = 511
daemon = off
syslog = off
log-level = 0
{drop}""")
    return lab.spawn(name, ["hitch", "--config", config])


STARTERS = {"keyward": _keyward, "haproxy": _haproxy, "nginx": _nginx, "stunnel": _stunnel, "hitch": _hitch}
