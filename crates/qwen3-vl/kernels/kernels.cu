// All kernels as one module.

#include "decode_attention.cu"
#include "silu_mul.cu"
#include "softmax.cu"
