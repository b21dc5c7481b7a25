"""The small checkpoints of every weight format: what `make_formats.py` writes."""

import json
from dataclasses import dataclass

import torch

from formats.awq import Awq
from formats.compressed import Float8, Packed
from formats.gptq import Gptq
from make_checkpoints import DENSE, MOE, text_config, vision_config, whole_config

HIDDEN = 256
LAYERS = 2
TAPS = (0, 2)
EXPERTS = dict(
    decoder_sparse_step=1,
    mlp_only_layers=[],
    num_experts=4,
    num_experts_per_tok=2,
    norm_topk_prob=True,
    router_aux_loss_coef=0.001,
)
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class Checkpoint:
    seed: int
    method: object  # None: GGUF
    dtype: torch.dtype = torch.bfloat16
    intermediate: int = 384
    experts: bool = False  # of that width
    tied: bool = False
    fused: bool = False  # experts in one tensor, transposed
    scales_apart: bool = False  # in a file of their own

    @property
    def family(self):
        return MOE if self.experts else DENSE

    def config(self):
        more = dict(EXPERTS, moe_intermediate_size=self.intermediate) if self.experts else {}
        text = text_config(
            HIDDEN,
            LAYERS,
            heads=8,
            intermediate=self.intermediate,
            tie_word_embeddings=self.tied,
            **more,
        )
        vision = vision_config(HIDDEN, depth=3, taps=TAPS)
        return whole_config(self.family, text, vision, str(self.dtype).removeprefix("torch."))

    def model(self, device="cpu"):
        """transformers' model of that shape, with no weights worth mentioning."""
        config_class, model_class, _ = self.family
        with torch.device(device):
            return model_class(config_class.from_dict(json.loads(json.dumps(self.config())))).float().eval()

    def shapes(self):
        """Names and shapes of the tensors before they are quantised, as official files have them."""
        shapes = {name: tuple(t.shape) for name, t in self.model("meta").state_dict().items()}
        if self.tied:
            del shapes["lm_head.weight"]
        for name, shape in shapes.items():
            if "mlp.experts." in name:  # transformers 5 keeps [expert, out, in]
                shapes[name] = (shape[0], shape[2], shape[1])
        return shapes


F16 = torch.float16
CHECKPOINTS = {
    # Blocks of 128 do not divide 320, nor the 64 rows of k and v.
    "fp8-block": Checkpoint(101, Float8(), intermediate=320, scales_apart=True),
    "fp8-block-f32": Checkpoint(102, Float8(dtype=torch.float32), intermediate=320, tied=True),
    "fp8-channel": Checkpoint(153, Float8(block=False, scale="weight_scale")),
    "fp8-moe-fused": Checkpoint(104, Float8(), experts=True, fused=True),
    "fp8-moe-experts": Checkpoint(155, Float8(), intermediate=192, experts=True),
    "awq": Checkpoint(111, Awq(), F16),
    "awq-moe": Checkpoint(112, Awq(), F16, experts=True),
    "gptq": Checkpoint(121, Gptq(), F16),
    "gptq-desc-act": Checkpoint(122, Gptq(symmetric=False, by_activation=True), F16),
    "gptq-v2": Checkpoint(123, Gptq(group=64, symmetric=False, version=2), F16),
    "gptq-8bit": Checkpoint(124, Gptq(bits=8), F16),
    "gptq-column": Checkpoint(125, Gptq(group=-1), F16, tied=True),
    "ct": Checkpoint(131, Packed(group=128)),
    "ct-asym": Checkpoint(132, Packed(group=32, symmetric=False), intermediate=320),
    "ct-channel": Checkpoint(133, Packed()),
    "ct-8bit": Checkpoint(154, Packed(bits=8, group=128)),
    "ct-moe": Checkpoint(135, Packed(group=32), intermediate=160, experts=True),
    "gguf": Checkpoint(141, None, intermediate=320, tied=True),
    "gguf-moe": Checkpoint(142, None, intermediate=512, experts=True),
}


def is_quantised(name):
    """Whether a tensor is one of the language model's linear layers or of its experts'."""
    parts = name.removesuffix(".weight").split(".")
    return "language_model" in parts and (parts[-1] in LINEAR or "experts" in parts)


def not_quantised(shapes):
    """The linear layers that stay as they are, as modules."""
    linear = (n for n, s in shapes.items() if len(s) == 2 and n.endswith(".weight") and "embed" not in n)
    return sorted(name.removesuffix(".weight") for name in linear if not is_quantised(name))


def experts_of(name, shape):
    """The matrices [out, in] of each expert in a fused tensor [expert, in, out]: (expert, name, shape)."""
    prefix, kind = name.rsplit(".", 1)
    count, columns, rows = shape
    kinds = ["gate_proj", "up_proj"] if kind == "gate_up_proj" else [kind]
    for expert in range(count):
        for kind in kinds:
            yield expert, f"{prefix}.{expert}.{kind}", (rows // len(kinds), columns)
