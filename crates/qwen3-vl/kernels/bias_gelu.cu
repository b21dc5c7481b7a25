// Tanh-approximated GELU of a product and its bias. Twin: cpu::activation::add, then
// cpu::activation::gelu_tanh.

#include "values.cuh"

// x:    [rows, width], in place
// bias: [width]
// width is a multiple of 8. Threads: one for each of `count` groups of 8 values, in blocks of any
// size.
template <typename T>
__device__ void bias_gelu(T *x, const T *bias, unsigned width, unsigned count) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float values[EACH], biases[EACH];
  load<EACH>(x + (size_t)i * EACH, values);
  load<EACH>(bias + i % (width / EACH) * EACH, biases);
  for (int j = 0; j < EACH; j++) {
    const float v = rounded<T>(values[j] + biases[j]);
    values[j] = 0.5f * v * (1.0f + tanhf(0.7978845608f * (v + 0.044715f * v * v * v)));
  }
  store<EACH>(values, x + (size_t)i * EACH);
}

KERNEL(bias_gelu_f32, (float *x, const float *bias, unsigned width, unsigned count), (x, bias, width, count),
       (bias_gelu<float>))
KERNEL(bias_gelu_bf16, (Bf16 *x, const Bf16 *bias, unsigned width, unsigned count), (x, bias, width, count),
       (bias_gelu<Bf16>))
