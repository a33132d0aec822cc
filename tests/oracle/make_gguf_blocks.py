#!/usr/bin/env python3
"""Makes tests/data/gguf/blocks.gguf: for every quantised type that Lathe reads a tensor NAME of random blocks, and NAME.f32,
what the gguf package dequantises them to. The bytes are random except for the 16-bit scales, which are finite: so every value
of every field occurs, also those that no quantiser writes. Needs numpy, gguf."""
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

OUT = pathlib.Path(__file__).parent.parent / "data" / "gguf" / "blocks.gguf"
WIDTH = 512
ROWS = 2
# Where the 16-bit floats of a block lie.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0],
}  # fmt: skip


def finite_halves(rng, count):
    """Of all magnitudes, subnormal ones and negative ones too."""
    bits = rng.integers(0, 0x7C00, count, dtype=np.uint16)
    return bits | (rng.integers(0, 2, count, dtype=np.uint16) << 15)


def random_blocks(rng, kind):
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS * WIDTH // values, size), dtype=np.uint8)
    for at in SCALES[kind]:
        blocks[:, at : at + 2] = finite_halves(rng, len(blocks)).astype("<u2").view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def main():
    rng = np.random.default_rng(20)
    writer = gguf.GGUFWriter(OUT, "blocks")
    for kind in SCALES:
        blocks = random_blocks(rng, kind)
        values = quants.dequantize(blocks, kind)
        assert values.shape == (ROWS, WIDTH) and np.isfinite(values).all()
        writer.add_tensor(kind.name, blocks, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.f32", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
