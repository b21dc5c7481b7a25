#!/usr/bin/env python3
"""A matrix by formula as transformers rounds it to FP8 while it loads (`Fp8Quantize`), for
`quantization=fp8`."""

import argparse
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from transformers import FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import Fp8Quantize

from hash_fill import hash_fill

SIDE = 128


def matrix():
    """Cubes, so that some are below the least normal FP8, and one block of zeros."""
    weights = hash_fill("fp8.weight", (2 * SIDE, 2 * SIDE), 7)
    weights = weights * weights * weights
    weights[:SIDE, SIDE:] = 0
    return torch.from_numpy(weights)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="file to write")
    args = parser.parse_args()
    config = FineGrainedFP8Config(weight_block_size=(SIDE, SIDE))
    rounded = Fp8Quantize(SimpleNamespace(quantization_config=config)).convert({"x.weight": matrix()})
    tensors = {
        "bytes": rounded["x.weight"].view(torch.uint8),
        "scales": rounded["x.weight_scale_inv"],
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, args.out)


if __name__ == "__main__":
    main()
