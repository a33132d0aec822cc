"""`lathe models import --from hf:...` against a fake hub on loopback."""

import os
import unittest

from fake_hub import COMMIT, FakeHub
from service import TINY_LLAMA, Service


class HubImportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service(workers=1)
        cls.addClassCleanup(cls.service.close)

    def setUp(self):
        self.hub = FakeHub(TINY_LLAMA)
        self.addCleanup(self.hub.close)
        self.cache = os.path.join(self.service.temp.name, "cache-" + self.id().rpartition(".")[2])
        self.service.env.update(HF_ENDPOINT=self.hub.url, LATHE_CACHE=self.cache)
        self.service.env.pop("HF_TOKEN", None)
        self.folder = os.path.join(self.cache, "hub", "lab--tiny", COMMIT)

    def fetch(self, name, source="hf:lab/tiny", code=0):
        return self.service.run("models", "import", name, "--from", source, code=code)[1]

    def weights_calls(self):
        return [wanted for path, wanted in self.hub.calls if path.endswith("/model.safetensors")]

    def test_a_model_is_fetched_once_and_imported(self):
        self.fetch("plain")
        self.assertEqual(self.service.json("models", "get", "plain")["architecture"], "llama")
        for name, data in self.hub.files.items():
            with open(os.path.join(self.folder, name), "rb") as f:
                self.assertEqual(f.read(), data, name)
        self.assertEqual(len(self.weights_calls()), 1)
        self.fetch("again")
        self.assertEqual(len(self.weights_calls()), 1)

    def test_a_broken_download_goes_on_where_it_ended(self):
        self.hub.cut_after["model.safetensors"] = 1000
        self.fetch("cut")
        self.assertEqual(self.weights_calls(), ["bytes=0-", "bytes=1000-"])

    def test_wrong_bytes_are_fetched_once_more_and_then_refused(self):
        self.hub.corrupt["model.safetensors"] = 1
        self.fetch("mended")
        self.hub.corrupt["model.safetensors"] = 2
        os.remove(os.path.join(self.folder, "model.safetensors"))
        error = self.fetch("wrong", code=1)
        self.assertIn("model.safetensors: its hash is", error)
        self.assertNotIn("model.safetensors", os.listdir(self.folder))
        self.assertNotIn("model.safetensors.part", os.listdir(self.folder))

    def test_a_busy_hub_is_asked_again(self):
        self.hub.busy = 1
        self.fetch("busy")
        self.assertGreater(len(self.hub.calls), 2)

    def test_a_token_is_needed_where_the_hub_wants_one(self):
        self.hub.token = "secret-token"
        error = self.fetch("private", code=1)
        self.assertIn("set HF_TOKEN", error)
        self.service.env["HF_TOKEN"] = "secret-token"
        self.fetch("private")
        self.assertIn("Bearer secret-token", self.hub.authorizations)
        self.service.env["HF_ENDPOINT"] = "http://hub.example"
        error = self.fetch("leak", code=2)
        self.assertIn("over https only", error)
        self.assertNotIn("secret-token", error)

    def test_what_is_not_there_is_named(self):
        self.assertIn("answers with HTTP 404", self.fetch("none", "hf:lab/none", code=1))
        self.assertIn("must be hf:OWNER/NAME", self.fetch("bad", "hf:../etc", code=2))
        self.assertIn("has no file x.gguf", self.fetch("file", "hf:lab/tiny:x.gguf", code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
