#!/usr/bin/env python3
"""Makes tests/data/tiny-adapter-dora and tests/data/goldens/{dora,merged}.safetensors from tests/data/tiny-llama.

Needs torch, transformers, peft. README.md here describes the files.
"""
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

import oracle_model as oracle
from make_goldens import ADAPTER, BASE, OUT, TARGETS, save_adapter

DORA = oracle.DATA / "tiny-adapter-dora"
IDS = [40, 71, 2, 300, 17]


def make_adapter():
    """DoRA and rsLoRA at once: B and the magnitudes are moved away from their start."""
    torch.manual_seed(11)
    config = LoraConfig(
        r=4, lora_alpha=4, use_dora=True, use_rslora=True, target_modules=TARGETS, task_type="CAUSAL_LM",
        base_model_name_or_path="tiny-llama",
    )  # fmt: skip
    model = get_peft_model(oracle.load(BASE), config)
    model.peft_config["default"].base_model_name_or_path = "tiny-llama"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.15)
            if "lora_magnitude" in name:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.7, 1.4))
    save_adapter(model, DORA)


def file_name(name):
    return name.replace(".default.", ".").replace(
        "lora_magnitude_vector.weight", "lora_magnitude_vector"
    )


def make_dora():
    tensors = {"ids": torch.tensor(IDS, dtype=torch.int32)}
    for kind, float64 in (("f32", False), ("f64", True)):
        with torch.no_grad():
            logits = oracle.logits(oracle.load(BASE, DORA, float64), IDS)
        tensors[f"logits.{kind}"] = logits.contiguous()
    model = oracle.load(BASE, DORA, True, trainable=True)
    row = {"ids": IDS, "trained": [0] + [1] * (len(IDS) - 1)}
    oracle.loss_sum(model, row)[0].backward()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            tensors[f"f64.{file_name(name)}"] = parameter.grad
    save_file(tensors, str(OUT / "dora.safetensors"))


def make_merged():
    """Two matrices of each adapter's merge_and_unload() in float32."""
    tensors = {}
    for kind, adapter in (("lora", ADAPTER), ("dora", DORA)):
        model = PeftModel.from_pretrained(oracle.load(BASE), adapter).merge_and_unload()
        weights = model.state_dict()
        for name in ("model.layers.0.self_attn.v_proj.weight", "model.layers.1.mlp.down_proj.weight"):
            tensors[f"{kind}.{name}"] = weights[name].contiguous()
    save_file(tensors, str(OUT / "merged.safetensors"))


def main():
    torch.set_num_threads(1)
    make_adapter()
    make_dora()
    make_merged()


if __name__ == "__main__":
    main()
