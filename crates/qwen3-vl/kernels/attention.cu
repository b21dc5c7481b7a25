// Attention of many queries of many sequences in one launch, without padding and without scores in
// memory (flash attention), in bf16: causal prefill over the paged KV cache, and the vision tower.
//
// A thread block computes ROWS rows that share a key head: queries of one sequence times the query
// heads of the group. It iterates over the keys in tiles, and fetches the next tile while it
// multiplies by one.
//
// Its twin is cpu::attention::attend.

#include "mma.cuh"
#include "sequence.cuh"

constexpr int ROWS = 64, KEYS = 64;       // of a tile
constexpr unsigned TILE_THREADS = 128;    // four warps of 16 rows
constexpr float UNSEEN = -1e30f;

// Arguments of a whole launch.
struct Spans {
  unsigned q_pitch, kv_pitch;     // values from a token to the next
  unsigned group;                 // query heads that share a key head
  unsigned causal;                // whether queries are the last keys and attend to no later ones
  unsigned long long layer, values;  // bytes to this layer's keys, and from them to its values
  float scale;
};

// A tile of ROWS rows: index of its sequence, and its first row.
struct Tile {
  unsigned sequence, first;
};

// Copies HEAD values of KEYS tokens to shared memory at PITCH; zeros for tokens from `there` on.
template <int HEAD, int PITCH>
__device__ void fetch(Bf16 *tile, const Bf16 *from, unsigned pitch, unsigned there) {
  constexpr int WIDE = (HEAD + 15) / 16 * 16, CHUNKS = WIDE / 8;
  for (unsigned i = threadIdx.x; i < KEYS * CHUNKS; i += TILE_THREADS) {
    const unsigned key = i / CHUNKS, at = i % CHUNKS * 8;
    const bool real = key < there && at < HEAD;
    copy_later(tile + key * PITCH + at, real ? from + (size_t)key * pitch + at : from, real);
  }
}

__device__ inline unsigned pair(float a, float b) {
  Bf16 low, high;
  store(a, &low);
  store(b, &high);
  return (unsigned)high.bits << 16 | low.bits;
}

// q:         [queries of all, heads, HEAD] at a pitch
// pages:     addresses of PAGE tokens [PAGE, kv_heads, HEAD] each at a pitch, in the first layer
// out:       [queries of all, heads, HEAD]
// Thread blocks: (tiles, kv_heads) of 128 threads.
template <int HEAD>
__device__ void attention(const Bf16 *q, const unsigned long long *pages, const Tile *tiles,
                          const Sequence *sequences, Bf16 *out, Spans spans) {
  constexpr int WIDE = (HEAD + 15) / 16 * 16, PITCH = WIDE + 8, STEPS = WIDE / 16;
  // The pitch shifts each row by 16 bytes, so that eight rows fall into different banks.
  alignas(16) __shared__ Bf16 keys_tile[KEYS * PITCH], values_tile[KEYS * PITCH];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2;
  const Tile tile = tiles[blockIdx.x];
  const Sequence sequence = sequences[tile.sequence];
  const unsigned kv_head = blockIdx.y, heads = gridDim.y * spans.group;
  const unsigned rows = sequence.queries * spans.group;
  pages += sequence.page;

  // This thread has two rows of the tile.
  unsigned query[2], head[2], seen[2];
  unsigned a[STEPS][4];
  for (int r = 0; r < 2; r++) {
    const unsigned at = tile.first + warp * 16 + row + 8 * r;
    const bool real = at < rows;
    query[r] = real ? at / spans.group : 0;
    head[r] = kv_head * spans.group + (real ? at % spans.group : 0);
    seen[r] = !real ? 0 : spans.causal ? sequence.keys - sequence.queries + query[r] + 1 : sequence.keys;
    const Bf16 *from = q + (size_t)(sequence.query + query[r]) * spans.q_pitch + head[r] * HEAD;
    for (int step = 0; step < STEPS; step++)
      for (int half = 0; half < 2; half++) {
        const unsigned at = step * 16 + half * 8 + column;
        a[step][half * 2 + r] = real && at < HEAD ? *(const unsigned *)(from + at) : 0;
      }
  }
  const unsigned last = min(tile.first + ROWS, rows) - 1;
  const unsigned end =
      spans.causal ? sequence.keys - sequence.queries + last / spans.group + 1 : sequence.keys;

  const auto place = [&](unsigned key, bool of_values) {
    const Bf16 *page = (const Bf16 *)(pages[key / PAGE] + spans.layer + (of_values ? spans.values : 0));
    return page + (size_t)(key % PAGE) * spans.kv_pitch + kv_head * HEAD;
  };

  float sum[WIDE / 8][4], most[2] = {UNSEEN, UNSEEN}, weight[2] = {0, 0};
  for (int n = 0; n < WIDE / 8; n++)
    for (int i = 0; i < 4; i++) sum[n][i] = 0;
  const float scale = spans.scale * 1.44269504088896f;  // weights are powers of two

  fetch<HEAD, PITCH>(keys_tile, place(0, false), spans.kv_pitch, end);
  for (unsigned first = 0; first < end; first += KEYS) {
    copies_done();
    __syncthreads();
    fetch<HEAD, PITCH>(values_tile, place(first, true), spans.kv_pitch, end - first);

    float scores[KEYS / 8][4];
    for (int n = 0; n < KEYS / 8; n++) {
      for (int i = 0; i < 4; i++) scores[n][i] = 0;
      // Two steps at a time: the tiles at (keys, values) and (keys, values + 8), then the same of
      // the next step.
      for (int step = 0; step < STEPS; step += 2) {
        unsigned b[4];
        const int at = step * 16 + lane / 8 * 8;
        load_tiles(b, keys_tile + (n * 8 + lane % 8) * PITCH + (at < WIDE ? at : 0));
        mma(scores[n], a[step], b);
        if (step + 1 < STEPS) mma(scores[n], a[step + 1], b + 2);
      }
    }
    float largest[2] = {most[0], most[1]};
    for (int n = 0; n < KEYS / 8; n++)
      for (int i = 0; i < 4; i++) {
        const unsigned key = first + n * 8 + column + i % 2;
        scores[n][i] = key < seen[i / 2] ? scores[n][i] * scale : UNSEEN;
        largest[i / 2] = fmaxf(largest[i / 2], scores[n][i]);
      }
    for (int r = 0; r < 2; r++) {
      // Reduces over the four threads that share the row.
      for (int step = 1; step < 4; step *= 2)
        largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffff, largest[r], step));
      const float old = exp2f(most[r] - largest[r]);
      most[r] = largest[r];
      weight[r] *= old;
      for (int n = 0; n < WIDE / 8; n++) {
        sum[n][r * 2] *= old;
        sum[n][r * 2 + 1] *= old;
      }
    }
    for (int n = 0; n < KEYS / 8; n++)
      for (int i = 0; i < 4; i++) {
        // A row without keys so far has no largest score to subtract.
        const bool counts = scores[n][i] > UNSEEN;
        scores[n][i] = counts ? exp2f(scores[n][i] - most[i / 2]) : 0.0f;
        weight[i / 2] += scores[n][i];
      }

    copies_done();
    __syncthreads();
    if (first + KEYS < end)
      fetch<HEAD, PITCH>(keys_tile, place(first + KEYS, false), spans.kv_pitch, end - first - KEYS);
    for (int step = 0; step < KEYS / 16; step++) {
      // The scores' layout in registers is that of a product's first factor.
      const unsigned p[4] = {pair(scores[2 * step][0], scores[2 * step][1]),
                             pair(scores[2 * step][2], scores[2 * step][3]),
                             pair(scores[2 * step + 1][0], scores[2 * step + 1][1]),
                             pair(scores[2 * step + 1][2], scores[2 * step + 1][3])};
      for (int n = 0; n < WIDE / 8; n += 2) {
        unsigned b[4];
        load_tiles_transposed(b, values_tile + (step * 16 + lane % 16) * PITCH + (n + lane / 16) * 8);
        mma(sum[n], p, b);
        mma(sum[n + 1], p, b + 2);
      }
    }
  }
  for (int r = 0; r < 2; r++) {
    for (int step = 1; step < 4; step *= 2) weight[r] += __shfl_xor_sync(0xffffffff, weight[r], step);
    if (seen[r] == 0) continue;
    Bf16 *to = out + ((size_t)(sequence.query + query[r]) * heads + head[r]) * HEAD;
    for (int n = 0; n < WIDE / 8; n++) {
      const unsigned at = n * 8 + column;
      if (at < HEAD) *(unsigned *)(to + at) = pair(sum[n][r * 2] / weight[r], sum[n][r * 2 + 1] / weight[r]);
    }
  }
}

#define ATTENTION(HEAD)                                                                                            \
  KERNEL(attention_##HEAD,                                                                                         \
         (const Bf16 *q, const unsigned long long *pages, const Tile *tiles, const Sequence *sequences, Bf16 *out, \
          unsigned q_pitch, unsigned kv_pitch, unsigned group, unsigned causal, unsigned long long layer,          \
          unsigned long long values, float scale),                                                                 \
         (q, pages, tiles, sequences, out, Spans{q_pitch, kv_pitch, group, causal, layer, values, scale}),         \
         attention<HEAD>)
ATTENTION(32)
ATTENTION(64)
ATTENTION(72)
ATTENTION(128)
