#!/usr/bin/env python3
"""Makes tests/data/tiny-llama: a random Llama of 123 KB with a byte-level BPE tokenizer.

Needs torch, transformers, tokenizers. The same versions give the same bytes.
"""
import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 384
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": VOCAB,
}
# SmolLM2-Instruct's template, verbatim.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = [
    "The capital of France is Paris. The answer to the question is in the order that you placed.",
    "You are a helpful assistant. The user said hello and asked what the weather is like today.",
    "Thank you for your message. We are sorry that the parcel did not arrive on Monday morning.",
    "If the lamp does not turn on, please check the plug and then press the button for 5 seconds.",
    "A lathe turns the work while the tool stands still: that is how round things are made.",
    "您好，请问我的订单什么时候发货？您好，您的订单已经发货，请您耐心等待。",
    "如果灯不亮，请先检查插头，然后按住按钮五秒钟。谢谢您的来信，我们很抱歉。",
]


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


def make_weights() -> dict:
    from transformers import LlamaConfig, LlamaForCausalLM

    shapes = LlamaForCausalLM(LlamaConfig(**CONFIG)).state_dict()
    generator = torch.Generator().manual_seed(20240607)
    weights = {}
    for name, tensor in shapes.items():
        if name == "lm_head.weight":  # Tied.
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        weights[name] = 1 + 0.1 * noise if name.endswith("norm.weight") else 0.2 * noise
    return weights


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = pathlib.Path(__file__).parent.parent / "data" / "tiny-llama"
    parser.add_argument("--out", type=pathlib.Path, default=default)
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_json(out / "config.json", CONFIG)
    write_json(
        out / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    )
    make_tokenizer().save(str(out / "tokenizer.json"))
    special = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[2],
               "unk_token": SPECIAL[0]}
    write_json(out / "special_tokens_map.json", special)
    write_json(
        out / "tokenizer_config.json",
        special
        | {
            "add_prefix_space": False,
            "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONFIG["max_position_embeddings"],
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    (out / "chat_template.jinja").write_text(TEMPLATE)
    save_file(make_weights(), str(out / "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    main()
