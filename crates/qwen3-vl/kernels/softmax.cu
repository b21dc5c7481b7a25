// softmax(scale * row) in place, over the keys that a query attends to; the other weights become 0.
// Replaces a mask from the host, a scaled copy, a copy in f32 and one back.
//
// Its twin is the definition in tests/kernels; with the products around it, cpu::attention::attend.

#include "block.cuh"

// scores: [rows, keys]; row r is query r % queries, which attends to the first `seen` + r % queries
// keys, at most all. Thread blocks: one of 256 threads per row.
template <typename T>
__device__ void softmax(T *scores, unsigned queries, unsigned keys, unsigned seen, float scale) {
  scores += (size_t)blockIdx.x * keys;
  seen = min(seen + blockIdx.x % queries, keys);
  float largest = -1e30f, sum = 0;
  for (unsigned i = threadIdx.x; i < seen; i += THREADS) largest = fmaxf(largest, widen(scores[i]));
  largest = of_block<Largest>(largest);
  for (unsigned i = threadIdx.x; i < seen; i += THREADS) sum += expf(scale * (widen(scores[i]) - largest));
  const float factor = 1.0f / of_block<Sum>(sum);
  for (unsigned i = threadIdx.x; i < keys; i += THREADS)
    store(i < seen ? factor * expf(scale * (widen(scores[i]) - largest)) : 0.0f, scores + i);
}

KERNEL(softmax_f32, (float *scores, unsigned queries, unsigned keys, unsigned seen, float scale),
       (scores, queries, keys, seen, scale), (softmax<float>))
KERNEL(softmax_bf16, (Bf16 *scores, unsigned queries, unsigned keys, unsigned seen, float scale),
       (scores, queries, keys, seen, scale), (softmax<Bf16>))
