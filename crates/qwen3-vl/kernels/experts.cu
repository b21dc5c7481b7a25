// Mixture of experts without the host: which experts a row goes through, rows sorted by expert, and
// the weighted sums of the results. The products between are those of gemv.cu and tile.cu.
//
// A *slot* is a row and one of its experts: row * top + its place among these, which rise. Twins:
// model::experts::routing, cpu::experts::weighted_sums.

#include "block.cuh"
#include "tile.cu"

// logits:  [rows, count]
// experts: [rows, top], rising: those with the largest probabilities, of equal ones the first
// weights: [rows, top], their probabilities divided by the sum
// Thread blocks: one of 32 threads per row. count is at most MOST_EXPERTS, top at most count.
constexpr unsigned MOST_EXPERTS = 1024;
__device__ inline void choose_experts(const float *logits, unsigned *experts, float *weights, unsigned count, unsigned top) {
  __shared__ float probabilities[MOST_EXPERTS];
  __shared__ unsigned chosen[MOST_EXPERTS];
  logits += (size_t)blockIdx.x * count;
  float largest = -3.4e38f, sum = 0;
  for (unsigned i = threadIdx.x; i < count; i += 32) largest = fmaxf(largest, logits[i]);
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, step));
  for (unsigned i = threadIdx.x; i < count; i += 32) {
    probabilities[i] = expf(logits[i] - largest);
    sum += probabilities[i];
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
  for (unsigned i = threadIdx.x; i < count; i += 32) probabilities[i] /= sum;
  float of_chosen = 0;
  unsigned long long last = ~0ull;
  for (unsigned round = 0; round < top; round++) {
    // The largest key below the last one's. It grows with the probability; for equal ones, falls
    // with the expert. Never 0.
    unsigned long long best = 0;
    for (unsigned i = threadIdx.x; i < count; i += 32) {
      union {
        float value;
        unsigned bits;
      } of = {probabilities[i]};
      const unsigned long long key = (unsigned long long)(of.bits & 0x7fffffff) << 32 | (0xffffffffu - i);
      if (key < last && key > best) best = key;
    }
    for (int step = 16; step > 0; step /= 2) {
      const unsigned long long other = __shfl_xor_sync(0xffffffff, best, step);
      best = other > best ? other : best;
    }
    of_chosen += of_bits(best >> 32);
    if (threadIdx.x == 0) chosen[round] = 0xffffffffu - (unsigned)best;
    last = best;
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < top; i += 32) {
    unsigned slot = blockIdx.x * top;
    for (unsigned other = 0; other < top; other++) slot += chosen[other] < chosen[i];
    experts[slot] = chosen[i];
    weights[slot] = probabilities[chosen[i]] / of_chosen;
  }
}

// The slots of each expert, rising, one expert behind the other.
//
// experts: [count]; slots: [count]; starts: [experts + 1], where each expert's slots begin
// Thread blocks: one of 256 threads per expert.
__device__ inline void sort_by_expert(const unsigned *experts, unsigned *slots, unsigned *starts, unsigned count) {
  __shared__ unsigned before[THREADS], own[THREADS];
  const unsigned expert = blockIdx.x, part = (count + THREADS - 1) / THREADS;
  const unsigned first = min(threadIdx.x * part, count), end = min(first + part, count);
  unsigned less = 0, same = 0;
  for (unsigned i = first; i < end; i++) {
    less += experts[i] < expert;
    same += experts[i] == expert;
  }
  before[threadIdx.x] = less;
  own[threadIdx.x] = same;
  __syncthreads();
  // Sums of all threads up to each.
  for (unsigned step = 1; step < THREADS; step *= 2) {
    const bool has = threadIdx.x >= step;
    const unsigned more = has ? before[threadIdx.x - step] : 0, more_own = has ? own[threadIdx.x - step] : 0;
    __syncthreads();
    before[threadIdx.x] += more;
    own[threadIdx.x] += more_own;
    __syncthreads();
  }
  const unsigned start = before[THREADS - 1];
  unsigned next = start + own[threadIdx.x] - same;
  for (unsigned i = first; i < end; i++)
    if (experts[i] == expert) slots[next++] = i;
  if (threadIdx.x > 0) return;
  starts[expert] = start;
  if (expert + 1 == gridDim.x) starts[gridDim.x] = count;
}

// The stretches of at most 64 slots of one expert; behind them empty ones.
//
// starts: [experts + 1]; stretches: [count]
// Thread blocks: one of 256 threads.
__device__ inline void make_stretches(const unsigned *starts, Stretch *stretches, unsigned experts, unsigned count) {
  __shared__ unsigned firsts[MOST_EXPERTS + 1];
  for (unsigned i = threadIdx.x; i < experts; i += THREADS)
    firsts[i] = (starts[i + 1] - starts[i] + TILE_ROWS - 1) / TILE_ROWS;
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned next = 0;
    for (unsigned i = 0; i < experts; i++) {
      const unsigned stretches_of = firsts[i];
      firsts[i] = next;
      next += stretches_of;
    }
    firsts[experts] = next;
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < experts; i += THREADS)
    for (unsigned nth = firsts[i]; nth < firsts[i + 1]; nth++) {
      const unsigned first = starts[i] + (nth - firsts[i]) * TILE_ROWS;
      stretches[nth] = {i, first, min(first + TILE_ROWS, starts[i + 1])};
    }
  for (unsigned i = firsts[experts] + threadIdx.x; i < count; i += THREADS) stretches[i] = {0, 0, 0};
}

// Sums of `top` results each, in f32 of products in the type of the results (transformers:
// `batched_mm_experts_forward`).
//
// results: [rows, top, width]; weights: [rows, top]; out: [rows, width]
// Thread blocks: (width / 256, rows) of 256 threads.
template <typename T>
__device__ void weighted_sums(const T *results, const float *weights, T *out, unsigned width, unsigned top) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= width) return;
  float sum = 0;
  for (unsigned slot = blockIdx.y * top; slot < (blockIdx.y + 1) * top; slot++)
    sum += rounded<T>(rounded<T>(weights[slot]) * widen(results[(size_t)slot * width + i]));
  store(sum, out + (size_t)blockIdx.y * width + i);
}

KERNEL(route, (const float *logits, unsigned *experts, float *weights, unsigned count, unsigned top),
       (logits, experts, weights, count, top), choose_experts)
KERNEL(sort_slots, (const unsigned *experts, unsigned *slots, unsigned *starts, unsigned count),
       (experts, slots, starts, count), sort_by_expert)
KERNEL(stretch_slots, (const unsigned *starts, Stretch *stretches, unsigned experts, unsigned count),
       (starts, stretches, experts, count), make_stretches)
KERNEL(weighted_sums_f32, (const float *results, const float *weights, float *out, unsigned width, unsigned top),
       (results, weights, out, width, top), (weighted_sums<float>))
KERNEL(weighted_sums_bf16, (const Bf16 *results, const float *weights, Bf16 *out, unsigned width, unsigned top),
       (results, weights, out, width, top), (weighted_sums<Bf16>))
