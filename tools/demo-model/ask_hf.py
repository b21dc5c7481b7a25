#!/usr/bin/env python3
"""Adds to film.json and clips.json what Hugging Face's pipeline answers on the encoded files.

  python3 ask_hf.py --model ../../models/demo --media ../../media

Frames are decoded from the files and sampled as the element does: of every window the first frame at or after each
multiple of 1/fps. The element must answer as well as this. Adds to every row:
  hf             "Describe the traffic."
  hf_json        "Answer in JSON."
and to clips that are slow at 1 or fast at 4 frames a second:
  hf_speed       "Is traffic moving fast or slow?" at the clip's own rate
  flipped_fps    another rate, at which the same pixels are the opposite
  hf_flipped     the same question with the file declared at that rate
"""
import argparse
import json
import os

import av
import numpy as np
import torch

from eval import hf_answer, load
from render import FILM_FPS, save

WINDOW_FPS = 2
DESCRIBE, JSON, SPEED = "Describe the traffic.", "Answer in JSON.", "Is traffic moving fast or slow?"


def decode(path):
    """RGB frames of a file; its colours are converted as its header says."""
    with av.open(path) as box:
        return np.stack([f.to_ndarray(format="rgb24") for f in box.decode(video=0)])


def sample(count, source_fps, fps):
    """Indices, of `count` frames, of the first ones at or after 0, 1/fps, 2/fps, …"""
    return [-(-k * source_fps // fps) for k in range(count * fps // source_fps)]


def ask_film(media, ask):
    path = os.path.join(media, "film.json")
    rows, frames = json.load(open(path)), decode(os.path.join(media, "film.mp4"))
    for r in rows:
        scene = frames[r["start"] * FILM_FPS:r["end"] * FILM_FPS]
        idx = sample(len(scene), FILM_FPS, WINDOW_FPS)
        r["hf"] = ask(scene[idx], FILM_FPS, DESCRIBE, indices=idx)
        r["hf_json"] = ask(scene[idx], FILM_FPS, JSON, indices=idx)
    save(path, rows)
    return rows


def ask_clips(media, ask):
    path = os.path.join(media, "clips.json")
    rows = json.load(open(path))
    for r in rows:
        frames, fps = decode(os.path.join(media, r["file"])), r["fps"]
        r["hf"], r["hf_json"] = ask(frames, fps, DESCRIBE), ask(frames, fps, JSON)
        other = {("slow", 1): 4, ("fast", 4): 1}.get((r["speed"], fps))
        if other:
            r["hf_speed"] = ask(frames, fps, SPEED)
            r["flipped_fps"], r["hf_flipped"] = other, ask(frames, other, SPEED)
    save(path, rows)
    return rows


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default="../../models/demo")
    ap.add_argument("--media", default="../../media")
    a = ap.parse_args()
    from transformers import AutoProcessor
    model, _ = load(a.model)
    proc = AutoProcessor.from_pretrained(a.model)
    torch.set_num_threads(2)

    def ask(frames, fps, question, indices=None):
        return hf_answer(model, proc, frames, fps, question, indices=indices)[0]

    for rows in (ask_film(a.media, ask), ask_clips(a.media, ask)):
        for r in rows:
            print("ok   " if r["hf"] == r["describe"] else "WRONG", r.get("file", r.get("start")), "|", r["hf"],
                  "" if r["hf"] == r["describe"] else "| truth: " + r["describe"])
            if "flipped_fps" in r:
                print("      at", r["fps"], "fps:", r["hf_speed"], "| at", r["flipped_fps"], "fps:", r["hf_flipped"])


if __name__ == "__main__":
    main()
