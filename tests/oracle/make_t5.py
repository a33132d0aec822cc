#!/usr/bin/env python3
"""Makes tests/data/families/{t5,flan-t5}: tiny random models of both kinds of T5 in their true Hugging Face
layout, adapters for them, and what transformers and PEFT compute with both; goldens/relative_buckets.json
and goldens/source_target_ids.json.

Needs torch, transformers, peft, safetensors, sentencepiece, protobuf. README.md here describes the files.
"""
import json
import pathlib
import random
import shutil
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer
from transformers.models.t5.modeling_t5 import T5Attention

import make_goldens
import oracle_model as oracle

OUT = oracle.DATA / "families"
SOURCE = [45, 260, 98, 311, 5, 77, 301, 19, 20, 340, 8, 8, 256, 63, 120, 371, 44, 9, 383, 210, 33, 34, 35, 1]
TARGET = [17, 300, 12, 12, 205, 99, 361, 7, 150, 28, 64, 1]
POSITIONS = [0, 5, 11]  # Of the target.
ROW = {"ids": SOURCE + TARGET, "trained": [0] * len(SOURCE) + [1] * len(TARGET)}
SIZES = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 32, "vocab_size": 384,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "dropout_rate": 0.1, "initializer_factor": 1.0,
    "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "n_positions": 512, "output_past": True, "use_cache": True,
}  # fmt: skip
# The heads together are narrower or wider than the model; buckets are few, so that some hold many distances.
FAMILIES = {
    "t5": {
        "d_ff": 40, "d_kv": 6, "num_heads": 4, "num_layers": 2, "feed_forward_proj": "relu",
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
    },
    "flan-t5": {
        "d_ff": 24, "d_kv": 12, "num_heads": 3, "num_layers": 2, "num_decoder_layers": 1,
        "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 16,
        "relative_attention_max_distance": 20, "tie_word_embeddings": False, "torch_dtype": "float32",
    },
}  # fmt: skip
TARGETS = {"t5": ["k", "o", "q", "v", "wi", "wo"], "flan-t5": ["k", "o", "q", "v", "wi_0", "wi_1", "wo"]}
DTYPES = {"t5": torch.float16, "flan-t5": torch.bfloat16}
TRAINING = make_goldens.TRAINING | {"num_steps": 20, "learning_rate": 0.02, "max_grad_norm": 2.0}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def random_weights(folder, dtype, seed):
    config = T5Config.from_pretrained(folder)
    tied = json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", True)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in T5ForConditionalGeneration(config).state_dict().items():
        if name.endswith("embed_tokens.weight") or (tied and name == "lm_head.weight"):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        # No division by the root of the width in the scores: q is small, as it is in a trained T5.
        scale = 2.0 if name == "shared.weight" and tied else 0.1 if name.endswith(".q.weight") else 0.2
        value = 1 + 0.1 * noise if "norm" in name else scale * noise
        weights[name] = value.to(dtype).contiguous()
    if tied:  # The first files have the table more than once, and a bias that no code reads.
        weights["decoder.embed_tokens.weight"] = weights["shared.weight"].clone()
        name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        weights[name] = torch.zeros(config.relative_attention_num_buckets, config.num_heads, dtype=dtype)
    return weights


def save_adapter(model, path):
    model.save_pretrained(path, save_embedding_layers=False)
    (path / "README.md").unlink()
    (path / "adapter_model.safetensors").chmod(0o644)
    config = json.loads((path / "adapter_config.json").read_text())
    config["target_modules"].sort()  # PEFT writes a set.
    write_json(path / "adapter_config.json", config)


def make_adapters(folder):
    """One with B ~ N(0, 0.15), and PEFT's start (B zero)."""
    torch.manual_seed(7)
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=TARGETS[folder.name],
                        task_type="SEQ_2_SEQ_LM")  # fmt: skip
    model = get_peft_model(oracle.load(folder), config)
    model.peft_config["default"].base_model_name_or_path = folder.name
    if folder.name == "flan-t5":
        save_adapter(model, folder / "adapter-init")
    with torch.no_grad():
        for name, parameter in oracle.adapter_parameters(model).items():
            if "lora_B" in name:
                parameter.normal_(0, 0.15)
    save_adapter(model, folder / "adapter")


@torch.no_grad()
def greedy(model, count):
    """generate() from SOURCE; the winners must be clear."""
    made = model.generate(input_ids=torch.tensor([SOURCE]), do_sample=False, num_beams=1, max_new_tokens=count,
                          eos_token_id=None)[0].tolist()  # fmt: skip
    assert made[0] == model.config.decoder_start_token_id
    top = oracle.target_logits(model, SOURCE, made[1:]).topk(2)
    assert top.indices[:, 0].tolist() == made[1:]
    margin = float((top.values[:, 0] - top.values[:, 1]).min())
    assert margin > 1e-3, margin
    return torch.tensor(made[1:], dtype=torch.int32)


def make_golden(folder):
    tensors = {name: torch.tensor(ROW[name], dtype=torch.int32) for name in ("ids", "trained")}
    tensors["positions"] = torch.tensor(POSITIONS, dtype=torch.int32)
    for name, adapter, float64 in (("base.f32", None, False), ("adapter.f32", "adapter", False),
                                   ("adapter.f64", "adapter", True)):  # fmt: skip
        model = oracle.load(folder, adapter and folder / adapter, float64)
        with torch.no_grad():
            tensors[name] = oracle.target_logits(model, SOURCE, TARGET)[POSITIONS].contiguous()
        if not float64:
            tensors["greedy." + name.split(".")[0]] = greedy(model, 16)
    model = without_dropout(oracle.load(folder, folder / "adapter", True, trainable=True))
    loss, _ = oracle.loss_sum(model, ROW)
    loss.backward()
    tensors["loss_sum"] = loss.detach().reshape(1)
    for name, parameter in oracle.adapter_parameters(model).items():
        tensors[f"gradient.{name}"] = parameter.grad
    save_file(tensors, str(folder / "golden.safetensors"))


def without_dropout(model):
    """Lathe trains without the model's own dropout, as the published decoders have none."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, T5Attention):
            module.dropout = 0.0
    return model


def random_row(rng):
    source = [rng.randrange(3, 384) for _ in range(rng.randrange(1, 30))] + [1]
    target = [rng.randrange(3, 40) for _ in range(rng.randrange(1, 14))] + [1]
    return {"ids": source + target, "trained": [0] * len(source) + [1] * len(target)}


def make_training(folder):
    rng = random.Random(5)
    rows = [random_row(rng) for _ in range(12)]
    rows[3] = {"ids": [1, 9, 1], "trained": [0, 1, 1]}  # A source of its end alone.
    count = TRAINING["rows_per_step"]
    order = [[(step * count + i) % len(rows) for i in range(count)] for step in range(TRAINING["num_steps"])]
    golden = {"options": TRAINING, "rows": rows, "order": order}
    for kind, float64 in (("f32", False), ("f64", True)):
        model = without_dropout(oracle.load(folder, folder / "adapter-init", float64, trainable=True))
        golden[kind] = make_goldens.train(model, rows, order, TRAINING)
    make_goldens.write_json("training.json", golden, folder)


def make_buckets():
    distances = torch.arange(-300, 301)
    cases = []
    for buckets, most in ((32, 128), (8, 12), (4, 3), (33, 50)):
        case = {"num_buckets": buckets, "max_distance": most}
        for name, both in (("encoder", True), ("decoder", False)):
            case[name] = T5Attention._relative_position_bucket(distances, both, buckets, most).tolist()
        cases.append(case)
    make_goldens.write_json("relative_buckets.json", {"first_distance": -300, "cases": cases})


TEXTS = [
    ("translate to French: trained parcels", "café"), ("Say one word", "train"), ("  two  spaces\n", " and\ta tab "),
    ("a line\nand another", "12 parcels\n345"), ("a < b and </ s >", "x > y"),
    ("привет 你好", "мир"), ("\u00a0a\u3000b", "\uff21\uff22"),
]  # fmt: skip


def make_texts():
    """Ids of sources and targets through the tokenizer of tests/data/sentencepiece."""
    with tempfile.TemporaryDirectory() as temp:
        shutil.copy(oracle.DATA / "sentencepiece" / "unigram.model", pathlib.Path(temp) / "spiece.model")
        config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100}
        (pathlib.Path(temp) / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = T5Tokenizer.from_pretrained(temp)
    rows = []
    for source, target in TEXTS:
        row = {"source": source, "target": target}
        for name in ("source", "target"):
            row[name + "_ids"] = tokenizer(row[name]).input_ids
        rows.append(row)
    make_goldens.write_json("source_target_ids.json", {"rows": rows})


def main():
    torch.set_num_threads(1)
    make_buckets()
    make_texts()
    for seed, (name, config) in enumerate(FAMILIES.items()):
        folder = OUT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / "config.json", SIZES | config)
        save_file(random_weights(folder, DTYPES[name], 200 + seed), str(folder / "model.safetensors"),
                  metadata={"format": "pt"})  # fmt: skip
        make_adapters(folder)
        make_golden(folder)
    make_training(OUT / "flan-t5")


if __name__ == "__main__":
    main()
