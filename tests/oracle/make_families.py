#!/usr/bin/env python3
"""Makes tests/data/families: a tiny random model of every family in its true Hugging Face layout,
an adapter for it, and what transformers and PEFT compute with both.

Needs torch, transformers, peft, safetensors. README.md here describes the files.
"""
import json
import shutil

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import oracle_model as oracle

OUT = oracle.DATA / "families"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = [
    1, 300, 17, 45, 260, 98, 311, 5, 77, 301, 19, 20, 340, 8, 8, 256, 63, 120, 371, 44, 9, 383, 210, 2,
]  # fmt: skip
TRAINED = [int(t % 3 != 0) for t in range(len(IDS))]
POSITIONS = [11, 23]
SIZES = {
    "vocab_size": 384, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": True,
    "initializer_range": 0.02,
}  # fmt: skip
# As the publishers write them: transformers 4's keys, but for Qwen3.
FAMILIES = {
    "llama3": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "attention_bias": True, "mlp_bias": False, "max_position_embeddings": 512,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 64, "rope_type": "llama3"},
        "tie_word_embeddings": True,
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral",
        "torch_dtype": "float16", "max_position_embeddings": 512, "rms_norm_eps": 1e-05,
        "num_hidden_layers": 1, "rope_theta": 10000.0, "sliding_window": 256,
        "tie_word_embeddings": False,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16",
        "max_position_embeddings": 512, "max_window_layers": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 512, "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "bfloat16",
        "attention_bias": False, "head_dim": 24, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "max_window_layers": 2, "rms_norm_eps": 1e-06,
        "layer_types": ["full_attention", "full_attention"],
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False,
    },
}  # fmt: skip
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def random_weights(folder, dtype, seed):
    shapes = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).state_dict()
    generator = torch.Generator().manual_seed(seed)
    config = json.loads((folder / "config.json").read_text())
    weights = {}
    for name, tensor in shapes.items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        value = 1 + 0.1 * noise if name.endswith("norm.weight") else 0.2 * noise
        weights[name] = value.to(dtype).contiguous()
    return weights


def save_weights(folder, weights, num_shards):
    if num_shards == 1:
        return save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    names = sorted(weights)
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard::num_shards]}
        weight_map |= dict.fromkeys(part, file)
        save_file(part, str(folder / file), metadata={"format": "pt"})
    size = sum(w.numel() * w.element_size() for w in weights.values())
    write_json(folder / "model.safetensors.index.json",
               {"metadata": {"total_size": size}, "weight_map": weight_map})  # fmt: skip


def make_adapter(folder, targets):
    torch.manual_seed(7)
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=targets,
                        task_type="CAUSAL_LM")  # fmt: skip
    model = get_peft_model(oracle.load(folder), config)
    model.peft_config["default"].base_model_name_or_path = folder.name
    with torch.no_grad():
        for name, parameter in oracle.adapter_parameters(model).items():
            if "lora_B" in name:
                parameter.normal_(0, 0.15)
    path = folder / "adapter"
    model.save_pretrained(path, save_embedding_layers=False)
    (path / "README.md").unlink()
    (path / "adapter_model.safetensors").chmod(0o644)
    config = json.loads((path / "adapter_config.json").read_text())
    config["target_modules"].sort()  # PEFT writes a set.
    write_json(path / "adapter_config.json", config)


def make_golden(folder):
    tensors = {
        "ids": torch.tensor(IDS, dtype=torch.int32),
        "trained": torch.tensor(TRAINED, dtype=torch.int32),
        "positions": torch.tensor(POSITIONS, dtype=torch.int32),
    }
    for name, adapter, float64 in (("base.f32", None, False), ("adapter.f32", "adapter", False),
                                   ("adapter.f64", "adapter", True)):  # fmt: skip
        model = oracle.load(folder, adapter and folder / adapter, float64)
        with torch.no_grad():
            tensors[name] = oracle.logits(model, IDS)[POSITIONS].contiguous()
    model = oracle.load(folder, folder / "adapter", True, trainable=True)
    loss, _ = oracle.loss_sum(model, {"ids": IDS, "trained": TRAINED})
    loss.backward()
    tensors["loss_sum"] = loss.detach().reshape(1)
    for name, parameter in oracle.adapter_parameters(model).items():
        tensors[f"gradient.{name}"] = parameter.grad
    save_file(tensors, str(folder / "golden.safetensors"))


def main():
    torch.set_num_threads(1)
    for seed, (name, config) in enumerate(FAMILIES.items()):
        folder = OUT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / "config.json", SIZES | config)
        dtype = DTYPES[config.get("torch_dtype") or config["dtype"]]
        save_weights(folder, random_weights(folder, dtype, 100 + seed), 2 if name == "qwen2" else 1)
        make_adapter(folder, TARGETS)
        make_golden(folder)


if __name__ == "__main__":
    main()
