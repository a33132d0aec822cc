"""Whether goldens that were made anew say what the committed ones say. Bytes are equal, or numbers agree: those in 64 bits to
1e-9 of their tensor's norm, those in 32 bits to 1e-5, gradients in 32 bits to 1e-3 (the query and key of the first layers
amplify rounding), numbers in JSON to 1e-5 of their size. Names, shapes, types, ids and words must be the same."""
import json
import math

from safetensors.torch import load_file

LIMITS = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 0.0, "float16": 0.0}


def limit_of(path, name, tensor):
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype == "float32" and "gradient" in path.name + name:
        return 1e-3
    return LIMITS.get(dtype, 0.0)


def compare_tensors(path, ours, theirs):
    a, b = load_file(ours), load_file(theirs)
    if a.keys() != b.keys():
        return [f"other tensors: {sorted(a.keys() ^ b.keys())[:5]}"]
    faults = []
    for name, golden in a.items():
        made = b[name]
        if golden.dtype != made.dtype or golden.shape != made.shape:
            faults.append(f"{name}: {made.dtype} {list(made.shape)}; must be {golden.dtype} {list(golden.shape)}")
            continue
        x, y = golden.double(), made.double()
        difference = (x - y).norm().item() / max(x.norm().item(), 1e-300) if not x.equal(y) else 0.0
        if not difference <= limit_of(path, name, golden):
            faults.append(f"{name}: differs by {difference:.3g} of its norm; allowed is {limit_of(path, name, golden):g}")
    return faults


def compare_values(a, b, place=""):
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [fault for key in a for fault in compare_values(a[key], b[key], f"{place}.{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [fault for i, (x, y) in enumerate(zip(a, b)) for fault in compare_values(x, y, f"{place}[{i}]")]
    if isinstance(a, float) and isinstance(b, (int, float)) and math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-7):
        return []
    return [] if type(a) is type(b) and a == b else [f"{place}: is {str(b)[:60]}; must be {str(a)[:60]}"]


def compare_files(committed, made):
    """("same bytes" | "same numbers", []) or ("different", faults)."""
    if committed.read_bytes() == made.read_bytes():
        return "same bytes", []
    if committed.suffix == ".safetensors":
        faults = compare_tensors(committed, committed, made)
    elif committed.suffix == ".json":
        faults = compare_values(json.loads(committed.read_text()), json.loads(made.read_text()))
    else:
        faults = [f"{made.stat().st_size} other bytes; must be the {committed.stat().st_size} committed ones"]
    return ("different", faults) if faults else ("same numbers", [])
