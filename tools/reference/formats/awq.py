"""AWQ as AutoAWQ packs it (version "gemm")."""

import torch
from torch import nn

from archives import definitions, unpacked
from formats import fill


def tool():
    folder = unpacked("autoawq")
    pack = definitions(
        folder / "modules/linear/gemm.py",
        ["WQLinear_GEMM"],
        torch=torch,
        nn=nn,
        get_best_device=lambda: "cpu",
    )
    unpack = definitions(
        folder / "utils/packing_utils.py",
        ["AWQ_REVERSE_ORDER", "unpack_awq", "reverse_awq_order", "dequantize_gemm"],
        torch=torch,
    )
    return pack.WQLinear_GEMM, unpack.dequantize_gemm


class Awq:
    def __init__(self, group=128):
        self.group = group
        self.linear, self.dequantize = tool()

    def config(self, ignore):
        # Parts of names.
        router = ["mlp.gate"] if any(name.endswith("mlp.gate") for name in ignore) else []
        return dict(
            bits=4,
            group_size=self.group,
            modules_to_not_convert=["visual", *router],
            quant_method="awq",
            version="gemm",
            zero_point=True,
        )

    def pack(self, module, shape, seed):
        rows, columns = shape
        grid = (rows, columns // self.group)
        codes = fill.codes(module, shape, seed, 4)
        scales = fill.group_scales(module, grid, seed, columns, 3, torch.float16)
        zeros = fill.zero_points(module, grid, seed, 0, 4)
        # The tool rounds weights of f32 that lie on its grid, exactly.
        wide = (codes - zeros.repeat_interleave(self.group, 1)) * scales.repeat_interleave(self.group, 1)
        linear = nn.Linear(columns, rows, bias=False)
        linear.weight.data = wide
        made = self.linear.from_linear(linear, 4, self.group, scales=scales.T, zeros=zeros.T)
        return {name: tensor.contiguous() for name, tensor in made.named_buffers()}

    def unpack(self, tensors):
        scales = tensors["scales"].float()  # f32 arithmetic
        return self.dequantize(tensors["qweight"], tensors["qzeros"], scales, 4, self.group).T.contiguous()
