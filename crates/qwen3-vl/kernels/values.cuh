// Values of f32 and bf16 as f32, and how kernels are declared. No header of CUDA's is needed, so
// the same sources compile for the CPU, where tests/kernels/emulate.h stands in for the device.

#pragma once

#ifndef KERNEL
// A kernel by its plain name: its parameters, its arguments in parentheses, what it runs.
#define KERNEL(NAME, PARAMETERS, ARGUMENTS, BODY) \
  extern "C" __global__ void NAME PARAMETERS { BODY ARGUMENTS; }
#endif

// Before a loop over values in registers: with a number that the compiler does not know they would
// lie in memory.
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

struct Bf16 {
  unsigned short bits;
};

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(Bf16 value) {
  union {
    unsigned bits;
    float value;
  } wide = {(unsigned)value.bits << 16};
  return wide.value;
}

__device__ inline void store(float value, float *to) { *to = value; }
// To the nearest, ties to even.
__device__ inline void store(float value, Bf16 *to) {
  union {
    float value;
    unsigned bits;
  } wide = {value};
  const bool nan = value != value;
  to->bits = nan ? 0x7fc0 : (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;
}

// What is left of a value in memory of type T.
template <typename T>
__device__ inline float rounded(float value) {
  T in_memory;
  store(value, &in_memory);
  return widen(in_memory);
}

// N values as they lie in memory, at an address that is a multiple of their size together or of 16.
template <int N, typename T>
struct Pack {
  // At most 16 bytes a load.
  static constexpr int EACH = 16 / sizeof(T) < N ? 16 / sizeof(T) : N;
  struct alignas(EACH * sizeof(T)) Part {
    T values[EACH];
  } parts[N / EACH];

  __device__ static const Pack &at(const T *from) { return *(const Pack *)from; }
  __device__ T &value(int i) { return parts[i / EACH].values[i % EACH]; }
  __device__ float operator[](int i) const { return widen(parts[i / EACH].values[i % EACH]); }
};

constexpr int EACH = 8;  // values of a row that a thread takes at a time

template <int N, typename T>
__device__ inline void load(const T *from, float *to) {
  const Pack<N, T> pack = Pack<N, T>::at(from);
  for (int i = 0; i < N; i++) to[i] = pack[i];
}

template <int N, typename T>
__device__ inline void store(const float *from, T *to) {
  Pack<N, T> pack;
  for (int i = 0; i < N; i++) store(from[i], &pack.value(i));
  *(Pack<N, T> *)to = pack;
}
