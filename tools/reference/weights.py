#!/usr/bin/env python3
"""SHA-256 of every file that `testing::checkpoint` and `testing::formats` in Rust must repeat, so that
neither weights nor configs of the random checkpoints need to be stored."""

import argparse
import hashlib
import json
from pathlib import Path

# JSON is compared by content: its spelling is nobody's business.
CONFIGS = (
    "config.json",
    "config.v5.json",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "model.safetensors.index.json",
)
WEIGHTS = (".safetensors", ".gguf")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, help="folder that make_checkpoints.py wrote")
    parser.add_argument("out", type=Path, help="file to write")
    args = parser.parse_args()
    result = {}
    for folder in sorted(args.checkpoints.iterdir()):
        files = (file for file in sorted(folder.iterdir()) if file.suffix in WEIGHTS)
        configs = (folder / name for name in CONFIGS)
        result[folder.name] = {
            **{file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
            **{file.name: json.loads(file.read_text()) for file in configs if file.is_file()},
        }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
