// out = silu(gate) * up in one pass over memory. Twin: cpu::activation::silu_mul.

#include "values.cuh"

// gate, up: [rows, width] at a pitch; out: [rows, width]. Threads: one for each of `count` values,
// in blocks of any size.
template <typename T>
__device__ void silu_mul(const T *gate, const T *up, T *out, unsigned width, unsigned pitch,
                         unsigned long long count) {
  const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const size_t at = i / width * pitch + i % width;
  const float x = widen(gate[at]);
  // The reference rounds the result of silu.
  store(rounded<T>(x / (1.0f + expf(-x))) * widen(up[at]), out + i);
}

#define SILU_MUL(NAME, T)                                                                                    \
  KERNEL(silu_mul_##NAME,                                                                                    \
         (const T *gate, const T *up, T *out, unsigned width, unsigned pitch, unsigned long long count),     \
         (gate, up, out, width, pitch, count), (silu_mul<T>))
SILU_MUL(f32, float)
SILU_MUL(bf16, Bf16)
