#!/usr/bin/env python3
"""Repeats every comparison with other implementations live; scripts/test --peers runs it.

usage: repeat_all.py --bin DIR --tests DIR --cache DIR --llama-cpp DIR [--only goldens|public|families|gguf]...
goldens   every make_*.py runs on a copy of the tree; what it writes must say what the committed goldens say
public    the tests that need tokenizers and templates of public models: none may be skipped
families  a job of every family and of every kind of adapter; PEFT loads the export over our base, transformers the merged folder
gguf      an imported GGUF against transformers' own loading of the file
Exit code 1: something differs. The Python that runs it needs what README.md here names.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import compare_goldens

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/oracle"
DATA = ROOT / "tests/data"
# In an order in which what one reads was written before; with what they are given.
PEERS, LLAMA_CPP = ["{cache}/peers"], ["--llama-cpp", "{llama_cpp}"]
GENERATORS = {
    "make_tiny_llama": [], "make_goldens": [], "make_methods": [], "make_chat_templates": [], "make_nf4": [],
    "make_families": [], "make_tiny_gguf": [], "make_family_ggufs": [], "make_gguf_blocks": [],
    "make_gguf_export": LLAMA_CPP, "make_sentencepiece": PEERS, "make_t5": [], "make_full": [],
    "make_token_ids": PEERS, "make_public_templates": PEERS,
    "make_template_language": [],
}  # fmt: skip
PUBLIC_TESTS = ["worker_text_test", "worker_text_peers_test", "worker_tokenizers_test"]
# Kinds of adapters beside the plain one, on the tiny Llama.
METHODS = {"rslora": "rslora: true", "dora": "dora: true", "one-module": "target_modules: [layers.0.self_attn.v_proj, down_proj]"}
# transformers leaves out a Llama's biases and rope factors and fails on Qwen3's head width: llama3.gguf and qwen3.gguf are
# compared with the gguf package's values only (make_family_ggufs.py).
GGUFS = ["tiny", "qwen2"]
QUIET = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONHASHSEED": "0"}


def run(command, env=(), **options):
    """Output of a command; its end in a RuntimeError if it fails."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=os.environ | QUIET | dict(env), **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(str(word) for word in command[:3])} exited with {done.returncode}: {done.stdout[-1500:]}")
    return done.stdout


class Report:
    def __init__(self):
        self.failed = []

    def case(self, name, body):
        start = time.time()
        try:
            note, faults = body(), []
        except RuntimeError as error:
            note, faults = "", str(error).splitlines()
        print(f"{'DIFFERENT' if faults else 'equal':9} {name:32} {time.time() - start:5.0f} s  {note}", flush=True)
        for fault in faults[:20]:
            print(f"          {fault}", flush=True)
        if faults:
            self.failed.append(name)


def repeat_generator(name, tree, arguments):
    begin = time.time()
    run([sys.executable, tree / "tests/oracle" / f"{name}.py", *arguments])
    written = [path for path in sorted((tree / "tests/data").rglob("*")) if path.is_file() and path.stat().st_mtime >= begin - 1]
    counts, faults = {}, []
    for path in written:
        committed = DATA / path.relative_to(tree / "tests/data")
        if not committed.exists():
            faults.append(f"{committed.name}: is not committed")
            continue
        verdict, found = compare_goldens.compare_files(committed, path)
        counts[verdict] = counts.get(verdict, 0) + 1
        faults += [f"{committed.relative_to(DATA)}: {fault}" for fault in found]
    if not written:
        faults.append("wrote no file")
    if faults:
        raise RuntimeError("\n".join(faults))
    return ", ".join(f"{count} files with the {verdict}" for verdict, count in counts.items())


def repeat_goldens(args, report, temp):
    unknown = {path.stem for path in HERE.glob("make_*.py")} ^ GENERATORS.keys()
    if unknown:
        sys.exit(f"repeat_all.py and the generators do not fit: {sorted(unknown)}")
    for name, arguments in GENERATORS.items():
        tree = temp / "trees" / name
        for folder in ("tests/oracle", "tests/data", "examples"):
            shutil.copytree(ROOT / folder, tree / folder, copy_function=copy_old)
        arguments = [argument.format(cache=args.cache, llama_cpp=args.llama_cpp) for argument in arguments]
        report.case(name, lambda: repeat_generator(name, tree, arguments))


def copy_old(source, target):
    """With the time of the original: what a generator writes is newer."""
    shutil.copy2(source, target)
    os.utime(target, (1, 1))


def repeat_public(args, report):
    def body(test):
        output = run([args.tests / test, "--gtest_brief=0"], cwd=ROOT, env={"LATHE_CACHE": str(args.cache), "LATHE_BIN_DIR": str(args.bin)})
        skipped = [line for line in output.splitlines() if line.startswith("[  SKIPPED ]") and "(" in line]
        if skipped:
            raise RuntimeError("\n".join(skipped))
        return output.splitlines()[-1].strip()

    for test in PUBLIC_TESTS:
        report.case(test, lambda: body(test))


def write_source(family, to):
    """The family's model with the tiny Llama's tokenizer, or for T5 a SentencePiece file, as a publisher's folder."""
    to.mkdir(parents=True)
    source = DATA / ("tiny-llama" if family == "tiny-llama" else f"families/{family}")
    for path in source.iterdir():
        if path.name.startswith(("model", "config")):
            shutil.copy(path, to)
    if family.endswith("t5"):
        shutil.copy(DATA / "sentencepiece/unigram.model", to / "spiece.model")
        (to / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
        return
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(DATA / "tiny-llama" / name, to)


def compare_family(args, folder, family, lora):
    write_source(family, folder / "source")
    run([args.bin / "lathe-prepare", "import", folder / "source", "--out", folder / "base"])
    rows = [{"instruction": f"Say the word {i}", "output": f"word {i} it is"} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "job.yaml").write_text(
        f"model: {folder}/base\ndataset: {folder}/rows.jsonl\nepochs: 10\nbatch_size: 5\nlearning_rate: 0.01\nlora:\n  rank: 2\n  {lora}\n")
    adapter, ours = folder / "adapter", folder / "probe"
    run([args.bin / "lathe-trainer", "run", folder / "job.yaml", "--threads", "1", "--out", adapter])
    compare = [sys.executable, HERE / "compare_peft.py", "--base", folder / "base"]
    run([*compare, "--write-prompts", folder / "prompts.json"])
    run([args.bin / "lathe-trainer", "probe", "--model", folder / "base", "--adapter", adapter, "--prompts", folder / "prompts.json", "--out", ours])
    run([args.bin / "lathe-prepare", "merge", "--base", folder / "base", "--adapter", adapter, "--out", folder / "merged"])
    output = run([*compare, "--adapter", adapter, "--prompts", folder / "prompts.json", "--ours", ours, "--merged", folder / "merged"])
    return "; ".join(line for line in output.splitlines() if "largest" in line)


def repeat_families(args, report, temp):
    cases = {name: (name, "") for name in ["tiny-llama", *sorted(path.name for path in (DATA / "families").iterdir())]}
    cases |= {f"tiny-llama, {name}": ("tiny-llama", lora) for name, lora in METHODS.items()}
    for name, (family, lora) in cases.items():
        folder = temp / "families" / name.replace(", ", "-")
        report.case(name, lambda: compare_family(args, folder, family, lora))


def repeat_gguf(args, report, temp):
    def body(path):
        out = temp / "gguf" / path.stem
        run([args.bin / "lathe-prepare", "import", path, "--out", out])
        output = run([sys.executable, HERE / "compare_gguf_import.py", "--gguf", path, "--imported", out])
        return "; ".join(output.splitlines()[:2])

    (temp / "gguf").mkdir()
    files = [DATA / "gguf" / f"{name}.gguf" for name in GGUFS]
    files += sorted((args.cache / "models").rglob("*.gguf"))
    for path in files:
        report.case(path.name, lambda: body(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bin", "tests", "cache", "llama-cpp"):
        parser.add_argument(f"--{name}", type=lambda text: pathlib.Path(text).resolve(), required=True)
    parts = ["goldens", "public", "families", "gguf"]
    parser.add_argument("--only", action="append", choices=parts)
    args = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as temp:
        temp = pathlib.Path(temp)
        for part in args.only or parts:
            print(f"-- {part}", flush=True)
            if part == "public":
                repeat_public(args, report)
            else:
                globals()[f"repeat_{part}"](args, report, temp)
    print(f"different: {', '.join(report.failed)}" if report.failed else "all equal")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
