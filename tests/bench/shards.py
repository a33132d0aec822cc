"""What Lathe trains on, read from the outside: rows of a shard (worker/data/shard.h) in the order of the first epoch
(worker/engine/train/plan/order.h), so that a peer gets the same ids in the same order."""
import struct

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def mix_key(parts):
    key = 0
    for part in parts:
        key = mix((key + GAMMA + mix((part + GAMMA) & MASK)) & MASK)
    return key


def epoch_order(seed, epoch, count):
    state = mix_key([seed, epoch])
    order = list(range(count))
    for i in range(count, 1, -1):
        # worker/engine/train/plan/random.cc: draws below 2^64 mod i are thrown away.
        while True:
            state = (state + GAMMA) & MASK
            draw = mix(state)
            if draw >= (1 << 64) % i:
                break
        order[i - 1], order[draw % i] = order[draw % i], order[i - 1]
    return order


def read_rows(path):
    data = path.read_bytes()
    assert data[:8] == b"LATHESH1", f"{path}: no shard"
    num_rows, num_tokens = struct.unpack_from("<QQ", data, 8)
    at = 88
    offsets = struct.unpack_from(f"<{num_rows + 1}Q", data, at)
    at += 8 * (num_rows + 1) + 8 * num_rows
    ids = struct.unpack_from(f"<{num_tokens}i", data, at)
    trained = data[at + 4 * num_tokens : at + 5 * num_tokens]
    return [{"ids": list(ids[a:b]), "trained": list(trained[a:b])} for a, b in zip(offsets, offsets[1:])]


def steps_of(path, seed, batch_size):
    """The rows of every step of one epoch."""
    rows = read_rows(path)
    order = epoch_order(seed, 0, len(rows))
    return [[rows[i] for i in order[a : a + batch_size]] for a in range(0, len(rows), batch_size)]
