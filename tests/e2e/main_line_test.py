"""The main line with the real programs and a tiny model: two workers, real gRPC, real Gloo, kill -9."""

import datetime
import json
import os
import pathlib
import signal
import subprocess
import time
import unittest

from service import BIN, CACHE, LOOPBACK, TINY_LLAMA, Failed, Service, descendants, listening_addresses, only_hex, processes, wait_for, write_rows

JOB = ("ranks=2", "epochs=30", "batch_size=5", "learning_rate=0.003", "lora.rank=4", "micro_batch_tokens=64")
PEFT_KEYS = {"base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "lora_alpha", "lora_dropout",
             "modules_to_save", "peft_type", "r", "revision", "target_modules", "task_type"}


class MainLineTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service()
        cls.addClassCleanup(cls.service.close)
        cls.rows = os.path.join(cls.service.temp.name, "rows.jsonl")
        write_rows(cls.rows)
        cls.service.run("models", "import", "tiny", "--from", TINY_LLAMA)
        cls.service.run("datasets", "upload", "rows", "--from", cls.rows)
        cls.first = cls.service.wait_job(cls.service.submit("name=first", *JOB))

    def step_of(self, job):
        return int(self.service.job(job).get("last_step", {}).get("step", 0) or 0)

    def test_two_ranks_end_with_equal_adapters_and_a_lower_loss(self):
        job = self.first
        self.assertEqual(job["state"], "JOB_STATE_SUCCEEDED", job)
        self.assertEqual(len(job["adapter_sha256"]), 2)
        self.assertEqual(len(set(job["adapter_sha256"])), 1)
        self.assertTrue(only_hex(job["adapter_sha256"][0]))
        self.assertLess(job["evaluation_after"]["loss"], job["evaluation_before"]["loss"])
        self.assertEqual(job["attempt"], "1")
        self.assertEqual(job["trained_parameters"], "4096")
        self.assertTrue(only_hex(4 * job["ledger"]))
        model = self.service.json("models", "get", "first")
        self.assertEqual((model["architecture"], model["parameters"]), ("llama", "4096"))
        self.assertEqual(model["parity"].get("max_logit_difference", 0), 0)
        self.assertEqual(model["parity"]["greedy_agreement"], 1)
        self.assertGreater(int(model["parity"]["positions"]), 0)

    def test_watching_an_ended_job_gives_every_event_and_step_once(self):
        items = self.service.events(self.first["id"])
        events = [int(i["event"]["sequence"]) for i in items if "event" in i]
        self.assertEqual(events, list(range(1, len(events) + 1)))
        steps = [int(i["step"]["step"]) for i in items if "step" in i]
        self.assertEqual(steps, list(range(1, int(self.first["last_step"]["num_steps"]) + 1)))

    def test_a_killed_rank_costs_one_attempt_and_no_bit(self):
        job = self.service.submit("name=second", *JOB)
        wait_for(lambda: self.step_of(job) >= 3, "step 3")
        victim = max(self.service.trainers())
        killed = time.time()
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: (j := self.service.job(job))["attempt"] == "2" and int(j["last_step"].get("attempt", 0)) == 2,
                 "a step of attempt 2", seconds=15)
        done = self.service.wait_job(job)
        self.assertEqual(done["state"], "JOB_STATE_SUCCEEDED", done)
        self.assertEqual(done["attempt"], "2")
        self.assertEqual(done["failure_cause"], "machine")
        self.assertEqual(done["adapter_sha256"], self.first["adapter_sha256"])
        ends = [i["event"] for i in self.service.events(job) if "event" in i and "killed by signal 9" in i["event"]["message"]]
        self.assertEqual(len(ends), 1)
        self.assertIn("rank", ends[0]["message"])
        seen = datetime.datetime.fromisoformat(ends[0]["time"]).timestamp()
        self.assertLessEqual(seen, killed + 1)

    def killed_after_a_checkpoint(self, name):
        """The job, ended, of which a rank was killed. Where the machine stalls the kill comes too late: then another job is tried."""
        for i in range(5):
            job = self.service.submit(f"name={name}-{i}", "checkpoint.every_steps=20", *JOB)
            wait_for(lambda: int(self.service.job(job)["checkpoint_step"]) >= 40, "the second checkpoint")
            for victim in sorted(self.service.trainers())[-1:]:
                os.kill(victim, signal.SIGKILL)
            done = self.service.wait_job(job)
            if done["attempt"] != "1":
                return done
        raise AssertionError("five trainings ended before one of their ranks could be killed")

    def test_the_next_attempt_goes_on_after_a_checkpoint_and_proves_it(self):
        done = self.killed_after_a_checkpoint("third")
        job = done["id"]
        self.assertEqual(done["state"], "JOB_STATE_SUCCEEDED", done)
        self.assertEqual(done["attempt"], "2")
        self.assertGreaterEqual(int(done["resumed_step"]), 40)
        self.assertTrue(done["resume_verified"])
        self.assertEqual(done["ledger"], self.first["ledger"])
        self.assertEqual(done["adapter_sha256"], self.first["adapter_sha256"])
        self.assertEqual(done["evaluation_after"], self.first["evaluation_after"])
        messages = [i["event"]["message"] for i in self.service.events(job) if "event" in i]
        self.assertTrue(any(f"goes on after step {done['resumed_step']}" in m for m in messages), messages)

    def coordinator(self):
        return next((pid for pid, args in descendants(self.service.up.pid).items() if args[0].endswith("lathe-coordinator")), None)

    def answered(self, job):
        try:
            return self.service.job(job)
        except Failed:
            return None

    def test_a_killed_coordinator_is_started_again_and_costs_no_attempt(self):
        job = self.service.submit("name=through-a-restart", JOB[0], "epochs=100", *JOB[2:])
        wait_for(lambda: self.step_of(job) >= 3, "step 3")
        ranks, killed = set(self.service.trainers()), self.coordinator()
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: self.coordinator() not in (killed, None) and self.answered(job), "the next coordinator")
        self.assertEqual(set(self.service.trainers()), ranks)
        done = self.service.wait_job(job)
        self.assertEqual(done["state"], "JOB_STATE_SUCCEEDED", done)
        self.assertEqual(done["attempt"], "1")
        steps = sorted(int(i["step"]["step"]) for i in self.service.events(job) if "step" in i)
        self.assertEqual(steps, list(range(1, int(done["last_step"]["num_steps"]) + 1)))

    def test_a_paused_training_frees_its_slots_and_goes_on_with_the_same_bits(self):
        job = self.service.submit("name=fourth", *JOB)
        wait_for(lambda: self.step_of(job) >= 3, "step 3")
        self.service.run("jobs", "pause", job)
        paused = wait_for(lambda: (j := self.service.job(job))["state"] == "JOB_STATE_PAUSED" and j, "the pause")
        self.assertGreaterEqual(int(paused["checkpoint_step"]), 3)
        self.assertEqual(self.service.trainers(), {})
        self.assertEqual([w["free_slots"] for w in self.service.json("workers", "list")["workers"]], ["1", "1"])
        _, error = self.service.run("jobs", "pause", self.first["id"], code=4)
        self.assertIn("only a job that has not ended can be paused", error)
        self.service.run("jobs", "resume", job)
        done = self.service.wait_job(job)
        self.assertEqual(done["state"], "JOB_STATE_SUCCEEDED", done)
        self.assertEqual(done["resumed_step"], paused["checkpoint_step"])
        self.assertTrue(done["resume_verified"])
        self.assertEqual((done["adapter_sha256"], done["ledger"]), (self.first["adapter_sha256"], self.first["ledger"]))

    def test_a_worker_that_is_asked_to_stop_hands_its_training_back_with_a_checkpoint(self):
        job = self.service.submit("name=handed-back", "max_restarts=0", *JOB)
        wait_for(lambda: self.step_of(job) >= 3, "step 3")
        os.kill(self.service.parent_of(max(self.service.trainers())), signal.SIGTERM)
        done = self.service.wait_job(job)
        self.assertEqual(done["state"], "JOB_STATE_SUCCEEDED", done)
        self.assertEqual((done["attempt"], done["failure_cause"]), ("2", ""))
        self.assertGreaterEqual(int(done["resumed_step"]), 3)
        self.assertTrue(done["resume_verified"])
        self.assertEqual((done["adapter_sha256"], done["ledger"]), (self.first["adapter_sha256"], self.first["ledger"]))
        messages = [i["event"]["message"] for i in self.service.events(job) if "event" in i]
        self.assertTrue(any("is being stopped" in m for m in messages), messages)

    def test_a_checkpoint_that_the_disk_damaged_is_given_up_and_the_job_starts_anew(self):
        job = self.service.submit("name=damaged", *JOB)
        wait_for(lambda: self.step_of(job) >= 3, "step 3")
        self.service.run("jobs", "pause", job)
        wait_for(lambda: self.service.job(job)["state"] == "JOB_STATE_PAUSED", "the pause")
        states = [path for path in self.blobs() if b'"first_moments"' in path.read_bytes()[:4096]]
        self.assertEqual(len(states), 1)
        bytes_ = bytearray(states[0].read_bytes())
        bytes_[-1] ^= 1
        states[0].chmod(0o600)
        states[0].write_bytes(bytes_)
        self.service.run("jobs", "resume", job)
        done = self.service.wait_job(job)
        self.assertEqual(done["state"], "JOB_STATE_SUCCEEDED", done)
        self.assertEqual((done["failure_cause"], done["resumed_step"]), ("checkpoint", "0"))
        self.assertEqual((done["adapter_sha256"], done["ledger"]), (self.first["adapter_sha256"], self.first["ledger"]))
        messages = [i["event"]["message"] for i in self.service.events(job) if "event" in i]
        self.assertTrue(any("is given up" in m for m in messages), messages)

    def blobs(self):
        return [p for p in pathlib.Path(self.service.data_dir, "coordinator", "blobs").rglob("*") if len(p.name) == 64]

    def test_no_socket_listens_off_loopback_while_a_job_trains(self):
        job = self.service.submit("name=sockets", *JOB)
        wait_for(lambda: self.step_of(job) >= 2, "step 2")
        pids = {self.service.up.pid, *descendants(self.service.up.pid)}
        self.assertGreaterEqual(len(self.service.trainers()), 2)
        addresses = listening_addresses(pids)
        self.assertGreaterEqual(len(addresses), 3)
        self.assertEqual({a for a, _ in addresses} - LOOPBACK, set(), addresses)
        self.service.wait_job(job)

    def test_more_ranks_than_slots_waits_and_says_why(self):
        job = self.service.submit("ranks=4", "name=waits")
        reason = wait_for(lambda: (r := self.service.job(job)["reason"]) if "needs 4" in self.service.job(job)["reason"] else "", "the reason")
        self.assertRegex(reason, r"waits: \d cpu slots? free on \d workers?, needs 4")
        self.service.run("jobs", "cancel", job)
        self.assertEqual(self.service.wait_job(job)["state"], "JOB_STATE_CANCELLED")

    def test_a_job_for_gpus_waits_for_a_worker_that_offers_some_and_says_so(self):
        job = self.service.submit("name=on-a-gpu", "device=cuda", *JOB)
        expected = "waits: no worker offers GPUs, needs 2 cuda slots: start lathe-worker with --gpus all"
        wait_for(lambda: self.service.job(job)["reason"] == expected, f"the reason '{expected}'")
        self.service.run("jobs", "cancel", job)
        self.assertEqual(self.service.wait_job(job)["state"], "JOB_STATE_CANCELLED")

    def test_cancel_frees_the_slots(self):
        job = self.service.submit("name=cancelled", "epochs=1000", *JOB[:1], *JOB[2:])
        wait_for(lambda: self.step_of(job) >= 1, "step 1")
        self.service.run("jobs", "cancel", job)
        self.assertEqual(self.service.wait_job(job)["state"], "JOB_STATE_CANCELLED")
        wait_for(lambda: [w["free_slots"] for w in self.service.json("workers", "list")["workers"]] == ["1", "1"], "free slots", seconds=5)
        self.assertEqual(self.service.trainers(), {})

    def test_the_export_is_a_peft_folder_and_the_base_a_hugging_face_folder(self):
        to = os.path.join(self.service.temp.name, "export")
        self.service.run("models", "export", "first", "--to", to, "--base")
        with open(os.path.join(to, "adapter_config.json"), encoding="utf8") as f:
            config = json.load(f)
        self.assertEqual(set(config), PEFT_KEYS)
        self.assertEqual((config["r"], config["peft_type"], config["task_type"]), (4, "LORA", "CAUSAL_LM"))
        self.assertTrue(os.path.getsize(os.path.join(to, "adapter_model.safetensors")) > 0)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            self.assertTrue(os.path.exists(os.path.join(to, "base", name)), name)
        _, error = self.service.run("models", "export", "first", "--to", to, code=1)
        self.assertIn("new or an empty folder", error)

    def test_the_merged_export_is_one_hugging_face_folder(self):
        parent = os.path.join(self.service.temp.name, "exports")
        to = os.path.join(parent, "merged")
        self.service.run("models", "export", "first", "--merged", "--to", to, "--dtype", "bf16", "--shard-size", "30KB")
        self.assertEqual(os.listdir(parent), ["merged"])
        with open(os.path.join(to, "model.safetensors.index.json"), encoding="utf8") as f:
            files = set(json.load(f)["weight_map"].values())
        self.assertGreater(len(files), 1)
        self.assertEqual(files, {name for name in os.listdir(to) if name.endswith(".safetensors")})
        self.assertTrue(os.path.exists(os.path.join(to, "tokenizer.json")))
        _, error = self.service.run("models", "export", "tiny", "--merged", "--to", os.path.join(parent, "x"), code=2)
        self.assertIn("--merged is for adapters", error)

    def test_the_merged_export_as_gguf_is_a_model_again(self):
        parent = os.path.join(self.service.temp.name, "ggufs")
        to = os.path.join(parent, "first.gguf")
        self.service.run("models", "export", "first", "--merged", "--gguf", "f16", "--to", to)
        self.service.run("models", "export", "tiny", "--gguf", "q8_0", "--to", os.path.join(parent, "tiny.gguf"))
        self.assertEqual(sorted(os.listdir(parent)), ["first.gguf", "tiny.gguf"])
        self.service.run("models", "import", "again", "--from", to)
        again, tiny = (self.service.json("models", "get", name) for name in ("again", "tiny"))
        self.assertEqual((again["architecture"], again["parameters"]), ("llama", tiny["parameters"]))
        answer = self.service.json("chat", "again", "--prompt", "Say the word 3", "--max-tokens", "3")
        self.assertIn("again", answer["answers"])
        refused = (("first", to, 2, "is an adapter; --gguf needs --merged"), ("tiny", to, 1, "is there already"),
                   ("tiny", parent, 2, "it must be a new file, NAME.gguf"))
        for name, place, code, words in refused:
            _, error = self.service.run("models", "export", name, "--gguf", "f16", "--to", place, code=code)
            self.assertIn(words, error)

    def test_a_full_disk_at_export_leaves_nothing(self):
        if os.geteuid() != 0:
            self.skipTest("needs root to mount a small file system")
        small = os.path.join(self.service.temp.name, "small")
        os.mkdir(small)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=False).returncode != 0:
            self.skipTest("this machine does not let root mount a tmpfs")
        try:
            _, error = self.service.run("models", "export", "tiny", "--to", os.path.join(small, "out"), code=1)
            self.assertIn("No space left", error)
            self.assertEqual(os.listdir(small), [])
        finally:
            subprocess.run(["umount", small], check=True)

    def test_chat_answers_with_base_and_tuned_model(self):
        answer = self.service.json("chat", "first", "--beside", "tiny", "--prompt", "Say the word 3", "--max-tokens", "8")
        self.assertEqual(set(answer["answers"]), {"first", "tiny"})
        self.assertIn("word", answer["answers"]["first"])

    def test_logs_of_the_job_name_their_source(self):
        out, _ = self.service.run("jobs", "logs", self.first["id"])
        self.assertIn("rank", out)

    def test_preview_and_check_agree_on_trained_tokens(self):
        preview = self.service.json("datasets", "preview", "rows", "--model", "tiny", "--row", "1")
        trained = "".join(t["text"] for t in preview["tokens"] if t["trained"])
        self.assertEqual(trained, "word 1 it is<|im_end|>")
        report = self.service.json("datasets", "check", "rows", "--model", "tiny")
        self.assertEqual((report["rows"], report["refused_rows"], report["validation_rows"]), ("40", "0", "5"))

    def test_bad_input_is_one_line_with_the_contracts_exit_code(self):
        temp = self.service.temp.name
        cut = os.path.join(temp, "cut.gguf")
        with open(cut, "wb") as f:
            f.write(b"GGUF\x03\x00\x00\x00")
        empty = os.path.join(temp, "empty.jsonl")
        open(empty, "w", encoding="utf8").close()
        self.service.run("datasets", "upload", "empty", "--from", empty)
        latin = os.path.join(temp, "latin.jsonl")
        with open(latin, "wb") as f:
            f.write(b'{"instruction": "caf\xe9", "output": "x"}\n')
        self.service.run("datasets", "upload", "latin", "--from", latin)
        cases = [
            (("models", "import", "x", "--from", "/no/such/file.gguf"), 1, "/no/such/file.gguf"),
            (("models", "import", "x", "--from", cut), 4, "cut.gguf"),
            (("models", "import", "Bad/Name", "--from", TINY_LLAMA), 4, "Bad/Name"),
            (("jobs", "submit", "--model", "none", "--dataset", "rows"), 4, "none"),
            (("jobs", "submit", "--model", "tiny", "--dataset", "none"), 4, "none"),
            (("jobs", "submit", "--model", "tiny", "--dataset", "rows", "--set", "lerning_rate=1"), 2, "did you mean 'learning_rate'"),
            (("jobs", "submit", "--model", "tiny", "--dataset", "rows", "--set", "epochs=0"), 2, "must be in [1, 1000]"),
            (("jobs", "get", "job-none"), 4, "job-none"),
            (("datasets", "preview", "rows", "--model", "tiny", "--row", "4000"), 4, "4000"),
            (("datasets", "check", "empty"), 4, "empty"),
            (("nonsense",), 2, ""),
        ]
        for arguments, code, needle in cases:
            with self.subTest(arguments):
                out, error = self.service.run(*arguments, code=code)
                self.assertIn(needle, error + out)
                if code != 2:
                    self.assertEqual(len(error.strip().splitlines()), 1, error)
        report = self.service.json("datasets", "check", "latin", code=1)
        self.assertEqual(report["problems"][0]["line"], "1")
        job = self.service.wait_job(self.service.submit(dataset="latin"))
        self.assertEqual((job["state"], job["failure_cause"]), ("JOB_STATE_FAILED", "user"))

    def test_a_wrong_or_missing_token_is_refused_on_every_service(self):
        wrong = os.path.join(self.service.temp.name, "wrong.token")
        with open(wrong, "w", encoding="utf8") as f:
            f.write("0" * 64)
        os.chmod(wrong, 0o600)
        _, error = self.service.run("--token-file", wrong, "workers", "list", code=4)
        self.assertIn("token", error)
        calls = [lambda s=s: self.grpcurl(s, token="0" * 64) for s in ("list", "lathe.v1.FleetService/ListWorkers")]
        for call in [*calls, lambda: self.health(token="0" * 64)]:
            done = call()
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("Unauthenticated", done.stderr)

    # gRPC's own health service has no descriptor in reflection; clients bring the file.
    def health(self, token=None):
        return self.grpcurl("grpc.health.v1.Health/Check", token=token, flags=("-import-path", os.path.dirname(os.path.abspath(__file__)), "-proto", "health.proto"))

    def grpcurl(self, *arguments, token=None, flags=()):
        token = token or self.service.secret("client.token")
        return subprocess.run([f"{CACHE}/tools/grpcurl", "-plaintext", *flags, "-H", f"authorization: Bearer {token}", self.service.address, *arguments],
                              capture_output=True, text=True, timeout=30, check=False)

    def test_grpcurl_lists_and_calls_the_public_services_by_reflection(self):
        listed = self.grpcurl("list")
        self.assertEqual(listed.returncode, 0, listed.stderr)
        for name in ("JobService", "DatasetService", "ModelService", "InferenceService", "FleetService"):
            self.assertIn(f"lathe.v1.{name}", listed.stdout)
        called = self.grpcurl("lathe.v1.JobService/ListJobs")
        self.assertIn(self.first["id"], called.stdout)
        self.assertIn("SERVING", self.health().stdout)
        internal = self.grpcurl("lathe.internal.v1.AgentService/GetBlobStatus")
        self.assertIn("Unauthenticated", internal.stderr)


class EndOfServiceTest(unittest.TestCase):
    def test_killing_lathe_up_leaves_no_process(self):
        service = Service()
        self.addCleanup(service.close)
        rows = os.path.join(service.temp.name, "rows.jsonl")
        write_rows(rows)
        service.run("models", "import", "tiny", "--from", TINY_LLAMA)
        service.run("datasets", "upload", "rows", "--from", rows)
        service.submit("epochs=1000", "ranks=2", *JOB[2:])
        wait_for(lambda: len(service.trainers()) == 2, "two trainers")
        _, children = service.stop(signal.SIGKILL)
        self.assertGreaterEqual(len(children), 5)
        wait_for(lambda: not children & set(processes()), "all children gone")

    def test_an_orderly_end_leaves_no_process_and_keeps_the_data(self):
        service = Service(workers=1)
        self.addCleanup(service.close)
        service.run("models", "import", "tiny", "--from", TINY_LLAMA)
        code, children = service.stop(signal.SIGTERM)
        self.assertEqual(code, 0)
        wait_for(lambda: not children & set(processes()), "all children gone")

    def test_a_port_in_use_and_a_second_service_on_the_folder_are_named(self):
        service = Service(workers=1)
        self.addCleanup(service.close)
        second = subprocess.run([f"{BIN}/lathe", "up"], env=service.env, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(second.returncode, 1)
        self.assertEqual(len(second.stderr.strip().splitlines()), 1, second.stderr)
        port = service.address.split(":")[1]
        other = {**service.env, "LATHE_DATA_DIR": os.path.join(service.temp.name, "other")}
        third = subprocess.run([f"{BIN}/lathe", "up", "--port", port], env=other, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(third.returncode, 1)
        self.assertIn(port, third.stderr)

    def test_no_service_is_exit_code_3_and_says_how_to_start_it(self):
        service = Service(workers=1)
        self.addCleanup(service.close)
        service.stop()
        with self.assertRaises(Failed):
            service.run("jobs", "list")
        _, error = service.run("jobs", "list", code=3)
        self.assertIn("lathe up", error)


if __name__ == "__main__":
    unittest.main(verbosity=2)
