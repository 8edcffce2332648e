"""Runs each client's traffic at Redis itself and through Keyward, and prints what each needed. See the head of benches/pins.sh."""

import json
import os
import re
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Redis, Keyward, certificates and tables are those of benches/compare.sh.
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "compare"))

import clients  # noqa: E402
import report  # noqa: E402
from subjects import Failed, Lab, Redis, Subject  # noqa: E402
from watch import Watch  # noqa: E402

TOOLS = os.environ.get("PINS_TOOLS", "")
PYTHON = os.path.join(TOOLS, "venv/bin/python")
CELERY_WORKER = [PYTHON, "-m", "celery", "--app", "celery_jobs", "worker", "--concurrency", "4", "--loglevel", "INFO", "--hostname"]
SIDEKIQ_WORKER = ["sidekiq", "--require", "./sidekiq_jobs.rb", "--concurrency", "10", "--queue", "critical,2", "--queue", "default,1"]
# Each: what works for it, and what asks and ends.
TRAFFIC = {
    **{f"redis-py-{kind}": ([], [PYTHON, "redis_py.py", kind]) for kind in ("cache", "watch", "lock", "pubsub", "consumers")},
    "celery": ([[*CELERY_WORKER, f"w{n}@here"] for n in (1, 2)], [PYTHON, "celery_jobs.py"]),
    "bullmq": ([["node", "bullmq.js", "worker"]] * 2, ["node", "bullmq.js", "client"]),
    "sidekiq": ([SIDEKIQ_WORKER] * 2, ["ruby", "sidekiq_jobs.rb"]),
}
# What workers log when something goes wrong, but for jobs that fail because they are to be tried a second time.
TROUBLE = re.compile(r"\b(?:ERROR|CRITICAL|FATAL|Traceback|Errno|\w*Error:)|\b[Cc]onnection \S*(?: \S*)? lost|\bNOPERM\b", re.M)
WANTED = re.compile(r"wanted failure")
PATIENCE = 120  # seconds that a client may take on top of its time


class TimeUp(BaseException):
    """The run has taken as long as it may."""


class Result:
    def __init__(self, watch, answer, errors):
        self.watch, self.errors = watch, errors
        self.version, self.done = answer.get("version", ""), answer.get("done", 0)


def run(lab, redis, subject, name, seconds):
    """One client's traffic at one subject; both it and its Redis have served nobody yet."""
    workers, asking = TRAFFIC[name]
    environment = {
        "PINS_PORT": str(subject.port), "PINS_CA": lab.path("ca.pem"), "PINS_PASSWORD": lab.password, "PINS_SECONDS": str(seconds),
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "NODE_PATH": os.path.join(TOOLS, "node_modules"),
    }
    logs = [f"{name}-{subject.name}-worker{n}" for n in range(len(workers))]
    log = f"{name}-{subject.name}"
    watch = Watch(redis, lab.admin.get(subject.name))
    started = []
    try:
        for worker, its_log in zip(workers, logs):
            started.append(lab.spawn(its_log, worker, environment))
        client = lab.spawn(log, asking, environment)
        started.append(client)
        try:
            ended = client.wait(seconds + PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(f"the client has not ended after {seconds + PATIENCE:g} s: {lab.log_tail(log)}") from None
        watch.end()
        subject.check()
        dead = [its_log for process, its_log in zip(started, logs) if process.poll() is not None]
        if dead:
            raise Failed(f"{dead[0]} ended: {lab.log_tail(dead[0])}")
    finally:
        watch.over.set()
        for process in started:
            lab.stop(process)
    if watch.broken:
        raise Failed(f"the metrics could not be read: {watch.broken}")
    answer, errors = read_answer(lab, log, ended)
    for its_log in logs:
        errors += trouble(lab.path(its_log + ".log"))
    return Result(watch, answer, errors)


def read_answer(lab, log, ended):
    """The line of JSON that a client has ended with."""
    with open(lab.path(log + ".log"), errors="replace") as file:
        lines = file.read().splitlines()
    try:
        answer = json.loads(lines[-1])
        if ended == 0 and answer["done"] > 0:
            # What a library wrote besides is an error if it reads like one.
            return answer, answer["errors"] + trouble(lab.path(log + ".log"))
    except (IndexError, ValueError):
        pass
    raise Failed(f"the client ended with {ended}: {lab.log_tail(log)}")


def trouble(path):
    with open(path, errors="replace") as file:
        return [line.strip()[:200] for line in file if TROUBLE.search(line) and not WANTED.search(line) and not line.startswith('{"')]


def words(counts):
    """`script 3, watch 1`, the most frequent first."""
    return ", ".join(f"{key} {value:,}" for key, value in sorted(counts.items(), key=lambda item: -item[1])) or "-"


def row(table, name, direct, through):
    watch = through.watch
    asked = watch.grown("keyward_commands_total")
    flushes = watch.grown("keyward_upstream_requests_per_flush_count")
    shared = watch.grown("keyward_upstream_requests_per_flush_sum")
    ever = watch.grown_by("keyward_session_pins_total", "reason")
    pinned = {reason: (watch.peak_pinned.get(reason, 0), count) for reason, count in ever.items()}
    table.row(
        name, f"{direct.watch.peak_redis:,}" if direct else "-", f"{watch.peak_clients:,}", f"{watch.peak_redis:,}",
        f"{watch.peak_lanes.get('own', 0):,}", f"{asked:,.0f}", f"{100 * shared / asked:.0f} %" if asked else "-",
        f"{shared / flushes:.1f}" if flushes else "-", f"{len(through.errors)}",
        ", ".join(f"{reason} {peak:,} ({count:,})" for reason, (peak, count) in sorted(pinned.items(), key=lambda item: -item[1][1])) or "-",
    )
    refused = watch.grown_by("keyward_commands_denied_total", "cmd")
    if refused:
        table.note(f"{name}: refused by the rules: {words(refused)}")
    surprises = watch.grown("keyward_desync_total")
    if surprises:
        table.note(f"{name}: {surprises:.0f} replies that nothing had asked for (keyward_desync_total)")
    errors = watch.grown_by("keyward_error_replies_total", "err")
    if errors:
        table.note(f"{name}: error replies of Redis: {words(errors)}")


def main(names):
    unknown = [name for name in names if name not in TRAFFIC]
    if unknown:
        sys.exit(f"there is no traffic {unknown[0]}: there is {' '.join(TRAFFIC)}; see the head of benches/pins.sh")
    keyward = os.environ.get("KEYWARD_BENCH_BINARY")
    if not keyward or not os.access(keyward, os.X_OK) or not TOOLS:
        sys.exit("KEYWARD_BENCH_BINARY is no program: start benches/pins.sh, which builds one and installs the clients")
    keyward = os.path.abspath(keyward)
    try:
        seconds = float(os.environ.get("KEYWARD_BENCH_SECONDS") or 8)
        limit = int(os.environ.get("KEYWARD_BENCH_LIMIT") or 1800)
    except ValueError as error:
        sys.exit(f"a setting KEYWARD_BENCH_... is not what benches/pins.sh says: {error}")
    subject = os.environ.get("KEYWARD_BENCH_SUBJECT") or "keyward-shared-1"
    if not re.fullmatch(r"keyward-(shared|dedicated)-[1-9]\d*", subject):
        sys.exit(f"KEYWARD_BENCH_SUBJECT: {subject} is not keyward-shared-WORKERS or keyward-dedicated-WORKERS")
    started = time.monotonic()
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop_here)
    signal.alarm(limit)
    os.chdir(HERE)
    table = report.Table(
        f"what pins: {subject}, {seconds:g} s of traffic each",
        ["traffic", "connections without Keyward", "clients", "to Redis", "own", "requests", "shared", "per flush", "errors", "pinned at peak (times in all)"],
    )
    lab, bad, versions = None, 0, {}
    try:
        lab = Lab(keyward)
        for name in names or TRAFFIC:
            results = []
            for which in ("redis-tls", subject):
                print(f"[{time.monotonic() - started:5.0f} s] {name}: {which}", file=sys.stderr, flush=True)
                redis, proxy = Redis(lab), None
                try:
                    versions["Redis " + redis.control.info("server")["redis_version"]] = True
                    proxy = Subject(lab, redis, which)
                    proxy.ensure()
                    results.append(run(lab, redis, proxy, name, seconds))
                except (Failed, clients.Unexpected, OSError) as error:
                    results.append(None)
                    bad += 1
                    table.fail(f"{name} at {which}", str(error))
                finally:
                    if proxy:
                        proxy.stop()
                    redis.stop()
            for which, result in zip(("redis-tls", subject), results):
                for error in sorted(set(result.errors)) if result else []:
                    table.note(f"{name} at {which}: error: {error}")
                bad += len(result.errors) if result else 0
            if results[1]:
                versions[results[1].version] = True
                row(table, name, *results)
    except TimeUp as reason:
        table.note(f"stopped: {reason}")
        bad += 1
    finally:
        if lab:
            lab.close()
    print(", ".join(versions), end="")
    table.print()
    return 1 if bad else 0


def stop_here(number, _frame):
    for other in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise TimeUp("the time limit (KEYWARD_BENCH_LIMIT)" if number == signal.SIGALRM else signal.Signals(number).name)


sys.exit(main(sys.argv[1:]))
