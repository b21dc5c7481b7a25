#!/usr/bin/env python3
"""Reference values of transformers in f32 for the checkpoints of make_formats.py, with the weights that
public tools read from their files: transformers itself would compute with rounded ones, or not at all.

Two cases each: "text", and "even" of goldens.py, whose pixels are not stored again.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoProcessor

from formats.checkpoints import CHECKPOINTS
from formats.read import state
from goldens import Reference

STRIDE = 64
# Of the two best logits in each greedy step: twice what the tests allow a logit to be off, so that tokens
# must be the same. A checkpoint that has less takes another seed.
LEAST_MARGIN = 0.002


class FormatReference(Reference):
    def __init__(self, name, folder, processor, out):
        self.checkpoint, self.device, self.exact, self.out = name, "cpu", True, out
        self.processor = processor
        self.close = []
        checkpoint = CHECKPOINTS[name]
        self.model = checkpoint.model()
        weights = state(checkpoint, folder)
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        assert not unexpected and missing == ["lm_head.weight"] * checkpoint.tied, (missing, unexpected)
        self.model.tie_weights()
        head, table = self.model.lm_head.weight, self.model.model.language_model.embed_tokens.weight
        assert torch.equal(head, table) == checkpoint.tied

    def save(self, file, tensors, summary, stride=1):
        self.check(file, summary["greedy_margin_min"])
        del tensors["pixels_u8"]
        super().save(file, tensors, summary, STRIDE)

    def check(self, file, margin):
        if margin < LEAST_MARGIN:
            self.close.append(f"{file}: margin {margin}")

    def run_text(self):
        text = self.prompt([{"type": "text", "text": "Hello, 世界!"}])
        inputs = self.processor(text=[text], return_tensors="pt")
        ids = inputs["input_ids"][0]
        logits = self.logits(**inputs)[0, -1]
        full = self.greedy(**inputs)
        top = self.logits(input_ids=full[None])[0, len(ids) - 1 : -1].topk(2, -1)
        assert torch.equal(top.indices[:, 0], full[len(ids) :])
        file = f"{self.checkpoint}__text"
        margin = (top.values[:, 0] - top.values[:, 1]).min().item()
        self.check(file, margin)
        tensors = {
            "input_ids": ids.to(torch.int32),
            "last_logits": logits[::STRIDE].contiguous(),
            "greedy": full[len(ids) :].to(torch.int32),
        }
        save_file(tensors, self.out / f"{file}.safetensors")
        kinds = len(set(tensors["greedy"].tolist()))
        print(f"{file}: least margin {margin:.3f}, std {logits.std():.2f}, {kinds} tokens", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, help="folder that make_checkpoints.py and make_formats.py wrote")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--only", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS), help="checkpoints")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    processor = AutoProcessor.from_pretrained(args.checkpoints / "dense-tied")
    close = []
    for name in args.only:
        reference = FormatReference(name, args.checkpoints / name, processor, args.out)
        reference.run_videos("even")
        reference.run_text()
        close += reference.close
    if close:
        raise SystemExit("\n".join(close))


if __name__ == "__main__":
    main()
