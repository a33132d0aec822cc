#!/usr/bin/env python3
"""Hugging Face's side of `scripts/bench engine`: transformers and PEFT, in the environment of scripts/deps/peers.txt.

usage: hf_peer.py make-model tiny|small OUT         a random Qwen2
       hf_peer.py make-gpu-model 1.5b|7b OUT        a random Qwen2.5 in BF16, made on a GPU, and OUT-adapter, a new LoRA over it
       hf_peer.py peak THREADS OUT.json             the fastest matrix product that this torch has
       hf_peer.py train stock|tuned|reference WORK.json OUT.json
       hf_peer.py generate WORK.json OUT.json
engine_bench.py writes WORK.json and reads OUT.json.
"""
import json
import os
import pathlib
import shutil
import sys
import time

import torch

TINY_LLAMA = pathlib.Path(__file__).parent.parent / "data" / "tiny-llama"


def peak_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


SHAPES = {
    "tiny": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "vocab_size": 8192},
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "vocab_size": 32000},
}
# Of the published models.
GPU_SHAPES = {
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "vocab_size": 151936,
             "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064,
           "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False},
}  # fmt: skip
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_model(shape, out):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    config = Qwen2Config(
        **SHAPES[shape], num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=2048,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(out)
    copy_tokenizer(out)


def make_gpu_model(shape, out):
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    config = Qwen2Config(**GPU_SHAPES[shape], max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config)
    model.save_pretrained(out)
    copy_tokenizer(out)
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(f"{out}-adapter")


def copy_tokenizer(out):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        shutil.copy(TINY_LLAMA / name, pathlib.Path(out) / name)


def best_rate(flops, product):
    """Per second of wall time and of CPU time: the best of several."""
    product()
    best = {"wall": 0.0, "cpu": 0.0}
    for _ in range(6):
        start = (time.perf_counter(), time.process_time())
        product()
        best["wall"] = max(best["wall"], flops / (time.perf_counter() - start[0]))
        best["cpu"] = max(best["cpu"], flops / (time.process_time() - start[1]))
    return best


def gemm_peak(threads):
    """MKL's and oneDNN's product at 1024^3 and 2048^3, F32."""
    torch.set_num_threads(threads)
    rates = []
    for n in (1024, 2048):
        a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        packed = torch.ops.mkldnn._reorder_linear_weight(b, n)
        rates.append(best_rate(2 * n**3, lambda: torch.mm(a, b, out=out)))
        rates.append(best_rate(2 * n**3, lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "")))
    return {clock: max(rate[clock] for rate in rates) for clock in ("wall", "cpu")}


def on_gpu(work):
    return work.get("device") == "cuda"


def load(work, dtype=None):
    """`dtype` of the base; None: 16 bits on a GPU, 32 elsewhere."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(work["threads"])
    dtype = dtype or (torch.bfloat16 if on_gpu(work) else torch.float32)
    base = AutoModelForCausalLM.from_pretrained(work["model"], dtype=dtype, attn_implementation="sdpa")
    base.to(work.get("device", "cpu"))
    if work["adapter"] is None:  # Full tuning.
        return base
    return PeftModel.from_pretrained(base, work["adapter"], is_trainable=True)


class Steps:
    """Loss, wall and CPU time of every step."""

    def __init__(self, gpu=False):
        self.rows, self.gpu = [], gpu

    def begin(self):
        self.start = (time.perf_counter(), time.process_time())

    def end(self, loss):
        if self.gpu:
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
        self.rows.append({"loss": loss, "wall": wall, "cpu": cpu})


def train_stock(work, steps):
    """transformers.Trainer as its documentation has it: every batch padded to its longest row."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    losses = []

    class Recorder(TrainerCallback):
        def on_step_begin(self, *_args, **_kwargs):
            losses.clear()
            steps.begin()

        def on_step_end(self, *_args, **_kwargs):
            steps.end(sum(losses))  # Of the accumulated batches; each is divided by the labels of all.

    class Recorded(Trainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            losses.append(float(loss))
            return loss

    rows = [
        {"input_ids": row["ids"], "attention_mask": [1] * len(row["ids"]),
         "labels": [i if t else -100 for i, t in zip(row["ids"], row["trained"])]}
        for step in work["steps"] for row in step
    ]  # fmt: skip
    arguments = TrainingArguments(
        output_dir=work["scratch"], per_device_train_batch_size=work.get("device_rows", len(work["steps"][0])),
        gradient_accumulation_steps=len(work["steps"][0]) // work.get("device_rows", len(work["steps"][0])), max_steps=len(work["steps"]),
        learning_rate=work["learning_rate"], lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0,
        max_grad_norm=work["max_grad_norm"], train_sampling_strategy="sequential", use_cpu=not on_gpu(work), bf16=on_gpu(work), save_strategy="no",
        report_to="none", disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(work["model"]), padding=True)
    trainer = Recorded(model=load(work), args=arguments, train_dataset=rows, data_collator=collator,
                       callbacks=[Recorder()])  # fmt: skip
    trainer.train()


def micro_batches(rows, size, device):
    """Rows of like length together: the least padding without packing."""
    ordered = sorted(rows, key=lambda row: len(row["ids"]))
    for begin in range(0, len(ordered), size):
        chunk = ordered[begin : begin + size]
        width = max(len(row["ids"]) for row in chunk)
        ids = torch.zeros(len(chunk), width, dtype=torch.long)
        trained, there = torch.zeros_like(ids), torch.zeros_like(ids)
        for i, row in enumerate(chunk):
            ids[i, : len(row["ids"])] = torch.tensor(row["ids"])
            trained[i, : len(row["ids"])] = torch.tensor(row["trained"])
            there[i, : len(row["ids"])] = 1
        yield ids.to(device), trained.bool().to(device), there.to(device)


def train_reference(work, steps):
    """What the others are to come near: the same training in 32 bits."""
    train_tuned(work, steps, torch.float32)


def train_tuned(work, steps, dtype=None):
    """A loop of one's own: rows sorted by length, no mask where nothing is padded, logits at trained positions only, fused
    AdamW."""
    model = load(work, dtype)
    inner = model.get_base_model() if work["adapter"] else model
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=work["learning_rate"], weight_decay=0.0, fused=True)
    model.train()
    for rows in work["steps"]:
        steps.begin()
        count = sum(sum(row["trained"]) for row in rows)
        total = 0.0
        for ids, trained, there in micro_batches(rows, work["micro_rows"], work.get("device", "cpu")):
            mask = None if bool(there.all()) else there
            hidden = inner.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            labels = trained[:, 1:]
            logits = inner.lm_head(hidden[:, :-1][labels])
            loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][labels], reduction="sum") / count
            loss.backward()
            total += float(loss)
        torch.nn.utils.clip_grad_norm_(parameters, work["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        steps.end(total)


def generate(work):
    model = load(work).eval()
    result = {"texts": {}, "wall": {}, "cpu": {}, "passes": 1}
    with torch.no_grad():
        for count in work["new_tokens"]:
            start = (time.perf_counter(), time.process_time())
            texts = []
            for prompt in work["prompts"]:
                ids = torch.tensor([prompt])
                out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
                                     do_sample=False)  # fmt: skip
                texts.append(out[0, len(prompt) :].tolist())
            result["texts"][str(count)] = texts
            result["wall"][str(count)] = time.perf_counter() - start[0]
            result["cpu"][str(count)] = time.process_time() - start[1]
    return result


def main():
    command = sys.argv[1]
    if command == "make-model":
        make_model(sys.argv[2], sys.argv[3])
        return
    if command == "make-gpu-model":
        make_gpu_model(sys.argv[2], sys.argv[3])
        return
    if command == "peak":
        pathlib.Path(sys.argv[3]).write_text(json.dumps(gemm_peak(int(sys.argv[2]))))
        return
    work = json.loads(pathlib.Path(sys.argv[-2]).read_text())
    if command == "generate":
        result = generate(work)
    else:
        steps = Steps(on_gpu(work))
        {"stock": train_stock, "tuned": train_tuned, "reference": train_reference}[sys.argv[2]](work, steps)
        peak = torch.cuda.max_memory_reserved() if on_gpu(work) else peak_bytes()
        result = {"steps": steps.rows, "peak_bytes": peak}
    pathlib.Path(sys.argv[-1]).write_text(json.dumps(result))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
