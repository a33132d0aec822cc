#!/usr/bin/env python3
"""Makes tests/data/families: a tiny random model of every family in its true Hugging Face layout,
an adapter for it, and what transformers and PEFT compute with both.

Needs torch, transformers, peft, safetensors. README.md here describes the files.
"""
import json
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import chatglm_reference
import oracle_model as oracle

OUT = oracle.DATA / "families"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHATGLM_TARGETS = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
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
    "chatglm3": {
        "architectures": ["ChatGLMModel"], "model_type": "chatglm", "torch_dtype": "float16",
        "add_bias_linear": False, "add_qkv_bias": True, "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "ffn_hidden_size": 32,
        "fp32_residual_connection": False, "hidden_dropout": 0.0, "hidden_size": 32,
        "kv_channels": 16, "layernorm_epsilon": 1e-05, "multi_query_attention": True,
        "multi_query_group_num": 2, "num_attention_heads": 4, "num_layers": 1,
        "original_rope": True, "padded_vocab_size": 384, "post_layer_norm": True, "rmsnorm": True,
        "seq_length": 512, "use_cache": True, "tie_word_embeddings": False, "eos_token_id": 2,
        "pad_token_id": 0,
    },
}  # fmt: skip
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_config(folder):
    return json.loads((folder / "config.json").read_text())


def is_chatglm(folder):
    return read_config(folder)["architectures"] == ["ChatGLMModel"]


def load(folder, adapter=None, float64=False, trainable=False):
    if not is_chatglm(folder):
        return oracle.load(folder, adapter, float64, trainable)
    model = chatglm_reference.ChatGlm(read_config(folder))
    weights = load_file(folder / "model.safetensors")
    weights.pop("transformer.rotary_pos_emb.inv_freq", None)  # Publishers write it; we do not.
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    model = model.double() if float64 else model
    return model.train() if trainable else model.eval()


def random_weights(folder, dtype, seed):
    config = read_config(folder)
    if is_chatglm(folder):
        model = chatglm_reference.ChatGlm(config)
    else:
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    shapes = model.state_dict()
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    if is_chatglm(folder):  # The published files have it; it is not a parameter.
        weights["transformer.rotary_pos_emb.inv_freq"] = torch.ones(4, dtype=dtype)
    for name, tensor in shapes.items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        value = 1 + 0.1 * noise if "norm" in name else 0.2 * noise
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
    model = get_peft_model(load(folder), config)
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
        model = load(folder, adapter and folder / adapter, float64)
        with torch.no_grad():
            tensors[name] = oracle.logits(model, IDS)[POSITIONS].contiguous()
    model = load(folder, folder / "adapter", True, trainable=True)
    loss, _ = oracle.loss_sum(model, {"ids": IDS, "trained": TRAINED})
    loss.backward()
    tensors["loss_sum"] = loss.detach().reshape(1)
    for name, parameter in oracle.adapter_parameters(model).items():
        tensors[f"gradient.{name}"] = parameter.grad
    save_file(tensors, str(folder / "golden.safetensors"))


def make_rope():
    """Frequencies of Llama 3.1 8B, 3.2 1B and of a linear scaling, as transformers has them."""
    llama31 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192, "rope_type": "llama3"}
    cases = {"llama31": (128, llama31), "llama32": (64, llama31 | {"factor": 32.0}),
             "linear": (64, {"factor": 2.5, "rope_type": "linear"})}  # fmt: skip
    tensors = {}
    for name, (head_dim, rope) in cases.items():
        config = LlamaConfig(head_dim=head_dim, max_position_embeddings=131072,
                             rope_parameters=rope | {"rope_theta": 500000.0})  # fmt: skip
        tensors[name] = LlamaRotaryEmbedding(config).inv_freq
    save_file(tensors, str(oracle.DATA / "goldens" / "rope.safetensors"))


def main():
    torch.set_num_threads(1)
    make_rope()
    for seed, (name, config) in enumerate(FAMILIES.items()):
        folder = OUT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / "config.json", config if name == "chatglm3" else SIZES | config)
        dtype = DTYPES[config.get("torch_dtype") or config["dtype"]]
        save_weights(folder, random_weights(folder, dtype, 100 + seed), 2 if name == "qwen2" else 1)
        make_adapter(folder, CHATGLM_TARGETS if name == "chatglm3" else TARGETS)
        make_golden(folder)
        if name == "chatglm3":
            chatglm_reference.check_against_glm(load(folder), IDS)


if __name__ == "__main__":
    main()
