"""Coordinator and workers run as different users that cannot read each other's folders: all bytes travel by gRPC."""

import os
import shutil
import signal
import subprocess
import tempfile
import unittest

from service import BIN, CACHE, TINY_LLAMA, wait_for, write_rows

COORDINATOR, WORKERS, CLIENT = 64001, (64002, 64003), 64004
JOB = ("ranks=2", "epochs=3", "batch_size=5", "lora.rank=4", "micro_batch_tokens=64")


@unittest.skipUnless(os.geteuid() == 0, "needs root to start processes as other users")
class SeparateUsersTest(unittest.TestCase):
    def setUp(self):
        self.temp = tempfile.mkdtemp(prefix="lathe-users.")
        self.addCleanup(shutil.rmtree, self.temp, ignore_errors=True)
        os.chmod(self.temp, 0o755)
        self.processes = []
        self.addCleanup(self.end_all)
        # The build may lie where only root can look: these users get programs and libraries of their own.
        self.bin = os.path.join(self.temp, "bin")
        self.lib = os.path.join(self.temp, "lib")
        self.copy(BIN, self.bin)
        os.mkdir(self.lib)
        for folder in ("torch/lib", "nvidia/cu13/lib"):
            self.copy(os.path.join(CACHE, "deps/libtorch-2.11.0-cpu", folder), os.path.join(self.lib, folder.split("/")[0]))

    @staticmethod
    def copy(source, target):
        """Hard links where possible: libtorch has 450 MB."""
        if subprocess.run(["cp", "-al", source, target], stderr=subprocess.DEVNULL, check=False).returncode != 0:
            shutil.rmtree(target, ignore_errors=True)
            subprocess.run(["cp", "-a", source, target], check=True)
        subprocess.run(["chmod", "-R", "a+rX", target], check=True)

    def end_all(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
            if process.stdout:
                process.stdout.close()

    def folder(self, user):
        path = os.path.join(self.temp, str(user))
        os.mkdir(path, 0o700)
        os.chown(path, user, user)
        return path

    def start(self, user, program, *arguments):
        folder = os.path.join(self.temp, str(user))
        environment = {"PATH": "/usr/bin:/bin", "HOME": folder, "LD_LIBRARY_PATH": f"{self.lib}/torch:{self.lib}/nvidia"}
        with open(os.path.join(folder, "log"), "w", encoding="utf8") as log:
            process = subprocess.Popen([os.path.join(self.bin, program), *arguments], env=environment, user=user, group=user, extra_groups=[],
                                       cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
        self.processes.append(process)
        return process

    def hand_over(self, secret, user):
        """What an administrator does: copies a token to the user that needs it."""
        target = os.path.join(self.temp, str(user), os.path.basename(secret))
        shutil.copyfile(secret, target)
        os.chown(target, user, user)
        os.chmod(target, 0o600)
        return target

    def lathe(self, *arguments):
        folder = os.path.join(self.temp, str(CLIENT))
        done = subprocess.run([os.path.join(self.bin, "lathe"), "--coordinator", self.address, "--token-file", self.client_token, *arguments],
                              user=CLIENT, group=CLIENT, extra_groups=[], cwd=folder, env={"HOME": folder, "PATH": "/usr/bin:/bin"},
                              capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, f"{arguments}: {done.stdout}{done.stderr}{self.all_logs()}")
        return done.stdout

    def all_logs(self):
        text = ""
        for user in (COORDINATOR, *WORKERS):
            path = os.path.join(self.temp, str(user), "log")
            if not os.path.exists(path):
                continue
            with open(path, encoding="utf8") as f:
                text += f"\n--- {user}\n{f.read()[-2000:]}"
        return text

    def test_a_job_runs_though_no_process_can_read_anothers_folder(self):
        roots = {user: self.folder(user) for user in (COORDINATOR, *WORKERS, CLIENT)}
        data = os.path.join(roots[COORDINATOR], "data")
        line = self.start(COORDINATOR, "lathe-coordinator", "--data-dir", data).stdout.readline()
        self.assertTrue(line.startswith("ready "), f"{line!r}{self.all_logs()}")
        self.address = line.split()[1]
        self.client_token = self.hand_over(os.path.join(data, "client.token"), CLIENT)
        for user in WORKERS:
            token = self.hand_over(os.path.join(data, "worker.token"), user)
            self.start(user, "lathe-worker", "--root", os.path.join(roots[user], "root"), "--coordinator", self.address,
                       "--token-file", token, "--name", f"worker-{user}")
        wait_for(lambda: self.lathe("workers", "list").count("alive") == 2, "two workers")
        model = os.path.join(roots[CLIENT], "tiny")
        shutil.copytree(TINY_LLAMA, model)
        rows = os.path.join(roots[CLIENT], "rows.jsonl")
        write_rows(rows)
        subprocess.run(["chown", "-R", f"{CLIENT}:{CLIENT}", roots[CLIENT]], check=True)
        self.lathe("models", "import", "tiny", "--from", model)
        self.lathe("datasets", "upload", "rows", "--from", rows)
        settings = [flag for setting in ("name=tuned", *JOB) for flag in ("--set", setting)]
        self.lathe("jobs", "submit", "--model", "tiny", "--dataset", "rows", *settings, "--watch")
        self.lathe("models", "export", "tuned", "--to", os.path.join(roots[CLIENT], "out"))
        self.assertIn("adapter_model.safetensors", os.listdir(os.path.join(roots[CLIENT], "out")))
        for reader in WORKERS:
            for owner in roots:
                done = subprocess.run(["ls", roots[owner]], user=reader, group=reader, extra_groups=[], capture_output=True, check=False)
                self.assertEqual(done.returncode == 0, owner == reader, (reader, owner))


if __name__ == "__main__":
    unittest.main(verbosity=2)
