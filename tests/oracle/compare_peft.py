#!/usr/bin/env python3
"""Compares what `lathe-trainer probe` wrote with PEFT over the same base and adapter, or with
transformers over a whole model alone.

usage: compare_peft.py --base DIR --write-prompts FILE.json
       compare_peft.py --base DIR [--adapter DIR] --prompts FILE.json --ours DIR [--merged DIR]
Exit code 1: a logit differs by more than 1e-4, a greedy text differs, fewer than 8 in 10 texts
differ from the base's, or transformers gives other logits with the folder of the merged export.
README.md here has the layout. Needs torch, transformers, peft.
"""
import argparse
import json
import math
import pathlib
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import make_families
import oracle_model as oracle
from chatglm_reference import ChatGlm

LIMIT = 1e-4
QUESTIONS = [
    "The lamp does not turn on. What can I do?",
    "Where is my parcel?",
    "Can I return an item that I opened?",
    "How do I change the address of my order?",
    "What does the guarantee cover?",
    "My invoice shows the wrong name.",
    "Which payment methods do you accept?",
    "The box arrived damaged.",
    "How long does delivery to Canada take?",
    "Please cancel my order from yesterday.",
]


def write_prompts(base, path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = []
    for question in QUESTIONS:
        if oracle.is_encoder_decoder(base):
            prompts.append(tokenizer(question).input_ids)
            continue
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        prompts.append(tokenizer.encode(text, add_special_tokens=False))
    path.write_text(json.dumps({"prompts": prompts, "max_new_tokens": 40}) + "\n")


def end_ids(base):
    path = pathlib.Path(base) / "generation_config.json"
    ids = json.loads(path.read_text()).get("eos_token_id", []) if path.exists() else []
    return ids if isinstance(ids, list) else [ids]


def answer(ids, ends):
    """Without what follows the first end token, and without that."""
    for i, token in enumerate(ids):
        if token in ends:
            return ids[:i]
    return ids


@torch.no_grad()
def generate(model, prompt, count, ends):
    if isinstance(getattr(model, "get_base_model", lambda: model)(), ChatGlm):
        return oracle.greedy(model, prompt, count, ends)[0]
    ids = torch.tensor([prompt])
    made = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count,
        eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0,
    )  # fmt: skip
    # An encoder-decoder's begins with decoder_start_token_id.
    return made[0, 1 if model.config.is_encoder_decoder else len(prompt) :].tolist()


@torch.no_grad()
def compare_logits(model, prompts, ours, tensors, name):
    worst = 0.0
    for i, prompt in enumerate(prompts):
        theirs, mine = oracle.logits(model, prompt), ours[f"{tensors}.{i}"]
        if theirs.shape != mine.shape:
            sys.exit(f"{tensors}.{i} has the shape {list(mine.shape)}; must be {list(theirs.shape)}")
        difference = (theirs - mine).abs().max().item()
        worst = max(worst, difference) if math.isfinite(difference) else math.inf
    print(f"{name}: largest logit difference {worst:.3g} over {len(prompts)} prompts")
    return worst


def compare_texts(model, prompts, count, ours, ends, name):
    agree = 0
    for i, prompt in enumerate(prompts):
        theirs = answer(generate(model, prompt, count, ends), ends)
        mine = answer(ours[i], ends)
        agree += theirs == mine
        if theirs != mine:
            print(f"  {name} {i}: PEFT {theirs[:12]}..., ours {mine[:12]}...")
    print(f"{name}: {agree} of {len(prompts)} greedy texts of at most {count} tokens agree")
    return agree


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "prompts", "ours", "merged", "write-prompts"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=name == "base")
    args = parser.parse_args()
    if args.write_prompts:
        return write_prompts(args.base, args.write_prompts)
    if not (args.prompts and args.ours):
        parser.error("--prompts and --ours are needed")
    asked = json.loads(args.prompts.read_text())
    prompts, count = asked["prompts"], asked["max_new_tokens"]
    logits = load_file(args.ours / "logits.safetensors")
    texts = json.loads((args.ours / "greedy.json").read_text())
    ends = end_ids(args.base)
    good = True
    sides = [("adapter", "prompt", args.adapter)] if args.adapter else []
    for name, tensors, adapter in [*sides, ("base", "base", None)]:
        model = make_families.load(args.base, adapter)
        good &= compare_logits(model, prompts, logits, tensors, name) <= LIMIT
        good &= compare_texts(model, prompts, count, texts[name], ends, name) == len(prompts)
    if args.merged:
        merged = make_families.load(args.merged)
        good &= compare_logits(merged, prompts, logits, "prompt", "merged") <= LIMIT
    if args.adapter:
        pairs = zip(texts["adapter"], texts["base"])
        differ = sum(answer(a, ends) != answer(b, ends) for a, b in pairs)
        print(f"{differ} of {len(prompts)} texts differ from the base's")
        good &= differ >= 0.8 * len(prompts)
    print("equal" if good else "different")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
