// Products of many rows with a matrix, however it is stored: its weights become values of the
// inputs' type a tile at a time, in shared memory. In bf16 tensor cores multiply, in f32 (tests)
// plain loops. Also of rows that are sorted by the expert whose matrix they are multiplied by.
// Twins: those of gemv.cu.

#include "mma.cuh"
#include "stored.cuh"

constexpr unsigned TILE_ROWS = 64, TILE_OUTPUTS = 64;
constexpr unsigned PRODUCT_THREADS = 128;

// Rows of the inputs that are multiplied by one matrix.
struct Stretch {
  unsigned expert, first, end;
};

// Adds a tile of COLUMNS columns to 32 sums a thread.
template <typename T>
struct TileProduct;

// Each of four warps has 32 x 32 of the results: 2 x 4 products.
template <>
struct TileProduct<Bf16> {
  static constexpr unsigned COLUMNS = 64, PITCH = COLUMNS + 8;
  __device__ static void add(const Bf16 *x, const Bf16 *w, float sum[32]) {
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    x += (warp / 2 * 32 + lane % 16) * PITCH + lane / 16 * 8;
    w += (warp % 2 * 32 + lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8;
    UNROLL for (unsigned step = 0; step < COLUMNS; step += 16) {
      unsigned a[2][4], b[2][4];
      UNROLL for (int i = 0; i < 2; i++) {
        load_tiles(a[i], x + i * 16 * PITCH + step);
        load_tiles(b[i], w + i * 16 * PITCH + step);
      }
      UNROLL for (int i = 0; i < 2; i++)
        UNROLL for (int j = 0; j < 4; j++) mma(sum + i * 16 + j * 4, a[i], b[j / 2] + j % 2 * 2);
    }
  }
  __device__ static unsigned row(int i) {
    return threadIdx.x / 64 * 32 + i / 16 * 16 + i % 4 / 2 * 8 + threadIdx.x % 32 / 4;
  }
  __device__ static unsigned output(int i) {
    return threadIdx.x / 32 % 2 * 32 + i % 16 / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
  }
};

template <>
struct TileProduct<float> {
  static constexpr unsigned COLUMNS = 32, PITCH = COLUMNS + 4;
  __device__ static void add(const float *x, const float *w, float sum[32]) {
    for (unsigned k = 0; k < COLUMNS; k++)
      UNROLL for (int i = 0; i < 32; i++) sum[i] += x[row(i) * PITCH + k] * w[output(i) * PITCH + k];
  }
  __device__ static unsigned row(int i) { return i / 4 * 8 + threadIdx.x / 16; }
  __device__ static unsigned output(int i) { return i % 4 * 16 + threadIdx.x % 16; }
};

// x:         [.., columns]
// out:       [.., rows]
// stretches: null, or for each y of the grid at most 64 rows of one expert
// slots:     null, or for each row of a stretch the row of `out`; that of x is it divided by `share`
// count:     rows of out, if there are no stretches
// Thread blocks: (rows / 64, count / 64 or stretches) of 128 threads.
template <typename F, typename T, typename Out>
__device__ void tile(const T *x, Matrix w, Out *out, const Stretch *stretches, const unsigned *slots,
                     unsigned count, unsigned share) {
  using Product = TileProduct<T>;
  constexpr unsigned COLUMNS = Product::COLUMNS, PITCH = Product::PITCH, SPANS = COLUMNS / SPAN_COLUMNS;
  constexpr unsigned AT_ONCE = 16 / sizeof(T), OF_THREAD = TILE_OUTPUTS * SPANS / PRODUCT_THREADS;
  alignas(16) __shared__ T of_x[2][TILE_ROWS * PITCH], of_w[TILE_OUTPUTS * PITCH];
  __shared__ unsigned to[TILE_ROWS];
  Stretch stretch = {0, blockIdx.y * TILE_ROWS, count};
  if (stretches) stretch = stretches[blockIdx.y];
  if (stretch.first >= stretch.end) return;
  const unsigned there = min(stretch.end - stretch.first, TILE_ROWS), output = blockIdx.x * TILE_OUTPUTS;
  for (unsigned i = threadIdx.x; i < there; i += PRODUCT_THREADS)
    to[i] = slots ? slots[stretch.first + i] : stretch.first + i;
  __syncthreads();

  const auto fetch = [&](T *tile, unsigned first) {
    for (unsigned i = threadIdx.x; i < TILE_ROWS * COLUMNS / AT_ONCE; i += PRODUCT_THREADS) {
      const unsigned row = i / (COLUMNS / AT_ONCE), at = i % (COLUMNS / AT_ONCE) * AT_ONCE;
      const bool real = row < there && first + at < w.columns;
      const T *from = real ? x + (size_t)(to[row] / share) * w.columns + first + at : x;
      copy_later(tile + row * PITCH + at, from, real);
    }
  };
  // Spans of weights that the thread widens for the next tile.
  typename F::Piece pieces[OF_THREAD];
  const auto row_of = [&](unsigned i) { return (threadIdx.x + i * PRODUCT_THREADS) / SPANS; };
  const auto column_of = [&](unsigned i) { return (threadIdx.x + i * PRODUCT_THREADS) % SPANS * SPAN_COLUMNS; };
  const auto read = [&](unsigned first) {
    UNROLL for (unsigned i = 0; i < OF_THREAD; i++) {
      // What is beyond the matrix counts for no result, but must not be read.
      const unsigned column = min(first + column_of(i), w.columns - SPAN_COLUMNS);
      const unsigned row = min(output + row_of(i), w.rows - 1);
      pieces[i] = F::load(w, (size_t)stretch.expert * w.rows + row, F::piece(column));
    }
  };
  const auto widen = [&](unsigned first) {
    UNROLL for (unsigned i = 0; i < OF_THREAD; i++) {
      const unsigned column = first + column_of(i);
      float values[SPAN_COLUMNS];
      F::widen(pieces[i], F::span(column), values);
      // Inputs are zeros there, but a product with them may be none.
      if (column >= w.columns)
        UNROLL for (unsigned j = 0; j < SPAN_COLUMNS; j++) values[j] = 0;
      store<SPAN_COLUMNS>(values, of_w + row_of(i) * PITCH + column_of(i));
    }
  };

  float sum[32] = {};
  fetch(of_x[0], 0);
  read(0);
  for (unsigned first = 0, turn = 0; first < w.columns; first += COLUMNS, turn ^= 1) {
    widen(first);
    copies_done();
    __syncthreads();
    if (first + COLUMNS < w.columns) {
      fetch(of_x[turn ^ 1], first + COLUMNS);
      read(first + COLUMNS);
    }
    Product::add(of_x[turn], of_w, sum);
    __syncthreads();
  }
  UNROLL for (int i = 0; i < 32; i++) {
    const unsigned row = Product::row(i), at = output + Product::output(i);
    if (row < there && at < w.rows) store(sum[i], out + (size_t)to[row] * w.rows + at);
  }
}

#define TILE(FORMAT, TYPE, F, T, OUT)                                                                             \
  KERNEL(tile_##FORMAT##_##TYPE,                                                                                  \
         (const T *x, const unsigned char *values, const void *scales, const unsigned char *zeros,                \
          const unsigned *index, OUT *out, const Stretch *stretches, const unsigned *slots, unsigned rows,        \
          unsigned columns, unsigned pitch, unsigned groups, unsigned block, unsigned zero, unsigned scale_type,  \
          unsigned count, unsigned share),                                                                        \
         (x, Matrix{values, scales, zeros, index, rows, columns, pitch, groups, block, zero, scale_type}, out,    \
          stretches, slots, count, share),                                                                        \
         (tile<F, T, OUT>))
OF_ALL(TILE)

// Columns of x in the order of a matrix's, with zeros where it has none.
//
// x: [count, columns]; order: [width], or null for the same order; out: [count, width]
// Thread blocks: (width / 256, count) of 256 threads. Twin: cpu::packed::Columns::arranged.
template <typename T>
__device__ void arrange(const T *x, const unsigned *order, T *out, unsigned columns, unsigned width) {
  const unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
  if (place >= width) return;
  const unsigned column = order ? order[place] : place;
  T *to = out + (size_t)blockIdx.y * width + place;
  store(column < columns ? widen(x[(size_t)blockIdx.y * columns + column]) : 0.0f, to);
}

#define ARRANGE(NAME, T)                                                                              \
  KERNEL(arrange_##NAME, (const T *x, const unsigned *order, T *out, unsigned columns, unsigned width), \
         (x, order, out, columns, width), (arrange<T>))
ARRANGE(f32, float)
ARRANGE(bf16, Bf16)
