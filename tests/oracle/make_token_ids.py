#!/usr/bin/env python3
"""Makes tests/data/public-tokenizers: 2,000 varied strings and what Hugging Face's tokenizers make of them.

Needs tokenizers and the tokenizer.json files of `scripts/setup --only peers`. Usage: make_token_ids.py CACHE_DIR/peers
[--print NAME STRING]. strings.json holds the strings; goldens.json by tokenizer its file's sha256 and for every block
of 10 strings 8 hexadecimal digits: the begin of the sha256 over their ids as little-endian 32-bit numbers, each string's ended by
-1; no BOS or EOS added, special strings kept as text ("plain") or not ("special").
"""
import hashlib
import json
import pathlib
import random
import struct
import sys

from tokenizers import Tokenizer

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "data" / "public-tokenizers"
NAMES = ["qwen2_5", "qwen3", "llama3", "chatglm3", "llama2", "mistral_nemo", "deepseek_v3"]
COUNT = 2000
BLOCK = 10

WORDS = ("the parcel left on Monday I'm you'll we'd don't O'Neil naïve café Straße Ångström façade İstanbul ﬁne ½ x² ① Ⅷ "
         "привет мир здравствуйте γειά σου שלום عليكم السلام नमस्ते ประเทศไทย 한국어 안녕하세요 日本語 こんにちは カタカナ 中文 你好 灯不亮 怎么办 "
         "請檢查 龘 𠮷 👍 👩‍👩‍👧‍👦 🏳️‍🌈 🇳🇴 ❤️ ✨ e\u0301 a\u0308\u0323 \u200b \u200d \ufeff \u00a0 \u3000 \u2028 \u0085").split(" ")
CODE = ["for (int i = 0; i < n; ++i) {", "\treturn x->y;", "def f(a, *b, **c):", "    yield a[::-1]", "#include <vector>", "</div>",
        "SELECT * FROM t WHERE a != 'b';", "{\"key\": [1, 2.5e-3, null]}", "x = 0xFF_FF", "https://a.b/c?d=e&f=%20", "C:\\Users\\x",
        "a+=b--c", "!!==>>>=", "```py\n", "$$\\int_0^1 x^2\\,dx$$", "<|im_end|>", "<s>", "</s>", "[INST]", "<|eot_id|>", "<think>"]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\n  ", "\t\t", " " * 15, "\n" * 7, " \t ", "\u3000", "\u00a0"]
MARKS = list(".,;:!?()[]{}\"'`~@#$%^&*-_=+|\\/<>…—–“”‘’«»。，、！？；：（）《》「」")


def piece(rng):
    kind = rng.randrange(9)
    if kind < 3:
        return rng.choice(WORDS)
    if kind == 3:
        return rng.choice(CODE)
    if kind == 4:
        return rng.choice(SPACES)
    if kind == 5:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 24)))
    if kind == 6:
        return "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 4)))
    if kind == 7:
        return "".join(chr(rng.choice([*range(1, 32), 127, *range(128, 160)])) for _ in range(rng.randint(1, 3)))
    low, high = rng.choice([(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x600), (0x900, 0xE00), (0x2000, 0x2C00), (0x3040, 0x3100),
                            (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xF900, 0xFB00), (0x1F300, 0x1FA00), (0x20000, 0x20100), (0xE000, 0xE010)])
    return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 6)))


def strings():
    rng = random.Random(4)
    fixed = ["", " ", "  ", "\n", "a", "\0", "é", "👍", "0" * 400, "a" * 1000, " " * 300, "中" * 200, "\n" * 100, "-" * 120]
    made = [rng.choice(["", " "]).join(piece(rng) for _ in range(rng.randint(1, 7))) for _ in range(COUNT - len(fixed))]
    return fixed + made


def digest(ids):
    return hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()[:8]


def main():
    peers = pathlib.Path(sys.argv[1])
    texts = strings()
    if "--print" in sys.argv:
        name, index = sys.argv[-2:]
        print(Tokenizer.from_file(str(peers / name / "tokenizer.json")).encode(texts[int(index)], add_special_tokens=False).ids)
        return
    FOLDER.mkdir(exist_ok=True)
    goldens = {}
    for name in NAMES:
        path = peers / name / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        digests = {}
        for kind, as_text in (("special", False), ("plain", True)):
            tokenizer.encode_special_tokens = as_text
            ids = [[*tokenizer.encode(text, add_special_tokens=False).ids, -1] for text in texts]
            digests[kind] = "".join(digest(sum(ids[i:i + BLOCK], [])) for i in range(0, COUNT, BLOCK))
        goldens[name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **digests}
        print(name, len(texts))
    lines = ",\n".join(json.dumps(text, ensure_ascii=False) for text in texts)
    (FOLDER / "strings.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(golden)}" for name, golden in goldens.items())
    (FOLDER / "goldens.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
