#!/usr/bin/env python3
"""Times transformers on the input of `engine bench` (an example of crates/qwen3-vl); prints one JSON object.

  bench_hf.py FOLDER [--dtype f32] [--tokens 32] [--frames 8,32] [--size 320x256] [--windows 2] [--threads 2]
              [--batches 1,8] [--device cpu|cuda] [--static]

FOLDER is a checkpoint with its tokenizer, for instance what `engine write-random` writes. --static: also `generate` with a static
cache, whose decode steps transformers compiles, behind the last of the windows. --batches: also how fast so many windows of two
frames decode together.
"""
import argparse
import json
import resource
import time

import torch
import transformers
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration, Qwen3VLVideoProcessor

from clip import video

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--frames", default="8", help="numbers of frames, for each of which there are so many windows")
    parser.add_argument("--size", default="320x256")
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", default="")
    parser.add_argument("--static", action="store_true")
    return parser.parse_args()


def prompt_ids(tokenizer, grid, config):
    """The canonical layout at 2 fps, as the Rust example lays it out."""
    t, h, w = grid
    per_pair = h * w // 4
    text = "<|im_start|>user\n"
    for pair in range(t):
        seconds = (2 * pair * 0.5 + (2 * pair + 1) * 0.5) / 2
        text += f"<{seconds:.1f} seconds><|vision_start|>" + "<|video_pad|>" * per_pair + "<|vision_end|>"
    text += "Describe the video.<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    return ids, (ids == config.video_token_id).int() * 2


def clock(device):
    """Seconds, once the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock:
    """A streamer that notes when tokens come."""

    def __init__(self):
        self.times = []

    def put(self, _):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def encoded(a, frames, tokenizer, config):
    """Inputs of a window of so many frames."""
    width, height = (int(v) for v in a.size.split("x"))
    clip = torch.from_numpy(video(frames, height, width)).permute(0, 3, 1, 2)
    processor = Qwen3VLVideoProcessor.from_pretrained(a.folder)
    pixels = processor(videos=[clip], do_sample_frames=False, cap_pixels_per_frame=False, return_tensors="pt")
    grid = pixels["video_grid_thw"]
    ids, types = prompt_ids(tokenizer, grid[0].tolist(), config)
    inputs = dict(input_ids=ids, mm_token_type_ids=types, attention_mask=torch.ones_like(ids), video_grid_thw=grid)
    inputs = {name: value.to(a.device) for name, value in inputs.items()}
    return dict(inputs, pixel_values_videos=pixels["pixel_values_videos"].to(a.device, DTYPES[a.dtype]))


def timed(model, inputs, a):
    """One window: vision, then vision and prefill, then decode."""
    window = {"prompt_tokens": inputs["input_ids"].shape[1]}
    start = clock(a.device)
    model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True)
    window["vision_s"] = clock(a.device) - start
    start = clock(a.device)
    out = model(**inputs, use_cache=True, logits_to_keep=1)
    window["vision_and_prefill_s"] = clock(a.device) - start
    window["decode_tokens_per_s"] = decode(model, out, a)
    return {k: round(v, 4) for k, v in window.items()}


def decode(model, out, a):
    """Tokens a second behind what a prompt, or several, gave."""
    token, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
    start = clock(a.device)
    for _ in range(a.tokens):
        out = model(input_ids=token, past_key_values=cache, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
    return a.tokens * len(token) / (clock(a.device) - start)


def batched(model, inputs, count, a):
    """The same window so many times."""
    many = {name: value.repeat(count, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
    out = model(**many, use_cache=True, logits_to_keep=1)
    return {"windows": count, "tokens_per_s": round(decode(model, out, a), 1)}


def compiled(model, inputs, tokens):
    """Tokens a second behind the first one, with a static cache and torch.compile."""
    # The first times compile and record.
    for _ in range(3):
        clock = Clock()
        model.generate(**inputs, do_sample=False, min_new_tokens=tokens + 1, max_new_tokens=tokens + 1,
                       cache_implementation="static", streamer=clock)
    # The prompt comes first, then the tokens.
    _, first, *rest = clock.times
    return len(rest) / (rest[-1] - first)


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    result = {"transformers": transformers.__version__, "torch": torch.__version__, "dtype": a.dtype}

    start = time.perf_counter()
    model = Qwen3VLForConditionalGeneration.from_pretrained(a.folder, dtype=DTYPES[a.dtype]).eval().to(a.device)
    result["load_s"] = time.perf_counter() - start
    tokenizer = AutoTokenizer.from_pretrained(a.folder)

    windows = []
    with torch.no_grad():
        for frames in (int(n) for n in a.frames.split(",")):
            inputs = encoded(a, frames, tokenizer, model.config)
            windows += [{"frames": frames, **timed(model, inputs, a)} for _ in range(a.windows)]
        small = encoded(a, 2, tokenizer, model.config) if a.batches else None
        result["batch"] = [batched(model, small, int(n), a) for n in a.batches.split(",") if n]
        if a.static:
            try:
                result["static_decode_tokens_per_s"] = compiled(model, inputs, a.tokens)
            except Exception as e:  # it does not work everywhere, and says so in many ways
                result["static_failed"] = f"{type(e).__name__}: {e}"[:300]
    result["windows"] = windows
    result["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}))


if __name__ == "__main__":
    main()
