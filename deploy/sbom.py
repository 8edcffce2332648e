#!/usr/bin/env python3
"""The software bill of materials of the program, CycloneDX 1.6: the crates that are in it, from Cargo.lock and cargo's metadata.

    deploy/sbom.py [FILE] [--target TRIPLE]     standard output without FILE; the target of this machine without --target

What only tests, benches and build scripts use is not in it; procedural macros are, as what they write is compiled in. The same sources
give the same file, byte by byte.
"""

import argparse
import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def host():
    version = subprocess.run(["rustc", "--version", "--verbose"], check=True, capture_output=True, text=True).stdout
    return re.search(r"^host: (\S+)$", version, re.M).group(1)


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments, "--locked"], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def descriptions():
    """What each crate's manifest says: (name, version) -> fields."""
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    return {(package["name"], package["version"]): package for package in packages}


def uses(target):
    """Which crate has which others compiled in, the program first. `cargo tree` has the features that a build has; those of
    `cargo metadata` are the tests' too."""
    found, path = {}, []
    for line in cargo("tree", "--edges", "normal", "--target", target, "--prefix", "depth", "--format", " {p}").splitlines():
        depth, name, version = re.match(r"(\d+) (\S+) v(\S+)", line).groups()
        path[int(depth):] = [(name, version)]
        found.setdefault(path[-1], set())
        if len(path) > 1:
            found[path[-2]].add(path[-1])
    return found


def checksums():
    """Of every crate of the registry: (name, version) -> SHA-256 of the archive, which cargo has verified."""
    packages = (ROOT / "Cargo.lock").read_text().split("[[package]]\n")[1:]
    fields = [dict(re.findall(r'^(\w+) = "(.*)"$', package, re.M)) for package in packages]
    return {(each["name"], each["version"]): each["checksum"] for each in fields if "checksum" in each}


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, sums, kind="library"):
    found = {"type": kind, "bom-ref": purl(package), "name": package["name"], "version": package["version"]}
    if package["description"]:
        found["description"] = " ".join(package["description"].split())
    checksum = sums.get((package["name"], package["version"]))
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["license"]:
        # Old crates write MIT/Apache-2.0 for what is MIT OR Apache-2.0.
        found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    found["purl"] = purl(package)
    if package["repository"]:
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return found


def bill(target):
    packages, sums, graph = descriptions(), checksums(), uses(target)
    root, *others = graph
    for crate in others:
        if packages[crate]["source"] != REGISTRY:
            raise SystemExit(f"{crate} is not from crates.io: say here how it is named")
    others.sort()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": component(packages[root], sums, "application"),
            "properties": [{"name": "cargo:target", "value": target}],
        },
        "components": [component(packages[crate], sums) for crate in others],
        "dependencies": [
            {"ref": purl(packages[crate]), "dependsOn": sorted(purl(packages[used]) for used in graph[crate])} for crate in [root, *others]
        ],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--target", default=None)
    arguments = parser.parse_args()
    text = json.dumps(bill(arguments.target or host()), indent=1, ensure_ascii=False) + "\n"
    if arguments.file:
        arguments.file.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
