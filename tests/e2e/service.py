"""Starts the real programs in a temporary folder and talks to them through the command line, as a user would."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("LATHE_BIN_DIR", os.path.join(ROOT, "build/release/bin"))
CACHE = os.environ.get("LATHE_CACHE", os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "lathe"))
TINY_LLAMA = os.path.join(ROOT, "tests/data/tiny-llama")


class Failed(Exception):
    """A command ended with another exit code than the expected one."""


def wait_for(condition, what, seconds=30.0):
    """Polls until `condition()` is true; its value is returned. The only wait in these tests."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}")


def processes():
    """pid -> (parent, arguments) of every process that can be read."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as f:
                arguments = f.read().decode(errors="replace").split("\0")[:-1]
            with open(f"/proc/{name}/stat", encoding="utf8", errors="replace") as f:
                parent = int(f.read().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue
        if arguments:
            found[int(name)] = (parent, arguments)
    return found


def descendants(root):
    table = processes()
    inside = {root}
    for _ in range(8):
        inside |= {pid for pid, (parent, _) in table.items() if parent in inside}
    return {pid: table[pid][1] for pid in inside if pid in table and pid != root}


def listening_addresses(pids):
    """(address, port) of every listening TCP socket that one of the processes holds, from the kernel's own table."""
    inodes = set()
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}", encoding="ascii") as f:
            for line in f.readlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and columns[9] in inodes:
                    address, port = columns[1].split(":")
                    found.add((address, int(port, 16)))
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


class Service:
    """`lathe up` in a folder of its own."""

    def __init__(self, workers=2, slots=1, gpus=None, extra=()):
        self.temp = tempfile.TemporaryDirectory(prefix="lathe-e2e.")
        self.data_dir = os.path.join(self.temp.name, "data")
        self.env = {**os.environ, "LATHE_DATA_DIR": self.data_dir, "NO_COLOR": "1"}
        self.env.pop("LATHE_COORDINATOR", None)
        self.env.pop("LATHE_TOKEN_FILE", None)
        self.stderr = open(os.path.join(self.temp.name, "up.err"), "w+", encoding="utf8")
        offer = ("--gpus", gpus) if gpus else ("--workers", str(workers), "--slots", str(slots))
        self.up = subprocess.Popen(
            [f"{BIN}/lathe", "up", *offer, "--threads-per-slot", "1", *extra],
            env=self.env, stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        line = self.up.stdout.readline()
        if not line.startswith("ready "):
            raise AssertionError(f"lathe up printed {line!r}; {self.log('up.err')}")
        self.address = line.split()[1]

    def log(self, name):
        path = os.path.join(self.temp.name, name)
        with open(path, encoding="utf8", errors="replace") as f:
            return f.read()

    def logs(self):
        folder = os.path.join(self.data_dir, "logs")
        text = ""
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), encoding="utf8", errors="replace") as f:
                text += f"--- {name}\n{f.read()[-3000:]}\n"
        return text

    def run(self, *arguments, code=0, timeout=60):
        """Standard output and error of `lathe ARGUMENTS`; another exit code than `code` fails with both."""
        done = subprocess.run([f"{BIN}/lathe", *arguments], env=self.env, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != code:
            # The cause last: what prints a part of a long log prints its end.
            raise Failed(f"{self.logs()}\n{done.stdout}\nlathe {' '.join(arguments)}: exit code {done.returncode}, expected {code}\n{done.stderr}")
        return done.stdout, done.stderr

    def json(self, *arguments, code=0, timeout=60):
        return json.loads(self.run("--json", *arguments, code=code, timeout=timeout)[0])

    def submit(self, *settings, model="tiny", dataset="rows"):
        flags = [flag for setting in settings for flag in ("--set", setting)]
        return self.json("jobs", "submit", "--model", model, "--dataset", dataset, *flags)["id"]

    def job(self, job_id):
        return self.json("jobs", "get", job_id)

    def wait_job(self, job_id, seconds=60):
        ended = ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")
        return wait_for(lambda: (j := self.job(job_id))["state"] in ended and j, f"the end of {job_id}\n{self.logs()}", seconds)

    def events(self, job_id):
        """Everything that a watch of an ended job prints."""
        done = subprocess.run([f"{BIN}/lathe", "--json", "jobs", "watch", job_id], env=self.env, capture_output=True,
                              text=True, timeout=60, check=False)
        return [json.loads(line) for line in done.stdout.splitlines() if line]

    def trainers(self):
        return {pid: args for pid, args in descendants(self.up.pid).items() if args[0].endswith("lathe-trainer")}

    @staticmethod
    def parent_of(pid):
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf8").rsplit(")", 1)[1].split()[1])

    def secret(self, name):
        with open(os.path.join(self.data_dir, "coordinator", name), encoding="utf8") as f:
            return f.read().strip()

    def stop(self, how=signal.SIGTERM):
        children = set(descendants(self.up.pid))
        if self.up.poll() is None:
            self.up.send_signal(how)
        code = self.up.wait(timeout=30)
        self.up.stdout.close()
        self.stderr.close()
        return code, children

    def close(self):
        if self.up.poll() is None:
            self.stop()
        self.temp.cleanup()


def write_rows(path, count=40, bad=()):
    """Short rows with a learnable rule; `bad` lines are appended as they are."""
    with open(path, "w", encoding="utf8") as f:
        for i in range(count):
            row = {"instruction": f"Say the word {i}", "output": f"word {i} it is", "split": "validation" if i % 8 == 7 else "train"}
            f.write(json.dumps(row) + "\n")
        for line in bad:
            f.write(line + "\n")


def only_hex(text):
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None
