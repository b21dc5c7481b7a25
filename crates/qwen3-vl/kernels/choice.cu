// The k largest logits of each row, largest first, equal ones by token: what greedy decoding (k =
// 1) and top-k sampling need. Twin: the order in sampling::Sampler.
//
// A thread block selects from SPAN logits, then one per row merges the results.

#include "block.cuh"

constexpr unsigned SPAN = 4096;
constexpr unsigned MOST = 64;  // k
// Grows with the logit; for equal logits, falls with the token. Never 0.
typedef unsigned long long Key;

__device__ inline Key key_of(float logit, unsigned token) {
  union {
    float logit;
    unsigned bits;
  } of = {logit};
  const unsigned order = of.bits & 0x80000000u ? ~of.bits : of.bits | 0x80000000u;
  return (Key)order << 32 | (0xffffffffu - token);
}

// Writes the k largest of `count` keys to `out`, and removes them from `keys`.
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
    // The next round writes to `warps`.
    __syncthreads();
  }
}

// logits: [rows, count]
// keys:   [rows, ceil(count / SPAN), k]
// Thread blocks: (ceil(count / SPAN), rows) of 256 threads.
template <typename T>
__device__ void top_k(const T *logits, Key *keys, unsigned count, unsigned k) {
  __shared__ Key span[SPAN];
  const unsigned first = blockIdx.x * SPAN, length = min(SPAN, count - first);
  logits += (size_t)blockIdx.y * count + first;
  for (unsigned i = threadIdx.x; i < length; i += THREADS) span[i] = key_of(widen(logits[i]), first + i);
  __syncthreads();
  select(span, length, k, keys + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * k);
}

// keys:   [rows, spans, k], spans * k at most SPAN
// tokens: [rows, k]; logits: [rows, k]
// Thread blocks: one of 256 threads per row.
__device__ inline void merge_top_k(const Key *keys, unsigned *tokens, float *logits, unsigned spans, unsigned k) {
  __shared__ Key all[SPAN], chosen[MOST];
  const unsigned count = spans * k;
  for (unsigned i = threadIdx.x; i < count; i += THREADS) all[i] = keys[(size_t)blockIdx.x * count + i];
  __syncthreads();
  select(all, count, k, chosen);
  for (unsigned i = threadIdx.x; i < k; i += THREADS) {
    const unsigned order = chosen[i] >> 32;
    union {
      unsigned bits;
      float logit;
    } of = {order & 0x80000000u ? order & 0x7fffffffu : ~order};
    tokens[blockIdx.x * k + i] = 0xffffffffu - (unsigned)chosen[i];
    logits[blockIdx.x * k + i] = of.logit;
  }
}

KERNEL(top_k_f32, (const float *logits, Key *keys, unsigned count, unsigned k), (logits, keys, count, k),
       (top_k<float>))
KERNEL(top_k_bf16, (const Bf16 *logits, Key *keys, unsigned count, unsigned k), (logits, keys, count, k),
       (top_k<Bf16>))
KERNEL(top_k_merge, (const Key *keys, unsigned *tokens, float *logits, unsigned spans, unsigned k),
       (keys, tokens, logits, spans, k), merge_top_k)

// The penalty of a token that occurred: its logit is divided by `repetition` (multiplied if it is
// negative), then `presence` is subtracted.
struct Penalty {
  unsigned row, token;
  float repetition, presence;
};

// logits: [rows, count], in place. A token of a row has at most one penalty. Threads: one per
// penalty, in blocks of any size. Twin: sampling::penalise.
__device__ inline void take_off(float *logits, const Penalty *penalties, unsigned count, unsigned of_them) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= of_them) return;
  const Penalty penalty = penalties[i];
  float *logit = logits + (size_t)penalty.row * count + penalty.token;
  *logit = (*logit < 0 ? *logit * penalty.repetition : *logit / penalty.repetition) - penalty.presence;
}

KERNEL(penalise, (float *logits, const Penalty *penalties, unsigned count, unsigned of_them),
       (logits, penalties, count, of_them), take_off)
