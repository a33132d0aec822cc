#!/usr/bin/env python3
"""`scripts/bench engine`: Lathe's public job path (lathe-trainer run) beside transformers + PEFT. docs/benchmarks.md has the
protocol. No time is printed for a case whose loss curves or texts disagree.

usage: engine_bench.py --bin DIR --peers PYTHON --smollm2 FILE.gguf [--quick] [--only REGEX]
"""
import argparse
import json
import os
import pathlib
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import shards

ROOT = pathlib.Path(__file__).parent.parent.parent
PEER = ROOT / "tests" / "bench" / "hf_peer.py"
ALPACA_LENGTHS = ROOT / "tests" / "bench" / "alpaca_lengths.json"
SEED = 1
BATCH = 8
LEARNING_RATE = 3e-4
STEP = re.compile(r"step (\d+)/\d+ +loss ([0-9.]+)")
THINGS = ["lamp", "river", "clock", "harbour"]
# Relative; besides, the last digit that lathe-trainer prints.
LOSS_LIMIT = 1e-4
LOSS_DIGIT = 0.51e-4


class Void(Exception):
    """The sides did not compute the same: nothing may be said about their time."""


class Case:
    lines = ""  # More of the job file.

    def __init__(self, name, model, rows, max_length, micro_rows, threads, method="sft"):
        self.name, self.model, self.rows, self.batch = name, model, rows, BATCH
        self.max_length, self.micro_rows, self.threads, self.method = max_length, micro_rows, threads, method


def step_flops(case, step):
    """What the model asks for, whoever computes it: 2 per weight and token in the forward pass, as many for the gradient of
    the input and, where weights are trained, of the weight; the head at trained tokens only; causal attention, backward 2.5
    times forward. LoRA's own products, a few percent, are left out."""
    config = json.loads((pathlib.Path(case.model) / "config.json").read_text())
    hidden, layers, heads = (config[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    width = config.get("head_dim") or hidden // heads
    attention = hidden * width * (2 * heads + 2 * config["num_key_value_heads"])
    linear = layers * (attention + 3 * hidden * config["intermediate_size"])
    lengths = [len(row["ids"]) for row in step]
    labels = sum(sum(row["trained"]) for row in step)
    per_weight = 6 if case.method == "full" else 4
    scores = 3.5 * layers * heads * width * sum(2 * n * n for n in lengths)
    return per_weight * (linear * sum(lengths) + config["vocab_size"] * hidden * labels) + scores


def dense_rows(count):
    """Answers longer than max_length: cut, so that all rows are equally long and nothing is padding."""
    source = random.Random(7)
    return [{"instruction": f"Go on, {i}.", "output": words(source, 700)} for i in range(count)]


def alpaca_rows(count):
    """As many words in question and answer as the rows have that LLaMA-Factory shows its tuning with."""
    lengths = json.loads(ALPACA_LENGTHS.read_text())["words_of_question_and_answer"]
    source = random.Random(7)
    return [{"instruction": words(source, question), "output": words(source, answer)} for question, answer in lengths[:count]]


def words(source, count):
    known = "lamp parcel order plug button guarantee invoice address payment box return delivery".split()
    return " ".join(source.choice(known) for _ in range(count))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def check(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout


def child_of(pid):
    """The one rank of `lathe-trainer run`; None before it is there."""
    children = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        children += path.read_text().split()
    return int(children[0]) if children else None


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) * 1024


class Bench:
    def __init__(self, args, work):
        self.args, self.work = args, work
        self.env = dict(os.environ, TMPDIR=str(work), HF_HUB_OFFLINE="1")
        self.failed = False

    def tool(self, name):
        return str(pathlib.Path(self.args.bin) / name)

    def job_file(self, model, rows, batch, max_length, extra):
        path = self.work / "job.yaml"
        path.write_text(
            f"model: {model}\ndataset: {rows}\nepochs: 1\nbatch_size: {batch}\nmax_length: {max_length}\nseed: {SEED}\n"
            f"validation_fraction: 0\nlearning_rate: {LEARNING_RATE}\nschedule: constant\n{extra}\n"
        )
        return path

    def lathe(self, case):
        """Steps as hf_peer.py reports them, from the lines that a user sees and the kernel's tables."""
        out = self.work / "adapter"
        job = self.job_file(case.model, self.work / "rows.jsonl", case.batch, case.max_length,
                            f"warmup_ratio: 0\nmethod: {case.method}\n{case.lines}")  # fmt: skip
        run = subprocess.Popen(
            [self.tool("lathe-trainer"), "run", str(job), "--threads", str(case.threads), "--out", str(out)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.env,
        )  # fmt: skip
        steps, last, peak, text = [], None, 0, ""
        for line in run.stdout:
            text += line
            match = STEP.search(line)
            if not match:
                continue
            rank = child_of(run.pid)
            now = (time.perf_counter(), cpu_seconds(rank))
            peak = peak_bytes(rank)
            wall, cpu = (now[0] - last[0], now[1] - last[1]) if last else (0.0, 0.0)
            steps.append({"loss": float(match[2]), "wall": wall, "cpu": cpu})
            last = now
        if run.wait() != 0:
            sys.exit(f"lathe-trainer run: exit code {run.returncode}\n{text[-3000:]}")
        check(["rm", "-r", str(out)])
        return {"steps": steps, "peak_bytes": peak}

    def peer(self, variant):
        out = self.work / "peer.json"
        check([self.args.peers, str(PEER), *variant.split(), str(self.work / "work.json"), str(out)], env=self.env)
        return json.loads(out.read_text())

    def initial_adapter(self, case):
        """One step at learning rate 0, which is what the first step of a warm-up has: the adapter as it starts."""
        one = self.work / "one.jsonl"
        write_rows(one, case.rows[:1])
        job = self.job_file(case.model, one, 1, case.max_length, "warmup_ratio: 1")
        out = self.work / "initial"
        check(["rm", "-rf", str(out)])
        check([self.tool("lathe-trainer"), "run", str(job), "--threads", str(case.threads), "--out", str(out)], env=self.env)
        return out

    def steps_of(self, case, model):
        """Writes rows.jsonl, and returns the steps that Lathe makes of it with the tokenizer of this model."""
        rows, shard = self.work / "rows.jsonl", self.work / "shards"
        write_rows(rows, case.rows)
        check(["rm", "-rf", str(shard)])
        check([self.tool("lathe-prepare"), "prepare", str(rows), "--model", str(model), "--out", str(shard), "--set",
               "validation_fraction=0", "--set", f"max_length={case.max_length}"])  # fmt: skip
        return shards.steps_of(shard / "train.shard", SEED, case.batch)

    def prepare(self, case):
        """Writes rows.jsonl for Lathe and work.json for its peers: the same ids, order and adapter. Returns the steps."""
        steps = self.steps_of(case, case.model)
        self.work_file(case, {"steps": steps, "learning_rate": LEARNING_RATE, "max_grad_norm": 1.0, "micro_rows": case.micro_rows,
                              "scratch": str(self.work / "scratch")})  # fmt: skip
        return steps

    def work_file(self, case, more):
        adapter = None if case.method == "full" else str(self.initial_adapter(case))
        common = {"model": str(case.model), "adapter": adapter, "threads": case.threads}
        (self.work / "work.json").write_text(json.dumps({**common, **more}))

    def train_case(self, case, rounds):
        # transformers reads it when it starts; lathe-trainer is told by --threads.
        self.env["OMP_NUM_THREADS"] = str(case.threads)
        steps = self.prepare(case)
        tokens = statistics.median(sum(len(row["ids"]) for row in step) for step in steps[1:])
        load = os.getloadavg()[0]
        results = {"lathe": [], "stock": [], "tuned": []}
        peak = self.gemm_peak(case.threads)
        for _ in range(rounds):
            results["lathe"].append(self.lathe(case))
            results["stock"].append(self.peer("train stock"))
            results["tuned"].append(self.peer("train tuned"))
        print(f"\n{case.name}: {len(steps)} steps (the first is not timed), {tokens:.0f} tokens a step, {rounds} rounds, "
              f"threads: {case.threads}, load {load:.1f} before and {os.getloadavg()[0]:.1f} after")  # fmt: skip
        worst = max(loss_gap(results["lathe"][0], run) for side in ("stock", "tuned") for run in results[side])
        if worst > 1:
            raise Void(f"{case.name}: loss curves differ by {worst:.1f} times the limit of {LOSS_LIMIT} relative")
        print(f"  loss curves agree: the largest difference is {worst:.2f} of the limit ({LOSS_LIMIT} relative + printed digits)")
        print_table(results, tokens)
        flops = statistics.median(step_flops(case, step) for step in steps[1:])
        rate = flops / statistics.median(per_round(results["lathe"], "cpu"))
        print(f"  lathe makes {rate / 1e9:.0f} GFLOP per second of CPU, {rate / peak['cpu']:.2f} of the best matrix product "
              f"({peak['cpu'] / 1e9:.0f})")  # fmt: skip

    def gemm_peak(self, threads):
        out = self.work / "peak.json"
        check([self.args.peers, str(PEER), "peak", str(threads), str(out)], env=self.env)
        return json.loads(out.read_text())

    def generate_case(self, case, new_tokens, rounds):
        """New tokens between a short and a long answer, so that loading and reading the prompt do not count."""
        self.env["OMP_NUM_THREADS"] = str(case.threads)
        steps = self.prepare(case)
        prompts = [row["ids"][: row["trained"].index(1)] for row in steps[0]]
        self.work_file(case, {"prompts": prompts, "new_tokens": new_tokens})
        load = os.getloadavg()[0]
        results = {"lathe": [], "hf": []}
        for _ in range(rounds):
            results["lathe"].append(self.probe(case, prompts, new_tokens))
            results["hf"].append(self.peer("generate"))
        if any(run["texts"] != results["hf"][0]["texts"] for runs in results.values() for run in runs):
            raise Void(f"{case.name}: greedy texts differ")
        print(f"\n{case.name}: greedy, {len(prompts)} prompts one after the other, {rounds} rounds, threads: {case.threads}, "
              f"load {load:.1f} before and {os.getloadavg()[0]:.1f} after; texts are equal")  # fmt: skip
        print_rates(results, [str(count) for count in new_tokens])

    def probe(self, case, prompts, new_tokens):
        """lathe-trainer probe generates twice, with the adapter and without; the initial adapter changes nothing."""
        result = {"texts": {}, "wall": {}, "cpu": {}, "passes": 2}
        for count in map(str, new_tokens):
            file, out = self.work / "prompts.json", self.work / "probe"
            file.write_text(json.dumps({"prompts": prompts, "max_new_tokens": int(count)}))
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            check([self.tool("lathe-trainer"), "probe", "--model", str(case.model), "--adapter", str(self.work / "initial"),
                   "--prompts", str(file), "--out", str(out), "--threads", str(case.threads)], env=self.env)  # fmt: skip
            result["wall"][count] = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            result["cpu"][count] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            result["texts"][count] = json.loads((out / "greedy.json").read_text())["adapter"]
            check(["rm", "-r", str(out)])
        return result


def loss_gap(ours, theirs):
    """The largest difference as a multiple of what is allowed."""
    assert len(ours["steps"]) == len(theirs["steps"])
    pairs = zip(ours["steps"], theirs["steps"])
    return max(abs(a["loss"] - b["loss"]) / (LOSS_LIMIT * abs(b["loss"]) + LOSS_DIGIT) for a, b in pairs)


def per_round(runs, key):
    return [statistics.median(step[key] for step in run["steps"][1:]) for run in runs]


def print_table(results, tokens):
    ours = {key: per_round(results["lathe"], key) for key in ("wall", "cpu")}
    our_peak = max(run["peak_bytes"] for run in results["lathe"])
    print("          s/step   tokens/s  CPU s/step  peak GB   wall: x lathe (min-max)   CPU: x lathe   peak: lathe is")
    for side, runs in results.items():
        wall, cpu = per_round(runs, "wall"), per_round(runs, "cpu")
        peak = max(run["peak_bytes"] for run in runs)
        ratios = [a / b for a, b in zip(wall, ours["wall"])]
        cpu_ratio = statistics.median(a / b for a, b in zip(cpu, ours["cpu"]))
        s = statistics.median(wall)
        print(f"  {side:6} {s:8.3f} {tokens / s:10.1f} {statistics.median(cpu):11.3f} {peak / 1e9:8.2f} "
              f"{statistics.median(ratios):10.2f} ({min(ratios):.2f}-{max(ratios):.2f}) {cpu_ratio:15.2f} "
              f"{our_peak / peak:14.2f}x")  # fmt: skip


def print_rates(results, counts):
    short, long = counts
    seconds = {}
    for name, runs in results.items():
        pairs = zip(runs[0]["texts"][short], runs[0]["texts"][long])
        new = runs[0]["passes"] * sum(len(b) - len(a) for a, b in pairs)
        seconds[name] = {
            clock: statistics.median((run[clock][long] - run[clock][short]) / new for run in runs) for clock in ("wall", "cpu")
        }
        print(f"  {name:6} {1e3 * seconds[name]['wall']:8.1f} ms per new token, {1e3 * seconds[name]['cpu']:8.1f} ms of CPU")
    ratio = {clock: seconds["hf"][clock] / seconds["lathe"][clock] for clock in ("wall", "cpu")}
    print(f"  hf takes {ratio['wall']:.2f} x the time of lathe, {ratio['cpu']:.2f} x the CPU time")


def import_model(bench, source, name):
    out = bench.work / name
    check([bench.tool("lathe-prepare"), "import", str(source), "--out", str(out)])
    return out


def cases_of(bench, quick):
    """(case, rounds) of training steps, then the case of generation."""
    args, cores = bench.args, os.cpu_count()
    models = {}
    for shape in ("tiny", "small"):
        source = bench.work / f"{shape}-source"
        check([args.peers, str(PEER), "make-model", shape, str(source)])
        models[shape] = import_model(bench, source, shape)
    smol = import_model(bench, args.smollm2, "smollm2")
    count = BATCH * (3 if quick else 6)
    threads = 1 if quick else cores
    steps = []
    for shape, model in models.items():
        for n in [1] if quick else [1, cores]:
            steps.append((Case(f"{shape} LoRA, dense", model, dense_rows(count), 256, 8, n), 2 if quick else 3))
        if quick:
            continue
        steps.append((Case(f"{shape} LoRA, alpaca's lengths", model, alpaca_rows(count), 1024, 4, threads), 3))
        steps.append((Case(f"{shape} full, dense", model, dense_rows(count), 256, 8, threads, "full"), 3))
    steps.append((Case("SmolLM2-135M LoRA, alpaca's lengths", smol, alpaca_rows(BATCH * 3), 1024, 4, threads), 1 if quick else 3))
    if not quick:
        steps.append((Case("SmolLM2-135M LoRA, dense", smol, dense_rows(BATCH * 3), 256, 8, threads), 3))
    stories = [{"instruction": f"Tell a long story about a {thing}.", "output": "-"} for thing in THINGS]
    return steps, Case("SmolLM2-135M generation", smol, stories, 512, 4, threads)


def run_cases(bench, quick):
    steps, talk = cases_of(bench, quick)
    wanted = re.compile(bench.args.only)
    for case, rounds in steps:
        if wanted.search(case.name):
            guarded(bench, lambda: bench.train_case(case, rounds))
    if wanted.search(talk.name):
        guarded(bench, lambda: bench.generate_case(talk, [8, 40] if quick else [8, 136], 1 if quick else 3))


def guarded(bench, body):
    try:
        body()
    except Void as void:
        print(f"VOID: {void}")
        bench.failed = True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--smollm2", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="regular expression of case names")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lathe-bench.") as folder:
        bench = Bench(args, pathlib.Path(folder))
        run_cases(bench, args.quick)
    print(f"\n{time.monotonic() - start:.0f} s in all")
    sys.exit(1 if bench.failed else 0)


if __name__ == "__main__":
    main()
