"""Clients that create, pause, resume and cancel jobs over connections that break: each request is done exactly once.

Each client repeats a command until it is answered, with the same request id, as scripts do. The link between the clients and the
coordinator is cut at random moments, so that requests and answers are lost; the coordinator is killed now and then. At the end the
store must hold exactly one job per request id, in the state that its client was told, with events without a gap.
"""

import argparse
import collections
import json
import random
import sqlite3
import sys
import threading
import time

from cluster import Cluster
from link import Link
from rounds import Broken

STATES = {4: "PAUSED", 6: "CANCELLED", 7: "SUCCEEDED", 8: "FAILED"}  # coordinator/core/job_state.h
BAD_SPEC = 4  # Exit code of what the service refuses.


class Client(threading.Thread):
    def __init__(self, number, cluster, submits, seed):
        super().__init__()
        self.number, self.cluster, self.submits = number, cluster, submits
        self.rng = random.Random(f"{seed} client {number}")
        self.jobs = {}  # request id -> job id
        self.calls = collections.Counter()
        self.error = None

    def run(self):
        try:
            for i in range(self.submits):
                self._one(f"client-{self.number}-{i}")
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def _one(self, request_id):
        job = self._submit(request_id)
        if self.rng.random() < 0.3 and self._submit(request_id) != job:
            raise Broken(f"{request_id} made two jobs")
        if self.rng.random() < 0.1:
            self._submit_other(request_id)
        if self.rng.random() < 0.2:
            self._insist("pause", job)
            if self.rng.random() < 0.5:
                self._insist("resume", job)
        self._insist("cancel", job)
        self.jobs[request_id] = job

    def _submit(self, request_id, epochs=3):
        return self._insist("submit", "--model", "tiny", "--dataset", "rows", "--request-id", request_id,
                            "--set", f"name={request_id}", "--set", f"epochs={epochs}")["id"]

    def _submit_other(self, request_id):
        """The same id with another body is refused, however often it is tried."""
        while True:
            done = self._call("submit", "--model", "tiny", "--dataset", "rows", "--request-id", request_id, "--set", "epochs=4",
                              "--set", f"name={request_id}")
            if done.returncode == 0:
                raise Broken(f"{request_id}: another body was taken")
            if done.returncode == BAD_SPEC:
                if "was used for" not in done.stderr:
                    raise Broken(f"{request_id}: {done.stderr}")
                return

    def _call(self, *arguments):
        self.calls["all"] += 1
        done = self.cluster.lathe("jobs", *arguments)
        self.calls["broken"] += done.returncode == 3
        return done

    def _insist(self, *arguments):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            done = self._call(*arguments)
            if done.returncode == 0:
                return json.loads(done.stdout)
            if done.returncode == BAD_SPEC:
                raise Broken(f"jobs {' '.join(arguments)}: {done.stderr.strip()}")
        raise Broken(f"jobs {' '.join(arguments)}: no answer in 60 s: {done.stderr.strip()}")


class Trouble(threading.Thread):
    """Cuts the clients' link and kills the coordinator at random moments."""

    def __init__(self, cluster, link, seed):
        super().__init__(daemon=True)
        self.cluster, self.link = cluster, link
        self.rng = random.Random(f"{seed} trouble")
        self.over = threading.Event()
        self.counts = collections.Counter()

    def run(self):
        while not self.over.wait(self.rng.uniform(0.02, 0.3)):
            if self.rng.random() < 0.02:
                self.counts["kills"] += 1
                self.cluster.kill("coordinator")
            else:
                self.counts["cuts"] += 1
                self.link.cut()


def check_store(cluster, clients):
    store = sqlite3.connect(cluster.path("data", "db", "lathe.db"))
    rows = store.execute("SELECT request_id, id, state FROM jobs").fetchall()
    expected = {request: job for client in clients for request, job in client.jobs.items()}
    found = {request.decode(): job.decode() for request, job, _ in rows}
    if len(rows) != len(found) or found != expected:
        raise Broken(f"{len(rows)} jobs are stored for {len(expected)} requests; other than told: {sorted(set(found) ^ set(expected))[:5]}")
    if states := {STATES.get(state, state) for _, _, state in rows} - {"CANCELLED"}:
        raise Broken(f"jobs that were cancelled are {states}")
    for _, job, _ in rows:
        sequences = [s for (s,) in store.execute("SELECT sequence FROM events WHERE job=? ORDER BY sequence", (job,))]
        if sequences != list(range(1, len(sequences) + 1)):
            raise Broken(f"events of {job.decode()} are {sequences}")
    return len(rows)


def run(num_clients, submits, seed):
    cluster = Cluster(1)
    try:
        cluster.start()
        cluster.load()
        # From now on jobs wait: nobody works.
        cluster.kill("w1", away=1e9)
        link = Link(("127.0.0.1", cluster.port))
        cluster.client_port = link.port
        trouble = Trouble(cluster, link, seed)
        clients = [Client(i, cluster, submits, seed) for i in range(num_clients)]
        trouble.start()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        trouble.over.set()
        trouble.join()
        link.close()
        for client in clients:
            if client.error is not None:
                raise client.error
        cluster.stop()
        count = check_store(cluster, clients)
        calls = sum((client.calls for client in clients), collections.Counter())
        print(f"{count} requests of {num_clients} clients made {count} jobs; {calls['all']} calls, {calls['broken']} of them broken; "
              f"{trouble.counts['cuts']} cuts, {trouble.counts['kills']} kills of the coordinator; seed {seed}")
    finally:
        cluster.remove()


def main():
    parser = argparse.ArgumentParser(prog="scripts/chaos history", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--submits", type=int, default=2000, help="of all clients together; default 2000")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        run(options.clients, options.submits // options.clients, options.seed)
    except Broken as broken:
        print(f"FAIL: {broken}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
