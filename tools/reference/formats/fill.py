"""Quantised matrices by a formula (`testing::formats::fill` in Rust repeats it bit for bit).

A matrix has a name, that of its module, and what it is made of is named after it: "NAME#q" are its
integers, "#z" its zero points, "#s" its scales. So the numbers do not depend on how a format packs them.
"""

import numpy as np
import torch

from hash_fill import hash24

# Binary digits behind the point of a normal number.
DIGITS = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23}


def integers(name, count, seed, below):
    """`count` integers in [0, below)."""
    return (hash24(name, count, seed) % np.uint64(below)).astype(np.int64)


def scales(name, count, seed, exponent, digits):
    """`count` floats of [1, 2) * 2^exponent, each exact with so many binary digits."""
    mantissa = integers(name, count, seed, 1 << digits).astype(np.float32)
    return np.ldexp(np.float32(1) + mantissa / np.float32(1 << digits), exponent).astype(np.float32)


def exponent(columns, spread):
    """The exponent of scales for a matrix of so many columns, whose integers are about 2^spread
    large: weights come out near 1/sqrt(columns), so that activations stay near 1."""
    return -((columns - 1).bit_length() // 2) - spread


def codes(module, shape, seed, bits):
    """The integers of a matrix [out, in]."""
    return torch.from_numpy(integers(f"{module}#q", shape[0] * shape[1], seed, 1 << bits)).reshape(shape)


def group_scales(module, shape, seed, columns, spread, dtype):
    """Its scales [out, groups], f32 that `dtype` can hold."""
    found = scales(f"{module}#s", shape[0] * shape[1], seed, exponent(columns, spread), DIGITS[dtype])
    return torch.from_numpy(found).reshape(shape)


def zero_points(module, shape, seed, first, bits):
    """Its zero points [out, groups], in [first, 2^bits)."""
    found = first + integers(f"{module}#z", shape[0] * shape[1], seed, (1 << bits) - first)
    return torch.from_numpy(found).reshape(shape)


def group_index(module, columns, group, seed):
    """The group of each column in the order of activations: a random order, cut into groups. Ties go
    to the earlier column."""
    order = np.argsort(hash24(f"{module}#g", columns, seed), kind="stable")
    index = np.empty(columns, dtype=np.int32)
    index[order] = np.arange(columns, dtype=np.int32) // group
    return torch.from_numpy(index)


def e4m3(module, shape, seed):
    """A matrix [out, in] of any finite 8-bit floats, as f32: sign, four bits of exponent (bias 7),
    three of mantissa. The largest pattern is NaN and left out."""
    code = integers(f"{module}#q", shape[0] * shape[1], seed, 254)
    negative, code = code // 127, code % 127
    power, mantissa = code >> 3, (code & 7).astype(np.float32) / np.float32(8)
    value = np.where(power == 0, np.ldexp(mantissa, -6), np.ldexp(np.float32(1) + mantissa, power - 7))
    value = np.where(negative == 1, -value, value).astype(np.float32)
    return torch.from_numpy(value).reshape(shape)
