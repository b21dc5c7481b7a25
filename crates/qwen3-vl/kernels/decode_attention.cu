// Attention of one query a sequence over its paged cache: what a decode step does in every layer.
//
// The keys of a sequence are cut into `splits` parts, so that a few sequences keep the whole device
// busy ("split-K", flash decoding). `decode_attention_*` computes one part for all query heads that
// share a key head; `decode_attention_merge_*` joins the parts.
//
// Its twin is cpu::attention::attend; tests/kernels.rs runs both on random inputs.

#include "values.cuh"

constexpr int HEAD = 128;               // values of a head
constexpr int BLOCK_TOKENS = 128;       // model::kv_cache::BLOCK_TOKENS
constexpr int LANES = 16;               // threads that share a key
constexpr int VALUES = HEAD / LANES;    // values of a key that one of them has
constexpr int WARPS = 4;
constexpr int PARTIAL = HEAD + 2;       // a part's sum of values, its largest score, its sum of weights
constexpr float NOTHING = -1e30f;       // a score below all others; differences of it are not NaN

// q:        [sequences, heads, 128]
// keys:     [sequences, blocks] addresses of blocks [128, kv_heads, 128]; values: likewise
// lengths:  [sequences] keys of each
// partial:  [sequences, heads, splits, 130] f32
// Blocks of threads: (kv_heads, splits, sequences) of 128.
template <typename T, int G>
__device__ void decode_attention(const T *q, const unsigned long long *keys, const unsigned long long *values,
                                 const unsigned *lengths, float *partial, unsigned heads, unsigned blocks,
                                 float scale) {
  __shared__ float sums[WARPS][G][PARTIAL];
  const unsigned kv_head = blockIdx.x, kv_heads = gridDim.x;
  const unsigned split = blockIdx.y, splits = gridDim.y, sequence = blockIdx.z;
  const unsigned warp = threadIdx.x / 32, half = threadIdx.x / LANES % 2, lane = threadIdx.x % LANES;
  const unsigned length = lengths[sequence];
  const unsigned part = (length + splits - 1) / splits;
  const unsigned begin = split * part, end = min(begin + part, length);
  keys += sequence * blocks;
  values += sequence * blocks;

  float query[G][VALUES], sum[G][VALUES], most[G], weight[G];
  for (int g = 0; g < G; g++) {
    load<VALUES>(q + ((size_t)sequence * heads + kv_head * G + g) * HEAD + lane * VALUES, query[g]);
    most[g] = NOTHING;
    weight[g] = 0;
    for (int i = 0; i < VALUES; i++) {
      query[g][i] *= scale;
      sum[g][i] = 0;
    }
  }
  // All threads take the same number of steps, since those of a warp exchange values in each.
  for (unsigned first = begin; first < end; first += 2 * WARPS) {
    const unsigned key = first + 2 * warp + half;
    const bool there = key < end;
    const unsigned at = there ? key : begin;
    const size_t offset = ((size_t)(at % BLOCK_TOKENS) * kv_heads + kv_head) * HEAD + lane * VALUES;
    float k[VALUES], v[VALUES];
    load<VALUES>((const T *)keys[at / BLOCK_TOKENS] + offset, k);
    load<VALUES>((const T *)values[at / BLOCK_TOKENS] + offset, v);
    for (int g = 0; g < G; g++) {
      float score = 0;
      for (int i = 0; i < VALUES; i++) score += query[g][i] * k[i];
      for (int step = LANES / 2; step > 0; step /= 2) score += __shfl_xor_sync(0xffffffff, score, step);
      const float larger = fmaxf(most[g], score);
      const float old = expf(most[g] - larger), p = there ? expf(score - larger) : 0.0f;
      most[g] = larger;
      weight[g] = weight[g] * old + p;
      for (int i = 0; i < VALUES; i++) sum[g][i] = sum[g][i] * old + p * v[i];
    }
  }
  for (int g = 0; g < G; g++) {
    // The two halves of the warp.
    const float other = __shfl_xor_sync(0xffffffff, most[g], LANES);
    const float larger = fmaxf(most[g], other), mine = expf(most[g] - larger);
    weight[g] *= mine;
    weight[g] += __shfl_xor_sync(0xffffffff, weight[g], LANES);
    for (int i = 0; i < VALUES; i++) {
      sum[g][i] *= mine;
      sum[g][i] += __shfl_xor_sync(0xffffffff, sum[g][i], LANES);
      if (half == 0) sums[warp][g][lane * VALUES + i] = sum[g][i];
    }
    if (half == 0 && lane == 0) {
      sums[warp][g][HEAD] = larger;
      sums[warp][g][HEAD + 1] = weight[g];
    }
  }
  __syncthreads();
  for (int g = 0; g < G; g++) {
    float larger = NOTHING, total = 0, weights = 0;
    for (int w = 0; w < WARPS; w++) larger = fmaxf(larger, sums[w][g][HEAD]);
    for (int w = 0; w < WARPS; w++) {
      const float factor = expf(sums[w][g][HEAD] - larger);
      total += factor * sums[w][g][threadIdx.x];
      weights += factor * sums[w][g][HEAD + 1];
    }
    float *out = partial + (((size_t)sequence * heads + kv_head * G + g) * splits + split) * PARTIAL;
    out[threadIdx.x] = total;
    if (threadIdx.x == 0) {
      out[HEAD] = larger;
      out[HEAD + 1] = weights;
    }
  }
}

// out: [sequences, heads, 128]. Blocks of threads: (heads, sequences) of 128.
template <typename T>
__device__ void decode_attention_merge(const float *partial, T *out, unsigned splits) {
  const size_t row = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
  partial += row * splits * PARTIAL;
  float larger = NOTHING, total = 0, weights = 0;
  for (unsigned s = 0; s < splits; s++) larger = fmaxf(larger, partial[s * PARTIAL + HEAD]);
  for (unsigned s = 0; s < splits; s++) {
    const float factor = expf(partial[s * PARTIAL + HEAD] - larger);
    total += factor * partial[s * PARTIAL + threadIdx.x];
    weights += factor * partial[s * PARTIAL + HEAD + 1];
  }
  store(total / weights, out + row * HEAD + threadIdx.x);
}

#define DECODE_ATTENTION(NAME, T, G)                                                                            \
  KERNEL(decode_attention_##NAME##_##G,                                                                         \
         (const T *q, const unsigned long long *keys, const unsigned long long *values, const unsigned *lengths, \
          float *partial, unsigned heads, unsigned blocks, float scale),                                        \
         (q, keys, values, lengths, partial, heads, blocks, scale), (decode_attention<T, G>))
#define OF_TYPE(NAME, T)                                                                                      \
  DECODE_ATTENTION(NAME, T, 1)                                                                                \
  DECODE_ATTENTION(NAME, T, 2)                                                                                \
  DECODE_ATTENTION(NAME, T, 4)                                                                                \
  DECODE_ATTENTION(NAME, T, 8)                                                                                \
  KERNEL(decode_attention_merge_##NAME, (const float *partial, T *out, unsigned splits), (partial, out, splits), \
         (decode_attention_merge<T>))

OF_TYPE(f32, float)
OF_TYPE(bf16, Bf16)
