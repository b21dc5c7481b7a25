#!/usr/bin/env python3
"""Measures the demo model on unseen clips: accuracy per question, and what it loses without motion or time.

  python3 eval.py --model model --clips 192            # accuracy table and controls
  python3 eval.py --model model --heldout heldout      # whole Hugging Face pipeline on files
  python3 eval.py --write-heldout heldout              # (re)writes those files

The table counts exact greedy answers: a forced pass in which every answer token
is the arg-max is the same thing as greedy decoding giving that answer.
Controls, all on the same clips and the same questions:
  native      true frames, true timestamps
  zero time   every timestamp is 0.0
  shuffled    true timestamps, frames in random order
  still       the middle frame repeated, true timestamps
  images      each frame as an image of its own, no timestamps (bag of images)
  reversed    frames played backwards; the truth for "direction" is flipped
  flip fps    the same pixels declared at 1/4 or 4x the rate; the truth for "speed" is flipped
"""
import argparse
import dataclasses
import json
import os

import numpy as np
import torch

from heldout import HELDOUT_SEED, heldout_clips
from traffic_scene import (QUESTIONS, Options, answer, inventory, make_clip, parse_description, read_y4m,
                           write_y4m)
from train_demo_model import Net, Text, assemble, stamps

OPPOSITE = dict(left="right", right="left", up="down", down="up", none="none")


def load(path):
    from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
    tok = AutoTokenizer.from_pretrained(path)
    model = Qwen3VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    return model, tok


@torch.no_grad()
def run(net, text, clips, size, kinds, truths=None, times=None, images=False):
    """[clip][kind] -> bool, exact answer."""
    truths = truths or [c.truth for c in clips]
    br = [[(k, QUESTIONS[k][0], answer(k, t)) for k in kinds] for t in truths]
    res = []
    for s in range(0, len(clips), 16):
        b = assemble(text, clips[s:s + 16], br[s:s + 16], size, aux=False, images=images,
                     times=times[s:s + 16] if times else None)
        hit = net(b)["hit"]
        key = b["src"][0] * 16 + b["branch"]
        for i in range(len(clips[s:s + 16])):
            res.append({k: bool(hit[key == i * 16 + j].all()) for j, k in enumerate(kinds)})
    return res


def with_frames(c, idx):
    return dataclasses.replace(c, frames=np.ascontiguousarray(c.frames[idx]))


def table(net, text, n, size, frames, max_count):
    kinds = list(QUESTIONS)
    clips = []
    for i in range(n):
        fps = [f for f in (1, 2, 4) if (frames - 1) / f <= 4.0]
        clips.append(make_clip(HELDOUT_SEED + i, Options(width=size[0], height=size[1], frames=frames,
                                                         fps=fps[i % len(fps)], max_count=max_count)))
    mean = lambda res, k, sel=None: float(np.mean([r[k] for i, r in enumerate(res) if sel is None or sel[i]]) * 100)
    moving = [c.truth["speed"] in ("slow", "fast") for c in clips]
    out = {}
    nat = run(net, text, clips, size, kinds)
    out["native"] = {k: mean(nat, k) for k in kinds}
    out["native"]["direction (moving)"] = mean(nat, "direction", moving)
    out["native"]["speed (moving)"] = mean(nat, "speed", moving)
    for c in range(max_count + 1):
        sel = [x.truth["vehicles"] == c for x in clips]
        if any(sel):
            out["native"][f"count={c}"] = mean(nat, "count", sel)
    rng = np.random.default_rng(1)
    perms = []
    for c in clips:
        p = np.arange(frames)
        while (p == np.arange(frames)).all():
            p = rng.permutation(frames)
        perms.append(p)
    variants = {
        "zero time": dict(clips=clips, times=[[0.0] * (frames // 2)] * n),
        "shuffled": dict(clips=[with_frames(c, p) for c, p in zip(clips, perms)]),
        "still": dict(clips=[with_frames(c, [frames // 2] * frames) for c in clips]),
        "images": dict(clips=clips, images=True),
    }
    for name, v in variants.items():
        r = run(net, text, v["clips"], size, ["speed", "direction", "count"], times=v.get("times"),
                images=v.get("images", False))
        out[name] = {"speed (moving)": mean(r, "speed", moving), "direction (moving)": mean(r, "direction", moving),
                     "count": mean(r, "count"), "speed": mean(r, "speed"), "direction": mean(r, "direction")}
    mv = [c for c, m in zip(clips, moving) if m]
    tr = [dict(c.truth, direction=OPPOSITE[c.truth["direction"]]) for c in mv]
    r = run(net, text, [with_frames(c, np.arange(frames)[::-1]) for c in mv], size, ["direction", "speed"], tr)
    out["reversed (truth flipped)"] = {"direction (moving)": mean(r, "direction"), "speed (moving)": mean(r, "speed")}
    return out


def flip_fps(net, text, n, size):
    """Same pixels, two declared rates: fast at 4 fps is slow at 1 fps and the other way round."""
    clips, times, truths = [], [], []
    for i in range(n):
        fast = i % 2 == 0
        o = Options(width=size[0], height=size[1], frames=4, fps=4 if fast else 1, speed="fast" if fast else "slow",
                    max_count=3, p_one_stopped=0)
        c = make_clip(HELDOUT_SEED + 10_000_000 + i, o)
        clips.append(c)
        times.append(stamps(4, 1 if fast else 4))
        truths.append(dict(c.truth, speed="slow" if fast else "fast"))
    a = run(net, text, clips, size, ["speed"])
    b = run(net, text, clips, size, ["speed"], truths, times)
    return dict(true_rate=float(np.mean([x["speed"] for x in a]) * 100),
                flipped_rate=float(np.mean([x["speed"] for x in b]) * 100),
                both=float(np.mean([x["speed"] and y["speed"] for x, y in zip(a, b)]) * 100))


def write_heldout(path):
    """Small .y4m clips with their truths."""
    os.makedirs(path, exist_ok=True)
    rows = []
    for i, c in enumerate(heldout_clips()):
        name = f"clip{i:02d}.y4m"
        write_y4m(os.path.join(path, name), c.frames, c.fps)
        rows.append(dict(file=name, width=c.frames.shape[2], height=c.frames.shape[1], **c.truth,
                         describe=answer("describe", c.truth), json=answer("json", c.truth)))
    with open(os.path.join(path, "truth.json"), "w") as f:
        json.dump(rows, f, indent=1)


def hf_answer(model, proc, frames, fps, question, max_new_tokens=64, keep_outer=False, indices=None):
    """The stock pipeline: chat template, processor with video metadata, generate.

    Frame i is shown at indices[i] / fps seconds; without indices, at i / fps."""
    indices = list(range(len(frames))) if indices is None else indices
    msg = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
    prompt = proc.apply_chat_template(msg, tokenize=False, add_generation_prompt=True)
    # transformers 4.57 replaces the template's <|vision_start|><|video_pad|><|vision_end|> as a whole; 5.x replaces
    # only the pad token and so leaves an outer pair. A bare pad token gives the same, canonical text with both.
    if not keep_outer:
        prompt = prompt.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
    meta = dict(fps=fps, frames_indices=indices, total_num_frames=indices[-1] + 1,
                height=frames.shape[1], width=frames.shape[2], duration=(indices[-1] + 1) / fps)
    x = proc(text=[prompt], videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)], video_metadata=[meta],
             do_sample_frames=False, return_tensors="pt")
    with torch.no_grad():
        y = model.generate(**x, do_sample=False, max_new_tokens=max_new_tokens)
    return proc.batch_decode(y[:, x["input_ids"].shape[1]:], skip_special_tokens=True)[0], x


def heldout(path, model_path):
    import time
    from transformers import AutoProcessor
    model, _ = load(model_path)
    proc = AutoProcessor.from_pretrained(model_path)
    rows = json.load(open(os.path.join(path, "truth.json")))
    good = dict(vehicles=0, direction=0, speed=0, stopped=0, inventory=0, json=0)
    took = []
    for r in rows:
        frames, fps = read_y4m(os.path.join(path, r["file"]))
        t = time.time()
        d, x = hf_answer(model, proc, frames, fps, "Describe the traffic.")
        took.append(time.time() - t)
        j, _ = hf_answer(model, proc, frames, fps, "Answer in JSON.")
        said = parse_description(d)
        want = dict(r, inventory=inventory(r))
        ok = {k: said[k] == want[k] for k in ("vehicles", "direction", "speed", "stopped", "inventory")}
        ok["json"] = j == r["json"]
        for k, v in ok.items():
            good[k] += v
        r["model"], r["model_json"], r["correct"] = d, j, ok
        print(("ok   " if all(ok.values()) else "WRONG"), r["file"], f"{r['fps']} fps", "|", d, "| truth:", r["describe"],
              "" if all(ok.values()) else [k for k, v in ok.items() if not v])
    print("correct of", len(rows), good, f"describe takes {np.median(took):.3f} s (median)")
    with open(os.path.join(path, "result.json"), "w") as f:
        json.dump(dict(correct=good, of=len(rows), clips=rows), f, indent=1)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default="model")
    ap.add_argument("--clips", type=int, default=192)
    ap.add_argument("--size", default="128x96")
    ap.add_argument("--frames", type=int, default=4)
    ap.add_argument("--max-count", type=int, default=4)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--heldout")
    ap.add_argument("--write-heldout")
    ap.add_argument("--json", help="write the numbers here")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    if a.write_heldout:
        write_heldout(a.write_heldout)
        return
    if a.heldout:
        heldout(a.heldout, a.model)
        return
    size = tuple(int(v) for v in a.size.split("x"))
    model, tok = load(a.model)
    net, text = Net(model).eval(), Text(tok)
    out = table(net, text, a.clips, size, a.frames, a.max_count)
    out["flip fps"] = flip_fps(net, text, a.clips // 2, size)
    for k, v in out.items():
        print(f"{k:26s}", "  ".join(f"{n} {x:.1f}" for n, x in v.items()))
    if a.json:
        json.dump(dict(size=a.size, frames=a.frames, clips=a.clips, result=out), open(a.json, "w"), indent=1)


if __name__ == "__main__":
    main()
