"""GGUF: llama.cpp's own converter writes metadata, names and shapes; then matrices get other types, with
blocks by a formula (`testing::formats::gguf` in Rust repeats the files byte for byte)."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from archives import unpacked
from formats import fill

LLAMA = unpacked("llama.cpp")
sys.path.insert(0, str(LLAMA / "gguf-py"))
import gguf  # noqa: E402

Type = gguf.GGMLQuantizationType
# The folder that is converted: the converter takes the model's name from it.
NAMES = {"gguf": "Qwen3-VL-Small-Instruct", "gguf-moe": "Qwen3-VL-Small-MoE-Instruct"}
# Type of the vision tower, and of how many tensors a file has if the text is in several.
MMPROJ = {"gguf": "f16", "gguf-moe": "q8_0"}
SPLIT = {"gguf": 0, "gguf-moe": 16}
# Types of the matrices. A row that blocks of 256 do not divide has smaller ones, as llama-quantize does it.
DENSE = {
    "token_embd": Type.Q6_K,
    "blk.0.attn_q": Type.Q4_K,
    "blk.0.attn_k": Type.Q5_K,
    "blk.0.attn_v": Type.Q6_K,
    "blk.0.attn_output": Type.Q8_0,
    "blk.0.ffn_gate": Type.Q4_0,
    "blk.0.ffn_up": Type.Q4_1,
    "blk.0.ffn_down": Type.Q5_0,
    "blk.1.attn_q": Type.F16,
    "blk.1.attn_k": Type.BF16,
    "blk.1.attn_v": Type.Q8_0,
    "blk.1.attn_output": Type.Q5_K,
    "blk.1.ffn_gate": Type.Q6_K,
    "blk.1.ffn_up": Type.Q4_K,
    "blk.1.ffn_down": Type.Q5_1,
}
EXPERTS = {
    "token_embd": Type.Q4_K,
    "output": Type.Q6_K,
    **{f"blk.{i}.{name}": Type.Q4_K for i in (0, 1) for name in ("attn_q", "attn_k", "attn_output", "ffn_gate_exps")},
    "blk.0.attn_v": Type.Q6_K,
    "blk.1.attn_v": Type.Q4_K,
    "blk.0.ffn_up_exps": Type.Q4_K,
    "blk.1.ffn_up_exps": Type.Q5_K,
    "blk.0.ffn_down_exps": Type.Q6_K,
    "blk.1.ffn_down_exps": Type.Q8_0,
}
TYPES = {"gguf": DENSE, "gguf-moe": EXPERTS}

# How large a type's integers are (2^n), where its f16 scale lies, and where a second one for offsets
# lies, how many times (2^n) it is as large, and its sign: the offsets cancel the mean.
FIELDS = {
    Type.Q4_0: (3, 0, None),
    Type.Q4_1: (3, 0, (2, 3, -1)),
    Type.Q5_0: (4, 0, None),
    Type.Q5_1: (4, 0, (2, 4, -1)),
    Type.Q8_0: (7, 0, None),
    Type.Q4_K: (9, 0, (2, 3, 1)),
    Type.Q5_K: (10, 0, (2, 4, 1)),
    Type.Q6_K: (11, 208, None),
}


def blocks(name, shape, kind, seed):
    """A tensor [.., rows, columns] in blocks: random bytes but for their scales."""
    spread, scale_at, offset = FIELDS[kind]
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    count = int(np.prod(shape)) // weights
    found = fill.integers(f"{name}#b", count * size, seed, 256).astype(np.uint8).reshape(count, size)

    def put(at, part, exponent, sign):
        half = (sign * fill.scales(f"{name}#{part}", count, seed, exponent, 10)).astype("<f2")
        found[:, at : at + 2] = half.view(np.uint8).reshape(count, 2)

    # An embedding is near 1.
    exponent = fill.exponent(1 if name.startswith("token_embd") else shape[-1], spread)
    put(scale_at, "s", exponent, 1)
    if offset:
        at, more, sign = offset
        put(at, "m", exponent + more, sign)
    return found.reshape(*shape[:-1], shape[-1] // weights * size)


def convert(name, checkpoint, source, out):
    """Makes both files of a checkpoint in bf16."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    program, plain = LLAMA / "convert_hf_to_gguf.py", source / "text-BF16.gguf"

    def run(*arguments):
        subprocess.run([sys.executable, program, source, *arguments], check=True)

    mmproj = out / f"mmproj-{NAMES[name]}-{MMPROJ[name].upper()}.gguf"
    run("--mmproj", "--outtype", MMPROJ[name], "--outfile", mmproj)
    run("--outtype", "bf16", "--outfile", plain)
    retype(name, checkpoint.seed, plain, out / f"{NAMES[name]}-Q4_K_M.gguf")


def retype(name, seed, source, out):
    """The same metadata and tensors with the types of the table."""
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
    writer = gguf.GGUFWriter(out, architecture, split_max_tensors=SPLIT[name])
    for field in reader.fields.values():
        if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
            continue
        value, kind = field.contents(), field.types[0]
        if field.name == gguf.Keys.General.FILE_TYPE:
            value = int(gguf.LlamaFileType.MOSTLY_Q4_K_M)
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, kind, sub_type=element)
    left = dict(TYPES[name])
    for tensor in reader.tensors:
        kind = left.pop(tensor.name.removesuffix(".weight"), None)
        shape = [int(n) for n in reversed(tensor.shape)]
        data = tensor.data
        if kind in FIELDS:
            data = blocks(tensor.name, shape, kind, seed)
        elif kind is None:  # a vector, or the router
            assert tensor.tensor_type == Type.F32, tensor.name
            kind = Type.F32
        elif kind != tensor.tensor_type:
            data = gguf.quants.quantize(gguf.quants.dequantize(data, tensor.tensor_type), kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    assert not left, left
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(folder):
    """All tensors of a folder's files by their names, f32."""
    tensors = {}
    for file in sorted(Path(folder).glob("*.gguf")):
        for tensor in gguf.GGUFReader(file).tensors:
            assert tensor.name not in tensors
            wide = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            tensors[tensor.name] = wide.astype(np.float32).reshape([int(n) for n in reversed(tensor.shape)])
    return tensors
