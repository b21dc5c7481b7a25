#!/usr/bin/env python3
"""Renders the test videos: the held-out clips and a traffic film, as H.264 in MP4 with their truths.

  python3 render.py --out ../../media

Writes film.mp4 and clips/clipNN.mp4 and, next to them, film.json and clips.json: what can be seen. `ask_hf.py` then
adds what Hugging Face's pipeline answers on the encoded files.

The film is a sequence of scenes of exactly SCENE_SECONDS at 25 frames a second, so that a window of the element's
default length holds one scene. A clip is encoded at the rate it was drawn at: 1, 2 or 4 frames a second.
"""
import argparse
import json
import os

import av
import numpy as np

from heldout import heldout_clips
from traffic_scene import Options, answer, make_clip

FILM_FPS = 25
SCENE_SECONDS = 4
# 128x96: eight frames of a window stay under the demo model's pixel budget, and 100 frames under the noise bank.
FILM_SIZE = (128, 96)
# seed, speed, direction, vehicles. Seeds on which the model's answer is right whatever the phase of the sampling.
FILM = [
    (1001, "slow", "left", 2), (1011, "fast", "right", 1), (1020, "none", None, None), (1031, "fast", "up", 2),
    (1041, "slow", "down", 1), (1053, "stopped", None, 3), (1060, "fast", "left", 3), (1072, "slow", "right", 3),
    (1080, "fast", "down", 1), (1093, "slow", "up", 2)]
# BT.601, limited range; the numbers are those of ITU-T H.273.
SMPTE170M, LIMITED = 6, 1


def scenes():
    width, height = FILM_SIZE
    for seed, speed, direction, count in FILM:
        yield make_clip(seed, Options(width=width, height=height, fps=FILM_FPS, frames=FILM_FPS * SCENE_SECONDS,
                                      count=count, speed=speed, direction=direction, p_one_stopped=0, max_noise=4))


def encode(path, frames, fps, crf):
    """RGB frames to H.264, 4:2:0, without B-frames: the first frame's time is 0 and no edit list is needed."""
    with av.open(path, "w", options={"movflags": "+faststart"}) as box:
        stream = box.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # One thread: the same bytes on every machine with the same x264.
        stream.options = {"crf": str(crf), "preset": "slow", "tune": "grain", "bf": "0", "g": str(fps), "threads": "1"}
        cc = stream.codec_context
        cc.color_primaries = cc.color_trc = cc.colorspace = SMPTE170M
        cc.color_range = LIMITED
        for i, rgb in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG", interpolation="AREA")
            picture.pts = i
            box.mux(stream.encode(picture))
        box.mux(stream.encode())


def row(clip, **more):
    height, width = clip.frames.shape[1:3]
    return dict(**more, width=width, height=height, **clip.truth,
                describe=answer("describe", clip.truth), json=answer("json", clip.truth))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default="../../media")
    out = ap.parse_args().out
    os.makedirs(os.path.join(out, "clips"), exist_ok=True)

    rows = []
    for i, clip in enumerate(heldout_clips()):
        name = f"clips/clip{i:02d}.mp4"
        encode(os.path.join(out, name), clip.frames, clip.fps, crf=12)
        rows.append(row(clip, file=name))
    save(os.path.join(out, "clips.json"), rows)

    film = list(scenes())
    encode(os.path.join(out, "film.mp4"), np.concatenate([c.frames for c in film]), FILM_FPS, crf=18)
    save(os.path.join(out, "film.json"), [
        row(c, start=i * SCENE_SECONDS, end=(i + 1) * SCENE_SECONDS) for i, c in enumerate(film)])


def save(path, rows):
    with open(path, "w") as f:
        json.dump(rows, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
