#!/usr/bin/env python3
"""Compares a checkpoint's answer here with transformers' on the same frames, token by token.

  compare_hf.py FOLDER [VIDEO] [--size 320x256] [--frames 8] [--windows 1] [--fps 2] [--prompt TEXT] [--tokens 64]
                [--device cpu|cuda] [--dtype f32|bf16] [--engine PROGRAM]

FOLDER is a checkpoint as Hugging Face lays it out. VIDEO is any file that PyAV opens, or raw RGB frames of
--size at --fps in a file that ends in .rgb; without it a synthetic clip is used. So many windows of so many
frames follow each other. The frames are scaled to --size (multiples of 32) once and given to both, greedy,
with the canonical prompt layout, on the same device. PROGRAM is the example `engine`; without it, build
that first:

  cargo build --release -p qwen3-vl-testing --example engine

Exit status 1 if the tokens of a window differ.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from clip import video

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
TRIPLE = "<|vision_start|><|video_pad|><|vision_end|>"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("video", nargs="?")
    parser.add_argument("--size", default="320x256")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--windows", type=int, default=1)
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--prompt", default="Describe this video.")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--engine", default=os.path.join(TARGET, "release", "examples", "engine"))
    return parser.parse_args()


def sample(path, count, fps):
    """The first frame at or after each k/fps, with its time since the first."""
    import av
    frames, times, start = [], [], None
    with av.open(path) as container:
        for frame in container.decode(video=0):
            start = frame.time if start is None else start
            if frame.time - start >= len(frames) / fps - 1e-9:
                frames.append(frame.to_ndarray(format="rgb24"))
                times.append(round((frame.time - start) * 1000) / 1000)
            if len(frames) == count:
                break
    return frames, times


def windows(a):
    """Frames of each window, and their times since the first of it."""
    width, height = (int(v) for v in a.size.split("x"))
    count = a.frames * a.windows
    times = [i / a.fps for i in range(count)]
    if not a.video:
        frames = video(count, height, width)
    elif a.video.endswith(".rgb"):
        frames = np.fromfile(a.video, np.uint8).reshape(-1, height, width, 3)
    else:
        frames, times = sample(a.video, count, a.fps)
        frames = [np.asarray(Image.fromarray(f).resize((width, height), Image.BICUBIC)) for f in frames]
    for first in range(0, count, a.frames):
        of_window = frames[first:first + a.frames]
        if not len(of_window):
            sys.exit(f"the video has {len(frames)} frames of {count}")
        since = [t - times[first] for t in times[first:first + len(of_window)]]
        yield np.ascontiguousarray(np.stack(of_window)), since


def load_hf(a):
    model = Qwen3VLForConditionalGeneration.from_pretrained(a.folder, dtype=DTYPES[a.dtype]).eval().to(a.device)
    return model, AutoProcessor.from_pretrained(a.folder)


def ask_hf(a, model, processor, frames, times):
    head, tail = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    message = dict(role="user", content=[dict(type="text", text=a.prompt)])
    if processor.apply_chat_template([message], add_generation_prompt=True).endswith("<think>\n"):
        tail += "<think>\n"
    # Times in milliseconds as frame indices at 1000 fps; the sizes are final, so nothing is resized.
    metadata = dict(fps=1000.0, frames_indices=[round(t * 1000) for t in times],
                    total_num_frames=round(times[-1] * 1000) + 1)
    t, h, w = len(frames) + len(frames) % 2, *frames[0].shape[:2]
    inputs = processor(
        text=[head + "<|video_pad|>" + a.prompt + tail], videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        video_metadata=[metadata], do_sample_frames=False, cap_pixels_per_frame=False,
        size=dict(shortest_edge=32 * 32 * 2, longest_edge=t * h * w), return_tensors="pt").to(a.device)
    with torch.no_grad():
        out = model.generate(**inputs, do_sample=False, max_new_tokens=a.tokens)
    tokens = out[0, inputs["input_ids"].shape[1]:].tolist()
    stop = model.generation_config.eos_token_id
    stop = stop if isinstance(stop, list) else [stop]
    tokens = tokens[:-1] if tokens and tokens[-1] in stop else tokens
    text = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    return tokens, text, inputs["input_ids"].shape[1], inputs["video_grid_thw"][0].tolist()


def ask_here(a, frames, times):
    with tempfile.NamedTemporaryFile(suffix=".rgb") as file:
        file.write(frames.tobytes())
        file.flush()
        # On the CPU arithmetic is in f32 whatever the weights are stored in.
        dtype = "auto" if a.device == "cpu" else a.dtype
        command = [a.engine, "describe", a.folder, file.name, "--size", a.size, "--seconds", ",".join(map(str, times)),
                   "--prompt", a.prompt, "--tokens", str(a.tokens), "--device", a.device, "--dtype", dtype]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(a, model, processor, frames, times):
    """Prints both answers; how many tokens there are, none if they differ."""
    here = ask_here(a, frames, times)
    tokens, text, prompt_tokens, grid = ask_hf(a, model, processor, frames, times)
    print("frames      ", len(frames), f"of {a.size}", "at", times)
    print("prompt      ", here["prompt_tokens"], "tokens here,", prompt_tokens, "in transformers; grid",
          here["grid"], grid)
    if here["reasoning"] is not None:
        print("thought here", here["reasoning"])
    print("here        ", here["text"])
    print("transformers", text)
    if tokens == here["tokens"]:
        return len(tokens)
    first = next((i for i, (x, y) in enumerate(zip(tokens, here["tokens"])) if x != y),
                 min(len(tokens), len(here["tokens"])))
    print(f"DIFFERENT from token {first} on")
    return None


def main():
    a = arguments()
    model, processor = load_hf(a)
    lengths = [compare(a, model, processor, frames, times) for frames, times in windows(a)]
    same = [length for length in lengths if length is not None]
    print(f"the same {sum(same)} tokens in {len(same)} of {len(lengths)} windows")
    sys.exit(len(same) < len(lengths))


if __name__ == "__main__":
    main()
