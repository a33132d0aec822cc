#!/usr/bin/env python3
"""Checks the example data sets. Needs nothing but Python's standard library.

Usage: check_examples.py [--model-dir DIR] [--questions FILE.txt] FILE.jsonl...

For each file:
  - valid UTF-8, one JSON object a line with exactly the keys of KEYS, all of them text, none blank
    but "input";
  - at least MIN_ROWS rows, MIN_TASKS task types, each with training and held-out rows;
  - no two rows with the same prompt, and none closer to another than MAX_NEAR;
  - every held-out row (instruction, input and answer together) below MAX_ROUGE to every training
    row, and no held-out answer of more than MIN_ANSWER_UNITS units the same as a training answer:
    forms and facts of the house recur, whole sentences do not;
  - with --model-dir (a folder with the GGUF of SmolLM2, and transformers installed): the training
    rows in three epochs stay within MAX_TOKENS, chat template included. Skipped otherwise;
  - with --questions: every line of it below MAX_ROUGE to the prompt of every row.

Similarity is ROUGE-L F1 (Lin 2004) over lower-cased words, or over characters where the text is
Chinese. Exit code 0: all hold; 1: some do not (each is named); 2: usage.
"""

import argparse
import collections
import glob
import json
import os
import re
import sys

KEYS = ("task", "instruction", "input", "output", "split")
MIN_ROWS = 240
MIN_TASKS = 12
MIN_HELD_OUT = 30
MAX_ROUGE = 0.7
MAX_NEAR = 0.9
MIN_ANSWER_UNITS = 4
MAX_TOKENS = 40_000
EPOCHS = 3
CJK = re.compile(r"[\u3400-\u9fff]")


def units(text):
    """Words of `text`, lower-cased; single characters without punctuation if it is Chinese."""
    words = re.findall(r"\w+", text.lower())
    return list("".join(words)) if CJK.search(text) else words


def positions(sequence):
    """Bit masks of where each unit stands: the form that lcs_length wants."""
    masks = collections.defaultdict(int)
    for index, unit in enumerate(sequence):
        masks[unit] |= 1 << index
    return masks


def lcs_length(masks, size, other):
    """Length of the longest common subsequence, bit-parallel (Hyyro 2004)."""
    full = (1 << size) - 1
    row = full
    for unit in other:
        match = row & masks.get(unit, 0)
        row = ((row + match) | (row - match)) & full
    return size - bin(row).count("1")


class Text:
    """A text prepared for many comparisons."""

    def __init__(self, text):
        self.units = units(text)
        self.masks = positions(self.units)

    def rouge_l(self, other):
        total = len(self.units) + len(other.units)
        if total == 0:
            return 0.0
        return 2.0 * lcs_length(self.masks, len(self.units), other.units) / total


def read_rows(path, problems):
    rows = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: {error}")
        return rows
    if lines and lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, 1):
        problem = row_problem(line)
        if problem:
            problems.append(f"{path}:{number}: {problem}")
        else:
            rows.append({**json.loads(line), "line": number})
    return rows


def row_problem(line):
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(row, dict) or tuple(row) != KEYS:
        return f"keys are {list(row)}; must be {list(KEYS)}"
    for key, value in row.items():
        if not isinstance(value, str) or value != value.strip() or (key != "input" and not value):
            return f"{key} is {value!r}; must be text without outer blanks"
    if row["split"] not in ("train", "validation"):
        return f"split is {row['split']!r}; must be train or validation"
    return None


def check_counts(path, rows, problems):
    tasks = collections.defaultdict(collections.Counter)
    for row in rows:
        tasks[row["task"]][row["split"]] += 1
    held_out = sum(count["validation"] for count in tasks.values())
    for name, got, least in (("rows", len(rows), MIN_ROWS), ("task types", len(tasks), MIN_TASKS),
                             ("held-out rows", held_out, MIN_HELD_OUT)):
        if got < least:
            problems.append(f"{path}: {got} {name}; must be at least {least}")
    for task, count in tasks.items():
        if not count["train"] or not count["validation"]:
            problems.append(f"{path}: task {task} has {count['train']} training and "
                            f"{count['validation']} held-out rows; must have both")
    return f"{len(rows)} rows, {len(tasks)} task types, {held_out} held out"


def check_near(path, rows, problems):
    """No row twice, none nearly twice. Returns the largest similarity of two rows."""
    worst = 0.0
    prompts = {}
    for row in rows:
        prompt = tuple(row["prompt"].units)
        if prompt in prompts:
            problems.append(f"{path}:{row['line']}: same prompt as line {prompts[prompt]}")
        prompts[prompt] = row["line"]
    for index, row in enumerate(rows):
        for other in rows[:index]:
            score = row["whole"].rouge_l(other["whole"])
            worst = max(worst, score)
            if score >= MAX_NEAR:
                problems.append(f"{path}:{row['line']}: ROUGE-L {score:.2f} to line "
                                f"{other['line']}; must be below {MAX_NEAR}")
    return worst


def check_held_out(path, rows, problems):
    """Held-out rows against training rows. Returns the largest similarity of two whole rows."""
    worst = 0.0
    training = [row for row in rows if row["split"] == "train"]
    answers = {tuple(row["answer"]): row["line"] for row in training}
    for row in (row for row in rows if row["split"] == "validation"):
        same = answers.get(tuple(row["answer"]))
        if same and len(row["answer"]) > MIN_ANSWER_UNITS:
            problems.append(f"{path}:{row['line']}: held-out answer is that of line {same}")
        for other in training:
            score = row["whole"].rouge_l(other["whole"])
            worst = max(worst, score)
            if score >= MAX_ROUGE:
                problems.append(f"{path}:{row['line']}: held-out row has ROUGE-L {score:.2f} to "
                                f"line {other['line']}; must be below {MAX_ROUGE}")
    return worst


def load_tokenizer(model_dir):
    """The tokenizer of the GGUF in `model_dir`, or None if it or transformers is not there."""
    found = sorted(glob.glob(os.path.join(model_dir or "", "*.gguf"))) if model_dir else []
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return None
    if not found:
        return None
    return AutoTokenizer.from_pretrained(model_dir, gguf_file=os.path.basename(found[0]))


def check_tokens(path, rows, tokenizer, problems):
    total = 0
    for row in (row for row in rows if row["split"] == "train"):
        prompt = "\n".join(filter(None, (row["instruction"], row["input"])))
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["output"]}],
            tokenize=False)
        total += len(tokenizer(text)["input_ids"])
    if EPOCHS * total > MAX_TOKENS:
        problems.append(f"{path}: {EPOCHS * total} training tokens in {EPOCHS} epochs; "
                        f"must be at most {MAX_TOKENS}")
    return f"{EPOCHS * total} tokens in {EPOCHS} epochs"


def check_questions(path, questions, rows, problems):
    """The shown questions must be new to the model: compared with the prompts of all `rows`."""
    if not questions:
        problems.append(f"{path}: no question")
    for number, question in enumerate(questions, 1):
        for row in rows:
            score = Text(question).rouge_l(row["prompt"])
            if score >= MAX_ROUGE:
                problems.append(f"{path}:{number}: question has ROUGE-L {score:.2f} to the prompt "
                                f"in line {row['line']}; must be below {MAX_ROUGE}")


def prepare(rows):
    """Adds the units that the comparisons use, and the line where it is missing."""
    for number, row in enumerate(rows, 1):
        row.setdefault("line", number)
        row["prompt"] = Text(" ".join((row["instruction"], row["input"])))
        row["whole"] = Text(" ".join((row["instruction"], row["input"], row["output"])))
        row["answer"] = units(row["output"])
    return rows


def check_file(path, tokenizer, problems):
    rows = prepare(read_rows(path, problems))
    counts = check_counts(path, rows, problems)
    near = check_near(path, rows, problems)
    held_out = check_held_out(path, rows, problems)
    tokens = (check_tokens(path, rows, tokenizer, problems) if tokenizer
              else "tokens not counted (needs --model-dir and transformers)")
    print(f"{path}: {counts}; largest ROUGE-L {held_out:.3f} held-out to training, "
          f"{near:.3f} of any two rows; {tokens}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model-dir", help="folder with the GGUF of SmolLM2-135M-Instruct")
    parser.add_argument("--questions", help="text file: one question a line, new to every row")
    parser.add_argument("files", nargs="+", metavar="FILE.jsonl")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.model_dir)
    problems = []
    rows = [row for path in arguments.files for row in check_file(path, tokenizer, problems)]
    if arguments.questions:
        with open(arguments.questions, encoding="utf-8") as file:
            check_questions(arguments.questions, file.read().splitlines(), rows, problems)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
