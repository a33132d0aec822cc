#!/usr/bin/env python3
"""The checker of the example data sets finds what it promises to find."""

import contextlib
import io
import json
import pathlib
import random
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import check_examples  # noqa: E402

DATA = pathlib.Path(__file__).resolve().parents[2] / "examples" / "support-desk.jsonl"


def slow_lcs(a, b):
    """The textbook table."""
    row = [0] * (len(b) + 1)
    for x in a:
        above = row[:]
        for j, y in enumerate(b, 1):
            row[j] = above[j - 1] + 1 if x == y else max(above[j], row[j - 1])
    return row[-1]


class RougeTest(unittest.TestCase):
    def test_equals_the_textbook_table(self):
        rng = random.Random(7)
        for _ in range(300):
            a, b = ([rng.choice("abcd") for _ in range(rng.randrange(40))] for _ in range(2))
            masks = check_examples.positions(a)
            self.assertEqual(check_examples.lcs_length(masks, len(a), b), slow_lcs(a, b))

    def test_compares_words_in_english_and_characters_in_chinese(self):
        self.assertEqual(check_examples.units("Hi, Q412!"), ["hi", "q412"])
        self.assertEqual(check_examples.units("退T4，好。"), ["退", "t", "4", "好"])


class CheckTest(unittest.TestCase):
    def setUp(self):
        self.rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
        self.train = [row for row in self.rows if row["split"] == "train"]
        self.held_out = [row for row in self.rows if row["split"] == "validation"]

    def problems(self, text=None):
        if text is None:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows).encode()
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "rows.jsonl"
            path.write_bytes(text)
            found = []
            with contextlib.redirect_stdout(io.StringIO()):
                check_examples.check_file(str(path), None, found)
        return "\n".join(found)

    def test_accepts_the_shipped_set(self):
        self.assertEqual(self.problems(), "")

    def test_finds_a_held_out_row_that_is_nearly_a_training_row(self):
        self.held_out[0].update(self.train[0], split="validation", instruction="Say. "
                                + self.train[0]["instruction"])
        self.assertIn("held-out row has ROUGE-L", self.problems())

    def test_finds_a_held_out_answer_that_is_trained(self):
        self.held_out[0]["output"] = self.train[0]["output"]
        self.assertIn("held-out answer is that of line", self.problems())

    def test_finds_a_prompt_that_is_there_twice(self):
        self.train[1].update(instruction=self.train[0]["instruction"].upper(),
                             input=self.train[0]["input"])
        self.assertIn("same prompt", self.problems())

    def test_finds_a_task_without_held_out_rows(self):
        for row in self.rows:
            if row["task"] == "refund_amount":
                row["split"] = "train"
        self.assertIn("refund_amount has 18 training and 0 held-out", self.problems())

    def test_finds_a_wrong_key_a_wrong_split_and_too_few_rows(self):
        self.rows[0]["prompt"] = "x"
        self.rows[1]["split"] = "test"
        del self.rows[100:]
        found = self.problems()
        for text in (":1: keys are", ":2: split is 'test'", "98 rows; must be at least 240"):
            self.assertIn(text, found)

    def test_finds_bytes_that_are_not_utf8(self):
        self.assertIn("can't decode", self.problems(DATA.read_bytes() + b"\xff\n"))

    def test_finds_a_question_that_is_trained(self):
        found = []
        check_examples.check_questions("questions.txt", [self.train[0]["instruction"]],
                                       check_examples.prepare(self.rows), found)
        self.assertIn("question has ROUGE-L 1.00", "\n".join(found))


if __name__ == "__main__":
    unittest.main()
