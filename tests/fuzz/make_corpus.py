#!/usr/bin/env python3
"""Writes the seeds in tests/fuzz/corpus from tests/data: small files of the true forms, and what once broke
something, as found-WHAT. What a fuzzer finds is put beside them and stays. usage: python3 tests/fuzz/make_corpus.py"""

import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data"
CORPUS = ROOT / "tests/fuzz/corpus"


def write(target, name, content):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def safetensors(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def make_safetensors():
    write("safetensors", "three", safetensors(
        {"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 2], 0, 16), "b": tensor("BF16", [3], 16, 22),
         "c": tensor("U8", [0], 22, 22)}, bytes(22)))
    write("safetensors", "empty", safetensors({}, b""))
    write("safetensors", "overlap", safetensors(
        {"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, bytes(12)))
    write("safetensors", "duplicate", struct.pack("<Q", 124) + (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
        .ljust(124)) + b"\0")
    write("safetensors", "huge-shape", safetensors({"a": tensor("F64", [2**62, 2**62], 0, 8)}, bytes(8)))


def gguf_string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_key(key, kind, payload):
    return gguf_string(key) + struct.pack("<I", kind) + payload


def gguf_list(kind, items, pack):
    return struct.pack("<IQ", kind, len(items)) + b"".join(pack(item) for item in items)


def gguf(keys, tensors):
    """tensors: (name, shape innermost first, type, bytes)"""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
    data = b""
    for name, shape, kind, raw in tensors:
        head += gguf_string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        head += struct.pack("<IQ", kind, len(data))
        data += raw.ljust((len(raw) + 31) // 32 * 32, b"\0")
    return head.ljust((len(head) + 31) // 32 * 32, b"\0") + data


def u32(value):
    return struct.pack("<I", value)


def tiny_llama_keys(tokens, pieces):
    keys = [gguf_key("general.architecture", 8, gguf_string("llama"))]
    for name, value in [("block_count", 1), ("context_length", 16), ("embedding_length", 4),
                        ("feed_forward_length", 4), ("attention.head_count", 2), ("attention.head_count_kv", 1)]:
        keys.append(gguf_key("llama." + name, 4, u32(value)))
    keys.append(gguf_key("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)))
    keys.append(gguf_key("tokenizer.ggml.model", 8, gguf_string("llama" if pieces else "gpt2")))
    keys.append(gguf_key("tokenizer.ggml.tokens", 9, gguf_list(8, tokens, gguf_string)))
    keys.append(gguf_key("tokenizer.ggml.token_type", 9, gguf_list(5, [3] + [1] * (len(tokens) - 1), u32)))
    if pieces:
        keys.append(gguf_key("tokenizer.ggml.scores", 9, gguf_list(
            6, [-float(i) for i in range(len(tokens))], lambda x: struct.pack("<f", x))))
    else:
        keys.append(gguf_key("tokenizer.ggml.pre", 8, gguf_string("llama-bpe")))
        keys.append(gguf_key("tokenizer.ggml.merges", 9, gguf_list(8, ["a b"], gguf_string)))
    keys.append(gguf_key("tokenizer.ggml.eos_token_id", 4, u32(0)))
    keys.append(gguf_key("tokenizer.chat_template", 8, gguf_string("{{ messages[0].content }}")))
    return keys


def tiny_llama_tensors(vocabulary):
    shapes = {"token_embd.weight": [4, vocabulary], "output_norm.weight": [4], "blk.0.attn_norm.weight": [4],
              "blk.0.attn_q.weight": [4, 4], "blk.0.attn_k.weight": [4, 2], "blk.0.attn_v.weight": [4, 2],
              "blk.0.attn_output.weight": [4, 4], "blk.0.ffn_norm.weight": [4], "blk.0.ffn_gate.weight": [4, 4],
              "blk.0.ffn_up.weight": [4, 4], "blk.0.ffn_down.weight": [4, 4]}
    out = []
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        out.append((name, shape, 0, struct.pack("<f", 0.5) * count))
    return out


def make_gguf():
    bpe = ["</s>", "a", "b", "ab"]
    pieces = ["</s>", "<unk>", "\u2581", "a", "\u2581a"]
    write("gguf", "llama-bpe", gguf(tiny_llama_keys(bpe, False), tiny_llama_tensors(len(bpe))))
    write("gguf", "llama-pieces", gguf(tiny_llama_keys(pieces, True), tiny_llama_tensors(len(pieces))))
    blocks = [(2, 18), (6, 22), (8, 34), (12, 144), (14, 210), (20, 18), (23, 136), (30, 2 * 256)]
    write("gguf", "blocks", gguf([gguf_key("general.alignment", 4, u32(32))], [
        (f"t{kind}", [256 if size > 40 else 32, 1], kind, bytes(range(256))[:size].ljust(size, b"\1"))
        for kind, size in blocks]))
    kinds = [(0, "<B", 1), (1, "<b", -1), (2, "<H", 1), (3, "<h", -1), (4, "<I", 1), (5, "<i", -1), (6, "<f", 1.0),
             (7, "<B", 1), (10, "<Q", 1), (11, "<q", -1), (12, "<d", 1.0)]
    write("gguf", "metadata", gguf([gguf_key(f"k{k}", k, struct.pack(f, v)) for k, f, v in kinds]
                                   + [gguf_key("list", 9, gguf_list(7, [0, 1], lambda x: bytes([x])))], []))


def make_json():
    for family in sorted((DATA / "families").iterdir()):
        write("config", family.name, (family / "config.json").read_bytes())
    write("config", "llama", (DATA / "tiny-llama/config.json").read_bytes())
    for name in ["tiny-adapter", "tiny-adapter-dora"]:
        write("adapter_config", name, (DATA / name / "adapter_config.json").read_bytes())
    write("weight_index", "two", json.dumps(
        {"metadata": {"total_size": 32}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
    write("weight_index", "path", json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    write("weight_index", "missing", json.dumps({"weight_map": {"a": "a.safetensors", "c": "c.safetensors"}}))


def tokenizer(model, **parts):
    return json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": [
        {"id": 0, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": model, **parts}, ensure_ascii=False)


def make_tokenizers():
    vocab = {"</s>": 0, "<unk>": 1, "\u2581": 2, "a": 3, "b": 4, "ab": 5, "\u2581a": 6, "<0x0A>": 7}
    bpe = {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["\u2581", "a"]], "unk_token": "<unk>",
           "byte_fallback": True, "fuse_unk": True}
    text = b"\0ab </s> a\n\xe4\xbd\xa0"
    blank = "\u2581"
    write("tokenizer", "bpe-bytes", tokenizer(
        bpe, pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}).encode() + text)
    write("tokenizer", "bpe-pieces", tokenizer(
        bpe, normalizer={"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": blank},
            {"type": "Replace", "pattern": {"String": " "}, "content": blank}]},
        decoder={"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": blank}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}).encode() + text)
    write("tokenizer", "unigram", tokenizer(
        {"type": "Unigram", "unk_id": 1, "byte_fallback": False,
         "vocab": [[piece, -float(i)] for piece, i in vocab.items()]},
        pre_tokenizer={"type": "Metaspace", "replacement": blank, "prepend_scheme": "first", "split": True}).encode()
        + text)
    write("tokenizer", "split", tokenizer(
        {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        normalizer={"type": "NFKC"},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\s+|\\d{1,3}|[^\\s\\d]+"}, "behavior": "Isolated", "invert": False},
            {"type": "Digits", "individual_digits": True}]}).encode() + text)


def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, payload):
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    if isinstance(payload, float):
        return varint(number << 3 | 5) + struct.pack("<f", payload)
    raw = payload.encode() if isinstance(payload, str) else payload
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def sentencepiece(kind, pieces, normalizer=b""):
    body = b"".join(field(1, field(1, text) + field(2, -float(i)) + field(3, piece_type))
                    for i, (text, piece_type) in enumerate(pieces))
    trainer = field(3, kind) + field(35, 1) + field(40, 0)
    return body + field(2, trainer) + field(3, normalizer)


def make_sentencepiece():
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<0x0A>", 6), ("\u2581", 1), ("a", 1), ("\u2581a", 1), ("x", 4)]
    write("sentencepiece", "bpe", b"\x00" + sentencepiece(2, pieces))
    write("sentencepiece", "bpe-legacy", b"\x0c" + sentencepiece(2, pieces))
    write("sentencepiece", "chatglm", b"\x01" + sentencepiece(2, pieces))
    write("sentencepiece", "unigram", b"\x22" + sentencepiece(1, pieces, field(1, "nmt_nfkc") + field(2, bytes(8))))


CONVERSATIONS = {
    "chat": {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u </s> {{ x }}"},
                          {"role": "assistant", "content": "a"}, {"role": "user", "content": "v"},
                          {"role": "assistant", "content": ""}]},
    "tools": {"messages": [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.5, None, "y"]}}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "t"}, {"role": "assistant", "content": "<think>h</think>a"}]},
    "alpaca": {"instruction": "i", "input": "n", "output": "o"},
}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {
    "type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}}}]

SNIPPETS = {
    "filters": "{% for m in messages %}{{ m.content|trim|upper|replace('a', 'b')|default('d') }}{{ m|tojson(indent=2) }}"
               "{{ m|items|list|length }}{{ m|dictsort|first|last }}{% endfor %}{{ [3, 1]|sort|join(', ') }}",
    "methods": "{% set c = messages[0]['content'] %}{{ c.split(' ')[-1] ~ c.strip()[1:3] ~ c.title() }}"
               "{{ c.replace('u', c).startswith(('u', 's')) }}{{ ' a b '.rsplit(maxsplit=1) }}",
    "macros": "{% macro f(x, y=2) -%}{{ x * y }}{%- endmacro %}{% set ns = namespace(n=0) %}{% for i in range(3) if i %}"
              "{% set ns.n = ns.n + i %}{{ loop.index ~ f('z') }}{% else %}none{% endfor %}{{ ns.n // 2 % 2 }}",
    "blocks": "{%- set x %}{{ 'a' if tools is defined and tools else 'b' }}{% endset -%}{% raw %}{{ raw }}{% endraw %}"
              "{# note #}{% filter upper %}{{ x }}{% endfilter %}{% generation %}g{% endgeneration %}{{ strftime_now('%Y') }}",
    "select": "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list|tojson }}"
              "{{ messages|rejectattr('tool_calls', 'defined')|list|count }}{{ {'a': 1, 'b': [1, (2, 3)]} }}",
    "endless": "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('a') }}",
}


def make_templates():
    rows = [json.dumps(value) for value in CONVERSATIONS.values()]
    tools = json.dumps(TOOLS)
    for index, path in enumerate(sorted((DATA / "chat-templates").glob("*.jinja"))):
        row = rows[index % len(rows)]
        write("template", path.stem, path.read_text().strip("\n") + "\0" + row + "\0" + tools * (index % 2))
    for index, name in enumerate(["qwen2.5", "mistral-nemo", "internlm2"]):
        source = (DATA / f"public-templates/{name}.jinja").read_text()
        write("template", name, source + "\0" + rows[1 - index % 2] + "\0" + tools)
    for index, (name, source) in enumerate(SNIPPETS.items()):
        write("template", name, source + "\0" + rows[index % len(rows)] + "\0" + tools)


def make_rows():
    rows = [json.dumps(value) for value in CONVERSATIONS.values()]
    write("rows", "jsonl", "\n".join(rows) + "\n\n{\"instruction\": 1}\n")
    write("rows", "list", "[" + ",\n".join(rows) + "]")
    write("rows", "cut", "[" + rows[0] + ", {\"messages\": [")
    write("rows", "sharegpt", json.dumps({"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}],
                                          "split": "validation", "weight": 0}))
    write("rows", "marked", b"\xef\xbb\xbf" + rows[2].encode() + b"\r\n\xff\xfe")


def make_shards():
    def shard(offsets, numbers, ids, trained):
        return (b"LATHESH1" + struct.pack("<QQ", len(numbers), len(ids)) + b"0" * 64
                + struct.pack(f"<{len(offsets)}Q", *offsets) + struct.pack(f"<{len(numbers)}q", *numbers)
                + struct.pack(f"<{len(ids)}i", *ids) + bytes(trained))
    write("shard", "two", shard([0, 3, 5], [0, 4], [1, 2, 3, 4, 5], [0, 0, 1, 0, 1]))
    write("shard", "empty", shard([0], [], [], []))
    write("shard", "backwards", shard([0, 5, 3], [0, 1], [1, 2, 3, 4, 5], [0, 0, 1, 0, 1]))


def make_found():
    """What once broke something, small."""
    write("rows", "found-number-overflow", '{"instruction": "i", "output": "o", "x": 1e999}\n')
    write("rows", "found-many-fields", json.dumps({"instruction": "i", "output": "o"} | {f"x{i}": 0 for i in range(40)}))
    write("weight_index", "found-line-break", json.dumps({"weight_map": {"a": "b\nc.safetensors"}}))
    write("weight_index", "found-all-missing", json.dumps({"weight_map": {f"t{i}": f"{'x' * 200}{i}.safetensors" for i in range(40)}}))
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    vocab = {"</s>": 0, "a": 1}
    bpe = {"type": "BPE", "vocab": vocab, "merges": []}
    write("tokenizer", "found-growth", tokenizer(bpe, normalizer={"type": "Sequence", "normalizers": [double] * 40}) + "\0aaa")
    write("tokenizer", "found-growth-back", tokenizer(bpe, decoder={"type": "Sequence", "decoders": [double] * 40}) + "\0aaa")
    write("tokenizer", "found-dropout", tokenizer(bpe | {"dropout": 0.5}) + "\0aaa")
    least = "(-170141183460469231731687303715884105727 - 1)"
    for name, source in {
        "strip": "{{ ('a' * 8000000)|trim('b' * 8000000 ~ 'a') }}",
        "equal": "{% set a = 'a' * 16000000 %}{% set b = 'a' * 16000000 %}{% for i in range(99999) %}{{ a == b }}{% endfor %}",
        "sort": "{{ (['A' * 16000000] * 1000)|sort|length }}",
        "separators": "{{ ([1] * 100000)|tojson(separators=('x' * 8000000, ':')) }}",
        "no-order": "{{ ([9007199254740993, 9007199254740992.0, 9007199254740992, 'a'] * 50)|sort }}",
        "least": f"{{{{ {least} is divisibleby(-1) }}}}{{{{ {least}|abs }}}}{{{{ range({least}, 5, {least}) }}}}",
        "round": "{{ 170141183460469231731687303715884105727|round(-38) }}",
        "path": "{% for i in range(1000) %}{{ ['a']|map(attribute='0" + ".0" * 500 + "')|list }}{% endfor %}",
    }.items():
        write("template", f"found-{name}", source)
    write("template", "found-raw", "{% raw %}" + "{%endraw" * 500 + "%")


for make in [make_safetensors, make_gguf, make_json, make_tokenizers, make_sentencepiece, make_templates, make_rows,
             make_shards, make_found]:
    make()
