"""deploy/docker/Dockerfile without an engine: what it promises, and that the program can be built from what it copies.

    image.py
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from names import DEPLOY

ROOT = DEPLOY.parent


def instructions(text):
    """Words of each instruction, comments and line ends taken out."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def promises(lines):
    last = max(index for index, (word, _) in enumerate(lines) if word == "FROM")
    final = dict(lines[last:])
    assert re.fullmatch(r"gcr\.io/distroless/cc-debian\d+:nonroot", final["FROM"]), final["FROM"]
    assert final["USER"] == "65532:65532"
    program = final["COPY"].split()[-1]
    assert final["ENTRYPOINT"] == f'["{program}"]' and final["CMD"] == '["run"]'
    # By the program itself, which is all that the image has: 0 or 1, no password, nothing written.
    assert final["HEALTHCHECK"].endswith(f'CMD ["{program}", "healthcheck"]'), final["HEALTHCHECK"]
    assert final["STOPSIGNAL"] == "SIGTERM"
    # Nothing of the final stage runs in a shell, which is not there.
    assert not any(word == "RUN" for word, _ in lines[last:])


def context(dir):
    """What the build gets: all that .dockerignore lets through, and git knows."""
    lines = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted[0] == "*" and all(line.startswith("!") for line in wanted[1:]), wanted
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if any(name == line[1:] or name.startswith(f"{line[1:]}/") for line in wanted[1:]):
            (dir / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, dir / name)


def copied(lines, dir, build):
    """The COPY instructions of the first stage."""
    first = lines[: next(index for index, (word, _) in enumerate(lines) if index and word == "FROM")]
    for word, rest in first:
        if word != "COPY":
            continue
        *sources, target = rest.split()
        for source in sources:
            to = build / target / Path(source).name if target.endswith("/") else build / target
            copy = shutil.copytree if (dir / source).is_dir() else shutil.copyfile
            to.parent.mkdir(parents=True, exist_ok=True)
            copy(dir / source, to)
    return " ".join(rest for word, rest in first if word == "RUN")


def main():
    lines = instructions((DEPLOY / "docker/Dockerfile").read_text())
    promises(lines)
    with tempfile.TemporaryDirectory(prefix="keyward-image-") as name:
        dir = Path(name)
        (dir / "context").mkdir()
        context(dir / "context")
        command = copied(lines, dir / "context", dir / "build")
        assert "cargo build --release --locked --bin keyward" in command, command
        # Looked at by the compiler and not built: the dependencies are those of the tests.
        target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
        done = subprocess.run(["cargo", "check", "--quiet", "--locked", "--bin", "keyward"], cwd=dir / "build", check=False,
                              env={**os.environ, "CARGO_TARGET_DIR": str(target)}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"what the Dockerfile copies does not build:\n{done.stderr[-2000:]}")
    print("the image has the program alone, and what it copies builds")


if __name__ == "__main__":
    main()
