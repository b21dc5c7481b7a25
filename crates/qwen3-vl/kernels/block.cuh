// Reductions over a thread block.

#pragma once

#include "values.cuh"

constexpr unsigned THREADS = 256;  // of a block that reduces

struct Largest {
  __device__ static float of(float a, float b) { return fmaxf(a, b); }
};
struct Sum {
  __device__ static float of(float a, float b) { return a + b; }
};

// Reduces the values of all threads of a block of THREADS; all threads must call it.
template <typename Of>
__device__ float of_block(float value) {
  __shared__ float warps[THREADS / 32];
  for (int step = 16; step > 0; step /= 2) value = Of::of(value, __shfl_xor_sync(0xffffffff, value, step));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = warps[0];
  for (unsigned w = 1; w < THREADS / 32; w++) value = Of::of(value, warps[w]);
  // The next reduction writes to `warps`.
  __syncthreads();
  return value;
}
