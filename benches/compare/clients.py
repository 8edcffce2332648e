"""Clients: a small one of our own for connections that idle, handshakes and single values, and redis-benchmark for load."""

import re
import socket
import ssl
import subprocess
import time

# What every client has sent when it is past its handshake and some requests, in TCP segments with data: two are of the handshake, one
# is AUTH, and each request or pipeline of requests is one more.
WARM_SEGMENTS = 6
RUN_SECONDS = 300  # for a run of a given number of requests
WARM_SECONDS = 60
CHUNK = 1 << 20


class Unexpected(Exception):
    """An answer that is none of those expected."""


def tls_context(ca_file):
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class Client:
    """A connection that has logged in and has had one PING answered."""

    def __init__(self, port, context, password):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context:
                # No session is handed in, so that every handshake is a full one.
                self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
            self.input = b""
            if self.command("AUTH", password) != b"+OK" or self.command("PING") != b"+PONG":
                raise Unexpected("AUTH or PING failed")
        except BaseException:
            self.socket.close()
            raise

    def command(self, *words):
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words))
        return self.line()

    def line(self):
        while b"\r\n" not in self.input:
            got = self.socket.recv(65536)
            if not got:
                raise Unexpected("the connection was closed")
            self.input += got
        line, self.input = self.input.split(b"\r\n", 1)
        if line.startswith(b"-"):
            raise Unexpected(line.decode(errors="replace"))
        return line

    def info(self, section):
        length = int(self.command("INFO", section)[1:])
        while len(self.input) < length + 2:
            self.input += self.socket.recv(65536)
        text, self.input = self.input[:length].decode(), self.input[length + 2:]
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def set_big(self, key, size):
        """SET of a value of `size` bytes, sent piece by piece."""
        self.socket.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key.encode(), size))
        piece = bytes(CHUNK)
        left = size
        while left:
            self.socket.sendall(piece[:left] if left < CHUNK else piece)
            left -= min(left, CHUNK)
        self.socket.sendall(b"\r\n")
        if self.line() != b"+OK":
            raise Unexpected("SET failed")

    def get_big(self, key):
        """GET; the value is thrown away, its size returned."""
        size = int(self.command("GET", key)[1:])
        left = size + 2 - len(self.input)
        self.input = b""
        buffer = bytearray(CHUNK)
        while left:
            got = self.socket.recv_into(buffer, min(CHUNK, left))
            if not got:
                raise Unexpected("the connection was closed within the value")
            left -= got
        return size

    def close(self):
        self.socket.close()


class Load:
    """A redis-benchmark that sends one command until it is stopped, or has sent so many."""

    def __init__(self, lab, subject, command, count, pipeline, size, keys, requests=2_000_000_000):
        self.lab, self.subject, self.count = lab, subject, count
        line = [
            "redis-benchmark", "-h", "127.0.0.1", "-p", str(subject.port), "-a", lab.password, "-q", "-d", str(size), "-r", str(keys),
            "-n", str(requests), "-c", str(count), "-P", str(pipeline), "-t", command,
        ]
        if subject.encrypted:
            line += ["--tls", "--cacert", lab.path("ca.pem")]
        open(lab.path("load.log"), "wb").close()
        self.process = lab.spawn("load", line)

    def check(self):
        if self.process.poll() is not None:
            raise Unexpected(f"redis-benchmark ended: {self.lab.log_tail('load')}")

    def wait_warm(self):
        """Waits until every client is past its handshake and some requests."""
        end = time.monotonic() + WARM_SECONDS
        while True:
            time.sleep(0.1)
            self.check()
            self.subject.check()
            warm = sum(1 for sent in sent_segments(self.subject.port) if sent >= WARM_SEGMENTS)
            if warm >= self.count:
                break
            if time.monotonic() > end:
                raise Unexpected(f"only {warm} of {self.count} clients got anywhere in {WARM_SECONDS} s")
        time.sleep(0.2)

    def wait_done(self):
        """Waits until all requests have been answered and the connections are closed."""
        if self.process.wait(RUN_SECONDS) != 0:
            raise Unexpected(f"redis-benchmark failed: {self.lab.log_tail('load')}")

    def stop(self):
        self.lab.running.remove(self.process)
        self.process.kill()
        self.process.wait()
        # The connections to a proxy have no other owner than the load; Redis's plaintext port also has the proxies.
        end = time.monotonic() + 10
        while self.subject.encrypted and time.monotonic() < end and sent_segments(self.subject.port):
            time.sleep(0.05)


def sent_segments(port):
    """How many segments with data each connected client of a port has sent so far."""
    command = ["ss", "-tinH", "state", "established", "dport", "=", f":{port}"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    # A connection that has sent nothing has no such word: the address line is what says that it is there.
    return [int(found.group(1)) if (found := re.search(r"data_segs_out:(\d+)", entry)) else 0 for entry in _entries(text)]


def _entries(text):
    """ss's answer, one entry a connection: an indented line continues the one before."""
    entries = []
    for line in text.splitlines():
        if line[:1].isspace() and entries:
            entries[-1] += line
        else:
            entries.append(line)
    return entries
