#!/usr/bin/env python3
"""Makes tests/data/sentencepiece: small SentencePiece models and the ids that transformers gives for strings through them.

Needs sentencepiece, protobuf and transformers. The strings are those of tests/data/public-tokenizers; goldens.json has by case
`file`, what tokenizer_config.json says, and per block of 10 strings 8 hexadecimal digits, as make_token_ids.py digests them; special_text.json has
SentencePiece's own ids of texts that look like its control pieces. With
the folder of `scripts/setup --only peers` as argument also the real model of Mistral 7B. Nothing of Lathe takes part.
"""
import contextlib
import json
import pathlib
import random
import shutil
import sys
import tempfile

import sentencepiece
from transformers import LlamaTokenizer, T5Tokenizer

import make_goldens
import make_token_ids

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "data" / "sentencepiece"
SPECIAL_TEXTS = ["</s>", "say </s> and <unk> <pad> <extra_id_3> now", "</s></s>x", "a<s>b", "a <0x41> ", "train</s>ing", "\U0010ffff</s>"]
# hexadecimal source, hexadecimal target: what a normaliser of a real model has thousands of.
RULES = ["FF21\t41", "FF22\t42", "FB01\t66 69", "BD\t31 2F 32", "2167\t56 49 49 49", "3000\t20", "A0\t20", "200B\t", "65 301\tE9"]


def corpus_lines():
    rng = random.Random(7)
    words = [word for word in make_token_ids.WORDS if word.isascii() or word in ("naïve", "café", "привет", "мир", "中文", "你好")]
    words += make_token_ids.CODE + ["training", "trained", "train", "trains", "parcel", "parcels", "12", "345"]
    return [" ".join(rng.choice(words) for _ in range(12)) for _ in range(400)]


def train(name, folder, **options):
    (folder / "corpus.txt").write_text("\n".join(line.replace("\n", " ") for line in corpus_lines()), encoding="utf-8")
    with contextlib.chdir(folder):  # The model holds the names of its files.
        sentencepiece.SentencePieceTrainer.train(
            input="corpus.txt", model_prefix=name, num_threads=1, minloglevel=2, character_coverage=1.0,
            hard_vocab_limit=False, max_sentence_length=100000, **options)
    shutil.copy(folder / f"{name}.model", FOLDER / f"{name}.model")


def digests(tokenizer, texts):
    backend = tokenizer.backend_tokenizer
    ids = [[*backend.encode(text, add_special_tokens=False).ids, -1] for text in texts]
    block = make_token_ids.BLOCK
    return "".join(make_token_ids.digest(sum(ids[i:i + block], [])) for i in range(0, len(ids), block))


def case(tokenizer_class, file, config, texts):
    with tempfile.TemporaryDirectory() as temp:
        target = pathlib.Path(temp) / ("spiece.model" if tokenizer_class is T5Tokenizer else "tokenizer.model")
        shutil.copy(file, target)
        (pathlib.Path(temp) / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class.__name__, **config}))
        tokenizer = tokenizer_class.from_pretrained(temp)
        return {"file": file.name, "config": {"tokenizer_class": tokenizer_class.__name__, **config}, "ids": digests(tokenizer, texts)}


def main():
    FOLDER.mkdir(exist_ok=True)
    texts = make_token_ids.strings()
    with tempfile.TemporaryDirectory() as temp:
        folder = pathlib.Path(temp)
        train("bpe", folder, model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
              remove_extra_whitespaces=False, user_defined_symbols=["<mask>", "->"], pad_id=-1)
        (folder / "rules.tsv").write_text("\n".join(RULES) + "\n")
        train("unigram", folder, model_type="unigram", vocab_size=400, normalization_rule_tsv="rules.tsv",
              pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    goldens = {
        "bpe": case(LlamaTokenizer, FOLDER / "bpe.model", {}, texts),
        "bpe-legacy": case(LlamaTokenizer, FOLDER / "bpe.model", {"legacy": True}, texts),
        "bpe-without-blank": case(LlamaTokenizer, FOLDER / "bpe.model", {"add_prefix_space": False}, texts),
        "unigram": case(T5Tokenizer, FOLDER / "unigram.model", {"extra_ids": 5}, texts),
    }
    if len(sys.argv) > 1:
        goldens["mistral-7b"] = case(LlamaTokenizer, pathlib.Path(sys.argv[1]) / "mistral-common" / "tokenizer.model.v1", {}, texts)
    plain = {name: sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / f"{name}.model")) for name in ("bpe", "unigram")}
    make_goldens.write_json("special_text.json", {
        name: [{"text": text, "ids": model.encode(text)} for text in SPECIAL_TEXTS] for name, model in plain.items()}, FOLDER)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(golden)}" for name, golden in goldens.items())
    (FOLDER / "goldens.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
