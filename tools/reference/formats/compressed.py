"""compressed-tensors, and the 8-bit floats of Qwen's own files, which it reads too."""

import torch
from compressed_tensors.compressors.naive_quantized.base import FloatQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

from formats import fill

BLOCK = 128


def written(weights, ignore, activations=None, form="pack-quantized"):
    """quantization_config as llm-compressor writes it."""
    group = dict(
        format=form,
        input_activations=activations,
        output_activations=None,
        targets=["Linear"],
        weights=weights,
    )
    return dict(
        config_groups={"group_0": group},
        format=form,
        global_compression_ratio=None,
        ignore=ignore,
        kv_cache_scheme=None,
        quant_method="compressed-tensors",
        quantization_status="compressed",
        sparsity_config={},
        transform_config={},
        version="0.12.2",
    )


def arguments(**more):
    """The fields of `weights` and `input_activations`."""
    return dict(
        dict(
            actorder=None,
            block_structure=None,
            dynamic=False,
            group_size=None,
            observer="minmax",
            observer_kwargs={},
        ),
        **more,
    )


class Packed:
    """Integers of 4 or 8 bits in words along the row: `pack-quantized`. No group is one scale a row."""

    def __init__(self, bits=4, group=None, symmetric=True, dtype=torch.bfloat16):
        self.bits, self.group, self.symmetric, self.dtype = bits, group, symmetric, dtype
        self.weights = arguments(
            group_size=group,
            num_bits=bits,
            strategy="group" if group else "channel",
            symmetric=symmetric,
            type="int",
        )

    def config(self, ignore):
        return written(self.weights, ignore)

    def pack(self, module, shape, seed):
        rows, columns = shape
        grid = (rows, columns // self.group if self.group else 1)
        half = 1 << (self.bits - 1)
        signed = fill.codes(module, shape, seed, self.bits) - half
        spread = {4: 3, 8: 7}[self.bits]
        scale = fill.group_scales(module, grid, seed, columns, spread, self.dtype)
        tensors = {
            "weight_packed": pack_to_int32(signed.to(torch.int8), self.bits),
            "weight_scale": scale.to(self.dtype),
            "weight_shape": torch.tensor(shape),
        }
        if not self.symmetric:
            zero = fill.zero_points(module, grid, seed, 0, self.bits) - half
            packed = pack_to_int32(zero.to(torch.int8), self.bits, packed_dim=0)
            tensors["weight_zero_point"] = packed.contiguous()
        return tensors

    def unpack(self, tensors):
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**self.weights))
        # Arithmetic is in the type of the scales.
        tensors = dict(tensors, weight_scale=tensors["weight_scale"].float())
        return PackedQuantizationCompressor.decompress(tensors, scheme)["weight"]


class Float8:
    """8-bit floats with a scale for each block of 128 by 128, or for each row."""

    def __init__(self, block=True, scale="weight_scale_inv", dtype=torch.bfloat16):
        self.block, self.scale, self.dtype = block, scale, dtype
        self.weights = arguments(
            block_structure=[BLOCK, BLOCK] if block else None,
            num_bits=8,
            strategy="block" if block else "channel",
            symmetric=True,
            type="float",
        )

    def config(self, ignore):
        if self.scale == "weight_scale":
            activations = arguments(
                dynamic=True, num_bits=8, observer=None, strategy="token", symmetric=True, type="float"
            )
            return written(self.weights, ignore, activations, "float-quantized")
        return dict(
            activation_scheme="dynamic",
            fmt="e4m3",
            modules_to_not_convert=ignore,
            quant_method="fp8",
            weight_block_size=[BLOCK, BLOCK],
        )

    def pack(self, module, shape, seed):
        rows, columns = shape
        grid = (-(-rows // BLOCK), -(-columns // BLOCK)) if self.block else (rows, 1)
        values = fill.e4m3(module, shape, seed)
        weight = values.to(torch.float8_e4m3fn)
        assert torch.equal(weight.float(), values)
        scale = fill.group_scales(module, grid, seed, columns, 7, self.dtype)
        return {"weight": weight, self.scale: scale.to(self.dtype)}

    def unpack(self, tensors):
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**self.weights))
        found = {"weight": tensors["weight"].float(), "weight_scale": tensors[self.scale].float()}
        return FloatQuantizationCompressor.decompress(found, scheme)["weight"]
