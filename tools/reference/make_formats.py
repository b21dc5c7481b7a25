#!/usr/bin/env python3
"""Writes small checkpoints of every weight format with weights by formula, packed by public tools."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from formats import gguf_files
from formats.checkpoints import CHECKPOINTS, experts_of, is_quantised, not_quantised
from hash_fill import hash_fill
from make_checkpoints import write_other_files


def stored(checkpoint):
    """All tensors of a checkpoint's files."""
    method, seed, dtype = checkpoint.method, checkpoint.seed, checkpoint.dtype
    tensors = {}
    for name, shape in checkpoint.shapes().items():
        if method is None or not is_quantised(name):
            tensors[name] = torch.from_numpy(hash_fill(name, shape, seed)).to(dtype)
        elif "experts" not in name:
            module = name.removesuffix(".weight")
            for part, tensor in method.pack(module, shape, seed).items():
                tensors[f"{module}.{part}"] = tensor
        elif checkpoint.fused:
            tensors.update(fused(checkpoint, name, shape))
        else:
            for _, module, matrix in experts_of(name, shape):
                for part, tensor in method.pack(module, matrix, seed).items():
                    tensors[f"{module}.{part}"] = tensor
    return tensors


def fused(checkpoint, name, shape):
    """All experts' matrices and scales in one tensor each, transposed, gate before up."""
    matrices = list(experts_of(name, shape))
    packed = [checkpoint.method.pack(module, matrix, checkpoint.seed) for _, module, matrix in matrices]
    for part in packed[0]:
        experts = [
            torch.cat([tensors[part].T for (of, _, _), tensors in zip(matrices, packed) if of == expert], 1)
            for expert in range(shape[0])
        ]
        suffix = part.removeprefix("weight")
        yield name + suffix, torch.stack(experts).contiguous()


def save(tensors, out, scales_apart):
    if not scales_apart:
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for number, is_scale in ((1, False), (2, True)):
        file = f"model-{number:05d}-of-00002.safetensors"
        part = {name: t for name, t in tensors.items() if name.endswith("_scale_inv") == is_scale}
        save_file(part, out / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = dict(metadata=dict(total_size=size), weight_map=dict(sorted(weight_map.items())))
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def make(checkpoint, out, tokenizer):
    config = checkpoint.config()
    if checkpoint.method:
        ignored = not_quantised(checkpoint.shapes())
        config["quantization_config"] = checkpoint.method.config(ignored)
    out.mkdir(parents=True, exist_ok=True)
    write_other_files(out, config, tokenizer)
    save(stored(checkpoint), out, checkpoint.scales_apart)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--tokenizer", type=Path, required=True, help="as for make_checkpoints.py")
    parser.add_argument("--only", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS), help="checkpoints")
    args = parser.parse_args()
    for name in args.only:
        checkpoint, out = CHECKPOINTS[name], args.out / name
        if checkpoint.method:
            make(checkpoint, out, args.tokenizer)
        else:  # llama.cpp's converter makes it of a checkpoint in bf16
            source = args.out.parent / "gguf-source" / gguf_files.NAMES[name]
            make(checkpoint, source, args.tokenizer)
            gguf_files.convert(name, checkpoint, source, out)
        print(name, *(f"{file.name}: {file.stat().st_size}" for file in sorted(out.iterdir())), flush=True)


if __name__ == "__main__":
    main()
