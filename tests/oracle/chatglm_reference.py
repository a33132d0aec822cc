"""ChatGLM3's decoder under its original module names, written from its published description: no
code of it ships with transformers. `check_against_glm` proves it on transformers' Glm, which computes
the same with other names."""
import types

import torch
from torch import nn
from transformers import GlmConfig, GlmForCausalLM


class Config(types.SimpleNamespace):
    """config.json, with what PEFT asks of a configuration."""

    def get(self, key, default=None):
        return getattr(self, key, default)

    def to_dict(self):
        return vars(self)


class RmsNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate(x, positions):
    """x [T, heads, width]: pairs of neighbours in the first half of a head turn, the rest passes."""
    dim = x.shape[-1] // 2
    theta = 1.0 / (10000 ** (torch.arange(0, dim, 2, dtype=x.dtype) / dim))
    angle = (positions.to(x.dtype)[:, None] * theta)[:, None, :]
    a, b = x[..., 0:dim:2], x[..., 1:dim:2]
    pairs = torch.stack((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)
    return torch.cat((pairs.flatten(-2), x[..., dim:]), -1)


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        width = c.num_attention_heads * c.kv_channels
        both = width + 2 * c.multi_query_group_num * c.kv_channels
        self.query_key_value = nn.Linear(c.hidden_size, both, bias=c.add_qkv_bias)
        self.dense = nn.Linear(width, c.hidden_size, bias=False)

    def forward(self, x):
        c = self.c
        heads, groups = c.num_attention_heads, c.multi_query_group_num
        qkv = self.query_key_value(x).view(len(x), heads + 2 * groups, c.kv_channels)
        q, k, v = qkv.split((heads, groups, groups), dim=1)
        positions = torch.arange(len(x))
        q, k = rotate(q, positions), rotate(k, positions)
        k, v = (t.repeat_interleave(heads // groups, dim=1) for t in (k, v))
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        scores = q @ k.transpose(1, 2) / c.kv_channels**0.5
        hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        out = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v
        return self.dense(out.transpose(0, 1).reshape(len(x), -1))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(c.hidden_size, 2 * c.ffn_hidden_size, bias=False)
        self.dense_4h_to_h = nn.Linear(c.ffn_hidden_size, c.hidden_size, bias=False)

    def forward(self, x):
        gate, up = self.dense_h_to_4h(x).chunk(2, dim=-1)
        return self.dense_4h_to_h(nn.functional.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RmsNorm(c.hidden_size, c.layernorm_epsilon)
        self.self_attention = SelfAttention(c)
        self.post_attention_layernorm = RmsNorm(c.hidden_size, c.layernorm_epsilon)
        self.mlp = Mlp(c)

    def forward(self, x):
        x = x + self.self_attention(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class ChatGlm(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = self.config = Config(**config)
        self.transformer = nn.Module()
        self.transformer.embedding = nn.Module()
        self.transformer.embedding.word_embeddings = nn.Embedding(c.padded_vocab_size, c.hidden_size)
        self.transformer.encoder = nn.Module()
        self.transformer.encoder.layers = nn.ModuleList(Layer(c) for _ in range(c.num_layers))
        self.transformer.encoder.final_layernorm = RmsNorm(c.hidden_size, c.layernorm_epsilon)
        self.transformer.output_layer = nn.Linear(c.hidden_size, c.padded_vocab_size, bias=False)

    def forward(self, input_ids, **_):
        t = self.transformer
        x = t.embedding.word_embeddings(input_ids[0])
        for layer in t.encoder.layers:
            x = layer(x)
        return types.SimpleNamespace(logits=t.output_layer(t.encoder.final_layernorm(x))[None])

    def prepare_inputs_for_generation(self, *_args, **_kwargs):
        raise NotImplementedError


def _glm_names(name, weight, c):
    """{name in Glm: tensor} of one of ours."""
    if "layers" not in name:
        return {name.replace("transformer.embedding.word_embeddings", "model.embed_tokens")
                .replace("transformer.encoder.final_layernorm", "model.norm")
                .replace("transformer.output_layer", "lm_head"): weight}  # fmt: skip
    name = name.replace("transformer.encoder", "model").replace("self_attention", "self_attn")
    name = name.replace("dense_h_to_4h", "gate_up_proj").replace("dense_4h_to_h", "down_proj")
    name = name.replace("self_attn.dense", "self_attn.o_proj")
    if "query_key_value" not in name:
        return {name: weight}
    kv = c.multi_query_group_num * c.kv_channels
    parts = weight.split((c.num_attention_heads * c.kv_channels, kv, kv))
    return {name.replace("query_key_value", f"{p}_proj"): w for p, w in zip("qkv", parts)}


@torch.no_grad()
def check_against_glm(model, ids):
    """Exits unless transformers' Glm with these weights gives these logits."""
    c = model.config
    glm = GlmForCausalLM(GlmConfig(
        vocab_size=c.padded_vocab_size, hidden_size=c.hidden_size, head_dim=c.kv_channels,
        intermediate_size=c.ffn_hidden_size, num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_attention_heads, num_key_value_heads=c.multi_query_group_num,
        rms_norm_eps=c.layernorm_epsilon, attention_bias=c.add_qkv_bias, pad_token_id=0,
        tie_word_embeddings=False, partial_rotary_factor=0.5, rope_theta=10000.0,
    )).eval()  # fmt: skip
    state = {}
    for name, weight in model.state_dict().items():
        state |= _glm_names(name, weight, c)
    glm.load_state_dict(state)
    ids = torch.tensor([ids])
    worst = (glm(input_ids=ids).logits - model(input_ids=ids).logits).abs().max().item()
    print(f"ChatGLM reference against transformers' Glm: largest logit difference {worst:.3g}")
    if not worst <= 1e-5:
        raise SystemExit("the reference is wrong")
