"""Weights by a formula, so that checkpoints need not be stored (`testing::weights` in Rust)."""

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15


def fnv1a64(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & (2**64 - 1)
    return h


def hash24(name, count, seed):
    """24 random bits for each index of the tensor `name`.

    key = fnv1a64(utf8(name)) ^ seed; z = the splitmix64 finaliser of key + (i + 1) * GOLDEN mod 2^64,
    where i is the flat row-major index; z >> 40.
    """
    key = np.uint64(fnv1a64(name.encode()) ^ seed)
    with np.errstate(over="ignore"):
        z = key + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z >> np.uint64(40)


def hash_fill(name, shape, seed):
    """The tensor `name` as float32, bit-exact in any language.

    u = float32(hash24) / 2^23 - 1, exact, in [-1, 1); w = offset + scale * u, the product and the sum
    each rounded to float32.
    """
    count = int(np.prod(shape))
    u = hash24(name, count, seed).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    offset, scale = rule(name, shape)
    w = np.float32(scale) * u
    if offset:
        w = np.float32(offset) + w
    return w.reshape(shape)


def rule(name, shape):
    """Offset and scale of a tensor: activations stay near 1 through every layer."""
    if "q_norm" in name or "k_norm" in name:
        return 1.5, 0.3
    if len(shape) == 1:
        return (1.0, 0.3) if "norm" in name and name.endswith("weight") else (0.0, 0.1)
    if "embed_tokens" in name or "pos_embed" in name:
        return 0.0, 1.7320508
    # Experts are stored [expert, in, out], everything else [out, in, …].
    fan_in = shape[1] if "experts." in name else int(np.prod(shape[1:]))
    return 0.0, float(np.float32(np.sqrt(3.0 / fan_in)))
