"""What transformers makes of the preprocessor files of a checkpoint, for crates/qwen3-vl/tests/it/processors.rs.

    python processors.py ../../crates/qwen3-vl-testing/data/tables/processors.json

Each case is a few files next to a config.json and a tokenizer. What AutoProcessor makes of them is stored as
the class, mean and deviation of each processor and, for the budgets, the grids that it gives pictures and
videos of a few sizes; or as the type of the error.
"""

import json
import logging
import shutil
import sys
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
from transformers import AutoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
SIZES = [(480, 640), (1080, 1920), (96, 128), (300, 1920), (2160, 3840)]
FRAMES = 4

COMMON = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
FAST = {"image_processor_type": "Qwen2VLImageProcessorFast"}
PLAIN = {"image_processor_type": "Qwen2VLImageProcessor"}
VIDEO = {"video_processor_type": "Qwen3VLVideoProcessor"}
IMAGE_SIZE = {"size": {"longest_edge": 16777216, "shortest_edge": 65536}}
VIDEO_SIZE = {"size": {"longest_edge": 25165824, "shortest_edge": 4096}}
IMAGE_FILE = COMMON | HALF | FAST | IMAGE_SIZE
VIDEO_FILE = COMMON | HALF | VIDEO | VIDEO_SIZE
SMALL = {"min_pixels": 4096, "max_pixels": 131072}


def files(image=None, video=None, processor=None):
    named = {
        "preprocessor_config.json": image,
        "video_preprocessor_config.json": video,
        "processor_config.json": processor,
    }
    return {name: content for name, content in named.items() if content is not None}


def nested(image=None, video=None):
    parts = {"processor_class": "Qwen3VLProcessor"}
    if image is not None:
        parts["image_processor"] = image
    if video is not None:
        parts["video_processor"] = video
    return parts


CASES = {
    "as released": files(IMAGE_FILE, VIDEO_FILE),
    "as transformers 5 saves it": files(processor=nested(COMMON | HALF | PLAIN | IMAGE_SIZE, VIDEO_FILE)),
    "nested parts win over files": files(
        IMAGE_FILE | {"size": {"longest_edge": 65536, "shortest_edge": 1024}},
        VIDEO_FILE | {"size": {"longest_edge": 65536, "shortest_edge": 1024}},
        nested(COMMON | HALF | PLAIN | IMAGE_SIZE, VIDEO_FILE),
    ),
    "processor file without parts": files(IMAGE_FILE, VIDEO_FILE, nested()),
    "only the image part is nested": files(None, VIDEO_FILE, nested(image=COMMON | HALF | PLAIN | SMALL)),
    "only the video part is nested": files(IMAGE_FILE, None, nested(video=VIDEO_FILE)),
    "nested parts are null": files(IMAGE_FILE, VIDEO_FILE, {"image_processor": None, "video_processor": None}),
    "no video file, fast images": files(IMAGE_FILE),
    "no video file, plain images": files(COMMON | HALF | PLAIN | IMAGE_SIZE),
    "no video file, plain images with pixels": files(COMMON | HALF | PLAIN | SMALL),
    "no video file, fast images with pixels": files(IMAGE_FILE | SMALL),
    "no video file, no type": files(COMMON | HALF | IMAGE_SIZE),
    "pixels override the size of images": files(IMAGE_FILE | SMALL, VIDEO_FILE),
    "pixels without size": files(COMMON | HALF | FAST | SMALL, VIDEO_FILE),
    "least pixels without size": files(COMMON | HALF | FAST | {"min_pixels": 1000000}, VIDEO_FILE),
    "most pixels without size": files(COMMON | HALF | FAST | {"max_pixels": 131072}, VIDEO_FILE),
    "most pixels beside a size": files(IMAGE_FILE | {"max_pixels": 131072}, VIDEO_FILE),
    "pixels do not override the size of videos": files(IMAGE_FILE, VIDEO_FILE | SMALL),
    "pixels of videos without size": files(IMAGE_FILE, COMMON | HALF | VIDEO | SMALL),
    "nothing but patches": files(COMMON, COMMON),
    "nothing but patches and types": files(COMMON | PLAIN, COMMON | VIDEO),
    "one number for all channels": files(
        COMMON | FAST | IMAGE_SIZE | {"image_mean": 0.25, "image_std": 0.5},
        COMMON | VIDEO | VIDEO_SIZE | {"image_mean": 0.25, "image_std": 0.5},
    ),
    "a null for the size of images": files(IMAGE_FILE | {"size": None}, VIDEO_FILE),
    "a null for the size of videos": files(IMAGE_FILE, VIDEO_FILE | {"size": None}),
    "a null for the mean of images": files(IMAGE_FILE | {"image_mean": None}, VIDEO_FILE),
    "a null for the deviation of videos": files(IMAGE_FILE, VIDEO_FILE | {"image_std": None}),
    "nulls for pixels and what is not used": files(
        IMAGE_FILE | {"min_pixels": None, "max_pixels": None, "crop_size": None, "device": None}, VIDEO_FILE
    ),
    "half a size": files(IMAGE_FILE | {"size": {"shortest_edge": 65536}}, VIDEO_FILE),
    "half a size and pixels": files(IMAGE_FILE | {"size": {"shortest_edge": 65536}, "max_pixels": 131072}, VIDEO_FILE),
    "an empty size": files(IMAGE_FILE, VIDEO_FILE | {"size": {}}),
    "an edge of zero": files(IMAGE_FILE, VIDEO_FILE | {"size": {"shortest_edge": 0, "longest_edge": 25165824}}),
    "height and width": files(IMAGE_FILE | {"size": {"height": 448, "width": 448}}, VIDEO_FILE),
    "the video processor of Qwen2-VL": files(
        IMAGE_FILE, COMMON | HALF | SMALL | {"video_processor_type": "Qwen2VLVideoProcessor"}
    ),
    "only a video file": files(video=VIDEO_FILE),
    "no files": files(),
}


# These write into the default of their class: it is put back before each case.
DEFAULTS = {cls: deepcopy(cls.size) for cls in [Qwen2VLImageProcessor, Qwen2VLVideoProcessor]}


def effective(processor, grid):
    return {
        "class": type(processor).__name__,
        "image_mean": spread(processor.image_mean),
        "image_std": spread(processor.image_std),
        "grids": [grid(size) for size in SIZES],
    }


def spread(value):
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)] * 3


def run(case):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]:
            shutil.copy(DEMO / name, folder / name)
        for name, content in case.items():
            (folder / name).write_text(json.dumps(content))
        for cls, size in DEFAULTS.items():
            cls.size = deepcopy(size)
        try:
            processor = AutoProcessor.from_pretrained(folder)
            images, videos = processor.image_processor, processor.video_processor

            def image_grid(size):
                picture = np.zeros((*size, 3), dtype=np.uint8)
                return images(images=picture, return_tensors="pt")["image_grid_thw"][0].tolist()

            def video_grid(size):
                video = np.zeros((FRAMES, *size, 3), dtype=np.uint8)
                done = videos(videos=[video], do_sample_frames=False, return_tensors="pt")
                return done["video_grid_thw"][0].tolist()

            return {"image": effective(images, image_grid), "video": effective(videos, video_grid)}
        except Exception as error:
            return {"error": type(error).__name__}


def main():
    logging.disable(logging.WARNING)
    table = {
        "frames": FRAMES,
        "sizes": SIZES,
        "cases": {name: {"files": case, "result": run(case)} for name, case in CASES.items()},
    }
    Path(sys.argv[1]).write_text(json.dumps(table, indent=1) + "\n")


main()
