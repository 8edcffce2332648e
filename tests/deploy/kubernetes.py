"""The Kubernetes manifests: rendered by kubectl, checked against Kubernetes's own schemas, and against what they promise.

    kubernetes.py KUBECTL KEYWARD OUT

OUT gets custom-resources.ts, which the TypeScript compiler checks against the types of their makers.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from names import DEPLOY

KUBERNETES = DEPLOY / "kubernetes"
RENDERED = ["gateway", "redis-side", "example/gateway", "example/sidecar"]
# The oldest that has all we use (native sidecars, the preStop sleep), and the newest that the checker knows.
VERSIONS = ["1.30", "1.37"]
CUSTOM = {
    "PodMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
    "Certificate": "@kubernetes-models/cert-manager/cert-manager.io/v1/Certificate",
}


class Strict(yaml.SafeLoader):
    """A key that stands twice is a fault."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {node.start_mark}"
        return super().construct_mapping(node, deep)


def one(objects, kind, name=None):
    found = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def containers(pod):
    return {c["name"]: c for c in pod.get("initContainers", []) + pod["containers"]}


def matches(selector, labels):
    return selector["matchLabels"].items() <= labels.items()


def restricted(pod, container):
    """The profile "restricted" of the Pod Security Standards, and a file system that nobody writes to."""
    own, whole = container["securityContext"], pod.get("securityContext", {})
    assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}
    assert own["readOnlyRootFilesystem"] is True and not own.get("privileged")
    assert {**whole, **own}["runAsNonRoot"] is True and {**whole, **own}["runAsUser"] == 65532
    assert {**whole, **own}["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= {"configMap", "secret"}
    # Keyward refuses secrets that everyone may read; the group of its user may.
    assert whole["fsGroup"] == 65532
    for volume in pod["volumes"]:
        assert "secret" not in volume or volume["secret"]["defaultMode"] == 0o440, volume
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert all(mount["name"] in volumes and "subPath" not in mount for mount in container["volumeMounts"])
    assert re.fullmatch(r".+/keyward:\d+\.\d+\.\d+", container["image"]), container["image"]
    assert "memory" in container["resources"]["limits"] and "cpu" not in container["resources"]["limits"]


def probes(container):
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["keyward-metrics"] == 6390
    return {kind: probe["httpGet"]["path"] for kind, probe in container.items() if kind.endswith("Probe")}, ports


def gateway(objects, keyward):
    deployment = one(objects, "Deployment")["spec"]
    pod, labels = deployment["template"]["spec"], deployment["template"]["metadata"]["labels"]
    container = containers(pod)["keyward"]
    restricted(pod, container)
    assert pod["automountServiceAccountToken"] is False
    kinds, ports = probes(container)
    assert kinds == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    # Nobody is cut off while draining, and no update takes a pod away before its successor is ready.
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0 and "replicas" not in deployment
    scaler = one(objects, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == one(objects, "Deployment")["metadata"]["name"] and scaler["minReplicas"] >= 2
    assert matches(deployment["selector"], labels)
    assert matches(one(objects, "PodDisruptionBudget")["spec"]["selector"], labels)
    assert all(matches(spread["labelSelector"], labels) for spread in pod["topologySpreadConstraints"])
    for service in (o for o in objects if o["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items(), service
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"])
    assert [p["targetPort"] for p in one(objects, "Service", "keyward")["spec"]["ports"]] == ["redis"], "metrics are not for clients"

    policy = one(objects, "NetworkPolicy")["spec"]
    assert matches(policy["podSelector"], labels) and set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert all(rule["from"] and port["port"] in ports for rule in policy["ingress"] for port in rule["ports"])
    # What kustomize must not have rewritten.
    peers = [peer["podSelector"]["matchLabels"] for rule in policy["egress"] for peer in rule["to"]]
    assert peers == [{"k8s-app": "kube-dns"}, {"app.kubernetes.io/name": "redis"}], peers

    text = one(objects, "ConfigMap")["data"]["keyward.toml"]
    timeout = int(re.search(r'drain_timeout = "(\d+)s"', text).group(1))
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert timeout + sleep < pod["terminationGracePeriodSeconds"]
    config_mount = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == "config")
    assert container["args"] == ["run", "--config", f"{config_mount}/keyward.toml"]
    mounts = [m["mountPath"] + "/" for m in container["volumeMounts"]]
    for path in re.findall(r'"(/run/[^"]+)"', text):
        assert any(path.startswith(mount) for mount in mounts), f"{path} is in no volume"
    loads(text, keyward)


def loads(text, keyward):
    """The gateway's configuration, by Keyward itself, with the files in a directory of this test."""
    with tempfile.TemporaryDirectory() as name:
        dir = Path(name)
        subprocess.run([keyward, "dev-certs", "--out", dir], check=True, capture_output=True)
        place = {"tls.crt": "server.pem", "tls.key": "server.key", "ca.crt": "ca.pem"}
        for path in re.findall(r'"(/run/[^"]+)"', text):
            file = Path(path).name
            target = dir / place.get(file, file)
            if not target.exists():
                target.write_text("0123456789abcdefghijklmnopqrstuvwxyz-a-long-secret\n")
                target.chmod(0o440)
            text = text.replace(f'"{path}"', f'"{target}"')
        (dir / "keyward.toml").write_text(text)
        done = subprocess.run([keyward, "check", "--config", dir / "keyward.toml"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def sidecar(objects):
    deployment = one(objects, "Deployment", "api")["spec"]["template"]
    pod = deployment["spec"]
    container = containers(pod)["keyward"]
    restricted(pod, container)
    assert pod["initContainers"][0]["name"] == "keyward" and container["restartPolicy"] == "Always"
    kinds, _ = probes(container)
    assert kinds == {"startupProbe": "/readyz", "livenessProbe": "/livez"}
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    assert env["KEYWARD_LISTEN"].startswith("127.0.0.1:") and "REDIS_PASSWORD" not in env
    app = {variable["name"]: variable["value"] for variable in containers(pod)["api"]["env"]}
    assert app["REDIS_URL"] == f"redis://{env['KEYWARD_LISTEN']}/0"
    assert env["REDIS_PASSWORD_FILE"].startswith(container["volumeMounts"][0]["mountPath"] + "/")
    urls = one(objects, "ConfigMap")
    assert container["envFrom"] == [{"configMapRef": {"name": urls["metadata"]["name"]}}]
    assert urls["data"]["REDIS_URL"].startswith("rediss://")
    monitor = one(objects, "PodMonitor")["spec"]
    assert matches(monitor["selector"], deployment["metadata"]["labels"])
    assert [e["port"] for e in monitor["podMetricsEndpoints"]] == ["keyward-metrics"]


def redis_side(objects):
    policy = one(objects, "NetworkPolicy")
    assert policy["metadata"]["namespace"] == "redis"
    assert policy["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "redis"}
    gateway_peer, sidecar_peer, _ = policy["spec"]["ingress"][0]["from"]
    assert gateway_peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "keyward"}
    assert sidecar_peer["podSelector"]["matchLabels"] == {"keyward-sidecar": "true"}


def main(kubectl, keyward, out):
    out.mkdir(parents=True, exist_ok=True)
    files, custom, all_objects = [], [], {}
    for name in RENDERED:
        text = subprocess.run([kubectl, "kustomize", KUBERNETES / name], check=True, capture_output=True, text=True).stdout
        objects = [o for o in yaml.load_all(text, Strict) if o]
        all_objects[name] = objects
        custom += [o for o in objects if o["kind"] in CUSTOM]
        built_in = [o for o in objects if o["kind"] not in CUSTOM]
        files.append(out / f"{name.replace('/', '-')}.yaml")
        files[-1].write_text(yaml.safe_dump_all(built_in))
    for version in VERSIONS:
        done = subprocess.run(
            [Path(sys.executable).parent / "kubernetes-validate", "--strict", "-k", version, *files], capture_output=True, text=True
        )
        lines = (done.stdout + done.stderr).splitlines()
        passed = [line for line in lines if " passed for resource " in line]
        # Without a schema it only warns.
        assert done.returncode == 0 and len(passed) == len(lines) > 0, "\n".join(line for line in lines if line not in passed)
        print(f"Kubernetes {version}: {len(passed)} objects are valid")

    gateway(all_objects["gateway"], keyward)
    gateway(all_objects["example/gateway"], keyward)
    sidecar(all_objects["example/sidecar"])
    redis_side(all_objects["redis-side"])
    rules = one(all_objects["example/gateway"], "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((DEPLOY / "prometheus/keyward.rules.yml").read_text())
    certificate = one(all_objects["example/gateway"], "Certificate")["spec"]
    pod = one(all_objects["gateway"], "Deployment")["spec"]["template"]["spec"]
    assert certificate["secretName"] in [volume.get("secret", {}).get("secretName") for volume in pod["volumes"]]
    monitor = one(all_objects["example/gateway"], "ServiceMonitor")["spec"]
    metrics = one(all_objects["example/gateway"], "Service", "keyward-metrics")
    assert matches(monitor["selector"], metrics["metadata"]["labels"])

    lines = [f'import type {{ I{kind} }} from "{module}";' for kind, module in CUSTOM.items()]
    lines += [f"export const object{i}: I{o['kind']} = {json.dumps(o)};" for i, o in enumerate(custom)]
    assert {o["kind"] for o in custom} == set(CUSTOM)
    (out / "custom-resources.ts").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
