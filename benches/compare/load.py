"""The parts that need a steady load: CPU per request, throughput, big values, system calls."""

import time
from statistics import median

import clients
import measure
import report
from subjects import Failed, Redis, Subject

SMALL = (64, 10_000)  # bytes of a value, number of keys
BASE = "redis-tls"


class Window:
    """What happened while it was open."""

    def __init__(self, redis, subject, load, seconds):
        before = self._sample(redis, subject, load)
        time.sleep(seconds)
        after = self._sample(redis, subject, load)
        took, self.requests, self.proxy, self.redis, client, busy = [b - a for a, b in zip(before, after)]
        load.check()
        subject.check()
        if self.requests <= 0:
            raise Failed("no request was answered")
        self.rate = self.requests / took
        self.others = max(0.0, busy - self.proxy - self.redis - client) / (took * measure.CPUS)

    @staticmethod
    def _sample(redis, subject, load):
        requests = redis.requests()
        return (
            time.monotonic(), requests, measure.cpu_seconds(subject.pids), measure.cpu_seconds(redis.pids),
            measure.cpu_seconds([load.process.pid]), measure.machine_busy_seconds(),
        )


def _loaded(lab, redis, subject, shape, size, keys, use):
    """Calls `use` with a load that is warm, once for SET and once for GET, and returns both results."""
    count, pipeline = shape
    results = []
    for command in ("set", "get"):
        load = clients.Load(lab, subject, command, count, pipeline, size, keys)
        try:
            load.wait_warm()
            results.append(use(load))
        finally:
            load.stop()
            measure.wait_quiet(subject.pids + redis.pids)
    return results


def _rounds(setup, lab, cases, visit):
    """Every case with every subject, in interleaved rounds. `visit(redis, subject, case)` returns one result."""
    redis = Redis(lab)
    subjects = [Subject(lab, redis, name) for name in setup.subjects]
    results, failures = {}, {}
    try:
        for turn in range(setup.rounds):
            for case in cases:
                setup.say(f"round {turn + 1} of {setup.rounds}: {case.title}")
                shift = turn % len(subjects)
                for subject in subjects[shift:] + subjects[:shift]:
                    key = (case, subject.name)
                    if key in failures:
                        continue
                    try:
                        subject.ensure()
                        results.setdefault(key, {})[turn] = visit(redis, subject, case)
                    except (Failed, clients.Unexpected, OSError) as error:
                        failures[key] = str(error)
                        setup.say(f"  {subject.name}: {error}")
    finally:
        # The run may be cut short by its time limit or by hand: what is there is shown.
        if results:
            _print_tables(setup, cases, results, failures)
        for subject in subjects:
            subject.stop()
        redis.stop()


class Case:
    def __init__(self, title, shape, size, keys, tables):
        self.title, self.shape, self.size, self.keys, self.tables = title, shape, size, keys, tables


def _print_tables(setup, cases, results, failures):
    for case in cases:
        rows = {name: results.get((case, name), {}) for name in setup.subjects}
        if any(rows.values()):
            case.tables(setup, case, rows, {name: failures.get((case, name)) for name in setup.subjects})


def _ratios(rows, name, value):
    """A subject's value as a multiple of Redis's own TLS in the same round, for each round that has both."""
    base = rows.get(BASE, {})
    return [value(one) / value(base[turn]) for turn, one in rows[name].items() if turn in base and value(base[turn])]


def _together(one):
    return (one["proxy_us"] or 0.0) + one["redis_us"]


def _cpu_table(setup, case, rows, failures):
    table = report.Table(
        f"{case.title}: CPU in microseconds per request, throughput",
        ["", "proxy", "Redis", "together", "x Redis TLS", "[min-max]", "requests/s", "x Redis TLS", "[min-max]", "rounds"],
    )
    for name, rounds in rows.items():
        if not rounds:
            table.fail(name, failures[name])
            continue
        values = list(rounds.values())
        cpu = _ratios(rows, name, _together)
        rate = _ratios(rows, name, lambda one: one["rate"])
        table.row(
            name, *[report.middle([one[key] for one in values]) for key in ("proxy_us", "redis_us")],
            report.middle([_together(one) for one in values]), report.middle(cpu), report.spread(cpu),
            f"{median(one['rate'] for one in values):,.0f}", report.middle(rate), report.spread(rate), str(len(values)),
        )
    others = [one["others"] for rounds in rows.values() for one in rounds.values() if "others" in one]
    if others:
        table.note(f"others took {median(others):.1%} of the machine (median), {max(others):.1%} at most")
    table.print()


def _visit_cpu(setup, lab):
    def visit(redis, subject, case):
        windows = _loaded(lab, redis, subject, case.shape, case.size, case.keys, lambda load: Window(redis, subject, load, setup.seconds))
        # SET and GET weigh the same, however many of each the window held.
        def mean(value):
            return sum(value(window) for window in windows) / len(windows)

        one = {
            "proxy_us": mean(lambda w: w.proxy / w.requests * 1e6) if subject.pids else None, "redis_us": mean(lambda w: w.redis / w.requests * 1e6),
            "rate": mean(lambda w: w.rate), "others": max(w.others for w in windows),
        }
        setup.record(case.title, subject.name, one)
        return one

    return visit


def run_load(setup, lab):
    cases = [Case(f"{c} clients, pipeline {p}, 64-byte values", (c, p), *SMALL, _cpu_table) for c, p in setup.shapes]
    visit = _visit_cpu(setup, lab)
    filled = []

    def prepared(redis, subject, case):
        if not filled:
            redis.fill(*SMALL)
            filled.append(True)
        return visit(redis, subject, case)

    _rounds(setup, lab, cases, prepared)


def run_runs(setup, lab):
    """As one who starts redis-benchmark sees it: from its start to its end, with handshakes and logins."""
    cases = [
        Case(f"{c} clients, pipeline {p}, 64-byte values, whole runs of {setup.requests:,} requests", (c, p), *SMALL, _cpu_table) for c, p in setup.shapes
    ]
    filled = []

    def one_run(redis, subject, case, command):
        before = time.monotonic(), measure.cpu_seconds(subject.pids), measure.cpu_seconds(redis.pids)
        load = clients.Load(lab, subject, command, *case.shape, case.size, case.keys, setup.requests)
        try:
            load.wait_done()
            took = time.monotonic() - before[0]
        finally:
            load.stop()
            measure.wait_quiet(subject.pids + redis.pids)
        subject.check()
        proxy, server = measure.cpu_seconds(subject.pids) - before[1], measure.cpu_seconds(redis.pids) - before[2]
        return proxy / setup.requests * 1e6, server / setup.requests * 1e6, setup.requests / took

    def visit(redis, subject, case):
        if not filled:
            redis.fill(*SMALL)
            filled.append(True)
        proxy, server, rate = [sum(values) / 2 for values in zip(*(one_run(redis, subject, case, command) for command in ("set", "get")))]
        one = {"proxy_us": proxy if subject.pids else None, "redis_us": server, "rate": rate}
        setup.record(case.title, subject.name, one)
        return one

    _rounds(setup, lab, cases, visit)


def run_sizes(setup, lab):
    cases = []
    for size in setup.sizes:
        keys = max(10, min(1000, (32 << 20) // size))
        cases.append(Case(f"{setup.size_clients} clients, pipeline 1, values of {size:,} bytes", (setup.size_clients, 1), size, keys, _cpu_table))
    visit = _visit_cpu(setup, lab)
    filled = [None]

    def prepared(redis, subject, case):
        if filled[0] != case.size:
            redis.fill(case.size, case.keys)
            filled[0] = case.size
        return visit(redis, subject, case)

    _rounds(setup, lab, cases, prepared)


def _syscall_table(setup, case, rows, failures):
    table = report.Table(f"{case.title}: system calls per request", ["", "proxy", "[min-max]", "Redis", "together", "rounds"])
    for name, rounds in rows.items():
        values = list(rounds.values())
        if not values:
            table.fail(name, failures[name])
            continue
        proxy, redis = [one["proxy"] for one in values], [one["redis"] for one in values]
        both = [one["redis"] + (one["proxy"] or 0.0) for one in values if one["redis"] is not None]
        table.row(name, report.middle(proxy), report.spread(proxy), report.middle(redis), report.middle(both), str(len(values)))
    if not measure.perf_works(setup.become_root):
        table.note("counted by strace, which slows the process down: it then finds more to do at a time than it would")
    table.print()


def run_syscalls(setup, lab):
    cases = [Case("50 clients, pipeline 1, 64-byte values", (50, 1), *SMALL, _syscall_table)]

    def count(redis, subject, load):
        seconds = setup.seconds + 1
        proxy = measure.SyscallCounter(subject.pids, seconds, setup.become_root) if subject.pids else None
        # strace on both would leave neither fast enough to mean anything.
        both = measure.perf_works(setup.become_root) or not subject.pids
        server = measure.SyscallCounter(redis.pids, seconds, setup.become_root) if both else None
        time.sleep(0.5)
        window = Window(redis, subject, load, setup.seconds)
        calls = [counter.per_second() if counter else None for counter in (proxy, server)]
        if (proxy and calls[0] is None) or (server and calls[1] is None):
            raise Failed("its system calls could not be counted")
        return [rate / window.rate if rate is not None else None for rate in calls]

    def visit(redis, subject, case):
        results = _loaded(lab, redis, subject, case.shape, case.size, case.keys, lambda load: count(redis, subject, load))

        def mean(index):
            values = [result[index] for result in results]
            return None if None in values else sum(values) / len(values)

        one = {"proxy": mean(0), "redis": mean(1)}
        setup.record("syscalls", subject.name, one)
        return one

    _rounds(setup, lab, cases, visit)
