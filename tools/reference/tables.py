#!/usr/bin/env python3
"""Tables of the pure rules on random inputs, computed by the packages that define them.

Each JSON file is {"columns": […], "rows": [[…], …]}; where the reference raises, the row ends in
the kind of error instead of a result. Resized pictures and M-RoPE positions are safetensors.
The same seed gives the same files.
"""

import argparse
import json
import os
import random
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize as resize_v1
from torchvision.transforms.v2.functional import resize

os.environ["FORCE_QWENVL_VIDEO_READER"] = "torchvision"  # replaced below: no file is read
from qwen_vl_utils import vision_process as qwen  # noqa: E402
from transformers import AutoConfig  # noqa: E402
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as image_smart_resize  # noqa: E402
from transformers.models.qwen3_vl import video_processing_qwen3_vl as hf  # noqa: E402
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel  # noqa: E402
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor  # noqa: E402
from transformers.video_utils import VideoMetadata  # noqa: E402

from clip import video  # noqa: E402
from hash_fill import GOLDEN  # noqa: E402

FACTOR = 32
TEMPORAL = 2


def error_kind(error):
    """A short name for what the reference raised."""
    text = str(error)
    if "aspect ratio" in text:
        return "ratio"
    if "temporal_factor" in text:
        return "frames"
    if isinstance(error, ZeroDivisionError):
        return "empty"
    if isinstance(error, AssertionError):
        return "min>max"
    if "nframes should in interval" in text:
        return "short"
    raise error


def table(out, name, columns, inputs, rule):
    """Writes inputs and what `rule` makes of each: one row a line, so that changes can be read."""
    rows, errors = [], 0
    for row in inputs:
        try:
            result = rule(*row)
        except (ValueError, AssertionError, ZeroDivisionError) as error:
            result = [error_kind(error)]
            errors += 1
        rows.append([*row, *result])
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    head = json.dumps(columns, separators=(",", ":"))
    (out / f"{name}.json").write_text(f'{{"columns":{head},"rows":[\n{lines}\n]}}\n')
    print(f"{name}: {len(rows)} rows, {errors} of them errors")


# Sizes


def random_side(rng):
    kind = rng.random()
    if kind < 0.35:  # halves of blocks: where rounding differs
        return 16 * rng.randint(1, 200)
    if kind < 0.38:
        return rng.choice([0, 1, 2, 15, 16, 17, 31, 32, 33])
    return int(2 ** rng.uniform(0, 13))


def random_size(rng):
    common = [(720, 1280), (1080, 1920), (480, 640), (576, 720), (2160, 3840), (1, 1), (1, 20000), (400, 80000)]
    return rng.choice(common) if rng.random() < 0.05 else (random_side(rng), random_side(rng))


def random_budget(rng, official):
    """Least and most pixels: the checkpoints' own, or anything, now and then the wrong way round."""
    if rng.random() < 0.4:
        return official
    least = int(2 ** rng.uniform(0, 22))
    if rng.random() < 0.05:
        return least, max(1, int(least * rng.uniform(0.1, 1)))
    return least, int(least * 2 ** rng.uniform(0, 8))


def hf_video_rows(rng, count):
    for _ in range(count):
        frames = 1 if rng.random() < 0.02 else rng.choice([2, 3, 4, 5, 7, 8, 9, rng.randint(2, 768)])
        yield (frames, *random_size(rng), *random_budget(rng, (4096, 25165824)), int(rng.random() < 0.4))


def hf_video(frames, height, width, least, most, cap):
    """Through `Qwen3VLVideoProcessor.resize`, which applies the cap, up to the actual resize."""
    processor = hf.Qwen3VLVideoProcessor.__new__(hf.Qwen3VLVideoProcessor)  # its class attributes do
    return list(
        processor.resize(
            types.SimpleNamespace(shape=(1, frames, 3, height, width)),
            hf.SizeDict(shortest_edge=least, longest_edge=most),
            resample=None,
            factor=FACTOR,
            temporal_factor=TEMPORAL,
            cap_pixels_per_frame=bool(cap),
        )
    )


def hf_image_rows(rng, count):
    for _ in range(count):
        yield (*random_size(rng), *random_budget(rng, (65536, 16777216)))


def hf_image(height, width, least, most):
    return image_smart_resize(height, width, FACTOR, least, most)


def qwen_vl_utils_rows(rng, count):
    token = FACTOR * FACTOR
    for _ in range(count):
        frames = 2 * rng.choice([1, 2, 3, 4, rng.randint(1, 384)])
        least, most = random_budget(rng, (128 * token, 768 * token))
        total = 115200 * token if rng.random() < 0.6 else int(2 ** rng.uniform(12, 27))
        yield (frames, *random_size(rng), least, most, total)


def qwen_vl_utils(frames, height, width, least, most, total):
    """Through `fetch_video`, up to the actual resize."""
    clip = torch.empty(frames, 3, height, width, device="meta")
    qwen.VIDEO_READER_BACKENDS["torchvision"] = lambda _: (clip, {}, 2.0)
    ele = dict(video="none", min_pixels=least, max_pixels=most, total_pixels=total)
    return qwen.fetch_video(ele, image_patch_size=FACTOR // 2).tolist()


def size_only():
    """Replaces the resizes that the packages end in by ones that give the size they were asked for."""
    hf.BaseVideoProcessor.resize = lambda self, image, size, resample: (size.height, size.width)
    qwen.transforms = types.SimpleNamespace(
        functional=types.SimpleNamespace(
            resize=lambda _, size, interpolation, antialias: types.SimpleNamespace(
                float=lambda: np.array(size)
            )
        )
    )
    qwen.logger.disabled = True


def extreme_rows():
    """Shapes that cameras and crops can have and rules go wrong with, each with every rule: the rule,
    frames, height, width, least, most and, by rule, the cap or the most of all frames."""
    token = FACTOR * FACTOR
    shapes = [
        (16, 4096), (8, 4000), (300, 1920), (1920, 300), (639, 31), (31, 639), (30, 305), (23, 237), (1, 1),
        (1, 200), (1, 201), (200, 1), (32, 6400), (32, 6401), (31, 6201), (6400, 32), (65535, 65535),
        (1, 65535), (15, 15), (16, 16), (17, 17), (47, 48), (2, 399), (2160, 3840), (65535, 400),
    ]  # fmt: skip
    ranges = [(1, 1), (1, token), (1, 20 * token), (4 * token, 5 * token), (128 * token, 768 * token)]
    ranges += [(4096, 25165824), (65536, 16777216), (2**24, 2**24), (1, 2**62)]
    for height, width in shapes:
        for least, most in ranges:
            yield "image", 1, height, width, least, most, 0
            for frames in (2, 3, 768):
                yield "video", frames, height, width, least, most, 0
                yield "video", frames, height, width, least, most, 1
            for frames, total in ((2, 115200 * token), (8, 1), (768, 115200 * token), (768, 2**62)):
                yield "qwen_vl_utils", frames, height, width, least, most, total


def extreme(rule, frames, height, width, least, most, other):
    match rule:
        case "image":
            return hf_image(height, width, least, most)
        case "video":
            return hf_video(frames, height, width, least, most, other)
    return qwen_vl_utils(frames, height, width, least, most, other)


# Frames and times


def sampling_rows(rng, count):
    rates = [23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 59.94, 60.0]
    for i in range(count):
        total = rng.randint(1, 40) if rng.random() < 0.3 else int(2 ** rng.uniform(1, 12))
        source = rng.choice(rates) if rng.random() < 0.7 else round(rng.uniform(0.5, 120), 3)
        wanted = 2.0 if rng.random() < 0.6 else rng.choice([0.5, 1.0, 3.0, 4.0, round(rng.uniform(0.1, 12), 2)])
        least, most = (4, 768) if rng.random() < 0.6 else (rng.randint(2, 12), rng.randint(2, 64))
        if i % 100 == 0:  # long lists of indices now and then: they take room
            total, most = rng.randint(20000, 200000), 768
        elif most == 768 and total / source * wanted > 80:
            most = 80
        yield total, source, wanted, least, most


def hf_indices(total, source, wanted, least, most):
    processor = types.SimpleNamespace(fps=2, min_frames=least, max_frames=most)
    metadata = VideoMetadata(total_num_frames=total, fps=source)
    sample = hf.Qwen3VLVideoProcessor.sample_frames
    return [sample(processor, metadata, fps=wanted).tolist()]


def qwen_vl_utils_indices(total, source, wanted, least, most):
    count = qwen.smart_nframes(dict(fps=wanted, min_frames=least, max_frames=most), total, source)
    return [torch.linspace(0, total - 1, count).round().long().tolist()]


def timestamp_rows(rng, count):
    for _ in range(count):
        fps = rng.choice([2.0, 4.0, 8.0, 10.0, 24.0, 25.0, 29.97, 30.0, 1000.0, round(rng.uniform(0.5, 60), 3)])
        first = rng.randint(0, int(fps * 2 ** rng.uniform(0, 14)))
        yield first, first + rng.choice([0, 1, 2, rng.randint(0, int(fps) + 1)]), fps


def timestamp(first, second, fps):
    """As `Qwen3VLProcessor.replace_video_token` writes it."""
    [seconds] = Qwen3VLProcessor._calculate_timestamps(None, [first, second], fps, TEMPORAL)
    return [f"<{seconds:.1f} seconds>"]


# Positions


def random_prompt(rng):
    """Segments: ("text", tokens), ("image", rows, columns) or ("video", pairs, rows, columns, gap), in
    tokens; `gap` text tokens stand between the temporal patches of a video."""
    segments = [("text", rng.randint(1, 12))]
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        rows, columns = rng.randint(1, 6), rng.randint(1, 6)
        if rng.random() < 0.4:
            segments.append(("image", rows, columns))
        else:
            segments.append(("video", rng.randint(1, 5), rows, columns, rng.randint(1, 9)))
        segments.append(("text", rng.randint(1, 12)))
    return segments


def mrope(out, rng, count):
    """Positions by `get_rope_index`. Each segment of the file is [kind, rows, columns]: kind 0 is text of
    `columns` tokens, 1 an image, 2 one temporal patch of a video."""
    with torch.device("meta"):
        config = AutoConfig.for_model("qwen3_vl")
        config.text_config.num_hidden_layers = config.vision_config.depth = 1
        config.vision_config.deepstack_visual_indexes = [0]
        model = Qwen3VLModel(config)
    segments, segment_counts, positions, deltas = [], [], [], []
    for _ in range(count):
        mine, kinds, images, videos = [], [], [], []

        def text(tokens):
            mine.append((0, 1, tokens))
            kinds.extend([0] * tokens)

        def vision(kind, rows, columns):
            mine.append((kind, rows, columns))
            kinds.extend([kind] * (rows * columns))

        for segment in random_prompt(rng):
            match segment:
                case ("text", tokens):
                    text(tokens)
                case ("image", rows, columns):
                    vision(1, rows, columns)
                    images.append((1, 2 * rows, 2 * columns))
                case ("video", pairs, rows, columns, gap):
                    for pair in range(pairs):
                        if pair > 0:
                            text(gap)
                        vision(2, rows, columns)
                    videos.append((pairs, 2 * rows, 2 * columns))
        kinds = torch.tensor([kinds])
        found, delta = model.get_rope_index(
            torch.zeros_like(kinds),
            kinds,
            image_grid_thw=torch.tensor(images) if images else None,
            video_grid_thw=torch.tensor(videos) if videos else None,
        )
        segments.extend(mine)
        segment_counts.append(len(mine))
        positions.append(found[:, 0].T.numpy())  # one row (t, h, w) per token
        deltas.append(int(delta))
    save_file(
        {
            "segments": np.array(segments, dtype=np.uint8),
            "segment_counts": np.array(segment_counts, dtype=np.uint8),
            # safetensors writes memory as it lies: the order must be made.
            "positions": np.ascontiguousarray(np.concatenate(positions), dtype=np.uint8),
            "deltas": np.array(deltas, dtype=np.int32),
        },
        out / "mrope.safetensors",
    )
    assert max(p.max() for p in positions) < 256
    print(f"mrope: {count} prompts, {sum(map(len, positions))} tokens")


# Pictures

RESIZES = [
    # source height, width, target height, width, stride of the stored sample
    (70, 100, 64, 96, 1),
    (24, 40, 64, 96, 1),
    (64, 64, 96, 64, 3),
    (64, 64, 64, 96, 3),
    (97, 61, 32, 32, 1),
    (33, 200, 64, 32, 1),
    (5, 7, 32, 64, 1),
    (1, 1, 32, 32, 3),
    (300, 200, 96, 64, 3),
    (480, 640, 224, 320, 7),
    (720, 1280, 704, 1280, 29),
    (1080, 1920, 448, 800, 17),
    (360, 640, 736, 1312, 29),
    (2160, 3840, 352, 640, 17),
]


def noise(height, width, seed):
    """Bytes by splitmix64: the harshest picture (`testing::noise` in Rust repeats it)."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, height * width * 3 + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(56)).astype(np.uint8).reshape(height, width, 3)


def torchvision_bicubic(picture, height, width):
    """What transformers resizes with."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    resized = resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def torchvision_bicubic_once(picture, height, width):
    """What qwen-vl-utils resizes with: both passes in f32, rounded once."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    resized = resize_v1(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def pillow_bicubic(picture, height, width):
    """Rows first, then columns: always so before Pillow 13, which now and then turns it round."""
    rows = Image.fromarray(picture).resize((width, picture.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(rows.resize((width, height), Image.Resampling.BICUBIC))


def resizes(out):
    """Bicubic of frame 3 of the synthetic clip and of noise. A name says what a tensor is: who
    computed it, pattern, source size, target size, stride of the rows and columns that are stored."""
    tensors = {}
    for height, width, to_height, to_width, stride in RESIZES:
        patterns = {"noise": noise(height, width, 1)}
        if height * width < 10**6:  # above, numpy would need gigabytes
            patterns["clip"] = video(4, height, width)[3]
        for pattern, picture in patterns.items():
            for who, rule in (
                ("torchvision", torchvision_bicubic),
                ("once", torchvision_bicubic_once),
                ("pillow", pillow_bicubic),
            ):
                resized = rule(picture, to_height, to_width)
                name = f"{who}_{pattern}_{width}x{height}_{to_width}x{to_height}_{stride}"
                tensors[name] = np.ascontiguousarray(resized[::stride, ::stride])
    save_file(tensors, out / "resize.safetensors")
    print(f"resize: {len(tensors)} pictures, {sum(t.size for t in tensors.values())} bytes")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)

    def rng(name):  # one stream a table: adding one leaves the others as they are
        return random.Random(f"{args.seed} {name}")

    resizes(out)
    mrope(out, rng("mrope"), 2000)
    size_only()
    budget = ["height", "width", "min_pixels", "max_pixels"]
    size = ["height'", "width'"]
    table(out, "hf_video", ["frames", *budget, "cap", *size], hf_video_rows(rng("hf video"), 4000), hf_video)
    table(out, "hf_image", [*budget, *size], hf_image_rows(rng("hf image"), 4000), hf_image)
    table(
        out,
        "qwen_vl_utils",
        ["frames", *budget, "total_pixels", *size],
        qwen_vl_utils_rows(rng("qwen-vl-utils"), 4000),
        qwen_vl_utils,
    )
    columns = ["rule", "frames", *budget, "cap or total_pixels", *size]
    table(out, "extreme_sizes", columns, extreme_rows(), extreme)
    sampling = ["total", "source_fps", "fps", "min_frames", "max_frames", "indices"]
    table(out, "hf_indices", sampling, sampling_rows(rng("indices"), 1000), hf_indices)
    table(
        out, "qwen_vl_utils_indices", sampling, sampling_rows(rng("indices"), 1000), qwen_vl_utils_indices
    )
    table(
        out,
        "timestamps",
        ["first", "second", "fps", "text"],
        timestamp_rows(rng("timestamps"), 3000),
        timestamp,
    )


if __name__ == "__main__":
    main()
