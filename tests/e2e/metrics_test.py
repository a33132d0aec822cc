"""A real Prometheus scrapes a running job; every panel of the shipped dashboard returns data."""

import os
import re
import subprocess
import sys
import unittest
import urllib.error
import urllib.request

import prometheus
from service import ROOT, TINY_LLAMA, Service, wait_for, write_rows

JOB = ("ranks=2", "epochs=1000", "batch_size=5", "lora.rank=4", "micro_batch_tokens=64")


def documented():
    """Names in the tables of docs/metrics.md."""
    with open(os.path.join(ROOT, "docs/metrics.md"), encoding="utf8") as f:
        return set(re.findall(r"^\| `([a-z_]+)", f.read(), re.M))


class MetricsTest(unittest.TestCase):
    def setUp(self):
        self.service = Service()
        self.addCleanup(self.service.close)
        rows = os.path.join(self.service.temp.name, "rows.jsonl")
        write_rows(rows)
        self.service.run("models", "import", "tiny", "--from", TINY_LLAMA)
        self.service.run("datasets", "upload", "rows", "--from", rows)

    def test_prometheus_scrapes_all_and_every_panel_has_data(self):
        job = self.service.submit(*JOB)
        config = os.path.join(self.service.data_dir, "prometheus.yml")
        with open(config, encoding="utf8") as f:
            text = f.read()
        quick = os.path.join(self.service.temp.name, "prometheus.yml")
        with open(quick, "w", encoding="utf8") as f:
            f.write(re.sub(r"scrape_interval: \w+", "scrape_interval: 1s", text))
        with prometheus.running(quick) as url:
            with subprocess.Popen([sys.executable, os.path.join(ROOT, "tests/e2e/check_dashboard.py"), "--wait", "60", url],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as check:
                while check.poll() is None:
                    self.service.job(job)  # Panels on the latency of calls have data only while there are calls.
                self.assertEqual(check.returncode, 0, f"{check.stdout.read()}\n{self.service.logs()}")
            with urllib.request.urlopen(f"{url}/api/v1/query?query=sum(up)", timeout=10) as answer:
                self.assertIn('"3"]', answer.read().decode())
        self.service.run("jobs", "cancel", job)

    def test_scraped_tokens_and_loss_equal_the_stored_steps(self):
        job = self.service.submit(*JOB)
        wait_for(lambda: int(self.service.job(job).get("last_step", {}).get("step", 0)) >= 5, "step 5")
        scrapes = [self.series_of(job) for _ in range(3)]
        self.service.run("jobs", "cancel", job)
        self.service.wait_job(job)
        steps = [item["step"] for item in self.service.events(job) if "step" in item]
        # A scrape may fall between two series of one update; of three at least one falls between updates.
        self.assertIn(True, [self.agrees(series, steps) for series in scrapes], f"{scrapes}\n{steps[:20]}")

    def agrees(self, series, steps):
        """Whether the scraped numbers are those of the stored steps up to the scraped one."""
        done = [step for step in steps if int(step["step"]) <= series["step"]]
        tokens = {kind: sum(int(step.get(f"{kind}_tokens", 0)) for step in done) for kind in ("trained", "prompt", "padding")}
        scraped = {kind: series.get(f'tokens_total kind="{kind}"', 0) for kind in tokens}
        # prometheus-cpp prints 16 significant digits, one less than a double has.
        return len(done) == series["step"] and scraped == tokens and series["loss"] == float(f"{done[-1]['loss']:.16g}")

    def series_of(self, job):
        """{"step": 7, 'tokens_total kind="trained"': 99, ...} of that job."""
        found = {}
        for line in self.scrape(self.service.secret("metrics_endpoint")).splitlines():
            match = re.match(r"lathe_job_(\w+)\{(.*)\} (\S+)$", line)
            if match and f'job_id="{job}"' in match[2]:
                others = " ".join(label for label in match[2].split(",") if "job_id" not in label)
                found[f"{match[1]} {others}".strip()] = float(match[3])
        return found

    def test_metrics_need_the_password_and_job_series_end_with_the_job(self):
        job = self.service.submit("epochs=2", *JOB[:1])
        self.service.wait_job(job)
        address = self.service.secret("metrics_endpoint")
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{address}/metrics", timeout=10)
        self.assertEqual(refused.exception.code, 401)
        self.assertTrue(wait_for(lambda: job not in self.scrape(address), "the job's series to go"))
        names = set(re.findall(r"^# TYPE (\S+)", self.scrape(address), re.M))
        self.assertEqual(names - documented(), set())

    def scrape(self, address):
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, f"http://{address}/", "lathe", self.service.secret("metrics.token"))
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
        with opener.open(f"http://{address}/metrics", timeout=10) as answer:
            return answer.read().decode()


if __name__ == "__main__":
    unittest.main(verbosity=2)
