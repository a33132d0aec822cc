#!/usr/bin/env python3
"""`scripts/bench gpu`: Lathe's public job path (lathe-trainer run, device: cuda) beside transformers + PEFT on the same GPU, both
with a base in BF16 and a LoRA in F32. Models are random in the shape of Qwen2.5. No time is printed where Lathe's losses are not those
of the same training by PEFT in 32 bits.

usage: gpu_bench.py --bin DIR --peers PYTHON [--shape 1.5b|7b]... [--rounds N] [--work DIR]
"""
import argparse
import contextlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import engine_bench

# Relative, of a loss of Lathe in 16 bits, which have three digits, to the one in 32 bits. The peers have no limit: they round the
# update of the adapter twice and lose some of it (docs/decisions/0017-one-rounding.md).
LOSS_LIMIT = 5e-3
MAX_LENGTH = 1024
# Tokens on the device at a time, on all sides.
MICRO_TOKENS = 4096


@contextlib.contextmanager
def device_memory():
    """The most memory of the GPU that was in use, less what was before: bytes, in a list of one."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "100"]
    watch = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    first, peak = int(watch.stdout.readline()), []
    yield peak
    watch.terminate()
    peak.append((max([first] + [int(line) for line in watch.stdout]) - first) * (1 << 20))


class GpuBench(engine_bench.Bench):
    def lathe(self, case):
        with device_memory() as peak:
            run = super().lathe(case)
        return {**run, "peak_bytes": peak[0]}

    def peer(self, variant):
        with device_memory() as peak:
            run = super().peer(variant)
        return {**run, "peak_bytes": peak[0]}

    def prepare_case(self, case):
        steps = self.steps_of(case, case.text_model)
        work = {"model": str(case.model), "adapter": f"{case.model}-adapter", "threads": case.threads, "device": "cuda",
                "steps": steps, "learning_rate": engine_bench.LEARNING_RATE, "max_grad_norm": 1.0,
                "micro_rows": case.micro_rows, "device_rows": case.micro_rows, "scratch": str(self.work / "scratch")}  # fmt: skip
        (self.work / "work.json").write_text(json.dumps(work))
        return steps

    def train_case(self, case, rounds):
        steps = self.prepare_case(case)
        tokens = statistics.median(sum(len(row["ids"]) for row in step) for step in steps[1:])
        results = {"lathe": [], "stock": [], "tuned": []}
        print(f"\n{case.name}: {len(steps)} steps (the first is not timed), {tokens:.0f} tokens a step, {rounds} rounds")
        for _ in range(rounds):
            for side, run in (("lathe", self.lathe), ("stock", self.peer), ("tuned", self.peer)):
                results[side].append(run(case) if side == "lathe" else run(f"train {side}"))
                print(f"  {side:6} losses " + " ".join(f"{step['loss']:.4f}" for step in results[side][-1]["steps"]))
        reference = self.peer("train reference")
        print("  32 bit losses " + " ".join(f"{step['loss']:.4f}" for step in reference["steps"]))
        gaps = {side: max(loss_gap(run, reference) for run in runs) for side, runs in results.items()}
        if gaps["lathe"] > LOSS_LIMIT:
            raise engine_bench.Void(f"{case.name}: a loss is {gaps['lathe']:.2g} from that in 32 bits; must be within {LOSS_LIMIT}, relative")
        print(f"  furthest from 32 bits, relative (limit {LOSS_LIMIT}): " + ", ".join(f"{side} {gap:.2g}" for side, gap in gaps.items()))
        print_table(results, tokens)
        flops = statistics.median(engine_bench.step_flops(case, step) for step in steps[1:])
        rate = flops / statistics.median(engine_bench.per_round(results["lathe"], "wall"))
        print(f"  lathe makes {rate / 1e12:.0f} TFLOP/s of what the model asks for")


def loss_gap(ours, theirs):
    assert len(ours["steps"]) == len(theirs["steps"])
    pairs = zip(ours["steps"], theirs["steps"])
    return max(abs(a["loss"] - b["loss"]) / abs(b["loss"]) for a, b in pairs)


def print_table(results, tokens):
    ours = engine_bench.per_round(results["lathe"], "wall")
    print("          s/step   tokens/s  GPU GB   wall: x lathe (min-max)")
    for side, runs in results.items():
        wall = engine_bench.per_round(runs, "wall")
        ratios = [a / b for a, b in zip(wall, ours)]
        s = statistics.median(wall)
        peak = max(run["peak_bytes"] for run in runs)
        print(f"  {side:6} {s:8.3f} {tokens / s:10.0f} {peak / 1e9:7.2f} {statistics.median(ratios):10.2f} "
              f"({min(ratios):.2f}-{max(ratios):.2f})")  # fmt: skip


def cases_of(bench, shape, canonical, num_steps):
    model = bench.work / shape
    engine_bench.check([bench.args.peers, str(engine_bench.PEER), "make-gpu-model", shape, str(model)])
    count = engine_bench.BATCH * num_steps
    for name, rows in (("dense", engine_bench.dense_rows(count)), ("alpaca's lengths", engine_bench.alpaca_rows(count))):
        case = engine_bench.Case(f"Qwen2.5-{shape.upper()} LoRA, {name}", model, rows, MAX_LENGTH,
                                 MICRO_TOKENS // MAX_LENGTH, 8)  # fmt: skip
        case.text_model = canonical
        case.lines = f"device: cuda\nparent_model: {model}-adapter\nmicro_batch_tokens: {MICRO_TOKENS}"
        yield case


def text_model(bench):
    """The tokenizer of all models here, over so small a model that preparing rows loads nothing."""
    source = bench.work / "tokenizer-source"
    shutil.copytree(engine_bench.ROOT / "tests" / "data" / "tiny-llama", source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return engine_bench.import_model(bench, source, "tokenizer")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--shape", action="append", choices=["1.5b", "7b"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only", default="")
    parser.add_argument("--work", help="where the models go, 50 GB with 7b; else a temporary folder")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lathe-bench.", dir=args.work) as folder:
        bench = GpuBench(args, pathlib.Path(folder))
        canonical = text_model(bench)
        for shape in args.shape or ["1.5b"]:
            for case in cases_of(bench, shape, canonical, args.steps):
                if args.only in case.name:
                    engine_bench.guarded(bench, lambda: bench.train_case(case, args.rounds))
    print(f"\n{time.monotonic() - start:.0f} s in all")
    sys.exit(1 if bench.failed else 0)


if __name__ == "__main__":
    main()
