#!/usr/bin/env python3
"""`scripts/bench memory`: peak memory of the process that trains SmolLM2-135M, by how the base is held and whether layers are
computed again. The kernel's high-water mark (VmHWM), which noise does not move. docs/benchmarks.md has the table.

usage: memory_bench.py --bin DIR --smollm2 FILE.gguf
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

from engine_bench import STEP, child_of, dense_rows, peak_bytes, write_rows

BASES = {
    "f32": "",
    "bf16": "base_dtype: bf16",
    "qlora": "method: qlora",
    "qlora, bf16": "method: qlora\nbase_dtype: bf16",
}
LENGTH = 256
ROWS = 4
# One step of all rows in one micro-batch.
JOB = f"""epochs: 1
batch_size: {ROWS}
max_length: {LENGTH}
micro_batch_tokens: {ROWS * LENGTH}
validation_fraction: 0
"""


def train(trainer, job, out):
    """The mark after the last step: what comes after it, the export, has a process of its own."""
    run = subprocess.Popen(
        [trainer, "run", str(job), "--threads", "1", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    peak, text = 0, ""
    for line in run.stdout:
        text += line
        if STEP.search(line):
            peak = peak_bytes(child_of(run.pid))
    if run.wait() != 0:
        sys.exit(f"lathe-trainer run: exit code {run.returncode}\n{text[-3000:]}")
    return peak


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--smollm2", required=True)
    args = parser.parse_args()
    trainer = str(pathlib.Path(args.bin) / "lathe-trainer")
    print(f"{'base':12} {'kept for backward':20} peak", flush=True)
    with tempfile.TemporaryDirectory(prefix="lathe-bench-") as folder:
        work = pathlib.Path(folder)
        write_rows(work / "rows.jsonl", dense_rows(ROWS))
        for name, lines in BASES.items():
            for checkpointing, kept in (("false", "activations"), ("true", "inputs of layers")):
                job = work / "job.yaml"
                job.write_text(
                    f"model: {args.smollm2}\ndataset: {work / 'rows.jsonl'}\n{JOB}"
                    f"activation_checkpointing: {checkpointing}\n{lines}\n"
                )
                peak = train(trainer, job, work / f"{name}-{checkpointing}")
                print(f"{name:12} {kept:20} {peak / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
