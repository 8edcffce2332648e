"""The Prometheus Operator's form of the rules, made from deploy/prometheus/keyward.rules.yml.

    operator_rules.py           writes deploy/kubernetes/components/prometheus-operator/rules.yaml
    operator_rules.py --check   says whether that file is what would be written
"""

import sys

from names import DEPLOY, RULES

TARGET = DEPLOY / "kubernetes/components/prometheus-operator/rules.yaml"
HEAD = """\
# Made from deploy/prometheus/keyward.rules.yml by tests/deploy/operator_rules.py: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: keyward
spec:
"""


def made():
    """The same lines, two deeper; what Prometheus's file says of itself is left out."""
    text = RULES.read_text()
    body = text[text.index("groups:") :]
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in body.splitlines())


if __name__ == "__main__":
    if "--check" not in sys.argv:
        TARGET.write_text(made())
    elif TARGET.read_text() != made():
        raise SystemExit(f"{TARGET} is not made from {RULES}: run tests/deploy/operator_rules.py")
