"""What rules, dashboard and documentation say about metrics, taken apart: names, selectors, and the words they select by."""

import json
import re
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "keyward.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "keyward.json"

SELECTOR = re.compile(r"\b((?:keyward|process)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')


def rules():
    """Every rule of the rules file."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts():
    """Names of the alerts."""
    return [rule["alert"] for rule in rules() if "alert" in rule]


def panels():
    """Every panel of the dashboard that shows something."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def dashboard_expressions():
    """Title and expression of every query of the dashboard, with its variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    found += [(note["name"], note["target"]["expr"]) for note in dashboard["annotations"]["list"]]
    for title, expr in found:
        for variable in ("$job", "$instance", "$listener"):
            expr = expr.replace(variable, ".+")
        yield title, expr.replace("$__rate_interval", "15s")


def selectors(expr):
    """Metric names of an expression with their matchers: (name, [(label, operator, value)])."""
    for name, matchers in SELECTOR.findall(expr):
        found = [(label, op, json.loads(f'"{value}"')) for label, op, value in MATCHER.findall(matchers)]
        yield name, found


def words(pattern):
    """Every word that a regular expression of literals, groups and alternatives stands for."""
    done, rest = alternatives(pattern, 0)
    assert rest == len(pattern), f"cannot take apart: {pattern}"
    return done


def alternatives(pattern, at):
    found, current = [], [""]
    while at < len(pattern) and pattern[at] != ")":
        char = pattern[at]
        at += 1
        if char == "|":
            found += current
            current = [""]
        elif char == "(":
            inner, at = alternatives(pattern, at)
            at += 1
            current = [head + tail for head in current for tail in inner]
        else:
            if char == "\\":
                char = pattern[at]
                at += 1
            current = [head + char for head in current]
    return found + current, at


def mentioned():
    """Every name of a metric in what stands under deploy/, with the file that says it."""
    for path in sorted(DEPLOY.rglob("*")):
        if path.suffix in {".md", ".yml", ".yaml", ".json", ".toml"}:
            for name in re.findall(r"(?<!:)\bkeyward_[a-z][a-z0-9_]*", path.read_text()):
                yield name, path.relative_to(DEPLOY)
