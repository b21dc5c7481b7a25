"""The weights of a checkpoint as the public tools read them, in f32, under transformers' names."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from archives import unpacked
from formats import gguf_files
from formats.checkpoints import TAPS, experts_of, is_quantised


def state(checkpoint, folder):
    """For `load_state_dict` of `checkpoint.model()`."""
    if checkpoint.method is None:
        return of_gguf(checkpoint, folder)
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(file))
    by_llama = Converter.read(folder) if Converter.can(checkpoint) else {}
    found = {}
    for name, shape in checkpoint.shapes().items():
        if not is_quantised(name):
            found[name] = tensors.pop(name).float()
        elif "experts" not in name:
            module = name.removesuffix(".weight")
            found[name] = unpack(checkpoint.method, tensors, module)
            same(by_llama, name, found[name])
        elif checkpoint.fused:  # only the converter reads these
            for part in ("", "_scale_inv"):
                del tensors[name + part]
            found[name] = by_llama[name].transpose(1, 2).contiguous()
        else:
            experts = [[] for _ in range(shape[0])]
            for expert, module, _ in experts_of(name, shape):
                matrix = unpack(checkpoint.method, tensors, module)
                same(by_llama, f"{module}.weight", matrix)
                experts[expert].append(matrix)
            found[name] = torch.stack([torch.cat(matrices) for matrices in experts])
    assert not tensors, tensors.keys()
    return found


def unpack(method, tensors, module):
    parts = [name for name in tensors if name.rpartition(".")[0] == module]
    return method.unpack({name.rpartition(".")[2]: tensors.pop(name) for name in parts})


def same(by_llama, name, tensor):
    """Two tools must agree to the bit."""
    if name in by_llama and not torch.equal(by_llama[name], tensor):
        raise SystemExit(f"{name}: tools differ")


class Converter:
    """llama.cpp's converter, which reads most formats too."""

    @staticmethod
    def can(checkpoint):
        return checkpoint.method.config([])["quant_method"] != "awq" and (
            getattr(checkpoint.method, "group", 1) is not None  # integers with a scale a row
        )

    @staticmethod
    def read(folder):
        sys.path.insert(0, str(unpacked("llama.cpp")))
        from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

        architecture = get_model_architecture(ModelBase.load_hparams(folder, False), ModelType.TEXT)
        kind = gguf_files.gguf.LlamaFileType.ALL_F32
        model = get_model_class(architecture)(Path(folder), kind, Path(folder), eager=True)
        before = set(model.model_tensors)
        model.dequant_model()
        changed = {name: make for name, make in model.model_tensors.items() if is_quantised("language_model." + name)}
        assert changed and before != set(model.model_tensors)
        # It leaves a part of the names out.
        return {
            name.replace("model.", "model.language_model.", 1): make().float().clone()
            for name, make in changed.items()
        }


# transformers' names and GGUF's.
TEXT = {
    "lm_head": "output",
    "model.language_model.embed_tokens": "token_embd",
    "model.language_model.norm": "output_norm",
}
LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
    "self_attn.o_proj": "attn_output",
    **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
    **{f"self_attn.{x}_norm": f"attn_{x}_norm" for x in "qk"},
    **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
}
BLOCK = {
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.qkv": "attn_qkv",
    "attn.proj": "attn_out",
    "mlp.linear_fc1": "ffn_up",
    "mlp.linear_fc2": "ffn_down",
}
MERGER = {"norm": "v.post_ln", "linear_fc1": "mm.0", "linear_fc2": "mm.2"}


def gguf_name(name):
    """What the module `name` is called in GGUF."""
    if name in TEXT:
        return TEXT[name]
    if (rest := name.removeprefix("model.language_model.layers.")) != name:
        number, rest = rest.split(".", 1)
        return f"blk.{number}.{LAYER[rest]}"
    rest = name.removeprefix("model.visual.")
    if rest.startswith("blocks."):
        _, number, rest = rest.split(".", 2)
        return f"v.blk.{number}.{BLOCK[rest]}"
    if rest.startswith("deepstack_merger_list."):
        _, number, rest = rest.split(".", 2)
        return f"v.deepstack.{TAPS[int(number)]}.{rest.removeprefix('linear_')}"
    if rest.startswith("merger."):
        return MERGER[rest.removeprefix("merger.")]
    return {"patch_embed.proj": "v.patch_embd", "pos_embed": "v.position_embd"}[rest]


def of_gguf(checkpoint, folder):
    tensors = gguf_files.read(folder)
    found = {}
    for name, shape in checkpoint.shapes().items():
        module, kind = name.rsplit(".", 1)
        if kind in ("gate_up_proj", "down_proj"):
            layer = f"blk.{name.split('.')[3]}"
            parts = [tensors.pop(f"{layer}.ffn_{x}_exps.weight") for x in ("gate", "up", "down") if x in kind]
            found[name] = torch.cat([torch.from_numpy(part) for part in parts], 1)
        elif module.endswith("patch_embed.proj") and kind == "weight":
            slices = [tensors.pop(f"v.patch_embd.weight{x}") for x in ("", ".1")]
            found[name] = torch.stack([torch.from_numpy(part) for part in slices], 2)
        else:
            found[name] = torch.from_numpy(tensors.pop(f"{gguf_name(module)}.{kind}"))
    assert not tensors, tensors.keys()
    return found
