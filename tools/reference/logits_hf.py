#!/usr/bin/env python3
"""Writes transformers' logits behind a window, for `engine logits` (an example of crates/qwen3-vl).

  logits_hf.py FOLDER LOGITS [--frames 8] [--size 320x256] [--device cpu|cuda] [--dtype f32|bf16]

FOLDER is a checkpoint with its tokenizer, for instance what `engine write-random` writes. The frames and
the prompt are those of `engine bench`. LOGITS gets f32 values of this machine, one for each token of the
vocabulary.
"""
import argparse

import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from bench_hf import DTYPES, encoded


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("logits")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", default="320x256")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    a = parser.parse_args()
    # f32 is f32 in products and convolutions too.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = Qwen3VLForConditionalGeneration.from_pretrained(a.folder, dtype=DTYPES[a.dtype]).eval().to(a.device)
    inputs = encoded(a, a.frames, AutoTokenizer.from_pretrained(a.folder), model.config)
    with torch.no_grad():
        logits = model(**inputs, logits_to_keep=1).logits[0, -1]
    logits.float().cpu().numpy().tofile(a.logits)
    print(f"logits behind {inputs['input_ids'].shape[1]} tokens")


if __name__ == "__main__":
    main()
