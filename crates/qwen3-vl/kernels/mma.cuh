// Tile products by the tensor cores, one per warp: 16 x 16 by 16 x 8 values of bf16, summed in f32.
//
// The layout is PTX's, with row = lane / 4 and column = 2 (lane % 4). A thread has these pairs: of
// the first factor those at (row, column), (row + 8, column), (row, column + 8), (row + 8, column +
// 8); of the second, which is transposed, those at (row, column), (row, column + 8); of the sum
// those at (row, column), (row + 8, column).

#pragma once

#include "values.cuh"

#ifdef __CUDACC__

__device__ inline void mma(float sum[4], const unsigned a[4], const unsigned b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline unsigned shared_address(const void *at) { return (unsigned)__cvta_generic_to_shared(at); }

// Loads four tiles of 8 x 8 values; each thread gets the pair at (row, column). Lanes 8i to 8i + 7
// give the addresses of the rows of tile i.
__device__ inline void load_tiles(unsigned tiles[4], const Bf16 *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(shared_address(row)));
}

// Loads the tiles transposed.
__device__ inline void load_tiles_transposed(unsigned tiles[4], const Bf16 *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(shared_address(row)));
}

// Copies 16 bytes to shared memory asynchronously; zeros if they are not `there`.
__device__ inline void copy_later(void *to, const void *from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}

// Waits for this thread's copies.
__device__ inline void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#else
#include "mma.h"  // tests/kernels
#endif
