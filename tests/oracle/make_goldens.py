#!/usr/bin/env python3
"""Makes tests/data/{tiny-adapter,tiny-adapter-init,goldens} from tests/data/tiny-llama.

Needs torch, transformers, peft. README.md here describes the files.
"""
import json
import math
import re
import shutil

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoTokenizer, get_cosine_schedule_with_warmup

import oracle_model as oracle

BASE = oracle.DATA / "tiny-llama"
OUT = oracle.DATA / "goldens"
INIT = oracle.DATA / "tiny-adapter-init"
ADAPTER = oracle.DATA / "tiny-adapter"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", "\t\tx", "a", " a", "a ", "Hello", "Hello world",
    "The capital of France is Paris.", "the  double   spaces    grow", "line one\nline two\r\nthree",
    "0", "42", "1234567890", "3.14159", "v2.0.1-rc3", "10:45 on 2024-06-07", "$1,299.00",
    "don't can't we'll I'm they've you'd it's", "DON'T", "snake_case CamelCase kebab-case",
    "for (int i = 0; i < 10; ++i) { sum += i; }", '{"key": [1, 2, null]}', "<html><b>x</b></html>",
    "您好，请问我的订单什么时候发货？", "灯不亮 lamp 灯", "日本語とカタカナ", "한국어 문장",
    "Привет, мир!", "مرحبا بالعالم", "naïve café résumé", "e\u0301 combining", "👍 👩‍👩‍👧 🇫🇷",
    "\u00a0nbsp\u3000ideographic", "\u200bzero width", "<|im_start|>user\nhi<|im_end|>\n",
    "a<|endoftext|>b", "<|im_start|", "null \x00 byte", "x" * 60, "!?!?...---***///",
]
CHATS = [
    [("user", "Hello")],
    [("system", "Be brief."), ("user", "What is 2+2?"), ("assistant", "4")],
    [("user", "您好"), ("assistant", "您好！"), ("user", "谢谢")],
    [("system", ""), ("user", " spaces \n"), ("assistant", "")],
]
ROWS = [
    ("The lamp does not turn on.", "Please check the plug, then press the button for 5 seconds."),
    ("Where is my parcel?", "It left on Monday. Thank you for your message."),
    ("您好，灯不亮。", "请先检查插头，谢谢。"),
    ("Say one letter.", "a"),
    ("Who turns the work?", "A lathe turns the work while the tool stands still."),
    ("Can I return it?", "Yes, in 30 days."),
    ("我的订单什么时候发货？", "您的订单已经发货，请您耐心等待。"),
    ("Count to 7.", "1 2 3 4 5 6 7"),
    ("hello", "Hello! How can I help you?"),
    ("What is the capital of France?", "Paris."),
    ("Is the tool still?", "It stands still."),
    ("谢谢", "不客气。"),
]
TRAINING = {
    "learning_rate": 0.02, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01,
    "max_grad_norm": 1.4, "warmup_ratio": 0.15, "num_steps": 10, "rows_per_step": 4,
    "rows_per_micro_batch": 2,
}  # fmt: skip


def write_json(name, value, folder=OUT):
    text = json.dumps(value, indent=1, ensure_ascii=True)
    # One line per list of numbers: the files are read by people too.
    text = re.sub(r"\[[\s\d.,eE+-]*\]", lambda m: " ".join(m.group().split()), text)
    (folder / name).write_text(text + "\n")


def make_adapters():
    """The initial one as PEFT makes it (B zero) and one with B ~ N(0, 0.15)."""
    torch.manual_seed(7)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM",
        base_model_name_or_path="tiny-llama",
    )  # fmt: skip
    model = get_peft_model(oracle.load(BASE), config)
    model.peft_config["default"].base_model_name_or_path = "tiny-llama"
    save_adapter(model, INIT)
    with torch.no_grad():
        for name, parameter in oracle.adapter_parameters(model).items():
            if "lora_B" in name:
                parameter.normal_(0, 0.15)
    save_adapter(model, ADAPTER)


def save_adapter(model, path):
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path, save_embedding_layers=False)
    (path / "README.md").unlink()
    (path / "adapter_model.safetensors").chmod(0o644)
    config = json.loads((path / "adapter_config.json").read_text())
    config["target_modules"].sort()  # PEFT writes a set: its order changes from run to run.
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_tokens(tokenizer):
    texts = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        plain = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        texts.append({"text": text, "ids": ids, "ids_plain": plain, "decoded": decoded})
    chats = []
    for chat in CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        for generation in (False, True):
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation
            )
            chats.append({"messages": messages, "generation_prompt": generation, "text": text})
    write_json("tokens.json", {"texts": texts, "chats": chats})


def make_row(tokenizer, prompt, answer):
    """Only the answer and the <|im_end|> that closes it are trained."""
    head = f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
    segments = [
        (head + "<|im_start|>assistant\n", 0), (answer, 1), ("<|im_end|>", 1), ("\n", 0),
    ]  # fmt: skip
    ids, trained = [], []
    for text, mark in segments:
        piece = tokenizer.encode(text, add_special_tokens=False)
        ids += piece
        trained += [mark] * len(piece)
    return {"ids": ids, "trained": trained}


def make_logits(tokenizer):
    text = "The capital of France is Paris. 您好 42! The answer is the work."
    ids = tokenizer.encode(text, add_special_tokens=False)[:24]
    assert len(ids) == 24
    tensors = {"ids": torch.tensor(ids, dtype=torch.int32)}
    for name, adapter in (("base", None), ("adapter", ADAPTER)):
        for kind, float64 in (("f32", False), ("f64", True)):
            model = oracle.load(BASE, adapter, float64)
            with torch.no_grad():
                tensors[f"{name}.{kind}"] = oracle.logits(model, ids).contiguous()
    save_file(tensors, str(OUT / "logits.safetensors"))


def make_gradients(tokenizer):
    rows = [make_row(tokenizer, *row) for row in ROWS[:4]]
    # One row with a single trained token, one whose trained tokens lie apart.
    rows[3]["trained"] = [0] * (len(rows[3]["ids"]) - 2) + [1, 0]
    rows[1]["trained"][5] = 1
    batch = {"rows": rows, "num_tokens": sum(sum(row["trained"]) for row in rows)}
    tensors = {}
    for kind, float64 in (("f32", False), ("f64", True)):
        model = oracle.load(BASE, ADAPTER, float64, trainable=True)
        losses = [oracle.loss_sum(model, row) for row in rows]
        total = sum(loss for loss, _ in losses)
        total.backward()
        batch[f"loss_sum_{kind}"] = total.item()
        batch[f"row_loss_{kind}"] = [loss.item() for loss, _ in losses]
        batch["num_correct"] = sum(correct for _, correct in losses)
        for name, parameter in oracle.adapter_parameters(model).items():
            tensors[f"{kind}.{name}"] = parameter.grad
    write_json("batch.json", batch)
    save_file(tensors, str(OUT / "gradients.safetensors"))


def train(model, rows, order, t):
    """Curves of len(order) steps with the options `t`."""
    parameters = list(oracle.adapter_parameters(model).values())
    optimizer = torch.optim.AdamW(
        parameters, lr=t["learning_rate"], betas=(t["beta1"], t["beta2"]), eps=t["eps"],
        weight_decay=t["weight_decay"],
    )  # fmt: skip
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
        norm = torch.nn.utils.clip_grad_norm_(parameters, t["max_grad_norm"])
        curve["loss"].append(loss_sum / tokens)
        curve["grad_norm"].append(norm.item())
        curve["learning_rate"].append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return curve


def make_training(tokenizer):
    rows = [make_row(tokenizer, *row) for row in ROWS]
    count = TRAINING["rows_per_step"]
    order = [[(step * count + i) % len(rows) for i in range(count)]
             for step in range(TRAINING["num_steps"])]  # fmt: skip
    golden = {"options": TRAINING, "rows": rows, "order": order}
    for kind, float64 in (("f32", False), ("f64", True)):
        golden[kind] = train(oracle.load(BASE, INIT, float64, trainable=True), rows, order, TRAINING)
    write_json("training.json", golden)


def make_greedy(tokenizer):
    prompts = [
        tokenizer.encode(text, add_special_tokens=False)
        for text in ("The capital of", "<|im_start|>user\nhi<|im_end|>\n", "您好，")
    ]
    golden = {"prompts": prompts, "max_new_tokens": 20}
    for name, adapter in (("base", None), ("adapter", ADAPTER)):
        model = oracle.load(BASE, adapter)
        made = [oracle.greedy(model, prompt, 20) for prompt in prompts]
        golden[name] = [ids for ids, _ in made]
        golden[f"{name}_margin"] = min(margin for _, margin in made)
    write_json("greedy.json", golden)


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    make_adapters()
    make_tokens(tokenizer)
    make_logits(tokenizer)
    make_gradients(tokenizer)
    make_training(tokenizer)
    make_greedy(tokenizer)


if __name__ == "__main__":
    main()
