#!/usr/bin/env python3
"""Makes tests/data/goldens/gguf_export.json: what llama.cpp's own converter writes for the tiny Llama
and for the families of tests/data/families with its tokenizer, as F16 and as Q8_0: the metadata with
its types, and of each tensor type, shape and sha256 of the bytes.

usage: make_gguf_export.py --llama-cpp DIR
DIR is a source tree of ggml-org/llama.cpp (its gguf-py is taken, too; made with the one in
llama-cpp-python 0.3.36). The converter knows pre-tokenizers by a hash of the ids that a whole
vocabulary gives: it is told that the tiny one has SmolLM's. What it makes of the folder's name is
left out. config.json has head_dim, as every imported folder's. Needs torch, transformers, safetensors,
numpy, pyyaml, sentencepiece."""
import argparse
import hashlib
import json
import pathlib
import shutil
import sys
import tempfile

DATA = pathlib.Path(__file__).parent.parent / "data"
FAMILIES = ["llama3", "mistral", "qwen2", "qwen3"]
TYPES = {"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
OF_THE_NAME = ("general.name", "general.basename", "general.finetune", "general.version",
               "general.organization")  # fmt: skip
LONG = 20  # Lists and strings beyond are hashed.


def folder_of(name, parent):
    """A Hugging Face folder with weights and tokenizer."""
    folder = parent / name
    shutil.copytree(DATA / "tiny-llama", folder)
    if name != "tiny-llama":
        (folder / "model.safetensors").unlink()
        for path in (DATA / "families" / name).glob("*"):
            if path.name.startswith(("model", "config")):
                shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def convert(folder, kind, out):
    import gguf
    from conversion import ModelBase, ModelType, get_model_class  # of llama.cpp

    config = json.loads((folder / "config.json").read_text())
    found = get_model_class(config["architectures"][0])
    named = type(found.__name__, (found,), {
        "model_arch": found.model_arch, "get_vocab_base_pre": lambda self, tokenizer: "smollm"})  # fmt: skip
    model = named(folder, gguf.LlamaFileType[TYPES[kind]], out)
    model.write()


def describe(path):
    import gguf

    reader = gguf.GGUFReader(path)
    metadata = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in OF_THE_NAME:
            continue
        value = field.contents()
        if isinstance(value, float):
            value = float(f"{value:.9g}")  # 32 bits.
        if isinstance(value, (list, str)) and len(value) > LONG:
            text = value if isinstance(value, str) else "\n".join(map(str, value))
            value = hashlib.sha256(text.encode()).hexdigest()
        metadata[key] = [[t.name for t in field.types], value]
    tensors = {
        tensor.name: [tensor.tensor_type.name, [int(n) for n in reversed(tensor.shape)],
                      hashlib.sha256(tensor.data.tobytes()).hexdigest()]
        for tensor in reader.tensors
    }  # fmt: skip
    return {"metadata": metadata, "tensors": tensors}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-cpp", type=pathlib.Path, required=True)
    args = parser.parse_args()
    sys.path[:0] = [str(args.llama_cpp), str(args.llama_cpp / "gguf-py")]
    golden = {}
    with tempfile.TemporaryDirectory() as parent:
        for name in ["tiny-llama", *FAMILIES]:
            folder = folder_of(name, pathlib.Path(parent))
            for kind in TYPES:
                out = pathlib.Path(parent) / f"{name}-{kind}.gguf"
                convert(folder, kind, out)
                golden[f"{name}.{kind}"] = describe(out)
    path = DATA / "goldens" / "gguf_export.json"
    lines = [f"{json.dumps(name)}: {json.dumps(golden[name], sort_keys=True)}" for name in golden]
    path.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
