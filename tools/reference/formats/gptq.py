"""GPTQ as GPTQModel packs it: formats 1 (zero points less one) and 2."""

import logging
import math
import os
import types

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn.modules.conv import _ConvNd

from archives import definitions, unpacked
from formats import fill


def tool():
    """The methods of its linear layer, and its two conversions between the formats."""
    folder = unpacked("gptqmodel")
    methods = ["_wf_device", "_init_wf_unsqueeze_buffers", "dequantize_weight", "_dequantize_from_codes", "pack_block"]
    linear = definitions(
        folder / "nn_modules/qlinear/__init__.py",
        ["_torch_shift_factor", "_torch_right_shift", *(f"PackableQuantLinear.{name}" for name in methods)],
        t=torch,
        np=np,
        nn=nn,
        math=math,
        os=os,
        transformers=transformers,
        _ConvNd=_ConvNd,
        log=logging.getLogger("gptqmodel"),
        env_flag=lambda name: name == "GPTQMODEL_DISABLE_PACK_EXT",  # its C++ twin
    )
    base = type("BaseQuantLinear", (nn.Module,), {name: getattr(linear, name) for name in methods})
    conversions = definitions(
        folder / "utils/model.py",
        ["convert_gptq_v1_to_v2_format_module", "convert_gptq_v2_to_v1_format_module"],
        torch=torch,
        BaseQuantLinear=base,
        log=types.SimpleNamespace(info=types.SimpleNamespace(once=lambda text: None)),
    )
    return base, conversions


class Gptq:
    def __init__(self, bits=4, group=128, symmetric=True, by_activation=False, version=1):
        self.bits, self.group, self.symmetric = bits, group, symmetric
        self.by_activation, self.version = by_activation, version
        self.base, self.conversions = tool()

    def config(self, ignore):
        form = "gptq" if self.version == 1 else "gptq_v2"
        return dict(
            bits=self.bits,
            checkpoint_format=form,
            desc_act=self.by_activation,
            dynamic={"-:model\\.visual\\..*": {}},
            format=form,
            group_size=self.group,
            lm_head=False,
            meta=dict(
                damp_auto_increment=0.01,
                damp_percent=0.05,
                mse=0.0,
                quantizer=["gptqmodel:7.7.0"],
                static_groups=False,
                true_sequential=True,
                uri="https://github.com/modelcloud/gptqmodel",
            ),
            method="gptq",
            pack_dtype="int32",
            quant_method="gptq",
            sym=self.symmetric,
        )

    def module(self, shape):
        rows, columns = shape
        made = self.base()
        made.__dict__.update(
            bits=self.bits,
            in_features=columns,
            out_features=rows,
            planar=False,
            enable_wf_unsqueeze=True,
            maxq=(1 << self.bits) - 1,
            pack_dtype=torch.int32,
            pack_dtype_bits=32,
            pack_factor=32 // self.bits,
            pack_np_dtype=np.int32,
            pack_np_math_dtype=np.uint32,
            dequant_dtype=torch.int16 if self.bits == 8 else torch.int8,
            qzero_format=lambda format: None,
        )
        return made

    def pack(self, module, shape, seed):
        rows, columns = shape
        group = columns if self.group == -1 else self.group
        grid = (rows, columns // group)
        index = torch.arange(columns, dtype=torch.int32) // group
        if self.by_activation:
            index = fill.group_index(module, columns, group, seed)
        codes = fill.codes(module, shape, seed, self.bits)
        scales = fill.group_scales(module, grid, seed, columns, {4: 3, 8: 7}[self.bits], torch.float16)
        if self.symmetric:
            zeros = torch.full(grid, 1 << (self.bits - 1))
        else:  # Zero less one does not fit into format 1.
            zeros = fill.zero_points(module, grid, seed, 2 - self.version, self.bits)
        linear = nn.Linear(columns, rows, bias=False)
        # The tool rounds weights of f32 that lie on its grid, exactly.
        linear.weight.data = (codes - zeros[:, index]) * scales[:, index]
        made = self.module(shape)
        made.pack_block(linear, scales, zeros.float(), index)
        if self.version == 1:
            self.conversions.convert_gptq_v2_to_v1_format_module(made, made)
        names = ("qweight", "qzeros", "scales", "g_idx")
        return {name: getattr(made, name).clone().contiguous() for name in names}

    def unpack(self, tensors):
        columns = tensors["g_idx"].numel()
        made = self.module((tensors["scales"].shape[1], columns))
        for name, tensor in tensors.items():
            made.register_buffer(name, tensor.clone())
        made.scales = made.scales.float()  # f32 arithmetic
        if self.version == 1:
            self.conversions.convert_gptq_v1_to_v2_format_module(made, self.bits, torch.int32)
        return made.dequantize_weight().T.contiguous()
