#!/usr/bin/env python3
"""Compares an imported GGUF (a canonical folder) with transformers' own loading of the file.

usage: compare_gguf_import.py --gguf FILE.gguf --imported DIR
Exit code 1 if a tensor's bits, a token id, a rendered chat or a size differs.
Needs torch, transformers, gguf.
"""
import argparse
import json
import pathlib
import sys

import torch
from gguf import GGUFReader
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import oracle_model as oracle

SIZES = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
         "rms_norm_eps", "tie_word_embeddings", "hidden_act", "rope_parameters"]  # fmt: skip
CHAT = [{"role": "user", "content": "Hello 123"}, {"role": "assistant", "content": "您好!\n"},
        {"role": "user", "content": " and  now?"}]  # fmt: skip


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)


def compare_models(theirs, ours):
    faults = []
    for key in SIZES:
        a, b = getattr(theirs.config, key, None), getattr(ours.config, key, None)
        if key == "head_dim" and a is None:  # Qwen2 of transformers has none: hidden size over heads.
            a = theirs.config.hidden_size // theirs.config.num_attention_heads
        if a != b:
            faults.append(f"config {key}: transformers {a}, ours {b}")
    a, b = theirs.state_dict(), ours.state_dict()
    if a.keys() != b.keys():
        faults.append(f"tensor names differ: {sorted(a.keys() ^ b.keys())[:5]}")
    faults += [f"tensor {name} differs" for name in a if not torch.equal(a[name], b.get(name))]
    print(f"tensors: {len(a)} compared bit by bit, {len(faults)} faults")
    return faults


def complete(tokenizer, gguf):
    """transformers makes a tokenizer from the vocabulary and leaves out what tokenizer.ggml.pre names. As the tokenizer.json of
    HuggingFaceTB/SmolLM2-135M-Instruct and of Qwen/Qwen2.5-0.5B-Instruct have it."""
    field = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
    kind = field.contents() if field else ""
    backend = tokenizer.backend_tokenizer
    if kind == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif kind == "qwen2":
        backend.normalizer = normalizers.NFC()
    return tokenizer


def compare_tokenizers(theirs, ours):
    faults = []
    golden = json.loads((oracle.DATA / "goldens" / "tokens.json").read_text())
    texts = [case["text"] for case in golden["texts"]]
    texts += [path.read_text() for path in sorted(pathlib.Path(__file__).parent.glob("*.py"))]
    texts += ["".join(map(chr, range(32, 0x3000)))]
    for text in texts:
        a, b = (t.encode(text, add_special_tokens=False) for t in (theirs, ours))
        if a != b:
            faults.append(f"ids of {text[:40]!r}: transformers {a[:12]}, ours {b[:12]}")
        if ours.decode(b) != theirs.decode(b):
            faults.append(f"decoding of {text[:40]!r}")
    for generation in (False, True):
        a, b = (t.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=generation)
                for t in (theirs, ours))  # fmt: skip
        if a != b:
            faults.append("rendered chat")
    print(f"tokenizer: {len(texts)} texts and 2 chats compared, {len(faults)} faults")
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--imported", type=pathlib.Path, required=True)
    args = parser.parse_args()
    source = {"gguf_file": args.gguf.name}
    faults = compare_models(load(args.gguf.parent, **source), load(args.imported))
    faults += compare_tokenizers(
        complete(AutoTokenizer.from_pretrained(args.gguf.parent, **source), args.gguf),
        # What tokenizer.json says: AutoTokenizer gives every Qwen2 an NFC of its own.
        PreTrainedTokenizerFast.from_pretrained(args.imported),
    )
    for fault in faults:
        print("DIFFERENT:", fault)
    print("different" if faults else "equal")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
