// All kernels as one module.

#include "add_layer_norm.cu"
#include "add_rms_norm.cu"
#include "attention.cu"
#include "bias_gelu.cu"
#include "choice.cu"
#include "decode_attention.cu"
#include "embed.cu"
#include "patchify.cu"
#include "rope.cu"
#include "silu_mul.cu"
#include "softmax.cu"
