"""Every way to train an adapter through the service: the job, what its export says to PEFT, and that a fresh process loads it."""

import json
import os
import subprocess
import unittest

from families_test import tensor_names
from service import BIN, ROOT, TINY_LLAMA, Service, write_rows

JOB = ("epochs=6", "batch_size=5", "learning_rate=0.01", "lora.rank=4", "lora.alpha=8")
# The settings, what adapter_config.json says on top of LoRA, and PEFT's own adapter with the same tensors.
METHODS = {
    "lora": ((), {}, "tiny-adapter"),
    "rslora": (("lora.rslora=true",), {"use_rslora": True}, "tiny-adapter"),
    "dora": (("lora.dora=true",), {"use_dora": True}, "tiny-adapter-dora"),
    "both": (("lora.dora=true", "lora.rslora=true"), {"use_dora": True, "use_rslora": True}, "tiny-adapter-dora"),
    "qlora": (("method=qlora",), {}, "tiny-adapter"),
}
TARGETS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
PLAIN = {"bias": "none", "fan_in_fan_out": False, "inference_mode": True, "lora_alpha": 8, "lora_dropout": 0, "peft_type": "LORA", "r": 4,
         "task_type": "CAUSAL_LM", "target_modules": TARGETS, "modules_to_save": None, "revision": None}


class MethodsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service(workers=2)
        cls.addClassCleanup(cls.service.close)
        rows = os.path.join(cls.service.temp.name, "rows.jsonl")
        write_rows(rows)
        cls.service.run("models", "import", "tiny", "--from", TINY_LLAMA)
        cls.service.run("datasets", "upload", "rows", "--from", rows)
        jobs = {name: cls.service.submit(f"name={name}", *JOB, *settings) for name, (settings, _, _) in METHODS.items()}
        cls.jobs = {name: cls.service.wait_job(job, seconds=120) for name, job in jobs.items()}

    def export(self, name, *options):
        to = os.path.join(self.service.temp.name, "-".join((name, *options)).replace("-", ""))
        self.service.run("models", "export", name, "--to", to, *options)
        return to

    def test_every_method_learns_and_its_export_is_what_was_trained(self):
        for name, job in self.jobs.items():
            with self.subTest(name):
                self.assertEqual(job["state"], "JOB_STATE_SUCCEEDED", job)
                self.assertLess(job["evaluation_after"]["loss"], job["evaluation_before"]["loss"])
                parity = self.service.json("models", "get", name)["parity"]
                self.assertEqual((parity.get("max_logit_difference", 0), parity["greedy_agreement"]), (0, 1))

    def test_the_export_says_to_peft_what_it_is(self):
        for name, (_, says, twin) in METHODS.items():
            with self.subTest(name):
                to = self.export(name)
                with open(os.path.join(to, "adapter_config.json"), encoding="utf8") as f:
                    config = json.load(f)
                del config["base_model_name_or_path"]
                self.assertEqual(config, {**PLAIN, **says})
                theirs = os.path.join(ROOT, "tests/data", twin, "adapter_model.safetensors")
                self.assertEqual(tensor_names(os.path.join(to, "adapter_model.safetensors")), tensor_names(theirs))

    def test_a_fresh_process_answers_with_every_export_otherwise_than_the_base(self):
        prompts = os.path.join(self.service.temp.name, "prompts.json")
        with open(prompts, "w", encoding="utf8") as f:
            json.dump({"prompts": [[1, 9, 77], [300, 4]], "max_new_tokens": 8}, f)
        for name in METHODS:
            with self.subTest(name):
                to = self.export(name, "--base")
                out = to + ".probe"
                subprocess.run([f"{BIN}/lathe-trainer", "probe", "--model", os.path.join(to, "base"), "--adapter", to,
                                "--prompts", prompts, "--out", out], check=True, timeout=60)
                with open(os.path.join(out, "greedy.json"), encoding="utf8") as f:
                    greedy = json.load(f)
                self.assertEqual([len(ids) <= 8 for ids in greedy["adapter"]], [True, True])
                self.assertNotEqual(greedy["adapter"], greedy["base"])

    def ask(self, name, *prompts):
        flags = [flag for prompt in prompts for flag in ("--prompt", prompt)]
        lines = self.service.run("--json", "chat", name, *flags, "--max-tokens", "6")[0].splitlines()
        return [json.loads(line)["answers"][name] for line in lines]

    def test_all_are_served_over_one_base_and_merge(self):
        prompts = [f"Say the word {i}" for i in range(5)]
        for name in METHODS:
            with self.subTest(name):
                self.assertEqual(self.ask(name, *prompts)[3:4], self.ask(name, prompts[3]))  # Together as alone.
                merged = self.export(name, "--merged")
                self.assertIn("model.safetensors", os.listdir(merged))


if __name__ == "__main__":
    unittest.main(verbosity=2)
