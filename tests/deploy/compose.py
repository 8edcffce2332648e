"""deploy/docker without an engine: what compose.yaml promises, and its three programs started as it starts them.

    compose.py KEYWARD
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import yaml

from live import Child, clean_environment, wait_for
from names import DEPLOY


def promises(compose):
    services, secrets = compose["services"], compose["secrets"]
    assert services["redis"]["network_mode"] == "none" and not {"ports", "networks"} & services["redis"].keys()
    assert "ports" not in services["keyward"]
    for name, service in services.items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["user"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert set(service.get("secrets", [])) <= secrets.keys(), name
        environment = service.get("environment", {})
        paths = [value for value in environment.values() if "/run/secrets/" in value]
        used = set(re.findall(r"/run/secrets/(\w+)", " ".join(paths + service.get("command", []))))
        assert used == set(service.get("secrets", [])), f"{name}: {used}"
        # Passwords are never in the environment, which everyone who may inspect a container reads.
        assert not any(re.search(r"PASSWORD$", key) for key in environment), name
        assert not re.search(r"://[^/]*:[^/]*@", " ".join(environment.values())), name
    assert services["api"]["networks"] == ["clients", "outside"] and compose["networks"]["clients"]["internal"] is True
    assert compose["networks"]["metrics"]["internal"] is True
    assert services["prometheus"]["profiles"] == ["monitoring"]
    healthy = [service["depends_on"] for service in services.values() if "depends_on" in service]
    assert all(condition == {"condition": "service_healthy"} for needs in healthy for condition in needs.values())
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / "docker" / source).resolve().exists(), volume


def started(compose, keyward, dir, children):
    """Redis, Keyward and the application, with the commands and variables of compose.yaml."""
    secrets = {name: str(dir / "docker" / where["file"]) for name, where in compose["secrets"].items()}

    def local(text):
        text = re.sub(r"/run/secrets/(\w+)", lambda found: secrets[found.group(1)], text)
        return text.replace("/run/redis", str(dir)).replace("--dir /data", f"--dir {dir}")

    def start(log, *command, **environment):
        children.append(Child(dir / log, *command, env={**clean_environment(), **environment}))
        return children[-1]

    services = compose["services"]
    redis = start("redis.log", *map(local, services["redis"]["command"]))
    wait_for("Redis", lambda: redis.running() and (dir / "redis.sock").exists())
    refused = subprocess.run(["redis-cli", "-s", dir / "redis.sock", "PING"], capture_output=True, text=True, check=False)
    assert "NOAUTH" in refused.stdout, refused.stdout

    variables = {name: local(value) for name, value in services["keyward"]["environment"].items()}
    checked = subprocess.run([keyward, "check"], env={**clean_environment(), **variables}, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    variables.update(KEYWARD_LISTEN="127.0.0.1:0", KEYWARD_ADMIN="127.0.0.1:0")
    server = start("keyward.log", keyward, "run", **variables)
    address = r'"event":"%s".*?"address":"([^"]+)"'
    port = wait_for("the listener", lambda: server.said(address % "listening")).rsplit(":", 1)[1]
    admin = variables["KEYWARD_ADMIN"] = wait_for("the admin listener", lambda: server.said(address % "admin_listening"))
    health = [keyward, "healthcheck"]
    wait_for("health", lambda: subprocess.run(health, env={**clean_environment(), **variables}, capture_output=True).returncode == 0)

    variables = {name: local(value) for name, value in services["api"]["environment"].items()}
    variables["REDIS_URL"] = variables["REDIS_URL"].replace("@keyward:6380", f"@localhost:{port}")
    variables.update(PORT="0", PYTHONUNBUFFERED="1")
    app = start("app.log", sys.executable, str(dir / "docker/app/app.py"), **variables)
    port = wait_for("the application", lambda: app.said(r"listening on port (\d+)"))
    for visitor in (1, 2):
        assert page(f"http://127.0.0.1:{port}/") == f"visitor {visitor}\n"

    # Redis refuses by itself what is refused at Keyward, to scripts too.
    def left_to_scripts():
        found = re.findall(r"^keyward_upstream_overprivileged\{.*\} (\d)$", page(f"http://{admin}/metrics"), re.M)
        return found and set(found)

    assert wait_for("what Redis allows", left_to_scripts) == {"0"}


def page(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def main(keyward):
    compose = yaml.safe_load((DEPLOY / "docker/compose.yaml").read_text())
    promises(compose)
    with tempfile.TemporaryDirectory(prefix="keyward-compose-") as name:
        dir, children = Path(name), []
        shutil.copytree(DEPLOY / "docker", dir / "docker")
        for _ in range(2):
            subprocess.run([dir / "docker/prepare.sh"], env={**os.environ, "KEYWARD": keyward}, check=True, capture_output=True)
        before = (dir / "docker/secrets/app.password").read_text()
        assert len(before) > 32
        try:
            started(compose, keyward, dir, children)
        finally:
            for child in reversed(children):
                child.stop()
    print("the three programs of compose.yaml work together")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()))
