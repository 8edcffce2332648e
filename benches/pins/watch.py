"""What Keyward's metrics and Redis say while traffic runs: peaks of gauges, growth of counters."""

import re
import threading
import urllib.request

EVERY = 0.05  # seconds between two looks; a peak shorter than that may be missed, a count is not
SERIES = re.compile(r"^(keyward_\w+)(?:\{([^}]*)\})? (\S+)$", re.M)
LABEL = re.compile(r'(\w+)="([^"]*)"')


class Metrics:
    """One reading of /metrics: values by name and, where one is asked for, by a label."""

    def __init__(self, address):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        self.series = [(name, dict(LABEL.findall(labels)), float(value)) for name, labels, value in SERIES.findall(text)]

    def total(self, name):
        return sum(value for known, _, value in self.series if known == name)

    def by(self, name, label):
        """Sums by a label; what is 0 is left out."""
        sums = {}
        for known, labels, value in self.series:
            if known == name and value:
                sums[labels[label]] = sums.get(labels[label], 0) + value
        return sums


class Watch:
    """Looks at Redis, and at Keyward if there is one, until `end`."""

    def __init__(self, redis, admin):
        self.redis, self.admin = redis, admin
        self.peak_redis = self.peak_clients = 0
        self.peak_pinned, self.peak_lanes = {}, {}
        self.broken = None
        self.before = Metrics(admin) if admin else None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.broken:
            try:
                self._look()
            except Exception as error:  # the numbers would be wrong: the row is not to be believed
                self.broken = f"{type(error).__name__}: {error}"
            if self.over.wait(EVERY):
                return

    def _look(self):
        self.peak_redis = max(self.peak_redis, self.redis.connections())
        if not self.admin:
            return
        now = Metrics(self.admin)
        self.peak_clients = max(self.peak_clients, int(now.total("keyward_connections_open")))
        _raise(self.peak_pinned, now.by("keyward_sessions_pinned", "reason"))
        _raise(self.peak_lanes, now.by("keyward_upstream_lanes_open", "kind"))

    def end(self):
        self.over.set()
        self.thread.join()
        if self.broken:
            return
        self._look()
        if self.admin:
            after = Metrics(self.admin)
            self.grown = lambda name: after.total(name) - self.before.total(name)
            self.grown_by = lambda name, label: _difference(after.by(name, label), self.before.by(name, label))


def _raise(peaks, values):
    for key, value in values.items():
        peaks[key] = max(peaks.get(key, 0), int(value))


def _difference(after, before):
    return {key: int(value - before.get(key, 0)) for key, value in after.items() if value > before.get(key, 0)}
