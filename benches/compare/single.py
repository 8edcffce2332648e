"""The parts that need no load: idle connections, handshakes, one big value. Memory is measured on processes that are fresh."""

import gc
import time
from statistics import median

import clients
import measure
import report
from subjects import Failed, Redis, Subject

ERRORS = (Failed, clients.Unexpected, OSError)
# DER of the object identifier prime256v1: a certificate on that curve has it in its public key.
P256 = bytes.fromhex("06082a8648ce3d030107")


def _fresh(setup, lab, name, measured):
    """Calls `measured(redis, subject)` with a Redis and a subject that have served nobody yet; `None` and a word if it fails."""
    redis = Redis(lab)
    try:
        subject = Subject(lab, redis, name)
        try:
            subject.ensure()
            return measured(redis, subject), None
        finally:
            subject.stop()
    except ERRORS as error:
        setup.say(f"  {name}: {error}")
        return None, str(error)
    finally:
        redis.stop()


def run_memory(setup, lab):
    steps = sorted(setup.connections)
    columns = [""]
    columns += [f"{who} at {step:,}" for step in steps for who in ("proxy", "Redis", "together")]
    table = report.Table("memory of an idle connection, KiB (growth of resident memory / connections)", [*columns, f"connections to Redis at {steps[-1]:,}"])
    try:
        for name in setup.subjects:
            setup.say(f"memory: {name}")

            def measured(redis, subject):
                idle = [subject.connect() for _ in range(10)]
                try:
                    measure.wait_quiet(subject.pids + redis.pids)
                    base = measure.rss_bytes(subject.pids), measure.rss_bytes(redis.pids)
                    cells = []
                    for step in steps:
                        start = len(idle) - 10
                        idle += [subject.connect() for _ in range(step - start)]
                        # Redis trims its clients' buffers when they have been idle for two seconds.
                        time.sleep(3)
                        measure.wait_quiet(subject.pids + redis.pids)
                        subject.check()
                        for client in idle[:: max(1, len(idle) // 20)]:
                            if client.command("PING") != b"+PONG":
                                raise Failed("an idle connection no longer answers")
                        growth = measure.rss_bytes(subject.pids) - base[0], measure.rss_bytes(redis.pids) - base[1]
                        proxy, server, both = [value / step / 1024 for value in (*growth, sum(growth))]
                        cells += [proxy if subject.pids else None, server, both]
                        upstream = redis.connections()
                    return cells, upstream
                finally:
                    for client in idle:
                        client.close()
                    idle.clear()
                    gc.collect()

            result, reason = _fresh(setup, lab, name, measured)
            if result:
                cells, upstream = result
                table.row(name, *map(report.number, cells), f"{upstream:,}")
                setup.record("memory", name, {"kib": dict(zip(columns[1:], cells)), "upstream": upstream})
            else:
                table.fail(name, reason)
    finally:
        table.note("10 connections more than that are open, from before the growth is counted")
        table.print()


def run_handshake(setup, lab):
    redis = Redis(lab)
    subjects = [Subject(lab, redis, name) for name in setup.subjects]
    results, failures, ciphers = {}, {}, {}
    try:
        for turn in range(setup.rounds):
            setup.say(f"round {turn + 1} of {setup.rounds}: handshakes")
            shift = turn % len(subjects)
            for subject in subjects[shift:] + subjects[:shift]:
                if subject.name in failures:
                    continue
                try:
                    subject.ensure()
                    ciphers[subject.name] = _look(subject)
                    for _ in range(20):
                        subject.connect().close()
                    measure.wait_quiet(subject.pids + redis.pids)
                    before = measure.cpu_seconds(subject.pids), measure.cpu_seconds(redis.pids)
                    for _ in range(setup.handshakes):
                        subject.connect().close()
                    measure.wait_quiet(subject.pids + redis.pids)
                    after = measure.cpu_seconds(subject.pids), measure.cpu_seconds(redis.pids)
                    one = [(b - a) / setup.handshakes * 1e6 for a, b in zip(before, after)]
                    results.setdefault(subject.name, {})[turn] = one
                    setup.record("handshake", subject.name, {"proxy_us": one[0], "redis_us": one[1]})
                except ERRORS as error:
                    failures[subject.name] = str(error)
                    setup.say(f"  {subject.name}: {error}")
    finally:
        table = report.Table(
            "a TLS handshake, AUTH, PING and close: CPU in microseconds",
            ["", "proxy", "[min-max]", "Redis", "together", "x Redis TLS", "[min-max]", "rounds", "cipher"],
        )
        base = results.get("redis-tls", {})
        for name in setup.subjects:
            rounds = results.get(name)
            if not rounds:
                table.fail(name, failures.get(name))
                continue
            proxy, server = zip(*rounds.values())
            if name.startswith("redis-"):
                proxy = []
            both = [sum(one) for one in rounds.values()]
            ratios = [sum(one) / sum(base[turn]) for turn, one in rounds.items() if turn in base]
            table.row(
                name, report.middle(proxy), report.spread(proxy), report.middle(server), report.middle(both), report.middle(ratios),
                report.spread(ratios), str(len(both)), ciphers[name],
            )
        table.print()
        for subject in subjects:
            subject.stop()
        redis.stop()


def _look(subject):
    """The cipher suite that is agreed on; raises `Failed` if the handshake is not the one to be compared."""
    client = subject.connect()
    try:
        if not subject.encrypted:
            return "none"
        if client.socket.version() != "TLSv1.3" or client.socket.session_reused or P256 not in client.socket.getpeercert(True):
            raise Failed("not a full handshake of TLS 1.3 with a P-256 certificate")
        return client.socket.cipher()[0]
    finally:
        client.close()


def run_stream(setup, lab):
    size = setup.stream_mb << 20
    mib = 1 << 20
    rounds = 1 if setup.rounds < 3 else 3
    columns = ["", "proxy grows, SET", "proxy grows, GET", "[both, min-max]", "proxy CPU", "together", "MiB/s SET", "MiB/s GET", "rounds"]
    table = report.Table(f"one value of {setup.stream_mb} MiB: growth of peak resident memory in MiB, CPU in milliseconds (SET + GET)", columns)
    results, failures = {}, {}
    try:
        for turn in range(rounds):
            for name in setup.subjects:
                setup.say(f"round {turn + 1} of {rounds}: {setup.stream_mb} MiB through {name}")

                def measured(redis, subject):
                    client = subject.connect()
                    try:
                        measure.wait_quiet(subject.pids + redis.pids)
                        base = measure.rss_bytes(subject.pids)
                        before = measure.cpu_seconds(subject.pids), measure.cpu_seconds(redis.pids)
                        growth, speed = [], []
                        for action in (client.set_big, None):
                            measure.reset_peak(subject.pids)
                            start = time.monotonic()
                            if action:
                                action("big", size)
                            elif client.get_big("big") != size:
                                raise Failed("the value came back with another size")
                            speed.append(setup.stream_mb / (time.monotonic() - start))
                            growth.append((measure.peak_bytes(subject.pids) - base) / mib)
                        after = measure.cpu_seconds(subject.pids), measure.cpu_seconds(redis.pids)
                        return growth, speed, [(b - a) * 1000 for a, b in zip(before, after)]
                    finally:
                        client.close()

                if name in failures:
                    continue
                one, reason = _fresh(setup, lab, name, measured)
                if one:
                    results.setdefault(name, []).append(one)
                    setup.record("stream", name, {"growth_mib": one[0], "mib_per_s": one[1], "cpu_ms": one[2]})
                else:
                    failures[name] = reason
    finally:
        table.note("the larger of the two peaks counts in brackets; a value that Redis's own TLS carries grows Redis by the value")
        for name in setup.subjects:
            if name not in results:
                table.fail(name, failures.get(name))
                continue
            growth, speed, cpu = zip(*results[name])
            proxied = not name.startswith("redis-")
            peaks = [max(one) if proxied else None for one in growth]
            table.row(
                name, *[report.middle([one[i] if proxied else None for one in growth]) for i in (0, 1)], report.spread(peaks),
                report.middle([one[0] if proxied else None for one in cpu]), report.middle(list(map(sum, cpu))),
                *[f"{median(one[i] for one in speed):,.0f}" for i in (0, 1)], str(len(growth)),
            )
        table.print()
