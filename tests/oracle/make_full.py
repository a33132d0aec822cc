#!/usr/bin/env python3
"""Makes the goldens of full tuning: the gradient of every parameter of the tiny Llama and of four
families, and trainings of all parameters as transformers' Trainer sets it up.

Needs torch, transformers, accelerate, safetensors. README.md here describes the files.
"""
import json
import math

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, get_cosine_schedule_with_warmup

import make_families
import make_goldens
import make_t5
import oracle_model as oracle

OUT = oracle.DATA / "goldens"
FAMILIES = ["qwen3", "chatglm3", "t5", "flan-t5"]
TRAINING = {
    "learning_rate": 0.003, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1,
    "max_grad_norm": 2.9, "warmup_ratio": 0.1, "num_steps": 20, "rows_per_step": 4,
    "rows_per_micro_batch": 2,
}  # fmt: skip


def read_json(name):
    return json.loads((OUT / name).read_text())


def gradients(model, rows):
    """The loss sum of the rows and, in float64, its gradient for every parameter."""
    loss = sum(oracle.loss_sum(model, row)[0] for row in rows)
    loss.backward()
    tensors = {"loss_sum": loss.detach().reshape(1)}
    for name, parameter in model.named_parameters():
        tensors[f"gradient.{name}"] = parameter.grad.contiguous()
    return tensors


def load_family(name, float64):
    """In training mode; an encoder-decoder without its own dropout."""
    return make_t5.without_dropout(make_families.load(make_families.OUT / name, None, float64, trainable=True))


def make_family(name):
    folder = make_families.OUT / name
    golden = load_file(folder / "golden.safetensors")
    row = {key: golden[key].tolist() for key in ("ids", "trained")}
    save_file(gradients(load_family(name, True), [row]), str(folder / "full.safetensors"))


def optimizer_of(model):
    """As Trainer.create_optimizer: no decay on norms and biases."""
    t = TRAINING
    decays = Trainer.get_decay_parameter_names(None, model)
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if n in decays], "weight_decay": t["weight_decay"]},
        {"params": [p for n, p in named if n not in decays], "weight_decay": 0.0},
    ]
    assert all(group["params"] for group in groups)
    return torch.optim.AdamW(groups, lr=t["learning_rate"], betas=(t["beta1"], t["beta2"]),
                             eps=t["eps"])  # fmt: skip


def train(model, rows, order):
    t = TRAINING
    optimizer = optimizer_of(model)
    warmup = math.ceil(t["warmup_ratio"] * t["num_steps"])
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, t["num_steps"])
    curve = {"loss": [], "grad_norm": [], "learning_rate": []}
    for step_rows in order:
        tokens = sum(sum(rows[i]["trained"]) for i in step_rows)
        loss_sum = 0.0
        optimizer.zero_grad()
        for begin in range(0, len(step_rows), t["rows_per_micro_batch"]):
            micro = step_rows[begin : begin + t["rows_per_micro_batch"]]
            loss = sum(oracle.loss_sum(model, rows[i])[0] for i in micro)
            (loss / tokens).backward()
            loss_sum += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), t["max_grad_norm"])
        curve["loss"].append(loss_sum / tokens)
        curve["grad_norm"].append(norm.item())
        curve["learning_rate"].append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return curve


def make_training(folder, load, rows):
    """`load` makes the model to train, in float64 or not."""
    count = TRAINING["rows_per_step"]
    order = [[(step * count + i) % len(rows) for i in range(count)]
             for step in range(TRAINING["num_steps"])]  # fmt: skip
    golden = {"options": TRAINING, "rows": rows, "order": order}
    for kind, float64 in (("f32", False), ("f64", True)):
        golden[kind] = train(load(float64), rows, order)
    make_goldens.write_json("training-full.json", golden, folder)


def main():
    torch.set_num_threads(1)
    model = oracle.load(make_goldens.BASE, None, True, trainable=True)
    tensors = gradients(model, read_json("batch.json")["rows"])
    save_file(tensors, str(OUT / "full.safetensors"))
    for name in FAMILIES:
        make_family(name)
    make_training(OUT, lambda float64: oracle.load(make_goldens.BASE, None, float64, trainable=True),
                  read_json("training.json")["rows"])  # fmt: skip
    make_training(make_families.OUT / "t5", lambda float64: load_family("t5", float64),
                  json.loads((make_families.OUT / "flan-t5/training.json").read_text())["rows"])  # fmt: skip


if __name__ == "__main__":
    main()
