"""Runs the parts that are asked for. What each one does, and every setting, stands at the head of benches/compare.sh."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import load
import single
from subjects import CONNECTIONS, NAMES, STARTERS, Failed, Lab

PARTS = {
    "load": load.run_load, "runs": load.run_runs, "sizes": load.run_sizes, "syscalls": load.run_syscalls, "memory": single.run_memory,
    "handshake": single.run_handshake, "stream": single.run_stream,
}
QUICK = dict(
    ROUNDS="1", SECONDS="0.5", SHAPES="50x1 500x1 50x16", SUBJECTS="keyward-shared-2 keyward-dedicated-2 haproxy nginx stunnel hitch redis-tls",
    SIZES="65536 1048576", CONNECTIONS="200 1000", HANDSHAKES="100", REQUESTS="50000", STREAM_MB="64", LIMIT="600",
)
USUAL = dict(
    ROUNDS="1", SECONDS="1", SHAPES="50x1 500x1 2000x1 50x16 500x16", SUBJECTS=" ".join(NAMES), SIZES="65536 1048576", CONNECTIONS="1000 5000",
    HANDSHAKES="300", REQUESTS="100000", STREAM_MB="512", LIMIT="3600",
)
FULL = USUAL | dict(ROUNDS="5", SECONDS="2", HANDSHAKES="500", LIMIT="14400")


class TimeUp(BaseException):
    """The run has taken as long as it may. Not an `Exception`: nothing on the way may take it for a subject's failure."""


class Setup:
    def __init__(self, defaults):
        def words(name):
            return (os.environ.get(f"KEYWARD_BENCH_{name}") or defaults[name]).split()

        def one(name, kind):
            return kind(words(name)[0])

        try:
            self.rounds, self.seconds = one("ROUNDS", int), one("SECONDS", float)
            self.shapes = [tuple(map(int, shape.split("x"))) for shape in words("SHAPES")]
            self.sizes = list(map(int, words("SIZES")))
            self.connections = list(map(int, words("CONNECTIONS")))
            self.requests = one("REQUESTS", int)
            self.handshakes, self.stream_mb, self.limit = one("HANDSHAKES", int), one("STREAM_MB", int), one("LIMIT", int)
        except ValueError as error:
            sys.exit(f"a setting KEYWARD_BENCH_... is not what benches/compare.sh says: {error}")
        self.size_clients = 50
        self.subjects = words("SUBJECTS")
        for name in self.subjects:
            if name not in NAMES and name.split("-")[0] not in STARTERS:
                sys.exit(f"KEYWARD_BENCH_SUBJECTS: there is no {name}; there are {', '.join(NAMES)}")
        most = max([*self.connections, *(shape[0] for shape in self.shapes)])
        if most + 100 > CONNECTIONS:
            sys.exit(f"{most} clients need {2 * most + 1200} open files, two each in a proxy: raise the hard limit (ulimit -Hn)")
        # Only perf and strace, which look into other processes, may need it.
        self.become_root = ["sudo", "-n"] if os.geteuid() != 0 and shutil.which("sudo") else []
        self.json = os.environ.get("KEYWARD_BENCH_JSON")
        self.records = []
        self.started = time.monotonic()

    def say(self, text):
        print(f"[{time.monotonic() - self.started:6.0f} s] {text}", file=sys.stderr, flush=True)

    def record(self, part, subject, values):
        self.records.append({"part": part, "subject": subject, **values})

    def save(self):
        if self.json and self.records:
            with open(self.json, "w") as file:
                json.dump(self.records, file, indent=1)


def stop_here(number, _frame):
    # Once is enough: what is being shown and cleaned up then is not to be interrupted.
    for other in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise TimeUp("the time limit (KEYWARD_BENCH_LIMIT)" if number == signal.SIGALRM else signal.Signals(number).name)


def versions(keyward):
    """What is compared, in one line: figures mean little without it."""
    found = []
    for command in ([keyward, "--version"], ["redis-server", "--version"], ["haproxy", "-v"], ["nginx", "-v"], ["stunnel", "-version"], ["hitch", "--version"]):
        text = subprocess.run(command, capture_output=True, text=True, timeout=10)
        number = re.search(r"\d+\.\d+(\.\d+)?", text.stdout + text.stderr)
        found.append(f"{os.path.basename(command[0]).split('-')[0]} {number.group(0) if number else '?'}")
    return ", ".join(found)


def main(arguments):
    defaults = USUAL
    if arguments and arguments[0] in ("quick", "full"):
        defaults = QUICK if arguments.pop(0) == "quick" else FULL
    unknown = [part for part in arguments if part not in PARTS]
    if unknown:
        sys.exit(f"there is no part {unknown[0]}: the parts are {' '.join(PARTS)}, after \"quick\" or \"full\" if wanted; see the head of benches/compare.sh")
    keyward = os.environ.get("KEYWARD_BENCH_BINARY")
    if not keyward or not os.access(keyward, os.X_OK):
        sys.exit("KEYWARD_BENCH_BINARY is no program: start benches/compare.sh, which builds one")
    setup = Setup(defaults)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop_here)
    signal.alarm(setup.limit)
    lab = None
    try:
        lab = Lab(os.path.abspath(keyward))
        print(versions(keyward))
        print(f"{os.cpu_count()} CPUs, Linux {os.uname().release}; {setup.rounds} interleaved rounds, windows of {setup.seconds:g} s; everything on this one machine", flush=True)
        for part in arguments or PARTS:
            PARTS[part](setup, lab)
    except (TimeUp, Failed) as reason:
        sys.exit(f"stopped: {reason}; the tables above are of what had been measured by then")
    finally:
        if lab:
            lab.close()
        setup.save()
        setup.say("done; nothing is left running")


main(sys.argv[1:])
