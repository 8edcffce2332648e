"""The bill of materials: valid CycloneDX, and exactly the crates that a build compiles into the program.

    sbom.py KEYWARD

The build itself says what it compiled, and the program holds the paths of the crates whose code may panic: neither comes from the
command that the bill is made with.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[2]


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def compiled():
    """Name and version of every crate that cargo compiles for the program, for build scripts too."""
    found = set()
    for line in run("cargo", "build", "--quiet", "--locked", "--bin", "keyward", "--message-format", "json").splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["target"]["kind"] != ["custom-build"]:
            # registry+https://...#name@version, or path+file:///...#version
            reference = message["package_id"].rsplit("#", 1)[1]
            found.add(reference if "@" in reference else f"keyward@{reference}")
    return found


def reached(edges):
    lines = run("cargo", "tree", "--locked", "--edges", edges, "--prefix", "none", "--format", "{p}").splitlines()
    return {"@".join(re.match(r"(\S+) v(\S+)", line).groups()) for line in lines}


def main(keyward):
    text = run("deploy/sbom.py")
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault:
        raise SystemExit(f"not CycloneDX 1.6: {fault}")
    if text != run("deploy/sbom.py"):
        raise SystemExit("it is not the same when it is made again")
    bill = json.loads(text)
    listed = {f"{each['name']}@{each['version']}" for each in bill["components"]}
    program = bill["metadata"]["component"]
    for_building = reached("normal,build") - reached("normal")
    wanted = compiled() - for_building - {f"{program['name']}@{program['version']}"}
    if listed != wanted:
        raise SystemExit(f"not compiled in: {sorted(listed - wanted)}; not listed: {sorted(wanted - listed)}")
    paths = re.findall(rb"registry/src/[^/\0]+/([a-zA-Z0-9_-]+)-(\d+\.\d+\.\d+[^/\0]*)/", Path(keyward).read_bytes())
    held = {b"@".join(path).decode() for path in paths}
    if not held <= listed or len(held) < 20:
        raise SystemExit(f"the program holds code of crates that are not listed: {sorted(held - listed)} ({len(held)})")
    lock = (ROOT / "Cargo.lock").read_text()
    for each in bill["components"]:
        if each["hashes"][0]["content"] not in lock or not each.get("licenses"):
            raise SystemExit(f"{each['name']}: no licence, or a checksum that Cargo.lock does not have")
    print(f"{len(listed)} crates, {len(held)} of them seen in the program")


if __name__ == "__main__":
    main(sys.argv[1])
