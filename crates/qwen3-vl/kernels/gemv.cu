// Products of up to 8 rows with a matrix, however it is stored: a warp for one or two of its rows,
// which reads 16 bytes a thread and adds in f32. Also of many rows, each with one expert's matrix.
// Twins: cpu::matmul and the products of cpu::fp8, cpu::packed and cpu::blocks.

#include "stored.cuh"

constexpr unsigned GEMV_THREADS = 128;

// x:       [count, columns], of which M rows are computed; count is at least 1
// out:     [count, rows]
// experts: null, or for each row of `out` the expert whose matrix it is multiplied by; then the row
//          of x is that number divided by `share`, and M is 1
// Thread blocks: (rows / warps of a block, rows of out if there are experts) of 128 threads; a warp
// has two rows of the matrix if M is 4 or more.
// A row's result does not depend on M.
template <typename F, typename T, typename Out, int M>
__device__ void gemv(const T *x, Matrix w, Out *out, const unsigned *experts, unsigned count, unsigned share) {
  constexpr int EACH_WARP = M < 4 ? 1 : 2;
  const unsigned lane = threadIdx.x % 32, warp = blockIdx.x * (GEMV_THREADS / 32) + threadIdx.x / 32;
  const unsigned first = warp * EACH_WARP;
  if (first >= w.rows) return;
  size_t base = 0;
  if (experts) {
    base = (size_t)experts[blockIdx.y] * w.rows;
    x += (size_t)(blockIdx.y / share) * w.columns;
    out += (size_t)blockIdx.y * w.rows;
    count = 1;
  }
  float sum[M][EACH_WARP] = {};
  const unsigned pieces = F::pieces(w.columns);
  for (unsigned piece = lane; piece < pieces; piece += 32) {
    typename F::Piece of[EACH_WARP];
    UNROLL for (int r = 0; r < EACH_WARP; r++) of[r] = F::load(w, base + min(first + r, w.rows - 1), piece);
    UNROLL for (unsigned span = 0; span < F::SPANS; span++) {
      const unsigned at = F::column(piece, span);
      if (at >= w.columns) continue;
      float values[EACH_WARP][16];
      UNROLL for (int r = 0; r < EACH_WARP; r++) F::widen(of[r], span, values[r]);
      UNROLL for (int m = 0; m < M; m++) {
        float of_x[16];
        load<16>(x + (size_t)min((unsigned)m, count - 1) * w.columns + at, of_x);
        UNROLL for (int r = 0; r < EACH_WARP; r++)
          UNROLL for (int i = 0; i < 16; i++) sum[m][r] += values[r][i] * of_x[i];
      }
    }
  }
  UNROLL for (int m = 0; m < M; m++)
    UNROLL for (int r = 0; r < EACH_WARP; r++) {
      float total = sum[m][r];
      for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffff, total, step);
      if (lane == 0 && (unsigned)m < count && first + r < w.rows) store(total, out + (size_t)m * w.rows + first + r);
    }
}

#define GEMV(FORMAT, TYPE, F, T, OUT, M)                                                                          \
  KERNEL(gemv_##FORMAT##_##TYPE##_##M,                                                                            \
         (const T *x, const unsigned char *values, const void *scales, const unsigned char *zeros,                \
          const unsigned *index, OUT *out, const unsigned *experts, unsigned rows, unsigned columns,              \
          unsigned pitch, unsigned groups, unsigned block, unsigned zero, unsigned scale_type, unsigned count,    \
          unsigned share),                                                                                        \
         (x, Matrix{values, scales, zeros, index, rows, columns, pitch, groups, block, zero, scale_type}, out,    \
          experts, count, share),                                                                                 \
         (gemv<F, T, OUT, M>))
#define GEMVS(...) GEMV(__VA_ARGS__, 1) GEMV(__VA_ARGS__, 2) GEMV(__VA_ARGS__, 4) GEMV(__VA_ARGS__, 8)
OF_ALL(GEMVS)
