#!/usr/bin/env python3
"""Checks the shipped Grafana dashboard. Python's standard library only.

    check_dashboard.py [--dashboard FILE]            the rules below
    check_dashboard.py [--dashboard FILE] URL        and every panel against a Prometheus at URL

The rules are those of grafana/dashboard-linter that make sense here: a data source variable; job
and instance variables, and a matcher for each in every selector; per panel a title, a description,
a unit and a query; $__rate_interval in every rate, and a rate around every counter (but for a mean
since the start: x_sum / x_count); not editable.

Against a Prometheus every query must give data, not only NaN. Variables become ".*" and
$__rate_interval becomes --rate-interval. It is repeated until all do or --wait seconds are over.
Exit code 0: all hold; 1: some do not (each is named).
"""

import argparse
import json
import math
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

DASHBOARD = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "lathe.json"
SELECTOR = re.compile(r"\b([a-z_]\w*)\s*\{([^{}]*)\}")
RANGE_FUNCTIONS = re.compile(r"\b(?:rate|irate|increase)\s*\([^\[\]]*\[([^\]]*)\]")
METRIC = re.compile(r"\b(?:lathe|grpc_server)_\w+")
COUNTER_SUFFIXES = ("_total", "_bucket", "_sum", "_count")


def panels(dashboard):
    """All panels but the rows, those inside collapsed rows too."""
    for panel in dashboard.get("panels", []):
        yield from (p for p in panel.get("panels", []) if p.get("type") != "row")
        if panel.get("type") != "row":
            yield panel


def lint(dashboard):
    problems = lint_dashboard(dashboard)
    titles = [panel.get("title") for panel in panels(dashboard)]
    problems += [f"two panels are called '{t}'" for t in sorted(set(titles)) if titles.count(t) > 1]
    for panel in panels(dashboard):
        problems += [f"panel '{panel.get('title')}': {p}" for p in lint_panel(panel)]
    return problems


def lint_dashboard(dashboard):
    problems = []
    variables = {v["name"]: v for v in dashboard.get("templating", {}).get("list", [])}
    source = variables.get("datasource", {})
    if (source.get("type"), source.get("query")) != ("datasource", "prometheus"):
        problems.append("no variable 'datasource' for a prometheus data source")
    if source.get("label") not in ("Data source", "Prometheus data source"):
        problems.append(f"variable 'datasource' is labelled '{source.get('label')}'")
    for name in ("job", "instance"):
        variable = variables.get(name, {})
        want = {"type": "query", "label": name.title(), "multi": True, "allValue": ".+",
                "refresh": 2}
        wrong = [key for key, value in want.items() if variable.get(key) != value]
        if wrong:
            problems.append(f"variable '{name}' is wrong in {wrong}")
    if dashboard.get("editable") is not False:
        problems.append("it is editable; the file is its only source")
    if not any(panels(dashboard)):
        problems.append("it has no panel")
    return problems


def lint_panel(panel):
    if not panel.get("title") or not panel.get("description"):
        yield "needs a title and a description"
    if panel.get("datasource") != {"type": "prometheus", "uid": "${datasource}"}:
        yield "does not use ${datasource}"
    if not panel.get("fieldConfig", {}).get("defaults", {}).get("unit"):
        yield "has no unit"
    if not panel.get("targets"):
        yield "has no query"
    for target in panel.get("targets", []):
        yield from lint_query(target.get("expr", ""))


def lint_query(expr):
    found = SELECTOR.findall(expr)
    for name in METRIC.findall(expr):
        if name not in (metric for metric, _ in found):
            yield f"{name} has no matchers in: {expr}"
    for name, matchers in found:
        for label in ("job", "instance"):
            if f'{label}=~"${label}"' not in matchers:
                yield f"{name} does not match {label} in: {expr}"
        if name.endswith(COUNTER_SUFFIXES) and not (rated(name, expr) or in_mean(name, expr)):
            yield f"counter {name} without a rate in: {expr}"
    for interval in RANGE_FUNCTIONS.findall(expr):
        if interval != "$__rate_interval":
            yield f"a rate over [{interval}] in: {expr}"


def rated(name, expr):
    return re.search(r"\b(?:rate|irate|increase)\s*\(\s*" + name + r"\b", expr) is not None


def in_mean(name, expr):
    base = name.rpartition("_")[0]
    mean = re.escape(base) + r"_sum\{[^}]*\}\)? / (?:sum\()?" + re.escape(base) + r"_count\{"
    return re.search(mean, expr) is not None


def substituted(expr, rate_interval):
    expr = expr.replace("$__rate_interval", rate_interval)
    return re.sub(r"\$\{?\w+\}?", ".*", expr)


def has_data(url, expr):
    """Whether `expr` gives at least one number now. ValueError: Prometheus refused it."""
    query = f"{url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
    try:
        with urllib.request.urlopen(query, timeout=20) as answer:
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        raise ValueError(error.read().decode(errors="replace").strip()) from error
    return any(not math.isnan(float(sample["value"][1])) for sample in body["data"]["result"])


def empty_queries(url, dashboard, rate_interval):
    problems = []
    for panel in panels(dashboard):
        for target in panel["targets"]:
            expr = substituted(target["expr"], rate_interval)
            try:
                if not has_data(url, expr):
                    problems.append(f"panel '{panel['title']}' has no data: {expr}")
            except ValueError as error:
                problems.append(f"panel '{panel['title']}': {error}: {expr}")
    return problems


def check_against(url, dashboard, rate_interval, wait_seconds):
    """A query counts once it has given data: a series of a job may end while others begin."""
    deadline = time.monotonic() + wait_seconds
    problems = set(empty_queries(url, dashboard, rate_interval))
    while problems and time.monotonic() < deadline:
        time.sleep(1)  # The next scrape brings something new, not before.
        problems &= set(empty_queries(url, dashboard, rate_interval))
    return sorted(problems)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dashboard", default=DASHBOARD, type=pathlib.Path)
    parser.add_argument("--rate-interval", default="1m", help="what $__rate_interval becomes")
    parser.add_argument("--wait", default=0, type=float, help="seconds to wait for data")
    parser.add_argument("url", nargs="?", help="base URL of a Prometheus")
    arguments = parser.parse_args()
    dashboard = json.loads(arguments.dashboard.read_text(encoding="utf-8"))
    problems = lint(dashboard)
    if not problems and arguments.url:
        problems = check_against(arguments.url, dashboard, arguments.rate_interval, arguments.wait)
    for problem in problems:
        print(problem, file=sys.stderr)
    queries = sum(len(panel.get("targets", [])) for panel in panels(dashboard))
    print(f"{arguments.dashboard.name}: {sum(1 for _ in panels(dashboard))} panels, {queries} "
          f"queries, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
