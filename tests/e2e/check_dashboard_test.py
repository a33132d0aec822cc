#!/usr/bin/env python3
"""The shipped dashboard keeps its rules, and the checker finds a dashboard that breaks them."""

import copy
import http.server
import json
import sys
import threading
import unittest
import urllib.parse

sys.dont_write_bytecode = True
import check_dashboard  # noqa: E402


class FakePrometheus(http.server.BaseHTTPRequestHandler):
    """Answers each query that is in `values`; an empty list is no data."""

    values = {}

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["query"][0]
        known = query in self.values
        result = [{"value": [0, value]} for value in self.values.get(query, [])]
        body = json.dumps({"data": {"result": result}} if known else {"error": "parse error"})
        self.send_response(200 if known else 400)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


class DashboardTest(unittest.TestCase):
    def setUp(self):
        self.dashboard = json.loads(check_dashboard.DASHBOARD.read_text(encoding="utf-8"))

    def expect_problem(self, text):
        self.assertIn(text, "\n".join(check_dashboard.lint(self.dashboard)))

    def first_panel(self):
        return next(check_dashboard.panels(self.dashboard))

    def test_the_shipped_dashboard_keeps_the_rules(self):
        self.assertEqual(check_dashboard.lint(self.dashboard), [])

    def test_finds_a_panel_without_description_unit_or_data_source(self):
        for key, change, text in (("description", "", "a title and a description"),
                                  ("fieldConfig", {}, "has no unit"),
                                  ("datasource", None, "does not use ${datasource}"),
                                  ("targets", [], "has no query")):
            with self.subTest(key):
                self.setUp()
                self.first_panel()[key] = change
                self.expect_problem(text)

    def test_finds_wrong_queries(self):
        matchers = '{job=~"$job", instance=~"$instance"}'
        for expr, text in (
                ("sum(lathe_jobs)", "has no matchers"),
                ('lathe_jobs{job=~"$job"}', "does not match instance"),
                (f"grpc_server_started_total{matchers}", "without a rate"),
                (f"sum(lathe_x_sum{matchers}) / sum(lathe_y_count{matchers})", "without a rate"),
                (f"rate(lathe_x_total{matchers}[5m])", "a rate over [5m]")):
            with self.subTest(expr):
                self.assertIn(text, "\n".join(check_dashboard.lint_query(expr)))

    def test_accepts_rates_and_means(self):
        matchers = '{job=~"$job", instance=~"$instance"}'
        for expr in (f"sum by (le) (rate(lathe_x_bucket{matchers}[$__rate_interval]))",
                     f"sum(lathe_x_sum{matchers}) / sum(lathe_x_count{matchers})"):
            self.assertEqual(list(check_dashboard.lint_query(expr)), [])

    def test_finds_a_missing_variable_and_an_editable_dashboard(self):
        self.dashboard["templating"]["list"].pop(0)
        self.dashboard["editable"] = True
        self.expect_problem("no variable 'datasource'")
        self.expect_problem("it is editable")


class QueryTest(unittest.TestCase):
    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakePrometheus)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def tearDown(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def problems(self, *exprs):
        dashboard = {"panels": [{"title": expr, "targets": [{"expr": expr}]} for expr in exprs]}
        return check_dashboard.check_against(self.url, copy.deepcopy(dashboard), "30s", 0)

    def test_names_panels_without_data_with_nan_only_and_with_a_bad_query(self):
        FakePrometheus.values = {"good": ["NaN", "1"], "empty": [], "nan": ["NaN"]}
        found = "\n".join(self.problems("good", "empty", "nan", "bad"))
        self.assertNotIn("'good'", found)
        self.assertIn("panel 'empty' has no data", found)
        self.assertIn("panel 'nan' has no data", found)
        self.assertIn("panel 'bad': {\"error\": \"parse error\"}", found)

    def test_puts_values_in_place_of_variables(self):
        expr = 'rate(x{a=~"$job", b=~"${instance}"}[$__rate_interval])'
        self.assertEqual(check_dashboard.substituted(expr, "30s"),
                         'rate(x{a=~".*", b=~".*"}[30s])')


if __name__ == "__main__":
    unittest.main()
