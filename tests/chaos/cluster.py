"""A coordinator and workers as an operator would run them: each is started again when it dies. Time-outs are a thirtieth."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from link import Link

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
from service import BIN, TINY_LLAMA, write_rows  # pylint: disable=wrong-import-position

LEASE = 0.5
COORDINATOR_FLAGS = ("--metrics-port", "-1", "--lease-seconds", str(LEASE), "--restart-grace-seconds", "0.5",
                     "--missing-grace-seconds", "0.2", "--cancel-timeout-seconds", "2", "--hang-seconds", "4", "--orphan-seconds", "30")
WORKER_FLAGS = ("--slots", "1", "--threads-per-slot", "1", "--cancel-grace-seconds", "0.1", "--exit-grace-seconds", "0.4",
                "--drain-seconds", "0.7", "--reconnect-seconds", "0.1")
RESTART_PAUSE = 0.1
PROGRAMS = os.path.join(BIN, "chaos")  # With fault points that obey.
NUM_ROWS = 110  # An eighth is held out.


class Daemon:
    """One program, started again when it ends unless it was told to stay away."""

    def __init__(self, name, argv, env, log):
        self.name, self.argv, self.env, self.log = name, argv, env, log
        self.away_until = 0.0
        self.ended_at = 0.0
        self.starts = 0
        self.process = None

    def tend(self):
        if self.process is not None and self.process.poll() is None:
            return
        now = time.monotonic()
        if self.process is not None:
            self.process, self.ended_at = None, now
        if now < max(self.away_until, self.ended_at + RESTART_PAUSE):
            return
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.argv, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.starts += 1

    def pid(self):
        return self.process.pid if self.process is not None else None

    def send(self, how, away=0.0):
        """`away`: seconds until it may start again."""
        self.away_until = time.monotonic() + away
        if self.process is not None:
            self.process.send_signal(how)


class Cluster:
    def __init__(self, num_workers, environments=None):
        """environments: extra variables for "coordinator" and "worker". Nothing runs before start()."""
        self.temp = tempfile.mkdtemp(prefix="lathe-chaos.")
        self.scratch = self.path("tmp")
        self.faults = self.path("faults")
        for folder in (self.scratch, self.faults, self.path("logs")):
            os.mkdir(folder)
        self.environments = environments or {}
        self.lock = threading.Lock()
        self.links = {}
        self.stopping = False
        self.num_workers = num_workers
        self.daemons = {"coordinator": self._daemon("coordinator", ["--data-dir", self.path("data"), *COORDINATOR_FLAGS, "--port", "0"])}
        self.port = 0
        self.client_port = 0  # Of a link between clients and coordinator; 0: none.
        self.tender = threading.Thread(target=self._tend, daemon=True)

    def start(self):
        self.port = int(self._endpoint().rsplit(":", 1)[1])
        # Started again it must be where the workers look for it.
        self.daemons["coordinator"].argv[-1] = str(self.port)
        for i in range(self.num_workers):
            self._add_worker(f"w{i + 1}")
        self.tender.start()

    def path(self, *parts):
        return os.path.join(self.temp, *parts)

    def environment(self):
        """Of every process: whose folder it works in can be seen there."""
        return {"PATH": "/usr/bin:/bin", "HOME": self.scratch, "TMPDIR": self.scratch}

    def _daemon(self, program, flags):
        kind = "coordinator" if program == "coordinator" else "worker"
        env = {**self.environment(), "LATHE_FAULT_DIR": self.faults, **self.environments.get(kind, {})}
        return Daemon(program, [os.path.join(PROGRAMS, f"lathe-{kind}"), *flags], env, self.path("logs", program))

    def _add_worker(self, name):
        self.links[name] = Link(("127.0.0.1", self.port))
        token = self.path("data", "worker.token")
        self.daemons[name] = self._daemon(name, ["--root", self.path(name), "--name", name, "--token-file", token, *WORKER_FLAGS,
                                                 "--coordinator", f"127.0.0.1:{self.links[name].port}"])

    def _endpoint(self):
        path = self.path("data", "endpoint")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.daemons["coordinator"].tend()
            if os.path.exists(path):
                with open(path, encoding="utf8") as f:
                    return f.read().strip()
            time.sleep(0.01)
        raise AssertionError(f"the coordinator did not start:\n{self.log_of('coordinator')}")

    def _tend(self):
        while not self.stopping:
            with self.lock:
                for daemon in self.daemons.values():
                    daemon.tend()
            time.sleep(0.02)

    @property
    def workers(self):
        return [name for name in self.daemons if name != "coordinator"]

    # --- What a fault does from outside.
    def kill(self, name, away=0.0):
        with self.lock:
            self.daemons[name].send(signal.SIGKILL, away)

    def terminate(self, name):
        with self.lock:
            self.daemons[name].send(signal.SIGTERM)

    def freeze(self, name, seconds):
        pid = self.daemons[name].pid()
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(seconds, self.thaw, (pid,)).start()

    @staticmethod
    def thaw(pid):
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def lose_host(self, name, away=0.3):
        """The machine is gone with its disk; another of its name comes."""
        with self.lock:
            daemon = self.daemons[name]
            daemon.send(signal.SIGKILL, away)
            if daemon.process is not None:
                daemon.process.wait()
            shutil.rmtree(self.path(name), ignore_errors=True)

    # --- Processes.
    def own_processes(self):
        """pid -> program of everything that runs with our folder in its environment or arguments."""
        found = {}
        needle = self.temp.encode()
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/environ", "rb") as f:
                    text = f.read()
                with open(f"/proc/{name}/cmdline", "rb") as f:
                    command = f.read()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if needle in text + command and command:
                found[int(name)] = os.path.basename(command.split(b"\0")[0].decode())
        return found

    def trainers(self):
        return sorted(pid for pid, program in self.own_processes().items() if program == "lathe-trainer")

    # --- As a user.
    def command(self, *arguments):
        return [os.path.join(BIN, "lathe"), "--json", "--coordinator", f"127.0.0.1:{self.client_port or self.port}",
                "--token-file", self.path("data", "client.token"), *arguments]

    def lathe(self, *arguments, timeout=60):
        return subprocess.run(self.command(*arguments), env=self.environment(), capture_output=True, text=True, timeout=timeout, check=False)

    def insist(self, *arguments, seconds=30.0):
        """Repeats a command until it succeeds, as a user does while a service comes back."""
        deadline = time.monotonic() + seconds
        while True:
            done = self.lathe(*arguments)
            if done.returncode == 0:
                return json.loads(done.stdout) if done.stdout.strip() else {}
            if time.monotonic() > deadline:
                raise AssertionError(f"lathe {' '.join(arguments)}: {done.stderr.strip()}")
            time.sleep(0.05)

    def load(self):
        """The model `tiny` and the data set `rows`, as every job here uses them."""
        write_rows(self.path("rows.jsonl"), NUM_ROWS)
        self.insist("models", "import", "tiny", "--from", TINY_LLAMA)
        self.insist("datasets", "upload", "rows", "--from", self.path("rows.jsonl"))

    def log_of(self, name):
        try:
            with open(self.path("logs", name), encoding="utf8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    # --- End.
    def _stop_tending(self):
        self.stopping = True
        if self.tender.is_alive():
            self.tender.join()

    def stop(self):
        """Orderly: what is left afterwards was forgotten by the programs."""
        self._stop_tending()
        for link in self.links.values():
            link.release()
        for name in [*self.workers, "coordinator"]:
            daemon = self.daemons[name]
            if daemon.process is None:
                continue
            self.thaw(daemon.process.pid)
            daemon.process.terminate()
            try:
                daemon.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.process.kill()
                daemon.process.wait()
                raise AssertionError(f"{name} did not end in 20 s after SIGTERM:\n{self.log_of(name)[-3000:]}") from None

    def remove(self):
        self._stop_tending()
        for pid in self.own_processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for daemon in self.daemons.values():
            if daemon.process is not None:
                daemon.process.wait()
        for link in self.links.values():
            link.close()
        shutil.rmtree(self.temp, ignore_errors=True)
