"""The coordinator is killed and stays away while ranks train: they train on, and nothing that they said is lost."""

import json
import time
import unittest

from cluster import Cluster

SETTINGS = ("name=tuned", "ranks=2", "epochs=30", "batch_size=7", "learning_rate=0.003", "lora.rank=4", "micro_batch_tokens=64",
            "checkpoint.every_steps=50", "max_restarts=0")
PATIENCE = 60.0


class AwayTest(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster(2)
        self.addCleanup(self.cluster.remove)
        self.cluster.start()
        self.cluster.load()
        flags = [flag for setting in SETTINGS for flag in ("--set", setting)]
        self.job = self.cluster.insist("jobs", "submit", "--model", "tiny", "--dataset", "rows", "--request-id", "one", *flags)["id"]

    def get(self):
        return self.cluster.insist("jobs", "get", self.job)

    def wait(self, condition, what):
        deadline = time.monotonic() + PATIENCE
        while not condition(job := self.get()):
            self.assertNotEqual(job["state"], "JOB_STATE_FAILED", f"{job.get('error')}\n{self.cluster.log_of('coordinator')[-3000:]}\n{self.cluster.log_of('w1')[-2000:]}")
            self.assertLess(time.monotonic(), deadline, f"waited for {what}: {job}")
            time.sleep(0.02)
        return job

    @staticmethod
    def step_of(job):
        return int(job.get("last_step", {}).get("step", 0) or 0)

    def test_ranks_train_on_while_the_coordinator_is_away_and_no_step_is_lost(self):
        self.wait(lambda job: self.step_of(job) >= 10, "step 10")
        ranks = self.cluster.trainers()
        for seconds in (1.0, 2.0):
            before = self.step_of(self.get())
            self.cluster.kill("coordinator", seconds)
            self.wait(lambda job, before=before: self.step_of(job) > before, "a later step")
            self.assertEqual(self.cluster.trainers(), ranks)
        done = self.wait(lambda job: job["state"] not in ("JOB_STATE_QUEUED", "JOB_STATE_RUNNING"), "the end of the job")
        self.assertEqual(done["state"], "JOB_STATE_SUCCEEDED", done)
        self.assertEqual(done["attempt"], "1")
        self.assertEqual(len(set(done["adapter_sha256"])), 1)
        lines = self.cluster.lathe("jobs", "watch", self.job).stdout.splitlines()
        messages = [json.loads(line) for line in lines if line]
        steps = sorted(int(m["step"]["step"]) for m in messages if "step" in m)
        self.assertEqual(steps, list(range(1, int(done["last_step"]["num_steps"]) + 1)))
        events = [int(m["event"]["sequence"]) for m in messages if "event" in m]
        self.assertEqual(events, list(range(1, len(events) + 1)))


if __name__ == "__main__":
    unittest.main()
