"""Small jobs one after the other on one service: memory and descriptors of coordinator and workers must stay flat."""

import argparse
import os
import statistics
import sys
import threading
import time

from cluster import Cluster
from rounds import Broken

SETTINGS = ("epochs=1", "batch_size=20", "lora.rank=2", "micro_batch_tokens=256")
SAMPLE_SECONDS = 2.0
MAX_GROWTH = 1.05  # Of memory, from the second quarter to the last.
MAX_GROWTH_BYTES = 2 << 20
MAX_MORE_DESCRIPTORS = 3


def measure(pid):
    """(resident bytes, open descriptors)"""
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        pages = int(f.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd"))


class Sampler(threading.Thread):
    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster = cluster
        self.over = threading.Event()
        self.samples = {name: [] for name in cluster.daemons}

    def run(self):
        while not self.over.wait(SAMPLE_SECONDS):
            for name, daemon in self.cluster.daemons.items():
                self.samples[name].append(measure(daemon.pid()))


def judge(name, samples):
    """A line about it, and whether it is flat."""
    quarter = len(samples) // 4
    early, late = samples[quarter:2 * quarter], samples[-quarter:]
    bytes_before, bytes_after = (statistics.median(s[0] for s in part) for part in (early, late))
    fds_before, fds_after = (max(s[1] for s in part) for part in (early, late))
    flat = bytes_after <= bytes_before * MAX_GROWTH + MAX_GROWTH_BYTES and fds_after <= fds_before + MAX_MORE_DESCRIPTORS
    return (f"{'flat ' if flat else 'GROWS'} {name}: {bytes_before / 2**20:.1f} -> {bytes_after / 2**20:.1f} MiB, "
            f"{fds_before} -> {fds_after} descriptors"), flat


def run_jobs(cluster, seconds):
    count = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        flags = [flag for setting in (f"name=small-{count}", f"ranks={count % 2 + 1}", *SETTINGS) for flag in ("--set", setting)]
        job = cluster.insist("jobs", "submit", "--model", "tiny", "--dataset", "rows", *flags)["id"]
        if cluster.lathe("jobs", "watch", job).returncode != 0:
            raise Broken(f"{job} did not succeed: {cluster.lathe('jobs', 'get', job).stdout}")
        count += 1
    return count


def main():
    parser = argparse.ArgumentParser(prog="scripts/chaos soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    options = parser.parse_args()
    cluster = Cluster(2)
    try:
        cluster.start()
        cluster.load()
        sampler = Sampler(cluster)
        sampler.start()
        count = run_jobs(cluster, options.minutes * 60)
        sampler.over.set()
        sampler.join()
        verdicts = [judge(name, samples) for name, samples in sampler.samples.items()]
        starts = {name: daemon.starts for name, daemon in cluster.daemons.items() if daemon.starts != 1}
        print(f"{count} jobs in {options.minutes:g} minutes")
        for line, _ in verdicts:
            print(line)
        if starts:
            print(f"started more than once: {starts}")
        return 0 if all(flat for _, flat in verdicts) and not starts else 1
    finally:
        cluster.remove()


if __name__ == "__main__":
    sys.exit(main())
