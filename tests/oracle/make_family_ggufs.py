#!/usr/bin/env python3
"""Makes tests/data/gguf/{llama3,qwen2,qwen3}.gguf from tests/data/families, named and laid out as
llama.cpp's convert_hf_to_gguf.py does, and NAME.json: the sha256 of each parameter's float32 bytes
as the gguf package dequantises it, in the Hugging Face names and row order. The names come from the
gguf package. Llama's rope factors are those of Llama 3.1 itself. Needs numpy, torch, safetensors,
gguf."""
import hashlib
import json
import math

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from gguf import quants
from safetensors.torch import load_file

import make_tiny_gguf as tiny

FAMILIES = {"llama3": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
THETA = 500000.0
SCALING = {"factor": 8.0, "low": 1.0, "high": 4.0, "original": 8192}


def rope_factors(dim):
    """convert_hf_to_gguf.py, LlamaModel.generate_extra_tensors."""
    freqs = 1.0 / (THETA ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    s, factors = SCALING, []
    for freq in freqs:
        wavelen = 2 * math.pi / freq
        if wavelen < s["original"] / s["high"]:
            factors.append(1)
        elif wavelen > s["original"] / s["low"]:
            factors.append(s["factor"])
        else:
            smooth = (s["original"] / wavelen - s["low"]) / (s["high"] - s["low"])
            factors.append(1 / ((1 - smooth) / s["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def load_weights(folder):
    weights = {}
    for path in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(path)
    return {name: weight.float().numpy() for name, weight in weights.items()}


def kind_of(weight):
    """Small: blocks of 32 values where rows divide, 16 bits elsewhere, vectors as they are."""
    if weight.ndim == 1:
        return T.F32
    return T.Q4_0 if weight.shape[1] % 32 == 0 else T.F16


def write(name, arch):
    folder = tiny.DATA / "families" / name
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("rope_theta", config.get("rope_parameters", {}).get("rope_theta"))
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    if arch == "llama":
        config["rope_theta"] = THETA
    writer = gguf.GGUFWriter(tiny.DATA / "gguf" / f"{name}.gguf", arch)
    tiny.add_metadata(writer, config)
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    tiny.add_tokenizer(writer)
    kind_of_model = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    names = gguf.get_tensor_name_map(kind_of_model, config["num_hidden_layers"])
    expected = {}
    for tensor, weight in load_weights(folder).items():
        heads = tiny.heads_of(tensor, config) if arch == "llama" else 0
        kind = kind_of(weight)
        stored = quants.quantize(tiny.permute(weight, heads) if heads else weight, kind)
        writer.add_tensor(names.get_name(tensor, (".weight", ".bias")), stored, raw_dtype=kind)
        back = quants.dequantize(stored, kind).reshape(weight.shape)
        back = tiny.unpermute(back, heads) if heads else back
        bytes_ = np.ascontiguousarray(back, dtype="<f4").tobytes()
        expected[tensor] = hashlib.sha256(bytes_).hexdigest()
    if arch == "llama":
        writer.add_tensor("rope_freqs.weight", rope_factors(config["head_dim"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path = tiny.DATA / "gguf" / f"{name}.json"
    path.write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def main():
    for name, arch in FAMILIES.items():
        write(name, arch)


if __name__ == "__main__":
    main()
