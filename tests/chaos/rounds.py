"""One round: a job on a cluster of its own while one fault happens, and what must hold at the end."""

import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time

from cluster import Cluster

# Dropout, shuffled rows, 3 epochs, an uneven last batch, held-out rows, several checkpoints.
SETTINGS = ("ranks=2", "epochs=3", "batch_size=7", "learning_rate=0.003", "lora.rank=4", "lora.dropout=0.1", "micro_batch_tokens=64",
            "checkpoint.every_steps=8", "max_restarts=20")
PATIENCE = 60.0


class Broken(AssertionError):
    """A promise was not kept."""


@dataclasses.dataclass
class Result:
    """What every run of the job must end with."""
    adapter: str  # sha256 of the exported tensors.
    ledger: str
    evaluation: dict
    losses: dict  # step -> loss

    def difference(self, other):
        for field in ("adapter", "ledger", "evaluation"):
            if getattr(self, field) != getattr(other, field):
                return f"{field} is {getattr(other, field)}; undisturbed: {getattr(self, field)}"
        wrong = [step for step, loss in other.losses.items() if self.losses.get(step) != loss]
        return f"loss of step {wrong[0]} is {other.losses[wrong[0]]}; undisturbed: {self.losses.get(wrong[0])}" if wrong else ""


class Watch:
    """`lathe jobs watch`, which goes on over restarts of the coordinator; keeps what it printed."""

    def __init__(self, cluster, job, on_pause):
        self.process = subprocess.Popen(cluster.command("jobs", "watch", job), env=cluster.environment(),
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.on_pause = on_pause
        self.changed = threading.Condition()
        self.sequences = []
        self.step, self.num_steps, self.checkpoint, self.attempt = 0, 0, 0, 1
        self.ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            message = json.loads(line)
            if message.get("job", {}).get("state") == "JOB_STATE_PAUSED":
                self.on_pause()
            with self.changed:
                if "event" in message:
                    self.sequences.append(int(message["event"]["sequence"]))
                if "job" in message:
                    self.checkpoint = int(message["job"].get("checkpoint_step", 0))
                    self.attempt = int(message["job"]["attempt"])
                if "step" in message:
                    self.step, self.num_steps = int(message["step"]["step"]), int(message["step"]["num_steps"])
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def wait(self, condition, what, seconds=PATIENCE):
        """False: the watch ended first."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.ended or condition(self), timeout=seconds):
                raise Broken(f"waited {seconds:.0f} s for {what}; step {self.step}, attempt {self.attempt}")
            return condition(self)


class RoundRun:
    """`reference` None: nothing is compared."""

    def __init__(self, plan, reference):
        self.plan, self.reference = plan, reference
        self.fault = plan.fault if plan is not None else None
        environments = {}
        if self.fault is not None and self.fault.point:
            programs_hit = ("coordinator", "worker") if self.fault.program == "any" else (self.fault.program,)
            environments = {program: {"LATHE_FAULT": self.fault.plan} for program in programs_hit}
        self.environments = environments
        self.rng = random.Random(f"victims {plan.seed if plan else 0}")
        self.done = False
        self.fired = False
        self.cluster = None
        self.last_logs = ""
        self.job_id = ""

    # --- Phases.
    def arm(self):
        if self.fault.point:
            with open(os.path.join(self.cluster.faults, "armed"), "w", encoding="utf8") as f:
                f.write(self.fault.phase)
        else:
            self._strike()

    def disarm(self):
        if self.fault.point and os.path.exists(os.path.join(self.cluster.faults, "armed")):
            os.unlink(os.path.join(self.cluster.faults, "armed"))

    def _strike(self):
        cluster, seconds = self.cluster, self.fault.seconds
        victim = self.rng.choice(cluster.workers)
        ranks = cluster.trainers()
        name = self.fault.outside
        self.fired = True
        if name == "host lost with its disk":
            cluster.lose_host(victim, seconds)
        elif name == "coordinator away":
            cluster.kill("coordinator", seconds)
        elif name == "link held":
            cluster.links[victim].hold()
            threading.Timer(seconds, cluster.links[victim].release).start()
        elif name == "link cut":
            cluster.links[victim].cut()
        elif name == "worker frozen":
            cluster.freeze(victim, seconds)
        elif name == "worker told to stop":
            cluster.terminate(victim)
        elif name == "worker killed":
            cluster.kill(victim, seconds)
        elif ranks and name == "rank killed":
            os.kill(self.rng.choice(ranks), signal.SIGKILL)
        elif ranks and name.startswith("rank frozen"):
            pid = self.rng.choice(ranks)
            os.kill(pid, signal.SIGSTOP)
            if name == "rank frozen":
                threading.Timer(seconds, cluster.thaw, (pid,)).start()
        else:
            self.fired = False

    def _look_for_fire(self):
        """Lets a stopped process go on after its time."""
        path = os.path.join(self.cluster.faults, "fired")
        while not self.done:
            if os.path.exists(path):
                self.fired = True
                if self.fault.action == "stop":
                    time.sleep(self.fault.seconds)
                    with open(path, encoding="utf8") as f:
                        text = f.read()
                    Cluster.thaw(int(text.split()[0]))
                return
            time.sleep(0.005)

    def _phase(self, name):
        if self.fault is not None and self.fault.phase == name:
            self.arm()

    def _phase_ends(self, name):
        if self.fault is not None and self.fault.phase == name:
            self.disarm()

    # --- The round.
    def run(self):
        """The result. Broken: a promise was not kept."""
        try:
            result = self._run()
            self._check_clean()
            return result
        finally:
            self.done = True
            if self.cluster is not None:
                self.last_logs = "\n".join(f"--- {name}\n{self.cluster.log_of(name)[-1500:]}" for name in self.cluster.daemons)
                self.cluster.remove()

    def _run(self):
        self.cluster = Cluster(self.plan.num_workers if self.plan else 2, self.environments)
        if self.fault is not None and self.fault.point:
            threading.Thread(target=self._look_for_fire, daemon=True).start()
        self._phase("start")
        self.cluster.start()
        self._phase("import")
        self.cluster.load()
        self._phase_ends("start")
        self._phase_ends("import")
        watch = self._train()
        job = self.cluster.insist("jobs", "get", self.job_id)
        if job["state"] != "JOB_STATE_SUCCEEDED":
            raise Broken(f"the job ended as {job['state']}: {job.get('error')} ({job.get('failure_cause')})")
        result = self._result(job)
        self._check_events(watch)
        if self.reference is not None and (difference := self.reference.difference(result)):
            raise Broken(difference)
        return result

    def _train(self):
        elastic = ("min_ranks=1",) if self.plan is not None and self.plan.elastic else ()
        flags = [flag for setting in ("name=tuned", *SETTINGS, *elastic) for flag in ("--set", setting)]
        self._phase("submit")
        submit = ("jobs", "submit", "--model", "tiny", "--dataset", "rows", "--request-id", "the-one", *flags)
        self.job_id = self.cluster.insist(*submit)["id"]
        watch = Watch(self.cluster, self.job_id, self._make_space)
        watch.wait(lambda w: w.step >= 1, "the first step")
        self._phase_ends("submit")
        watch.wait(lambda w: w.step >= 3, "step 3")
        self._phase("train")
        if self.fault is not None and self.fault.phase == "resume":
            self._break_off(watch)
        watch.wait(lambda w: w.step >= w.num_steps - 4, "the last steps")
        self._phase_ends("train")
        self._phase("end")
        watch.wait(lambda w: w.ended, "the end of the job")
        return watch

    def _make_space(self):
        """A full disk pauses the job; a person makes space and lets it go on."""
        if self.fault is not None and self.fault.action == "nospace":
            self.cluster.insist("jobs", "resume", self.job_id)

    def _break_off(self, watch):
        """A rank is killed after a checkpoint, so that the job goes on after it."""
        watch.wait(lambda w: w.checkpoint > 0, "a checkpoint")
        ranks = self.cluster.trainers()
        self._phase("resume")
        if ranks:
            os.kill(self.rng.choice(ranks), signal.SIGKILL)

    # --- What must hold.
    def _result(self, job):
        if len(set(job["adapter_sha256"])) != 1:
            raise Broken(f"ranks ended with other bits: {job['adapter_sha256']}")
        folder = self.cluster.path("export")
        self.cluster.insist("models", "export", "tuned", "--to", folder)
        with open(os.path.join(folder, "adapter_model.safetensors"), "rb") as f:
            adapter = hashlib.sha256(f.read()).hexdigest()
        if adapter != job["adapter_sha256"][0]:
            raise Broken(f"the export has sha256 {adapter}; the ranks said {job['adapter_sha256'][0]}")
        jobs = self.cluster.insist("jobs", "list")["jobs"]
        if len(jobs) != 1:
            raise Broken(f"one request_id made {len(jobs)} jobs")
        return Result(adapter, job["ledger"], job["evaluation_after"], self._losses())

    def _losses(self):
        done = self.cluster.lathe("jobs", "watch", self.job_id)
        messages = [json.loads(line) for line in done.stdout.splitlines() if line]
        self.stored = [int(m["event"]["sequence"]) for m in messages if "event" in m]
        steps = [m["step"] for m in messages if "step" in m]
        numbers = sorted(int(step["step"]) for step in steps)
        expected = list(range(1, int(steps[-1]["num_steps"]) + 1)) if steps else []
        one_is_lost = self.fault is not None and self.fault.point == "store.step" and self.fault.action == "error"
        if numbers != expected and not (one_is_lost and len(set(expected) - set(numbers)) == 1):
            raise Broken(f"steps are stored as {numbers}")
        return {int(step["step"]): step["loss"] for step in steps}

    def _check_events(self, watch):
        for who, sequences in (("the watch that saw it all", watch.sequences), ("a watch afterwards", self.stored)):
            if sequences != list(range(1, len(sequences) + 1)):
                raise Broken(f"events of {who} are {sequences}")
        if len(watch.sequences) != len(self.stored):
            raise Broken(f"the watch saw {len(watch.sequences)} events of {len(self.stored)}")

    def _check_clean(self):
        self.cluster.stop()
        left = self.cluster.own_processes()
        if left:
            raise Broken(f"processes are left: {left}")
        folders = [self.cluster.path("data"), *(self.cluster.path(name) for name in self.cluster.workers)]
        for folder in folders:
            for parent, names, files in os.walk(folder):
                temporary = [name for name in (*names, *files) if name.startswith(".") or name.endswith(".tmp")]
                if temporary:
                    raise Broken(f"{os.path.relpath(parent, self.cluster.temp)} still has {temporary}")
            assignments = os.path.join(folder, "assignments")
            if os.path.isdir(assignments) and os.listdir(assignments):
                raise Broken(f"{os.path.basename(folder)} still has folders of assignments: {os.listdir(assignments)}")
        if scratch := os.listdir(self.cluster.scratch):
            raise Broken(f"the temporary folder still has {scratch}")
