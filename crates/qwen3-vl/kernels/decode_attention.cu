// Attention of one query per sequence over its paged KV cache, for decode steps.
//
// The keys of a sequence are split into `splits` parts, so that a few sequences keep the whole
// device busy ("split-K", flash decoding). `decode_attention_*` computes one part for all query
// heads that share a key head; `decode_attention_merge_*` merges the parts.
//
// Its twin is cpu::attention::attend.

#include "sequence.cuh"
#include "values.cuh"

constexpr int LANES = 16;               // threads that share a key
constexpr int WARPS = 4;
constexpr int KEYS_A_TIME = WARPS * 32 / LANES;
constexpr unsigned LEAST_KEYS = 64;     // worth a block of threads
constexpr float NOTHING = -1e30f;       // a score below all others; differences of it are not NaN

// Keys per part.
__device__ inline unsigned part_of(unsigned keys, unsigned splits) {
  return max((keys + splits - 1) / splits, LEAST_KEYS);
}

// q:         [queries of all, heads, HEAD]
// pages:     addresses of PAGE tokens [PAGE, kv_heads, HEAD] each, in the first layer
// layer:     bytes from there to this layer's keys, `values` from those to its values
// sequences: only their last query is computed
// partial:   [sequences, heads, splits, HEAD + 2] f32: a part's sum of values, its largest score and
//            its sum of weights; parts without keys are not written
// Thread blocks: (kv_heads, splits, sequences) of 128 threads.
template <typename T, int HEAD, int G>
__device__ void decode_attention(const T *q, const unsigned long long *pages, const Sequence *sequences,
                                 float *partial, unsigned long long layer, unsigned long long to_values,
                                 float scale) {
  constexpr int VALUES = HEAD / LANES, PARTIAL = HEAD + 2;
  // Keys and values that a thread loads at a time, to hide the latency of memory.
  constexpr int AHEAD = 8 / sizeof(T);
  __shared__ float sums[WARPS][G][PARTIAL];
  const unsigned kv_head = blockIdx.x, kv_heads = gridDim.x, heads = kv_heads * G;
  const unsigned split = blockIdx.y, splits = gridDim.y;
  const Sequence sequence = sequences[blockIdx.z];
  const unsigned warp = threadIdx.x / 32, half = threadIdx.x / LANES % 2, lane = threadIdx.x % LANES;
  const unsigned part = part_of(sequence.keys, splits);
  const unsigned begin = split * part, end = min(begin + part, sequence.keys);
  if (begin >= end) return;
  pages += sequence.page;

  float query[G][VALUES], sum[G][VALUES], most[G], weight[G];
  for (int g = 0; g < G; g++) {
    load<VALUES>(q + ((size_t)sequence.query * heads + kv_head * G + g) * HEAD + lane * VALUES, query[g]);
    most[g] = NOTHING;
    weight[g] = 0;
    for (int i = 0; i < VALUES; i++) {
      query[g][i] *= scale;
      sum[g][i] = 0;
    }
  }
  // All threads take the same number of steps, because the threads of a warp exchange values in
  // each.
  for (unsigned first = begin; first < end; first += AHEAD * KEYS_A_TIME) {
    const unsigned mine = first + 2 * warp + half;
    Pack<VALUES, T> k[AHEAD], v[AHEAD];
    UNROLL
    for (int a = 0; a < AHEAD; a++) {
      const unsigned at = min(mine + a * KEYS_A_TIME, end - 1);
      const size_t offset = ((size_t)(at % PAGE) * kv_heads + kv_head) * HEAD + lane * VALUES;
      const unsigned long long page = pages[at / PAGE] + layer;
      k[a] = Pack<VALUES, T>::at((const T *)page + offset);
      v[a] = Pack<VALUES, T>::at((const T *)(page + to_values) + offset);
    }
    UNROLL
    for (int g = 0; g < G; g++) {
      float scores[AHEAD], larger = most[g];
      UNROLL
      for (int a = 0; a < AHEAD; a++) {
        float score = 0;
        UNROLL
        for (int i = 0; i < VALUES; i++) score += query[g][i] * k[a][i];
        UNROLL
        for (int step = LANES / 2; step > 0; step /= 2) score += __shfl_xor_sync(0xffffffff, score, step);
        scores[a] = score;
        larger = fmaxf(larger, score);
      }
      const float old = expf(most[g] - larger);
      most[g] = larger;
      weight[g] *= old;
      UNROLL
      for (int i = 0; i < VALUES; i++) sum[g][i] *= old;
      UNROLL
      for (int a = 0; a < AHEAD; a++) {
        const float p = mine + a * KEYS_A_TIME < end ? expf(scores[a] - larger) : 0.0f;
        weight[g] += p;
        UNROLL
        for (int i = 0; i < VALUES; i++) sum[g][i] += p * v[a][i];
      }
    }
  }
  for (int g = 0; g < G; g++) {
    // Merges the two halves of the warp.
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
  if (threadIdx.x >= HEAD) return;
  for (int g = 0; g < G; g++) {
    float larger = NOTHING, total = 0, weights = 0;
    for (int w = 0; w < WARPS; w++) larger = fmaxf(larger, sums[w][g][HEAD]);
    for (int w = 0; w < WARPS; w++) {
      const float factor = expf(sums[w][g][HEAD] - larger);
      total += factor * sums[w][g][threadIdx.x];
      weights += factor * sums[w][g][HEAD + 1];
    }
    float *out = partial + (((size_t)blockIdx.z * heads + kv_head * G + g) * splits + split) * PARTIAL;
    out[threadIdx.x] = total;
    if (threadIdx.x == 0) {
      out[HEAD] = larger;
      out[HEAD + 1] = weights;
    }
  }
}

// out: [queries of all, heads, HEAD]. Thread blocks: (heads, sequences) of HEAD threads.
template <typename T, int HEAD>
__device__ void decode_attention_merge(const float *partial, const Sequence *sequences, T *out, unsigned splits) {
  constexpr int PARTIAL = HEAD + 2;
  const unsigned head = blockIdx.x, heads = gridDim.x, keys = sequences[blockIdx.y].keys;
  const unsigned part = part_of(keys, splits), parts = (keys + part - 1) / part;
  partial += ((size_t)blockIdx.y * heads + head) * splits * PARTIAL;
  float larger = NOTHING, total = 0, weights = 0;
  for (unsigned s = 0; s < parts; s++) larger = fmaxf(larger, partial[s * PARTIAL + HEAD]);
  for (unsigned s = 0; s < parts; s++) {
    const float factor = expf(partial[s * PARTIAL + HEAD] - larger);
    total += factor * partial[s * PARTIAL + threadIdx.x];
    weights += factor * partial[s * PARTIAL + HEAD + 1];
  }
  out += ((size_t)sequences[blockIdx.y].query * heads + head) * HEAD;
  store(weights > 0 ? total / weights : 0.0f, out + threadIdx.x);
}

#define DECODE_ATTENTION(NAME, T, HEAD, G)                                                                         \
  KERNEL(decode_attention_##NAME##_##HEAD##_##G,                                                                   \
         (const T *q, const unsigned long long *pages, const Sequence *sequences, float *partial,                  \
          unsigned long long layer, unsigned long long values, float scale),                                       \
         (q, pages, sequences, partial, layer, values, scale), (decode_attention<T, HEAD, G>))
#define DECODE_ATTENTION_OF(NAME, T, HEAD)                                                              \
  DECODE_ATTENTION(NAME, T, HEAD, 1)                                                                    \
  DECODE_ATTENTION(NAME, T, HEAD, 2)                                                                    \
  DECODE_ATTENTION(NAME, T, HEAD, 4)                                                                    \
  DECODE_ATTENTION(NAME, T, HEAD, 8)                                                                    \
  KERNEL(decode_attention_merge_##NAME##_##HEAD,                                                        \
         (const float *partial, const Sequence *sequences, T *out, unsigned splits),                    \
         (partial, sequences, out, splits), (decode_attention_merge<T, HEAD>))

DECODE_ATTENTION_OF(f32, float, 32)
DECODE_ATTENTION_OF(f32, float, 64)
DECODE_ATTENTION_OF(f32, float, 128)
DECODE_ATTENTION_OF(bf16, Bf16, 32)
DECODE_ATTENTION_OF(bf16, Bf16, 64)
DECODE_ATTENTION_OF(bf16, Bf16, 128)
