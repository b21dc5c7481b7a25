#!/usr/bin/env python3
"""Measures the engine and transformers in turns on one device, at the dimensions of real models with random weights.

  measure.py ENGINE [--device cuda] [--dtype bf16] [--sizes 2b,4b,8b] [--frames 8,32,80] [--frame 448x448] [--tokens 64]
             [--windows 3] [--parts first-token,batch] [--static] [--cameras 8,16] [--camera-frame 448x448]
             [--chunk 512] [--only-engine] [--checkpoints FOLDER] [--out measured.json]

ENGINE is the example `engine` of crates/qwen3-vl. A size is a real one or the folder of a checkpoint. Prints a table last and adds
all figures to --out, in the place of earlier ones of those sizes and tokens of a pass (--chunk). Fractions are of what this device
does at the moment. Decode reads every weight of the language model once for a step, at the rate of copying memory. Vision and prefill multiply with each
weight for every patch or token, and queries with the keys and values that they see, at the rate of a large product. The KV cache
is left out of the first, norms and the like of all.
"""
import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
BATCHES = "1,8,32,64"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--sizes", default="2b,4b,8b")
    parser.add_argument("--frames", default="8,32,80")
    parser.add_argument("--frame", default="448x448")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--windows", type=int, default=3, help="of each number of frames; the last one counts")
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a window that a pass of the engine takes")
    parser.add_argument("--parts", default="first-token,batch")
    parser.add_argument("--cameras", default="", help="numbers of live cameras to try with the last of the sizes")
    parser.add_argument("--camera-frame", default="448x448")
    parser.add_argument("--out", default="measured.json")
    parser.add_argument("--only-engine", action="store_true", help="without transformers")
    parser.add_argument("--checkpoints", help="folder that random checkpoints are kept in, for the next time")
    parser.add_argument("--static", action="store_const", const=["--static"], default=[],
                        help="also transformers with a static cache and torch.compile")
    return parser.parse_args()


def best(device, work):
    """Seconds of the fastest of ten."""
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    times = []
    for _ in range(10):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def peaks(device, dtype):
    """Bytes a second of a copy (read and written), and operations a second of a product."""
    side, count = (8192, 1 << 30) if device != "cpu" else (2048, 1 << 27)
    a, b = torch.zeros(count, dtype=torch.uint8, device=device), torch.empty(count, dtype=torch.uint8, device=device)
    copied = best(device, lambda: b.copy_(a))
    x = torch.randn(side, side, dtype=dtype, device=device)
    multiplied = best(device, lambda: x @ x)
    return {"bytes_per_s": 2 * count / copied, "operations_per_s": 2 * side**3 / multiplied}


def work(folder, frame):
    """What there is to do, by the checkpoint's configuration."""
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    text, vision = config["text_config"], config["vision_config"]
    hidden, heads, kv, size = (text[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"))
    layer = 2 * hidden * size * (heads + kv) + 3 * hidden * text["intermediate_size"]
    layers = layer * text["num_hidden_layers"]
    width, depth = vision["hidden_size"], vision["depth"]
    columns, rows = (int(n) // 16 for n in frame.split("x"))
    patches = rows * columns
    block = 4 * width**2 + 2 * width * vision["intermediate_size"]
    merger = (4 * width) ** 2 + 4 * width * vision["out_hidden_size"]
    mergers = merger * (1 + len(vision["deepstack_visual_indexes"]))
    return {
        "weights_of_layers": layers,
        "weights_read": layers + hidden * text["vocab_size"],
        # Two products, for half of all pairs of tokens.
        "attention_per_pair": 2 * heads * size * text["num_hidden_layers"],
        "operations_of_two_frames": 2 * patches * (depth * block + mergers / 4) + 4 * patches**2 * width * depth,
    }


def run(command):
    """What a program prints, a JSON object a line, as one object."""
    quiet = {**os.environ, "RUST_BACKTRACE": "0"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet)
    if done.returncode:
        return {"failed": " ".join(command), "why": done.stderr.strip().splitlines()[-5:]}
    figures = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            figures.update(json.loads(line))
    return figures


def measure(a, folder):
    common = [folder, "--device", a.device, "--dtype", a.dtype]
    window = [*common, "--size", a.frame, "--tokens", str(a.tokens), "--frames", a.frames, "--windows", str(a.windows)]
    bench = [a.engine, "bench"]
    yield "qwen3-vl", "window", [*bench, *window, "--part", "window", "--chunk", str(a.chunk)]
    if not a.only_engine:
        yield "transformers", "window", [sys.executable, os.path.join(HERE, "bench_hf.py"), *window, *a.static,
                                         *(["--batches", BATCHES] if "batch" in a.parts else [])]
    for part in filter(None, a.parts.split(",")):
        yield "qwen3-vl", part, [*bench, *common, "--part", part, "--size", a.frame, "--tokens", str(a.tokens), "--pairs", "1",
                                 "--frames", "8,16,32,64,128", "--batches", BATCHES, "--chunk", str(a.chunk)]
    if a.cameras:
        # NVIDIA's published workload: chunks of 10 s, 80 frames of 448x448 (7840 vision tokens), captions of 100 tokens.
        yield "qwen3-vl", "density", [*bench, *common, "--part", "density", "--size", a.camera_frame, "--tokens", "100",
                                      "--windows", "3", "--cameras", a.cameras]


def table(rows, peak, width):
    print(f"{'':18}{'frames':>7}{'vision s':>10}{'of peak':>9}{'prefill s':>10}{'of peak':>9}{'tokens/s':>10}{'of peak':>9}")
    operations, memory = peak["operations_per_s"], peak["bytes_per_s"]
    for row in rows:
        name = f"{row['size']} {row['program']}"
        if "failed" in row:
            print(f"{name:18} FAILED: {row['failed']}: {row['why']}")
            continue
        work = row["work"]
        step = work["weights_read"] * width / memory  # seconds of a decode step at the peak
        # The first window of a length also pays for memory and kernels that are used for the first time.
        for w in {w["frames"]: w for w in row.get("windows", [])}.values():
            tokens, prefill = w["prompt_tokens"], w["vision_and_prefill_s"] - w["vision_s"]
            products = 2 * work["weights_of_layers"] * tokens + work["attention_per_pair"] * tokens**2
            vision = work["operations_of_two_frames"] * w["frames"] / 2
            print(f"{name:18}{w['frames']:7}{w['vision_s']:10.4f}{vision / operations / w['vision_s']:9.2f}"
                  f"{prefill:10.4f}{products / operations / prefill:9.2f}"
                  f"{w['decode_tokens_per_s']:10.1f}{w['decode_tokens_per_s'] * step:9.2f}")
        if "static_decode_tokens_per_s" in row:
            static = row["static_decode_tokens_per_s"]
            print(f"{name + ', static cache, compiled':54}{static:19.1f}{static * step:9.2f}")
        elif "static_failed" in row:
            print(f"{name + ', static cache, compiled'} FAILED: {row['static_failed']}")
        for batch in row.get("batch", []):
            count, rate = batch["windows"], batch["tokens_per_s"]
            print(f"{name + f', {count} windows at a time':54}{rate:19.1f}{rate / count * step:9.2f}")
        for first in row.get("first_token", []):
            print(f"{name:18}{first['frames']:7} first token {first['streaming_s']:.4f} s after the last frame, "
                  f"{first['one_shot_s']:.4f} s after all at once")
        for cameras in row.get("density", []):
            print(f"{name:18} {cameras['cameras']} cameras: answers in {cameras['answer_p50_s']:.2f} s, 99 of 100 in "
                  f"{cameras['answer_p99_s']:.2f} s: {'keeps' if cameras['keeps_up'] else 'does not keep'} up")


NOT_WRITTEN = {"failed": "write-random", "why": "the checkpoint could not be written"}


@contextlib.contextmanager
def checkpoint(a, size):
    """The folder of a checkpoint: one that is there, or a random one that is written. Without a configuration if
    that fails."""
    if os.path.isdir(size):
        yield size
        return
    with tempfile.TemporaryDirectory() as fresh:
        folder = os.path.join(a.checkpoints, size) if a.checkpoints else fresh
        # The tokenizer comes last.
        if not os.path.exists(os.path.join(folder, "tokenizer_config.json")):
            done = subprocess.run([a.engine, "write-random", size, folder])
            if done.returncode and os.path.exists(os.path.join(folder, "config.json")):
                os.remove(os.path.join(folder, "config.json"))
        yield folder


def main():
    a = arguments()
    dtype = DTYPES[a.dtype]
    sizes = a.sizes.split(",")
    peak, rows = peaks(a.device, dtype), []
    if os.path.exists(a.out):
        with open(a.out) as file:
            old = json.load(file)["rows"]
        rows = [row for row in old if row["size"] not in sizes or row.get("chunk") != a.chunk]
    print(f"memory {peak['bytes_per_s'] / 1e9:.0f} GB/s, products {peak['operations_per_s'] / 1e12:.2f} T/s in {a.dtype}")
    for size in sizes:
        with checkpoint(a, size) as folder:
            for program, part, command in measure(a, folder):
                start = time.perf_counter()
                row = {"size": size, "program": program, "part": part, "chunk": a.chunk}
                row |= run(command) if os.path.exists(os.path.join(folder, "config.json")) else NOT_WRITTEN
                if "failed" not in row:
                    row["work"] = work(folder, a.frame)
                row["took_s"] = round(time.perf_counter() - start)
                print(json.dumps(row), flush=True)
                rows.append(row)
                # What is there is kept if this is cut short.
                with open(a.out, "w") as file:
                    json.dump({"peak": peak, "rows": rows}, file, indent=1)
    table(rows, peak, dtype.itemsize)
    sys.exit(any("failed" in row for row in rows))


if __name__ == "__main__":
    main()
