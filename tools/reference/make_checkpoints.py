#!/usr/bin/env python3
"""Writes small checkpoints of the official Qwen3-VL architecture with weights by formula.

Three folders: dense-tied, dense-untied, moe. Each holds config.json (the layout of transformers 4.57,
as official checkpoints have it), config.v5.json (what transformers 5 writes), model.safetensors,
tensors.json (shapes), the preprocessor and generation configs, the tokenizer and the chat template.

--2b writes the dimensions of the 2B model instead, with transformers' random initialisation (4 GB).
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from hash_fill import hash_fill

HERE = Path(__file__).resolve().parent
TOKEN_IDS = dict(
    image_token_id=151655, video_token_id=151656, vision_start_token_id=151652, vision_end_token_id=151653
)
DENSE = (Qwen3VLConfig, Qwen3VLForConditionalGeneration, "qwen3_vl")
MOE = (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, "qwen3_vl_moe")


def vision_config(out_hidden, depth=6, hidden=64, heads=4, intermediate=128, taps=(1, 2, 4)):
    return dict(
        deepstack_visual_indexes=list(taps),
        depth=depth,
        hidden_act="gelu_pytorch_tanh",
        hidden_size=hidden,
        in_channels=3,
        initializer_range=0.02,
        intermediate_size=intermediate,
        num_heads=heads,
        num_position_embeddings=2304,
        out_hidden_size=out_hidden,
        patch_size=16,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )


def text_config(
    hidden=64, layers=4, heads=4, kv_heads=2, head_dim=32, intermediate=128, sections=(6, 5, 5), **more
):
    """The sections add up to half of head_dim: officially 24 + 20 + 20 of 128."""
    return dict(
        attention_bias=False,
        attention_dropout=0.0,
        bos_token_id=151643,
        eos_token_id=151645,
        head_dim=head_dim,
        hidden_act="silu",
        hidden_size=hidden,
        initializer_range=0.02,
        intermediate_size=intermediate,
        max_position_embeddings=262144 if head_dim == 128 else 4096,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        num_key_value_heads=kv_heads,
        rms_norm_eps=1e-6,
        rope_scaling={"mrope_interleaved": True, "mrope_section": list(sections), "rope_type": "default"},
        rope_theta=5000000,
        use_cache=True,
        vocab_size=151936,
        **more,
    )


def whole_config(family, text, vision, dtype):
    _, model, model_type = family
    return dict(
        architectures=[model.__name__],
        model_type=model_type,
        text_config=dict(text, model_type=model_type + "_text", dtype=dtype),
        vision_config=dict(vision, model_type=model_type),
        tie_word_embeddings=text["tie_word_embeddings"],
        transformers_version="4.57.0.dev0",
        **TOKEN_IDS,
    )


def keep_v5(out):
    """save_pretrained has written config.json as transformers 5 spells it."""
    os.replace(out / "config.json", out / "config.v5.json")


def write_json(path, value, indent):
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=path.name != "tokenizer_config.json"))


def write_other_files(out, config, tokenizer):
    """Everything of a checkpoint but its weights."""
    write_json(out / "config.json", config, 2)

    shutil.copy(tokenizer / "tokenizer.json", out)
    template = (HERE / "chat_template.jinja").read_text().rstrip("\n") + "\n"
    tokenizer_config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    tokenizer_config.update(chat_template=template, model_max_length=262144)
    write_json(out / "tokenizer_config.json", tokenizer_config, 2)
    write_json(out / "chat_template.json", {"chat_template": template}, 2)

    image = dict(
        size={"longest_edge": 16777216, "shortest_edge": 65536},
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        processor_class="Qwen3VLProcessor",
        image_processor_type="Qwen2VLImageProcessorFast",
    )
    write_json(out / "preprocessor_config.json", image, 4)
    video = dict(
        image,
        size={"longest_edge": 25165824, "shortest_edge": 4096},
        video_processor_type="Qwen3VLVideoProcessor",
    )
    del video["image_processor_type"]
    write_json(out / "video_preprocessor_config.json", video, 4)
    generation = dict(
        bos_token_id=151643,
        pad_token_id=151643,
        do_sample=True,
        eos_token_id=[151645, 151643],
        top_k=20,
        top_p=0.8,
        repetition_penalty=1.0,
        temperature=0.7,
        transformers_version="4.56.0",
    )
    write_json(out / "generation_config.json", generation, 4)


def refill(file, seed):
    """Replaces the weights of a saved checkpoint by the formula's; gives the shapes."""
    tensors = {}
    with safe_open(file, "pt") as saved:
        for name in sorted(saved.keys()):
            shape = tuple(saved.get_slice(name).get_shape())
            if "mlp.experts." in name and len(shape) == 3:
                # transformers 5 saves [expert, out, in]; official checkpoints store [expert, in, out].
                shape = (shape[0], shape[2], shape[1])
            tensors[name] = torch.from_numpy(hash_fill(name, shape, seed))
    save_file(tensors, file, metadata={"format": "pt"})
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def make_small(out, family, tie, seed, tokenizer):
    experts = {}
    if family is MOE:
        experts = dict(
            decoder_sparse_step=1,
            mlp_only_layers=[],
            moe_intermediate_size=48,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            router_aux_loss_coef=0.001,
        )
    text = text_config(tie_word_embeddings=tie, **experts)
    config = whole_config(family, text, vision_config(64), "float32")
    config_class, model_class, _ = family
    model = model_class(config_class.from_dict(json.loads(json.dumps(config)))).float().eval()
    model.save_pretrained(out)
    keep_v5(out)
    write_other_files(out, config, tokenizer)
    shapes = refill(out / "model.safetensors", seed)
    (out / "tensors.json").write_text(json.dumps(shapes, indent=0))

    # Whatever transformers misses or does not expect would make the reference values worthless.
    loaded, info = model_class.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    problems = {key: value for key, value in info.items() if value}
    if problems:
        raise SystemExit(f"{out}: {problems}")
    print(out, sum(p.numel() for p in loaded.parameters()), "parameters")


def make_2b(out, tokenizer):
    text = text_config(
        hidden=2048,
        layers=28,
        heads=16,
        kv_heads=8,
        head_dim=128,
        intermediate=6144,
        sections=(24, 20, 20),
        tie_word_embeddings=True,
    )
    vision = vision_config(2048, depth=24, hidden=1024, heads=16, intermediate=4096, taps=(5, 11, 17))
    config = whole_config(DENSE, text, vision, "bfloat16")
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(json.loads(json.dumps(config)))).eval()
    model.save_pretrained(out, max_shard_size="10GB")
    keep_v5(out)
    write_other_files(out, config, tokenizer)
    print(out, sum(p.numel() for p in model.parameters()) / 1e9, "billion parameters")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="folder with tokenizer.json and tokenizer_config.json"
    )
    parser.add_argument("--2b", dest="big", action="store_true", help="the real 2B dimensions, random")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.big:
        make_2b(args.out, args.tokenizer)
        return
    make_small(args.out / "dense-tied", DENSE, True, 1, args.tokenizer)
    make_small(args.out / "dense-untied", DENSE, False, 2, args.tokenizer)
    make_small(args.out / "moe", MOE, False, 3, args.tokenizer)


if __name__ == "__main__":
    main()
