#!/usr/bin/env python3
"""Compares an exported GGUF with the merged Hugging Face folder of the same model in float32.

usage: compare_gguf_export.py --gguf FILE.gguf --merged DIR [--llama-cpp DIR]
The gguf package quantises the folder's weights: every tensor's bytes must be equal. transformers
loads the file (`gguf_file=`): its weights must be those bytes dequantised, its vocabulary and rendered
chat those of the folder (it has one pre-tokenizer for all files of an architecture, so ids may
differ: the C++ tests compare them). With a source tree of llama.cpp the file that its converter makes of the
folder must have the same tensors and metadata; differing keys are printed. Exit code 1 if anything
but such a key differs. Needs torch, transformers, gguf, safetensors, numpy."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import compare_gguf_import
import make_tiny_gguf as tiny
import oracle_model as oracle

KIND = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2,
        "qwen3": gguf.MODEL_ARCH.QWEN3}  # fmt: skip


def stored(name, weight, config, arch, kind):
    heads = tiny.heads_of(name, config) if arch == "llama" else 0
    weight = tiny.permute(weight, heads) if heads else weight
    return np.ascontiguousarray(gguf.quants.quantize(weight, kind))


def compare_tensors(reader, merged, config, arch):
    names = gguf.get_tensor_name_map(KIND[arch], config["num_hidden_layers"])
    theirs = {names.get_name(n, (".weight", ".bias")): (n, w) for n, w in merged.items()}
    faults = []
    ours = {t.name: t for t in reader.tensors if t.name != "rope_freqs.weight"}
    if ours.keys() != theirs.keys():
        faults.append(f"tensor names differ: {sorted(ours.keys() ^ theirs.keys())[:5]}")
    kinds = {}
    for name in ours.keys() & theirs.keys():
        tensor, (original, weight) = ours[name], theirs[name]
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        expected = stored(original, weight, config, arch, tensor.tensor_type)
        if tensor.data.tobytes() != expected.tobytes():
            faults.append(f"tensor {name} ({tensor.tensor_type.name}): other bytes")
    print(f"tensors: {len(ours)} compared byte by byte ({kinds}), {len(faults)} faults")
    return faults


def compare_loading(path, merged_dir, merged, reader, config, arch):
    source = {"gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype="float32", **source).state_dict()
    names = gguf.get_tensor_name_map(KIND[arch], config["num_hidden_layers"])
    ours = {t.name: t for t in reader.tensors}
    faults = []
    for name, weight in merged.items():
        kind = ours[names.get_name(name, (".weight", ".bias"))].tensor_type
        back = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind).reshape(weight.shape)
        if not np.array_equal(model[name].numpy(), back):
            faults.append(f"transformers loads other numbers for {name}")
    print(f"transformers: {len(merged)} tensors loaded, {len(faults)} faults")
    load = AutoTokenizer.from_pretrained
    return faults + compare_tokenizers(load(path.parent, **source), load(merged_dir))


def compare_tokenizers(theirs, ours):
    faults = [] if theirs.get_vocab() == ours.get_vocab() else ["another vocabulary"]
    chats = [t.apply_chat_template(compare_gguf_import.CHAT, tokenize=False) for t in (theirs, ours)]
    if chats[0] != chats[1]:
        faults.append("another rendered chat")
    golden = json.loads((oracle.DATA / "goldens" / "tokens.json").read_text())
    texts = [case["text"] for case in golden["texts"]]
    differ = sum(theirs.encode(text) != ours.encode(text) for text in texts)
    print(f"tokenizer: {len(faults)} faults; other ids for {differ} of {len(texts)} texts")
    return faults


def contents(reader):
    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    metadata = {k: ([t.name for t in f.types], f.contents()) for k, f in fields.items()}
    tensors = {t.name: (t.tensor_type.name, t.data.tobytes()) for t in reader.tensors}
    return metadata, tensors


def compare_converter(reader, merged_dir, llama_cpp, kind):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "theirs.gguf"
        script = [sys.executable, llama_cpp / "convert_hf_to_gguf.py", merged_dir]
        subprocess.run([*script, "--outfile", out, "--outtype", kind], check=True, capture_output=True)
        theirs, ours = contents(gguf.GGUFReader(out)), contents(reader)
        for key in sorted(theirs[0].keys() | ours[0].keys()):
            a, b = theirs[0].get(key), ours[0].get(key)
            if a != b:
                print(f"  {key}: llama.cpp {str(a)[:80]}, ours {str(b)[:80]}")
        names = theirs[1].keys() | ours[1].keys()
        differ = [n for n in names if theirs[1].get(n) != ours[1].get(n)]
    print(f"llama.cpp's converter: {len(theirs[0])} keys, {len(theirs[1])} tensors, {len(differ)} differ")
    return [f"tensor {n} is not the converter's" for n in differ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--merged", type=pathlib.Path, required=True)
    parser.add_argument("--llama-cpp", type=pathlib.Path)
    args = parser.parse_args()
    reader = gguf.GGUFReader(args.gguf)
    arch = reader.fields["general.architecture"].contents()
    config = json.loads((args.merged / "config.json").read_text())
    merged = load_file(args.merged / "model.safetensors")
    faults = compare_tensors(reader, merged, config, arch)
    faults += compare_loading(args.gguf, args.merged, merged, reader, config, arch)
    if args.llama_cpp:
        kind = "q8_0" if reader.fields["general.file_type"].contents() == 7 else "f16"
        faults += compare_converter(reader, args.merged, args.llama_cpp, kind)
    for fault in faults:
        print("DIFFERENT:", fault)
    print("different" if faults else "equal")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
