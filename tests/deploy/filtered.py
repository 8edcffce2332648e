"""Runs a program under the system calls that a systemd unit allows; whatever else it calls ends it.

    filtered.py UNIT PROGRAM [ARGUMENT...]

Stricter than systemd, which would only refuse the call (SystemCallErrorNumber): nothing may pass unnoticed.
"""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000


def members(name):
    """The system calls of a group such as @system-service, or the one system call."""
    if not name.startswith("@"):
        return {name}
    text = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager", name], check=True, capture_output=True, text=True).stdout
    found = set()
    for line in text.splitlines()[1:]:
        word = line.strip()
        if word and not word.startswith("#"):
            found |= members(word)
    return found


def allowed(unit):
    """What the SystemCallFilter= lines of the unit leave: an allow-list first, then what is taken away."""
    result = set()
    lines = re.findall(r"^SystemCallFilter=(~?)(.*)$", unit, re.M)
    assert lines and not lines[0][0], "the first SystemCallFilter= is not an allow-list"
    for minus, words in lines:
        for word in words.split():
            result = result - members(word) if minus else result | members(word)
    # systemd always adds these, or it could not start the program itself.
    return result | members("@default") | {"execve"}


def main(unit, command):
    names = allowed(Path(unit).read_text())
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(KILL_PROCESS)))
    assert context.value, "libseccomp gives no filter"
    for name in sorted(names):
        number = library.seccomp_syscall_resolve_name(name.encode())
        # Names that this architecture or library does not know are nothing to allow.
        if number >= 0:
            assert library.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), number, 0) == 0, name
    assert library.seccomp_load(context) == 0, "the filter cannot be loaded"
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
