"""What Grafana would show without a word and a person would stumble over: the rules of Grafana's own linter, and some of ours."""

import json
import re

import names


def main():
    dashboard = json.loads(names.DASHBOARD.read_text())
    faults = []
    expect = lambda good, what: good or faults.append(what)

    # What an import needs: no number of its own, a name that links can use, a data source that the reader chooses.
    expect(dashboard["id"] is None and dashboard["uid"] == "keyward", "id or uid")
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    expect(list(variables) == ["datasource", "job", "instance", "listener"], f"variables: {list(variables)}")
    for name in ("job", "instance", "listener"):
        variable = variables[name]
        good = variable["multi"] and variable["includeAll"] and variable["allValue"] == ".+" and variable["refresh"] == 2
        expect(good and variable["current"], f"variable {name}")

    panels = dashboard["panels"]
    expect(len({panel["id"] for panel in panels}) == len(panels), "ids stand twice")
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        expect(place["x"] + place["w"] <= 24, f"{panel['title']} is too far right")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                expect(other == panel["title"], f"{panel['title']} lies on {other}")

    titles = [panel["title"] for panel in names.panels()]
    expect(len(set(titles)) == len(titles), "titles stand twice")
    for panel in names.panels():
        title = panel["title"]
        expect(panel["description"].endswith("."), f"{title}: no description")
        expect(panel["fieldConfig"]["defaults"].get("unit"), f"{title}: no unit")
        for target in panel["targets"]:
            expr = target["expr"]
            expect(target["legendFormat"], f"{title}: no legend")
            for window in re.findall(r"\[([^\]]+)\]", expr):
                good = window == "$__rate_interval" or (window == "1h" and panel["type"] == "stat")
                expect(good, f"{title}: a window of {window}")
            for name, matchers in names.selectors(expr):
                by = {(label, op, value) for label, op, value in matchers}
                expect({("job", "=~", "$job"), ("instance", "=~", "$instance")} <= by, f"{title}: {name} not by job and instance")
                counter = name.endswith(("_total", "_bucket"))
                expect(counter == bool(re.search(rf"(rate|increase)\({name}\b", expr)), f"{title}: {name} and rate()")
    if faults:
        raise SystemExit("\n".join(dict.fromkeys(faults)))
    print(f"{len(titles)} panels in {len(panels) - len(titles)} rows")


if __name__ == "__main__":
    main()
