"""transformers + PEFT as the oracle, in float32 or in true float64."""
import json
import math
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

DATA = pathlib.Path(__file__).parent.parent / "data"


def _rms_norm_64(self, hidden):
    variance = hidden.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))


def _stretch_llama3_64(inv_freq, rope):
    """modeling_rope_utils._compute_llama3_parameters in float64."""
    low, high, factor = (rope[key] for key in ("low_freq_factor", "high_freq_factor", "factor"))
    original = rope["original_max_position_embeddings"]
    turns = original * inv_freq / (2 * math.pi)  # In the original context.
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * inv_freq / factor + smooth * inv_freq


def _rotary_64(self, x, position_ids):
    rope = self.config.rope_parameters
    dim = getattr(self.config, "head_dim", None)
    dim = dim or self.config.hidden_size // self.config.num_attention_heads
    inv_freq = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim))
    if rope["rope_type"] == "llama3":
        inv_freq = _stretch_llama3_64(inv_freq, rope)
    else:
        assert rope["rope_type"] == "default", rope
    freqs = position_ids[..., None].double() * inv_freq
    emb = torch.cat((freqs, freqs), dim=-1)
    return emb.cos(), emb.sin()


def to_float64(model):
    """model.double(), with the norms and rotary angles that transformers keeps in float32 in
    float64 too: the angles are position / theta**(2i/d), all in float64."""
    model = model.double()
    for module in model.modules():
        if type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")):
            module.forward = _rms_norm_64.__get__(module)
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.forward = _rotary_64.__get__(module)
    return model


def is_encoder_decoder(folder):
    return json.loads((pathlib.Path(folder) / "config.json").read_text()).get("is_encoder_decoder", False)


def is_sequence_to_sequence(model):
    return getattr(model.config, "is_encoder_decoder", False)  # A reference of our own has no such field.


def load(base, adapter=None, float64=False, trainable=False):
    auto = AutoModelForSeq2SeqLM if is_encoder_decoder(base) else AutoModelForCausalLM
    # sdpa: transformers' eager attention takes its softmax in float32 whatever the model's type.
    model = auto.from_pretrained(
        base, dtype=torch.float32, attn_implementation="sdpa"
    )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    model = to_float64(model) if float64 else model
    return model.train() if trainable else model.eval()


def logits(model, ids):
    """[T, V] of one sequence, in the model's type; of an encoder-decoder [1, V]: the first token of its answer to a source."""
    if is_sequence_to_sequence(model):
        return target_logits(model, ids, [0])
    return model(input_ids=torch.tensor([ids])).logits[0]


def split(row):
    """Source and target of a row: the target begins with the first trained token."""
    begin = row["trained"].index(1)
    return row["ids"][:begin], row["ids"][begin:]


def target_logits(model, source, target):
    """[len(target), V] of an encoder-decoder: line i says what target[i] might be."""
    start = model.config.decoder_start_token_id
    decoder_ids = torch.tensor([[start, *target[:-1]]])
    return model(input_ids=torch.tensor([source]), decoder_input_ids=decoder_ids).logits[0]


def loss_sum(model, row):
    """Sum of -log p(ids[t]) over every t with trained[t], and the number of hits."""
    if is_sequence_to_sequence(model):
        source, target = split(row)
        all_logits, begin = target_logits(model, source, target), len(source)
    else:
        all_logits, begin = logits(model, row["ids"])[:-1], 1
    trained = torch.tensor(row["trained"][begin:], dtype=torch.bool)
    log_p = torch.log_softmax(all_logits, dim=-1)[trained]
    labels = torch.tensor(row["ids"][begin:])[trained]
    loss = -log_p.gather(1, labels[:, None]).sum()
    return loss, int((log_p.argmax(1) == labels).sum())


def adapter_parameters(model):
    """{name as in the PEFT file: parameter}, sorted by name."""
    named = {n.replace(".default.", "."): p for n, p in model.named_parameters() if "lora_" in n}
    return dict(sorted(named.items()))


@torch.no_grad()
def greedy(model, prompt, count, stop=()):
    """Token ids after the prompt and the smallest margin of a winner over the second."""
    ids, margin = list(prompt), float("inf")
    while len(ids) < len(prompt) + count:
        top = logits(model, ids)[-1].topk(2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))
        if ids[-1] in stop:
            break
    return ids[len(prompt) :], margin
