// gate = silu(gate) * up in one pass over memory. Twin: cpu::activation::silu_mul.

#include "values.cuh"

// Threads: one for each of `count` values, in blocks of any size.
template <typename T>
__device__ void silu_mul(T *gate, const T *up, unsigned long long count) {
  const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float x = widen(gate[i]);
  store(x / (1.0f + expf(-x)) * widen(up[i]), gate + i);
}

KERNEL(silu_mul_f32, (float *gate, const float *up, unsigned long long count), (gate, up, count), (silu_mul<float>))
KERNEL(silu_mul_bf16, (Bf16 *gate, const Bf16 *up, unsigned long long count), (gate, up, count), (silu_mul<Bf16>))
