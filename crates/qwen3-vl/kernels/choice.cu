// The largest scores of each row, largest first, of equal ones the first: what greedy decoding (k =
// 1) and sampling from the top k need of a vocabulary. Twin: the order in sampling::Sampler.
//
// Each block of threads finds those of SPAN scores, then one a row those of all blocks.

#include "block.cuh"

constexpr unsigned SPAN = 4096;
constexpr unsigned MOST = 64;  // k
typedef unsigned long long Key;  // grows with the score, of equal ones falls with the place; never 0

__device__ inline Key key_of(float score, unsigned place) {
  union {
    float score;
    unsigned bits;
  } of = {score};
  const unsigned order = of.bits & 0x80000000u ? ~of.bits : of.bits | 0x80000000u;
  return (Key)order << 32 | (0xffffffffu - place);
}

// Writes the k largest of `count` keys to `out`, and takes them out of `keys`.
__device__ inline void select(Key *keys, unsigned count, unsigned k, Key *out) {
  __shared__ Key warps[THREADS / 32];
  Key best = 0;
  unsigned where = 0;
  bool stale = true;
  for (unsigned round = 0; round < k; round++) {
    if (stale) {
      best = 0;
      for (unsigned i = threadIdx.x; i < count; i += THREADS)
        if (keys[i] > best) best = keys[where = i];
    }
    Key largest = best;
    for (int step = 16; step > 0; step /= 2) {
      const Key other = __shfl_xor_sync(0xffffffff, largest, step);
      largest = other > largest ? other : largest;
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = largest;
    __syncthreads();
    for (unsigned w = 0; w < THREADS / 32; w++) largest = warps[w] > largest ? warps[w] : largest;
    stale = best == largest;
    if (stale) keys[where] = 0;
    if (threadIdx.x == 0) out[round] = largest;
    // The next round writes there.
    __syncthreads();
  }
}

// scores: [rows, count]
// keys:   [rows, ceil(count / SPAN), k]
// Blocks of threads: (ceil(count / SPAN), rows) of 256.
template <typename T>
__device__ void top_k(const T *scores, Key *keys, unsigned count, unsigned k) {
  __shared__ Key span[SPAN];
  const unsigned first = blockIdx.x * SPAN, length = min(SPAN, count - first);
  scores += (size_t)blockIdx.y * count + first;
  for (unsigned i = threadIdx.x; i < length; i += THREADS) span[i] = key_of(widen(scores[i]), first + i);
  __syncthreads();
  select(span, length, k, keys + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * k);
}

// keys:   [rows, spans, k], spans * k at most SPAN
// places: [rows, k]; scores: [rows, k]
// Blocks of threads: one of 256 for each row.
__device__ inline void merge_top_k(const Key *keys, unsigned *places, float *scores, unsigned spans, unsigned k) {
  __shared__ Key all[SPAN], chosen[MOST];
  const unsigned count = spans * k;
  for (unsigned i = threadIdx.x; i < count; i += THREADS) all[i] = keys[(size_t)blockIdx.x * count + i];
  __syncthreads();
  select(all, count, k, chosen);
  for (unsigned i = threadIdx.x; i < k; i += THREADS) {
    const unsigned order = chosen[i] >> 32;
    union {
      unsigned bits;
      float score;
    } of = {order & 0x80000000u ? order & 0x7fffffffu : ~order};
    places[blockIdx.x * k + i] = 0xffffffffu - (unsigned)chosen[i];
    scores[blockIdx.x * k + i] = of.score;
  }
}

KERNEL(top_k_f32, (const float *scores, Key *keys, unsigned count, unsigned k), (scores, keys, count, k),
       (top_k<float>))
KERNEL(top_k_bf16, (const Bf16 *scores, Key *keys, unsigned count, unsigned k), (scores, keys, count, k),
       (top_k<Bf16>))
KERNEL(top_k_merge, (const Key *keys, unsigned *places, float *scores, unsigned spans, unsigned k),
       (keys, places, scores, spans, k), merge_top_k)

// A token that has been there: its score is divided by `repetition` (multiplied if it is negative),
// then `presence` is taken off.
struct Penalty {
  unsigned row, token;
  float repetition, presence;
};

// scores: [rows, count], in place. Each token of a row has one penalty at most. Threads: one for
// each, in blocks of any size. Twin: sampling::penalise.
__device__ inline void take_off(float *scores, const Penalty *penalties, unsigned count, unsigned of_them) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= of_them) return;
  const Penalty penalty = penalties[i];
  float *score = scores + (size_t)penalty.row * count + penalty.token;
  *score = (*score < 0 ? *score * penalty.repetition : *score / penalty.repetition) - penalty.presence;
}

KERNEL(penalise, (float *scores, const Penalty *penalties, unsigned count, unsigned of_them),
       (scores, penalties, count, of_them), take_off)
