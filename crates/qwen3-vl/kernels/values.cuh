// Loads and stores f32 and bf16 as f32, and declares kernels. The sources need no CUDA headers, so
// they also compile for the CPU, where tests/kernels/emulate.h emulates the device.

#pragma once

#ifndef KERNEL
// Declares a kernel: its plain name, its parameters, the arguments in parentheses, and the function
// to call with them.
#define KERNEL(NAME, PARAMETERS, ARGUMENTS, BODY) \
  extern "C" __global__ void NAME PARAMETERS { BODY ARGUMENTS; }
#endif

// Put before loops over values in registers: without unrolling, the compiler would index them in
// memory.
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
// Rounds to nearest, ties to even.
__device__ inline void store(float value, Bf16 *to) {
  union {
    float value;
    unsigned bits;
  } wide = {value};
  const bool nan = value != value;
  to->bits = nan ? 0x7fc0 : (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;
}

// The value after rounding to type T.
template <typename T>
__device__ inline float rounded(float value) {
  T in_memory;
  store(value, &in_memory);
  return widen(in_memory);
}

// N values in memory. Their address is a multiple of the smaller of their total size and 16 bytes.
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
