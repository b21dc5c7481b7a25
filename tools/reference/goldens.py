#!/usr/bin/env python3
"""Reference values of transformers (greedy; f32 on the CPU unless said otherwise) for the checkpoints of make_checkpoints.py.

Per case CHECKPOINT__CASE.safetensors and .json: frame indices, ids, positions, pixels, vision
embeddings, DeepStack taps, logits and 24 greedy tokens.

Layout "official" is that of transformers 4.57, vLLM and Qwen's own evaluations:
`<t seconds><|vision_start|>V…<|vision_end|>` per temporal patch and nothing around. Layout "hf5"
(files `__hf5nested`) keeps one more vision_start/vision_end pair around, as transformers >= 5.10 does.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

from clip import video

QUESTION = "Describe the video."
NEW_TOKENS = 24
# Cases whose last logits are stored whole; of the others every 16th.
ALL_LOGITS = ("even", "stream")
GREEDY = dict(
    max_new_tokens=NEW_TOKENS,
    min_new_tokens=NEW_TOKENS,
    do_sample=False,
    temperature=None,
    top_p=None,
    top_k=None,
    eos_token_id=-1,
    pad_token_id=151643,
)

# name: videos as (frames, height, width, metadata, whether to sample)
VIDEOS = {
    "even": [(24, 64, 64, dict(fps=8.0), True)],  # 24 frames at 8 fps: 6
    "odd": [(10, 64, 96, dict(fps=4.0), True)],  # 5 frames, the last one twice
    "resize": [(30, 70, 100, dict(fps=29.97), True)],  # 2 frames, raised to 4; 100x70 to 96x64
    "up": [(9, 24, 40, dict(fps=3.0), True)],  # smaller than a block: scaled up
    "few": [(3, 64, 64, dict(fps=30.0), True)],  # fewer frames than the least
    "nofps": [(48, 64, 64, dict(), True)],  # no frame rate: taken as 24
    "stream": [  # frames at uneven times, as a live window has them
        (6, 64, 128, dict(fps=30.0, frames_indices=[0, 7, 15, 22, 30, 41], total_num_frames=42), False)
    ],
    "two": [(8, 64, 64, dict(fps=4.0), True), (6, 96, 64, dict(fps=2.0), True)],
    "wide": [(16, 128, 160, dict(fps=2.0), True)],  # many patches
}
# name: images as (height, width), and the pixel budget if not the checkpoint's
IMAGES = {
    "images": ([(64, 96), (70, 100), (150, 200)], dict(min_pixels=4096, max_pixels=16384)),
    "image-default": ([(64, 96)], {}),
}
CHECKPOINTS = {
    "dense-tied": Qwen3VLForConditionalGeneration,
    "dense-untied": Qwen3VLForConditionalGeneration,
    "moe": Qwen3VLMoeForConditionalGeneration,
}
SMALL_SET = ("even", "odd", "stream")  # of the checkpoints after the first
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Reference:
    """One checkpoint and what it computes."""

    def __init__(self, checkpoint, folder, args):
        self.checkpoint = checkpoint
        self.device, self.exact = args.device, args.dtype == "f32"
        self.model = CHECKPOINTS[checkpoint].from_pretrained(folder, dtype=DTYPES[args.dtype]).eval().to(args.device)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.out = args.out

    def prompt(self, content):
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    @torch.no_grad()
    def logits(self, **inputs):
        self.model.model.rope_deltas = None  # left over from the call before
        return self.model(**inputs).logits

    @torch.no_grad()
    def greedy(self, **inputs):
        self.model.model.rope_deltas = None
        generated = self.model.generate(**inputs, **GREEDY)
        return generated[0]

    def evaluate(self, inputs):
        """What the model makes of processed inputs: tensors and a summary."""
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        ids, types = inputs["input_ids"], inputs["mm_token_type_ids"]
        kind = "video" if "video_grid_thw" in inputs else "image"
        pixels = inputs["pixel_values_videos" if kind == "video" else "pixel_values"]
        grid = inputs[f"{kind}_grid_thw"]
        with torch.no_grad():
            positions, delta = self.model.model.get_rope_index(
                ids, types, **{f"{kind}_grid_thw": grid.clone()}, attention_mask=inputs["attention_mask"]
            )
            features = getattr(self.model.model, f"get_{kind}_features")
            vision = features(pixels, grid, return_dict=True)
        embeddings = torch.cat(vision.pooler_output, 0)
        logits = self.logits(**inputs)
        full = self.greedy(**inputs)
        new = full[ids.shape[1] :]

        # The same steps without a cache: the margin of each, and whether they agree.
        padded = torch.cat([types, torch.zeros(1, len(new), dtype=types.dtype)], 1)
        vision_inputs = {key: value for key, value in inputs.items() if key.startswith(("pixel", kind))}
        steps = self.logits(
            input_ids=full[None],
            attention_mask=torch.ones_like(full)[None],
            mm_token_type_ids=padded,
            **vision_inputs,
        )[0, ids.shape[1] - 1 : -1]
        top = steps.topk(2, -1)

        pixels = pixels.cpu()
        u8 = (pixels * 127.5 + 127.5).round()
        last = logits[0, -1].float()
        top16 = last.topk(16)
        tensors = {
            "input_ids": ids[0].to(torch.int32),
            "mm_token_type_ids": types[0].to(torch.uint8),
            f"{kind}_grid_thw": grid.to(torch.int32),
            "position_ids": positions[:, 0].to(torch.int32),
            "greedy": new.to(torch.int32),
            "pixels_u8": u8.to(torch.uint8),
            "last_logits": last,
            "vision_embeds": embeddings.float(),
        }
        for i, tap in enumerate(vision.deepstack_features):
            tensors[f"deepstack_{i}"] = tap.float()
        summary = dict(
            rope_delta=int(delta),
            n_tokens=ids.shape[1],
            pixel_values_minmax=[pixels.min().item(), pixels.max().item()],
            pixel_u8_roundtrip_maxerr=((u8 / 255 - 0.5) / 0.5 - pixels).abs().max().item(),
            pixel_sha256=hashlib.sha256(pixels.numpy().tobytes()).hexdigest(),
            last_logits_stride=1,
            top16_ids=top16.indices.tolist(),
            top16_logits=[float(v) for v in top16.values],
            logits_mean=last.mean().item(),
            logits_std=last.std().item(),
            greedy=new.tolist(),
            greedy_margin_min=(top.values[:, 0] - top.values[:, 1]).min().item(),
            greedy_nocache_agrees=bool((steps.argmax(-1) == new).all()),
            vision_abs_mean=embeddings.abs().mean().item(),
        )
        return tensors, summary

    def head(self, case, layout, template_text, ids):
        return dict(
            ckpt=self.checkpoint,
            case=case,
            layout=layout,
            transformers=transformers.__version__,
            torch=torch.__version__,
            question=QUESTION,
            template_text=template_text,
            expanded_text=self.processor.tokenizer.decode(ids[0]),
        )

    def save(self, file, tensors, summary, stride=1):
        if stride != 1:
            tensors["last_logits"] = tensors["last_logits"][::stride]
            summary["last_logits_stride"] = stride
        # Clones: a tensor may not share memory with another, nor be a view of a larger one.
        save_file({k: v.cpu().clone().contiguous() for k, v in tensors.items()}, self.out / f"{file}.safetensors")
        (self.out / f"{file}.json").write_text(json.dumps(summary, indent=1))
        print(f"{file}: {summary['n_tokens']} tokens, least margin {summary['greedy_margin_min']:.3f}", flush=True)
        if self.exact and not summary["greedy_nocache_agrees"]:
            raise SystemExit(f"{file}: greedy tokens differ with and without cache")

    def run_videos(self, case, layout="official"):
        spec = VIDEOS[case]
        videos = [video(t, h, w, i) for i, (t, h, w, _, _) in enumerate(spec)]
        metadata = [
            dict(meta, total_num_frames=meta.get("total_num_frames", t), width=w, height=h, video_backend="np")
            for t, h, w, meta, _ in spec
        ]
        template_text = self.prompt([{"type": "video"} for _ in spec] + [{"type": "text", "text": QUESTION}])
        text = template_text
        if layout == "official":
            text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
        inputs = self.processor(
            text=[text],
            videos=videos,
            video_metadata=metadata,
            do_sample_frames=spec[0][4],
            cap_pixels_per_frame=False,
            return_metadata=True,
            return_tensors="pt",
        )
        metadata = inputs.pop("video_metadata")
        tensors, values = self.evaluate(inputs)
        summary = self.head(case, layout, template_text, inputs["input_ids"])
        summary.update(
            source=[dict(T=t, H=h, W=w, meta=meta, sample=sample) for t, h, w, meta, sample in spec],
            frames_indices=[[int(i) for i in m.frames_indices] for m in metadata],
            fps_used=[m.fps for m in metadata],
            timestamps=[
                [
                    round(float(seconds), 6)
                    for seconds in self.processor._calculate_timestamps([int(i) for i in m.frames_indices], m.fps, 2)
                ]
                for m in metadata
            ],
        )
        summary.update(values)
        file = f"{self.checkpoint}__{case}"
        if layout == "official":
            self.save(file, tensors, summary, 1 if case in ALL_LOGITS else 16)
        else:  # the vision tower does not see the layout
            tensors = {k: v for k, v in tensors.items() if not k.startswith(("vision", "deepstack"))}
            self.save(file + "__hf5nested", tensors, summary)

    def run_images(self, case):
        """A bag of images: frame 0 of one clip each, without time, in one user message."""
        sizes, budget = IMAGES[case]
        images = [video(1, h, w, i)[0] for i, (h, w) in enumerate(sizes)]
        text = self.prompt([{"type": "image"} for _ in sizes] + [{"type": "text", "text": QUESTION}])
        inputs = self.processor(text=[text], images=images, images_kwargs=budget, return_tensors="pt")
        tensors, values = self.evaluate(inputs)
        summary = self.head(case, "official", text, inputs["input_ids"])
        summary.update(source=[dict(H=h, W=w) for h, w in sizes], budget=budget)
        summary.update(values)
        self.save(f"{self.checkpoint}__{case}", tensors, summary, 16)

    def run_text(self):
        text = self.prompt([{"type": "text", "text": "Hello, 世界!"}])
        inputs = self.processor(text=[text], return_tensors="pt").to(self.device)
        ids = inputs["input_ids"][0]
        logits = self.logits(**inputs)[0, -1].float()
        tensors = {
            "input_ids": ids.to(torch.int32).cpu(),
            "last_logits": logits[::16].contiguous().cpu(),
            "greedy": self.greedy(**inputs)[len(ids) :].to(torch.int32).cpu(),
        }
        save_file(tensors, self.out / f"{self.checkpoint}__text.safetensors")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, help="folder that make_checkpoints.py wrote")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--only", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS), help="checkpoints")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    # f32 is f32 in convolutions too.
    torch.backends.cudnn.allow_tf32 = False
    for checkpoint in args.only:
        reference = Reference(checkpoint, args.checkpoints / checkpoint, args)
        first = checkpoint == "dense-tied"
        for case in VIDEOS:
            if first or case in SMALL_SET:
                reference.run_videos(case)
        if first:
            reference.run_videos("even", layout="hf5")
            for case in IMAGES:
                reference.run_images(case)
        reference.run_text()


if __name__ == "__main__":
    main()
