#!/usr/bin/env python3
"""Makes tests/data/gguf/tiny.gguf from tests/data/tiny-llama, every tensor type in turn, and
tests/data/gguf/tiny.json: the sha256 of each parameter's float32 bytes as the gguf package
dequantises it, in the Hugging Face names and row order. Needs numpy, safetensors, gguf."""
import hashlib
import json
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants
from safetensors.numpy import load_file

DATA = pathlib.Path(__file__).parent.parent / "data"
BASE = DATA / "tiny-llama"
TYPES = {
    "embed_tokens": T.Q8_0, "q_proj": T.Q4_1, "k_proj": T.Q4_0, "v_proj": T.F16, "o_proj": T.F32,
    "gate_proj": T.BF16, "up_proj": T.Q4_1, "down_proj": T.Q4_0,
}  # fmt: skip
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name):
    name = name.removesuffix(".weight")
    if name == "model.embed_tokens":
        return "token_embd.weight"
    if name == "model.norm":
        return "output_norm.weight"
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def heads_of(name, config):
    if "q_proj" in name:
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if "k_proj" in name else 0


def permute(weight, heads):
    """llama.cpp, convert_hf_to_gguf.py."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def unpermute(weight, heads):
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def add_metadata(writer, config):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer):
    tokenizer = json.loads((BASE / "tokenizer.json").read_text())
    vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["id"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([3 if i in special else 1 for _, i in vocab])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template((BASE / "chat_template.jinja").read_text())


def main():
    out = DATA / "gguf"
    out.mkdir(exist_ok=True)
    config = json.loads((BASE / "config.json").read_text())
    writer = gguf.GGUFWriter(out / "tiny.gguf", "llama")
    add_metadata(writer, config)
    add_tokenizer(writer)
    expected = {}
    for name, weight in load_file(BASE / "model.safetensors").items():
        heads = heads_of(name, config)
        kind = TYPES.get(name.split(".")[-2], T.F32)
        stored = quants.quantize(permute(weight, heads) if heads else weight, kind)
        writer.add_tensor(gguf_name(name), stored, raw_dtype=kind)
        back = quants.dequantize(stored, kind).reshape(weight.shape)
        back = unpermute(back, heads) if heads else back
        bytes_ = np.ascontiguousarray(back, dtype="<f4").tobytes()
        expected[name] = {"type": kind.name, "sha256": hashlib.sha256(bytes_).hexdigest()}
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (out / "tiny.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
