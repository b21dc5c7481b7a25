// Rotary position embeddings. The angles of a pass are computed once; then, in every layer, one
// pass over memory normalises queries and keys, rotates them and writes to the KV cache.
//
// Twins: model::rope, cpu::norm::rms_norm, cpu::norm::rotate.

#include "values.cuh"

// positions:   [rows, 3], time, height, width
// frequencies: [half], with the axis whose position each rotates by
// table:       [rows, half, 2], cosine and sine
// Threads: one for each of `count` = rows * half, in blocks of any size.
__device__ inline void angles(const unsigned *positions, const float *frequencies, const unsigned *axes,
                              float *table, unsigned half, unsigned count) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const unsigned row = i / half, j = i % half;
  const float angle = (float)positions[row * 3 + axes[j]] * frequencies[j];
  table[2 * (size_t)i] = cosf(angle);
  table[2 * (size_t)i + 1] = sinf(angle);
}

KERNEL(rope_table,
       (const unsigned *positions, const float *frequencies, const unsigned *axes, float *table, unsigned half,
        unsigned count),
       (positions, frequencies, axes, table, half, count), angles)

constexpr unsigned HEADS_OF_BLOCK = 4;  // one a warp

// The heads of one kind: address of the first, and values from row to row.
template <typename T>
struct Heads {
  const T *first;
  unsigned pitch;
};

// q, k, v:  [rows, heads or kv_heads, HEAD], rows at a pitch
// table:    [rows, HEAD / 2, 2]
// slots:    [rows] address of the row's first key in the first layer of its block; null for a
//           padding row, which is discarded
// layer:    bytes from there to this layer's keys, `values` from those to its values
// out:      [rows, heads, HEAD], queries normalised and rotated
// Thread blocks: (ceil((heads + 2 kv_heads) / 4), rows) of 128 threads.
template <typename T, int HEAD>
__device__ void rope_write(Heads<T> q, Heads<T> k, Heads<T> v, const T *q_weight, const T *k_weight,
                           const float *table, const unsigned long long *slots, unsigned long long layer,
                           unsigned long long values, T *out, unsigned heads, unsigned kv_heads, float eps) {
  constexpr int HALF = HEAD / 2, EACH = (HALF + 31) / 32;
  const unsigned lane = threadIdx.x % 32, row = blockIdx.y;
  unsigned head = blockIdx.x * HEADS_OF_BLOCK + threadIdx.x / 32;
  const bool is_q = head < heads, is_v = head >= heads + kv_heads;
  if (head >= heads + 2 * kv_heads) return;
  head -= is_q ? 0 : is_v ? heads + kv_heads : heads;
  const Heads<T> from = is_q ? q : is_v ? v : k;
  const T *x = from.first + (size_t)row * from.pitch + head * HEAD;
  if (!is_q && slots[row] == 0) return;
  T *to = is_q ? out + ((size_t)row * heads + head) * HEAD
               : (T *)(slots[row] + layer + (is_v ? values : 0)) + head * HEAD;
  if (is_v) {
    for (unsigned i = lane; i < HEAD; i += 32) to[i] = x[i];
    return;
  }
  float low[EACH], high[EACH], squares = 0;
  for (int e = 0; e < EACH; e++) {
    const unsigned i = lane + 32 * e;
    low[e] = i < HALF ? widen(x[i]) : 0;
    high[e] = i < HALF ? widen(x[i + HALF]) : 0;
    squares += low[e] * low[e] + high[e] * high[e];
  }
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(0xffffffff, squares, step);
  const float factor = 1.0f / sqrtf(squares / HEAD + eps);
  const T *weight = is_q ? q_weight : k_weight;
  table += (size_t)row * HEAD;
  for (int e = 0; e < EACH; e++) {
    const unsigned i = lane + 32 * e;
    if (i >= HALF) break;
    const float a = rounded<T>(rounded<T>(low[e] * factor) * widen(weight[i]));
    const float b = rounded<T>(rounded<T>(high[e] * factor) * widen(weight[i + HALF]));
    const float c = table[2 * i], s = table[2 * i + 1];
    store(a * c - b * s, to + i);
    store(b * c + a * s, to + i + HALF);
  }
}

#define ROPE_WRITE(NAME, T, HEAD)                                                                                  \
  KERNEL(rope_write_##NAME##_##HEAD,                                                                               \
         (const T *q, unsigned q_pitch, const T *k, unsigned k_pitch, const T *v, unsigned v_pitch,                \
          const T *q_weight, const T *k_weight, const float *table, const unsigned long long *slots,               \
          unsigned long long layer, unsigned long long values, T *out, unsigned heads, unsigned kv_heads,          \
          float eps),                                                                                              \
         (Heads<T>{q, q_pitch}, Heads<T>{k, k_pitch}, Heads<T>{v, v_pitch}, q_weight, k_weight, table, slots,      \
          layer, values, out, heads, kv_heads, eps),                                                               \
         (rope_write<T, HEAD>))
#define ROPE_WRITE_OF(NAME, T) \
  ROPE_WRITE(NAME, T, 32)      \
  ROPE_WRITE(NAME, T, 64)      \
  ROPE_WRITE(NAME, T, 128)
ROPE_WRITE_OF(f32, float)
ROPE_WRITE_OF(bf16, Bf16)

// Adds the bias of the vision tower's queries, keys and values, and rotates queries and keys, in
// place, in f32 as in the reference.
//
// qkv:      [patches, 3, heads, 2 half]
// bias:     [3, heads, 2 half]
// cos, sin: [patches of one grid, half]
// Threads: one for each of `count` = patches * 3 * heads * half, in blocks of any size.
template <typename T>
__device__ void vision_rope(T *qkv, const T *bias, const float *cos, const float *sin, unsigned grid, unsigned heads,
                            unsigned half, unsigned long long count) {
  const unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const unsigned j = i % half, head = i / half % (3 * heads);
  const unsigned long long patch = i / half / (3 * heads);
  T *x = qkv + (patch * 3 * heads + head) * 2 * half + j;
  bias += head * 2 * half + j;
  const float a = rounded<T>(widen(x[0]) + widen(bias[0])), b = rounded<T>(widen(x[half]) + widen(bias[half]));
  const bool turns = head < 2 * heads;
  const float c = turns ? cos[patch % grid * half + j] : 1.0f, s = turns ? sin[patch % grid * half + j] : 0.0f;
  store(a * c - b * s, x);
  store(b * c + a * s, x + half);
}

#define VISION_ROPE(NAME, T)                                                                                        \
  KERNEL(vision_rope_##NAME,                                                                                        \
         (T *qkv, const T *bias, const float *cos, const float *sin, unsigned grid, unsigned heads, unsigned half,  \
          unsigned long long count),                                                                                \
         (qkv, bias, cos, sin, grid, heads, half, count), (vision_rope<T>))
VISION_ROPE(f32, float)
VISION_ROPE(bf16, Bf16)
