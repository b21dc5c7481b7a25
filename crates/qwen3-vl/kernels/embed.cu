// Rows of the embedding table. Twin: candle's index_select.

#include "values.cuh"

// ids:   [rows]
// table: [vocabulary, width]
// out:   [rows, width]
// Thread blocks: one of 256 threads per row.
template <typename T>
__device__ void embed(const unsigned *ids, const T *table, T *out, unsigned width) {
  table += (size_t)ids[blockIdx.x] * width;
  out += (size_t)blockIdx.x * width;
  for (unsigned i = threadIdx.x; i < width; i += blockDim.x) out[i] = table[i];
}

KERNEL(embed_f32, (const unsigned *ids, const float *table, float *out, unsigned width), (ids, table, out, width),
       (embed<float>))
KERNEL(embed_bf16, (const unsigned *ids, const Bf16 *table, Bf16 *out, unsigned width), (ids, table, out, width),
       (embed<Bf16>))
