#!/usr/bin/env python3
"""`scripts/bench reduction`: what `reduction: exact` costs. LoRA rank 8 on all linear layers by both reductions in turn, on one rank
and on two of one thread each; what is told is the ratio of their steps. docs/benchmarks.md has the table.

usage: reduction_bench.py --bin DIR --smollm2 FILE.gguf [--rounds N]
"""
import argparse
import array
import json
import os
import pathlib
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from engine_bench import ROOT, STEP, cpu_seconds, dense_rows, write_rows

REDUCTIONS = ("fast", "exact")
ROWS_PER_STEP = 8
# The shape of `tiny` in engine_bench.py over the vocabulary of the tests' model, which has a tokenizer.
TINY = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4}
JOB = f"""epochs: 1
batch_size: {ROWS_PER_STEP}
max_length: 256
validation_fraction: 0
"""


def tensors_of(config):
    hidden, width = config["hidden_size"], config["intermediate_size"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    yield "lm_head.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name in "qkvo":
            yield f"{layer}self_attn.{name}_proj.weight", (hidden, hidden)
        yield f"{layer}mlp.gate_proj.weight", (width, hidden)
        yield f"{layer}mlp.up_proj.weight", (width, hidden)
        yield f"{layer}mlp.down_proj.weight", (hidden, width)
        yield f"{layer}input_layernorm.weight", (hidden,)
        yield f"{layer}post_attention_layernorm.weight", (hidden,)


def make_tiny(folder):
    """A Llama of random weights: time depends on the shape alone."""
    shutil.copytree(ROOT / "tests" / "data" / "tiny-llama", folder)
    config = json.loads((folder / "config.json").read_text())
    config.update(TINY, head_dim=TINY["hidden_size"] // TINY["num_attention_heads"], tie_word_embeddings=False)
    (folder / "config.json").write_text(json.dumps(config))
    source, header, data = random.Random(7), {}, bytearray()
    block = array.array("f", (source.gauss(0, 0.02) for _ in range(4096)))
    for name, shape in tensors_of(config):
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        values = array.array("f", [1.0]) * count if len(shape) == 1 else (block * (count // len(block) + 1))[:count]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * count]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def children_of(pid):
    return [int(child) for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def train(trainer, job, ranks, out):
    """Wall and CPU seconds of every step but the first, of all ranks together, and the bytes of the adapter."""
    run = subprocess.Popen(
        [trainer, "run", str(job), "--ranks", str(ranks), "--threads", "1", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    steps, last, text = [], None, ""
    for line in run.stdout:
        text += line
        if not STEP.search(line):
            continue
        now = (time.perf_counter(), sum(cpu_seconds(rank) for rank in children_of(run.pid)))
        if last:
            steps.append((now[0] - last[0], now[1] - last[1]))
        last = now
    if run.wait() != 0:
        sys.exit(f"lathe-trainer run: exit code {run.returncode}\n{text[-3000:]}")
    adapter = (out / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(out)
    return steps, adapter


def medians(steps):
    return [statistics.median(step[clock] for step in steps) for clock in (0, 1)]


def measure(trainer, work, name, model, num_steps, rounds):
    rows = work / "rows.jsonl"
    write_rows(rows, dense_rows(ROWS_PER_STEP * num_steps))
    adapters = set()
    for ranks in (1, 2):
        seconds = {reduction: [] for reduction in REDUCTIONS}
        load = os.getloadavg()[0]
        for i in range(rounds):
            # The first of a round is not always the same one.
            for reduction in REDUCTIONS if i % 2 == 0 else reversed(REDUCTIONS):
                job = work / "job.yaml"
                job.write_text(f"model: {model}\ndataset: {rows}\n{JOB}reduction: {reduction}\n")
                steps, adapter = train(trainer, job, ranks, work / "out")
                seconds[reduction].append(medians(steps))
                if reduction == "exact":
                    adapters.add(adapter)
        print_line(name, ranks, seconds, f"load {load:.1f}-{os.getloadavg()[0]:.1f}")
    print(f"  exact: {'the same adapter every time' if len(adapters) == 1 else 'ADAPTERS DIFFER'}", flush=True)
    return len(adapters) == 1


def print_line(name, ranks, seconds, load):
    text = f"{name}, {ranks} rank{'s' if ranks > 1 else ' '}:"
    for clock, what in ((0, "wall"), (1, "CPU")):
        fast, exact = ([run[clock] for run in seconds[reduction]] for reduction in REDUCTIONS)
        ratios = [b / a for a, b in zip(fast, exact)]
        text += (
            f" {what} {statistics.median(fast):.3f} s -> {statistics.median(exact):.3f} s,"
            f" x {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f});"
        )
    print(f"{text} {load}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--smollm2", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    trainer = str(pathlib.Path(args.bin) / "lathe-trainer")
    print(f"seconds of a step, fast -> exact, medians of {args.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(prefix="lathe-bench-") as folder:
        work = pathlib.Path(folder)
        same = measure(trainer, work, "tiny", make_tiny(work / "tiny"), 40, args.rounds)
        same &= measure(trainer, work, "SmolLM2-135M", args.smollm2, 6, args.rounds)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
