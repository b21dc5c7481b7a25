// Adds a sub-block's output and bias to the vision tower's residual stream, and normalises the sum
// (LayerNorm), in one pass. Twin: cpu::activation::add, then cpu::norm::layer_norm.

#include "block.cuh"

// sum:    [rows, width] += delta + delta_bias [width], unless delta is null
// weight, bias: [width]
// out:    [rows, width]
// Rounds where the reference rounds: delta + delta_bias, the sum, and the result. width is a
// multiple of 8. Thread blocks: one of 256 threads per row.
template <typename T>
__device__ void add_layer_norm(T *sum, const T *delta, const T *delta_bias, const T *weight, const T *bias, T *out,
                               unsigned width, float eps) {
  const size_t row = (size_t)blockIdx.x * width;
  sum += row;
  out += row;
  float total = 0;
  for (unsigned i = threadIdx.x * EACH; i < width; i += THREADS * EACH) {
    float values[EACH];
    load<EACH>(sum + i, values);
    if (delta) {
      float more[EACH], biases[EACH];
      load<EACH>(delta + row + i, more);
      load<EACH>(delta_bias + i, biases);
      for (int j = 0; j < EACH; j++) values[j] = rounded<T>(values[j] + rounded<T>(more[j] + biases[j]));
      store<EACH>(values, sum + i);
    }
    for (int j = 0; j < EACH; j++) total += values[j];
  }
  const float mean = of_block<Sum>(total) / width;
  float squares = 0;
  for (unsigned i = threadIdx.x * EACH; i < width; i += THREADS * EACH) {
    float values[EACH];
    load<EACH>(sum + i, values);
    for (int j = 0; j < EACH; j++) squares += (values[j] - mean) * (values[j] - mean);
  }
  const float factor = 1.0f / sqrtf(of_block<Sum>(squares) / width + eps);
  for (unsigned i = threadIdx.x * EACH; i < width; i += THREADS * EACH) {
    float values[EACH], weights[EACH], biases[EACH];
    load<EACH>(sum + i, values);
    load<EACH>(weight + i, weights);
    load<EACH>(bias + i, biases);
    for (int j = 0; j < EACH; j++) values[j] = (values[j] - mean) * factor * weights[j] + biases[j];
    store<EACH>(values, out + i);
  }
}

#define ADD_LAYER_NORM(NAME, T)                                                                                \
  KERNEL(add_layer_norm_##NAME,                                                                                \
         (T *sum, const T *delta, const T *delta_bias, const T *weight, const T *bias, T *out, unsigned width, \
          float eps),                                                                                          \
         (sum, delta, delta_bias, weight, bias, out, width, eps), (add_layer_norm<T>))
ADD_LAYER_NORM(f32, float)
ADD_LAYER_NORM(bf16, Bf16)
