"""What a process costs: CPU time, resident memory and system calls, of it and of the children it has."""

import os
import re
import signal
import subprocess
import time

CPUS = os.cpu_count() or 1
TICK = os.sysconf("SC_CLK_TCK")


def tree(pid):
    """The process and those it has started, as far as they live."""
    pids = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in file.read().split():
                    pids += tree(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return pids


def cpu_seconds(pids):
    """CPU time, user and system, that the processes have used so far, threads that have ended included."""
    total = 0.0
    for pid in pids:
        try:
            # The number of a process's CPU clock, as clock_getcpuclockid(3) makes it. /proc/PID/stat has the same in ticks of
            # 10 ms; /proc/PID/schedstat forgets the threads that have ended.
            total += time.clock_gettime((~pid << 3) | 2)
        except OSError:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / TICK
    return total


def machine_busy_seconds():
    """CPU seconds that all CPUs together were at work or taken away by the host (steal) since boot."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, soft, steal = [int(x) / TICK for x in file.readline().split()[1:9]]
    return user + nice + system + irq + soft + steal


def _status(pid, field):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(rf"^{field}:\s+(\d+) kB", file.read(), re.M).group(1)) * 1024


def rss_bytes(pids):
    """Resident memory, in bytes."""
    return sum(_status(pid, "VmRSS") for pid in pids)


def reset_peak(pids):
    """Makes the peak of resident memory what it is now."""
    for pid in pids:
        with open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")


def peak_bytes(pids):
    """The peaks of resident memory since `reset_peak`, in bytes."""
    return sum(_status(pid, "VmHWM") for pid in pids)


def wait_quiet(pids, seconds=10.0):
    """Waits until the processes hardly use the CPU any more: what a load has left behind is not to be in the next number."""
    end = time.monotonic() + seconds
    quiet = 0
    before = cpu_seconds(pids)
    while time.monotonic() < end and quiet < 3:
        time.sleep(0.04)
        now = cpu_seconds(pids)
        quiet = quiet + 1 if now - before < 0.001 else 0
        before = now


class SyscallCounter:
    """Counts the system calls of processes while it runs: with perf where the kernel allows it, else with strace.

    strace stops the process at every call, which changes how much it finds to do at a time: `faithful` says which it was.
    """

    def __init__(self, pids, seconds, become_root):
        self.seconds = seconds
        self.faithful = perf_works(become_root)
        if self.faithful:
            command = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", ",".join(map(str, pids)), "--", "sleep", str(seconds)]
        else:
            command = ["timeout", "--signal=INT", str(seconds), "strace", "-c", "-f", "-qq"]
            command += [part for pid in pids for part in ("-p", str(pid))]
        environment = dict(os.environ, LC_ALL="C")
        self.process = subprocess.Popen(become_root + command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def per_second(self):
        """Waits for the end of the count; `None` if it could not be taken."""
        try:
            _, text = self.process.communicate(timeout=self.seconds + 20)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)
            self.process.communicate()
            return None
        pattern = r"^(\d+),[^,]*,raw_syscalls:sys_enter" if self.faithful else r"^\s*100\.00\s+\S+\s+\S+\s+(\d+)\s.*total$"
        found = re.search(pattern, text, re.M)
        return int(found.group(1)) / self.seconds if found else None


_perf = []


def perf_works(become_root):
    if not _perf:
        try:
            probe = become_root + ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "--", "true"]
            text = subprocess.run(probe, capture_output=True, text=True, timeout=20).stderr
            _perf.append(bool(re.search(r"^[1-9]\d*,", text, re.M)))
        except (OSError, subprocess.TimeoutExpired):
            _perf.append(False)
    return _perf[0]
