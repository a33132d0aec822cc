"""Full tuning and going on from an adapter, through the service: what is made, listed, exported, chatted with and tuned further."""

import json
import os
import struct
import unittest

from families_test import write_source
from service import TINY_LLAMA, Service, write_rows

JOB = ("batch_size=5", "epochs=4")


def header(path):
    with open(path, "rb") as f:
        return json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))


class FullTuningTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service(workers=2)
        rows = os.path.join(cls.service.temp.name, "rows.jsonl")
        write_rows(rows)
        cls.service.run("datasets", "upload", "rows", "--from", rows)
        cls.service.run("models", "import", "tiny", "--from", TINY_LLAMA)

    @classmethod
    def tearDownClass(cls):
        cls.service.close()

    def path(self, name):
        return os.path.join(self.service.temp.name, name)

    def train(self, *settings, model="tiny"):
        job = self.service.wait_job(self.service.submit(*JOB, *settings, model=model))
        self.assertEqual(job["state"], "JOB_STATE_SUCCEEDED", job)
        self.assertEqual(len(set(job["adapter_sha256"])), 1)
        return job

    def refuse(self, *settings, model="tiny", code=2):
        flags = [flag for setting in settings for flag in ("--set", setting)]
        _, error = self.service.run("jobs", "submit", "--model", model, "--dataset", "rows", *flags, code=code)
        self.assertEqual(error.count("\n"), 1, error)
        return error

    def test_full_tuning_makes_a_model_of_its_own(self):
        job = self.train("name=whole", "method=full", "learning_rate=0.003", "ranks=2")
        self.assertEqual(len(job["adapter_sha256"]), 2)
        self.assertEqual(job["trained_parameters"], job["base_parameters"])
        self.assertLess(job["evaluation_after"]["loss"], 0.9 * job["evaluation_before"]["loss"])
        text, _ = self.service.run("jobs", "get", job["id"])
        count = job["base_parameters"]
        self.assertIn(f"trained: {count} of {count} parameters (100.00 %)", text)

        model = self.service.json("models", "get", "whole")
        self.assertEqual(model["kind"], "MODEL_KIND_BASE")
        self.assertEqual((model["method"], model["parent_model"], model["job_id"]), ("full", "tiny", job["id"]))
        self.assertEqual(model["parity"]["greedy_agreement"], 1)
        self.assertIn(f"parent tiny, method full, job {job['id']}", self.service.run("models", "get", "whole")[0])
        self.assertIn("whole", self.service.run("models", "list")[0])

        self.service.run("models", "export", "whole", "--to", self.path("whole"))
        ours = header(os.path.join(self.path("whole"), "model.safetensors"))
        base = header(os.path.join(TINY_LLAMA, "model.safetensors"))
        self.assertEqual({n: ours[n]["shape"] for n in base if n != "__metadata__"},
                         {n: base[n]["shape"] for n in base if n != "__metadata__"})
        for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
            self.assertTrue(os.path.exists(os.path.join(self.path("whole"), name)), name)
        self.service.run("models", "export", "whole", "--to", self.path("half"), "--dtype", "bf16", "--shard-size", "30KB")
        self.assertTrue(os.path.exists(os.path.join(self.path("half"), "model.safetensors.index.json")))
        for flag in ("--base", "--merged"):
            _, error = self.service.run("models", "export", "whole", "--to", self.path("no"), flag, code=2)
            self.assertIn(f"whole is a whole model; {flag} is for adapters", error)

        answer = self.service.json("chat", "whole", "--prompt", "Say the word 3", "--max-tokens", "4", "--beside", "tiny")
        self.assertEqual(set(answer["answers"]), {"whole", "tiny"})

        further = self.train("name=over-whole", "lora.rank=2", model="whole")
        self.assertAlmostEqual(further["evaluation_before"]["loss"], job["evaluation_after"]["loss"], places=5)
        self.assertEqual(self.service.json("models", "get", "over-whole")["base_model"], "whole")

    def check_family(self, family, *settings, left_out=()):
        """Trains a family whole; its export has the publisher's tensors but those `left_out`, and can be imported."""
        source = write_source(family, self.path(family))
        self.service.run("models", "import", family, "--from", self.path(family))
        name = family + "-whole"
        job = self.train(f"name={name}", "method=full", *settings, model=family)
        self.assertEqual(job["trained_parameters"], job["base_parameters"])
        self.assertLess(job["evaluation_after"]["loss"], 0.9 * job["evaluation_before"]["loss"])
        self.assertEqual(self.service.json("models", "get", name)["parity"]["greedy_agreement"], 1)
        self.service.run("models", "export", name, "--to", self.path(name))
        expected = set(header(os.path.join(source, "model.safetensors"))) - {"__metadata__", *left_out}
        exported = set(header(os.path.join(self.path(name), "model.safetensors"))) - {"__metadata__"}
        self.assertEqual(exported, expected)
        self.service.run("models", "import", name + "-again", "--from", self.path(name))

    def test_a_family_with_names_of_its_own_keeps_them(self):
        self.check_family("chatglm3", "learning_rate=0.003", left_out=["transformer.rotary_pos_emb.inv_freq"])

    def test_an_encoder_decoder_is_trained_whole(self):
        # The table again, and a weight that nobody reads.
        unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        self.check_family("t5", "learning_rate=0.01", "ranks=2", "activation_checkpointing=true",
                          left_out=["decoder.embed_tokens.weight", unused])  # fmt: skip

    def test_full_tuning_refuses_what_it_does_not_have(self):
        self.assertIn("lora.rank is 8; method full trains every parameter", self.refuse("method=full", "lora.rank=8"))
        self.assertIn("method is 'qlora+full'; must be one of sft, qlora, full", self.refuse("method=qlora+full"))

    def test_a_job_goes_on_from_an_adapter(self):
        first = self.train("name=first", "lora.rank=4", "learning_rate=0.01")
        # A rate this small moves no value.
        same = self.train("name=same", "parent_model=first", "learning_rate=1e-30")
        self.assertEqual(same["adapter_sha256"], first["adapter_sha256"])
        self.assertEqual(same["parent_sha256"], first["adapter_sha256"][0])
        self.assertEqual(int(same["spec"]["lora"]["rank"]), 4)
        self.assertEqual(same["evaluation_before"]["loss"], first["evaluation_after"]["loss"])
        second = self.train("name=second", "parent_model=first", "learning_rate=0.01")
        self.assertLess(second["evaluation_after"]["loss"], first["evaluation_after"]["loss"])
        text, _ = self.service.run("models", "get", "second")
        self.assertIn(f"base tiny, parent first, method sft, job {second['id']}", text)
        self.assertIn("lora.rank is 8; parent_model 'first' has 4", self.refuse("parent_model=first", "lora.rank=8", code=4))
        self.assertIn("parent_model: model 'nobody'", self.refuse("parent_model=nobody", code=4))
        self.assertIn("parent_model is 'tiny', a whole model", self.refuse("parent_model=tiny", code=4))


if __name__ == "__main__":
    unittest.main(verbosity=2)
