"""Rows with tools through the service: check, preview, train, and a chat that sees the prompt of the rows. The tiny Llama, which has
512 positions, with a short chat template."""

import json
import os
import shutil
import unittest

from service import TINY_LLAMA, Service

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}]
QUESTION = {"role": "user", "content": "Weather in Oslo?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "call1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Oslo\"}"}}]}
RESULT = {"role": "tool", "tool_call_id": "call1", "name": "get_weather", "content": "7"}
ANSWER = {"role": "assistant", "content": "It is 7."}
CALL_TEXT = "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}</tool_call>"
TEMPLATE = """{% if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}
{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def write_model(folder):
    shutil.copytree(TINY_LLAMA, folder)
    with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8") as f:
        f.write(TEMPLATE)


class ToolsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service(workers=1)
        cls.folder = cls.service.temp.name
        write_model(os.path.join(cls.folder, "model"))
        cls.service.run("models", "import", "caller", "--from", os.path.join(cls.folder, "model"))
        cls.service.run("models", "import", "plain", "--from", TINY_LLAMA)
        rows = [{"tools": TOOLS, "messages": [QUESTION, CALL, RESULT, ANSWER], "split": "train"} for _ in range(20)]
        rows.append({"tools": TOOLS, "messages": [QUESTION, {**CALL, "weight": 0}, RESULT, {"role": "assistant", "content": "7!"}],
                     "split": "validation"})
        cls.service.run("datasets", "upload", "rows", "--from", cls.write("rows.jsonl", "\n".join(json.dumps(row) for row in rows)))

    @classmethod
    def tearDownClass(cls):
        cls.service.close()

    @classmethod
    def write(cls, name, text):
        path = os.path.join(cls.folder, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def test_a_check_says_what_a_template_loses(self):
        report = self.service.json("datasets", "check", "rows", "--model", "caller")
        self.assertEqual((int(report["good_rows"]), int(report["problems_total"])), (21, 19), report)  # 19 duplicates
        # Nothing of a call is left: such a row would teach to say nothing.
        report = self.service.json("datasets", "check", "rows", "--model", "plain", code=1)
        self.assertIn("template", json.dumps(report["problems"]))

    def test_a_preview_shows_whose_every_token_is(self):
        preview = self.service.json("datasets", "preview", "rows", "--model", "caller", "--row", "0")
        text = {}
        for token in preview["tokens"]:
            text[token["reason"]] = text.get(token["reason"], "") + token["text"]
        self.assertIn("get_weather", text["tools"])
        self.assertEqual(text["tool"], "7")
        self.assertEqual("".join(token["text"] for token in preview["tokens"] if token["trained"]),
                         CALL_TEXT + "<|im_end|>It is 7.<|im_end|>")

    def test_a_tuned_model_calls_the_tool_and_answers_its_result(self):
        job = self.service.wait_job(self.service.submit(
            "name=tuned", "epochs=60", "batch_size=10", "learning_rate=0.02", "lora.rank=16", model="caller"))
        self.assertEqual(job["state"], "JOB_STATE_SUCCEEDED", job)
        tools = self.write("tools.json", json.dumps(TOOLS))
        asked = self.write("asked.json", json.dumps([QUESTION]))
        answered = self.write("answered.json", json.dumps([QUESTION, CALL, RESULT]))
        ask = ("chat", "tuned", "--max-tokens", "120", "--tools", tools, "--messages")
        self.assertEqual(self.service.json(*ask, asked)["answers"]["tuned"].strip(), CALL_TEXT)
        self.assertEqual(self.service.json(*ask, answered)["answers"]["tuned"].strip(), "It is 7.")

    def test_a_chat_with_bad_tools_is_refused_in_words(self):
        asked = self.write("question.json", json.dumps([QUESTION]))
        tools = self.write("some.json", json.dumps(TOOLS))
        refused = self.service.run("chat", "plain", "--messages", asked, "--tools", tools, code=4)
        self.assertIn("the model's chat template does not show them", refused[1])
        unknown = self.write("unknown.json", json.dumps([QUESTION, CALL, RESULT]))
        refused = self.service.run("chat", "caller", "--messages", unknown, code=4)
        self.assertIn("the row has no tools", refused[1])


if __name__ == "__main__":
    unittest.main(verbosity=2)
