"""A job of every model family through the service: import, train, export, chat. The weights are tiny and random, the layout is
the publisher's; the tokenizer is the tiny Llama's, or for T5 a SentencePiece file."""

import json
import os
import shutil
import struct
import unittest

from service import ROOT, TINY_LLAMA, Service, write_rows

FAMILIES = {"llama3": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3", "chatglm3": "chatglm",
            "t5": "t5", "flan-t5": "t5"}
# What has nothing to do with the family runs with some of them.
SETTINGS = {
    "mistral": ("base_dtype=bf16", "activation_checkpointing=true"),
    "qwen2": ("method=qlora", "base_dtype=bf16"),
    "flan-t5": ("method=qlora", "activation_checkpointing=true"),
}
JOB = ("epochs=10", "batch_size=5", "learning_rate=0.01", "lora.rank=2")


def write_source(family, to):
    source = os.path.join(ROOT, "tests/data/families", family)
    os.mkdir(to)
    for name in os.listdir(source):
        if name.startswith(("model", "config")):
            shutil.copy(os.path.join(source, name), to)
    if family.endswith("t5"):
        shutil.copy(os.path.join(ROOT, "tests/data/sentencepiece/unigram.model"), os.path.join(to, "spiece.model"))
        with open(os.path.join(to, "tokenizer_config.json"), "w", encoding="utf8") as f:
            json.dump({"tokenizer_class": "T5Tokenizer"}, f)
        return source
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(os.path.join(TINY_LLAMA, name), to)
    return source


def tensor_names(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    return set(header) - {"__metadata__"}


class FamiliesTest(unittest.TestCase):
    def test_every_family_trains_exports_and_answers(self):
        for family, architecture in FAMILIES.items():
            with self.subTest(family):
                service = Service(workers=1)  # One each: few base models are served at once.
                try:
                    self.run_family(service, family, architecture)
                finally:
                    service.close()

    def run_family(self, service, family, architecture):
        folder = os.path.join(service.temp.name, family)
        source = write_source(family, folder)
        rows = folder + ".jsonl"
        write_rows(rows)
        service.run("datasets", "upload", "rows", "--from", rows)
        service.run("models", "import", family, "--from", folder)
        self.assertEqual(service.json("models", "get", family)["architecture"], architecture)
        job = service.wait_job(service.submit("name=tuned", *JOB, *SETTINGS.get(family, ()), model=family))
        self.assertEqual(job["state"], "JOB_STATE_SUCCEEDED", job)
        self.assertLess(job["evaluation_after"]["loss"], 0.8 * job["evaluation_before"]["loss"])
        to = folder + ".export"
        service.run("models", "export", "tuned", "--to", to)
        ours, peft = (os.path.join(place, "adapter_model.safetensors") for place in (to, os.path.join(source, "adapter")))
        self.assertEqual(tensor_names(ours), tensor_names(peft))
        answer = service.json("chat", "tuned", "--prompt", "Say the word 3", "--max-tokens", "4")
        self.assertIn("tuned", answer["answers"])
        if family == "flan-t5":
            self.check_encoder_decoder(service, to)

    def check_encoder_decoder(self, service, export):
        with open(os.path.join(export, "adapter_config.json"), encoding="utf8") as f:
            self.assertEqual(json.load(f)["task_type"], "SEQ_2_SEQ_LM")
        merged = export + ".merged"
        service.run("models", "export", "tuned", "--to", merged, "--merged")
        names = tensor_names(os.path.join(merged, "model.safetensors"))
        self.assertIn("decoder.block.0.layer.1.EncDecAttention.k.weight", names)
        self.assertIn("lm_head.weight", names)
        turns = export + ".jsonl"
        write_rows(turns, count=2, bad=[json.dumps({"instruction": "a", "output": "b", "history": [["c", "d"]]})])
        service.run("datasets", "upload", "turns", "--from", turns)
        report = service.json("datasets", "check", "turns", "--model", "flan-t5")
        self.assertIn("not_one_turn", json.dumps(report))


if __name__ == "__main__":
    unittest.main(verbosity=2)
