#!/usr/bin/env python3
"""Makes tests/data/goldens/nf4.safetensors: matrices and the bytes that bitsandbytes makes of them.

Needs torch, bitsandbytes. Its pure torch kernels are used, those whose formulas hold for every device: its C++ kernel
for CPUs looks an 8-bit code up in a coarser table and misses the nearest one now and then. So the package is copied
without its libraries. README.md here describes the file.
"""
import importlib.util
import pathlib
import shutil
import sys
import tempfile

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "data" / "goldens" / "nf4.safetensors"


def import_without_libraries(folder):
    found = pathlib.Path(importlib.util.find_spec("bitsandbytes").origin).parent
    shutil.copytree(found, pathlib.Path(folder) / "bitsandbytes", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    sys.path.insert(0, folder)
    import bitsandbytes

    assert bitsandbytes.__file__.startswith(folder)
    return bitsandbytes.functional


def matrices():
    torch.manual_seed(5)
    wide = torch.randn(33, 130) * 0.05  # Blocks end within rows; 68 blocks, the last one of 2 values.
    wide[3] = 0
    odd = torch.randn(5, 13)  # An odd number of values.
    # 300 blocks whose scales are exact in few bits: their mean is exact in any order of summation.
    many = torch.randint(-8, 9, (300, 64)).float() / 16
    return {"wide": wide, "odd": odd, "many": many}


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        functional = import_without_libraries(folder)
        tensors = {"map": functional.create_dynamic_map()}
        for name, matrix in matrices().items():
            codes, state = functional.quantize_4bit(matrix, blocksize=64, compress_statistics=True, quant_type="nf4")
            plain = functional.quantize_4bit(matrix, blocksize=64, compress_statistics=False, quant_type="nf4")[1]
            tensors |= {
                f"{name}.values": matrix if name != "many" else (matrix * 16 + 8).to(torch.uint8),
                f"{name}.codes": codes.flatten(),
                f"{name}.scales": plain.absmax,
                f"{name}.scale_indices": state.absmax,
                f"{name}.nested": state.state2.absmax,
                f"{name}.mean": state.offset.reshape(1),
            }
            if name != "many":
                tensors[f"{name}.dequantized"] = functional.dequantize_4bit(codes, state)
    save_file(tensors, str(OUT))
    OUT.chmod(0o644)


if __name__ == "__main__":
    main()
