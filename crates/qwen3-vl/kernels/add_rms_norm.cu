// Adds a sub-layer's output to the residual stream, and normalises the sum (RMSNorm), in one pass.
// Twin: cpu::activation::add, then cpu::norm::rms_norm.

#include "block.cuh"

// sum:    [rows, width] += delta, unless that is null
// weight: [width]
// out:    [rows, width]
// Rounds where the reference (Qwen3VLTextRMSNorm) rounds: the sum, and the normalised value before
// it is weighted. width is a multiple of 8. Thread blocks: one of 256 threads per row.
template <typename T>
__device__ void add_rms_norm(T *sum, const T *delta, const T *weight, T *out, unsigned width, float eps) {
  const size_t row = (size_t)blockIdx.x * width;
  sum += row;
  out += row;
  float squares = 0;
  for (unsigned i = threadIdx.x * EACH; i < width; i += THREADS * EACH) {
    float values[EACH];
    load<EACH>(sum + i, values);
    if (delta) {
      float more[EACH];
      load<EACH>(delta + row + i, more);
      for (int j = 0; j < EACH; j++) values[j] = rounded<T>(values[j] + more[j]);
      store<EACH>(values, sum + i);
    }
    for (int j = 0; j < EACH; j++) squares += values[j] * values[j];
  }
  const float factor = 1.0f / sqrtf(of_block<Sum>(squares) / width + eps);
  for (unsigned i = threadIdx.x * EACH; i < width; i += THREADS * EACH) {
    float values[EACH], weights[EACH];
    load<EACH>(sum + i, values);
    load<EACH>(weight + i, weights);
    for (int j = 0; j < EACH; j++) values[j] = rounded<T>(values[j] * factor) * weights[j];
    store<EACH>(values, out + i);
  }
}

#define ADD_RMS_NORM(NAME, T)                                                                                     \
  KERNEL(add_rms_norm_##NAME, (T *sum, const T *delta, const T *weight, T *out, unsigned width, float eps),       \
         (sum, delta, weight, out, width, eps), (add_rms_norm<T>))
ADD_RMS_NORM(f32, float)
ADD_RMS_NORM(bf16, Bf16)
