// candle's own kernels that the models here need, by their names and parameters (candle-kernels
// 0.11).

#include <cstdint>

#include "../emulate.h"
#include "../../../kernels/values.cuh"

namespace {

template <typename T>
T narrow(float value) {
  T to;
  store(value, &to);
  return to;
}
using ::widen;

struct Half {
  uint16_t bits;
};

float widen(Half value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp((float)fraction, -24)
                                     : std::ldexp((float)(1024 + fraction), exponent - 25);
  return value.bits >> 15 ? -size : size;
}

// Offset of element `i` in a tensor of these sizes and strides.
size_t place(size_t i, size_t dims, const size_t *sizes, const size_t *strides) {
  size_t at = 0;
  for (size_t d = dims; d-- > 0; i /= sizes[d]) at += i % sizes[d] * strides[d];
  return at;
}

template <typename T, float (*F)(float)>
void unary(size_t count, size_t dims, const size_t *info, const T *from, T *to) {
  for (size_t i = 0; i < count; i++)
    to[i] = narrow<T>(F(widen(from[info ? place(i, dims, info, info + dims) : i])));
}

template <typename T>
void copy(size_t count, size_t dims, const size_t *info, const T *from, T *to) {
  for (size_t i = 0; i < count; i++) to[i] = from[info ? place(i, dims, info, info + dims) : i];
}

template <typename S, typename T>
void cast(size_t count, size_t dims, const size_t *info, const S *from, T *to) {
  for (size_t i = 0; i < count; i++)
    to[i] = narrow<T>(widen(from[info ? place(i, dims, info, info + dims) : i]));
}

template <typename T, float (*F)(float, float)>
void binary(size_t count, size_t dims, const size_t *info, const T *a, const T *b, T *to) {
  for (size_t i = 0; i < count; i++) {
    const float x = widen(a[info ? place(i, dims, info, info + dims) : i]);
    const float y = widen(b[info ? place(i, dims, info, info + 2 * dims) : i]);
    to[i] = narrow<T>(F(x, y));
  }
}

template <typename T>
void affine(size_t count, size_t dims, const size_t *info, const T *from, T *to, T factor, T more) {
  for (size_t i = 0; i < count; i++) {
    const float x = widen(from[info ? place(i, dims, info, info + dims) : i]);
    to[i] = narrow<T>(x * widen(factor) + widen(more));
  }
}

template <typename T>
void copy2d(const T *from, T *to, uint32_t rows, uint32_t columns, uint32_t from_pitch, uint32_t to_pitch) {
  for (size_t row = 0; row < rows; row++)
    memcpy(to + row * to_pitch, from + row * from_pitch, columns * sizeof(T));
}

template <typename T>
void set(size_t count, size_t dims, const size_t *info, T value, T *to) {
  for (size_t i = 0; i < count; i++) to[info ? place(i, dims, info, info + dims) : i] = value;
}

// The sizes are those of the ids, which are contiguous here.
template <typename T>
void index_select(size_t count, size_t, const size_t *, const uint32_t *ids, const T *from, T *to, size_t,
                  size_t of_source, size_t of_ids, size_t right) {
  for (size_t i = 0; i < count; i++) {
    const size_t left = i / (of_ids * right), id = ids[i / right % of_ids];
    if (id >= of_source) abort();
    to[i] = from[(left * of_source + id) * right + i % right];
  }
}

float gelu_erf(float x) { return 0.5f * x * (1 + std::erf(x * 0.70710678f)); }
float add(float a, float b) { return a + b; }
float multiply(float a, float b) { return a * b; }

#define NAMED(NAME, ...) const emulate::Named NAME##_named{#NAME, __VA_ARGS__};
#define OF_TYPE(TYPE, T)                              \
  NAMED(ucopy_##TYPE, copy<T>)                        \
  NAMED(copy2d_##TYPE, copy2d<T>)                     \
  NAMED(const_set_##TYPE, set<T>)                     \
  NAMED(is_u32_##TYPE, index_select<T>)
#define OF_REAL(TYPE, T)                              \
  OF_TYPE(TYPE, T)                                    \
  NAMED(ugelu_erf_##TYPE, unary<T, gelu_erf>)         \
  NAMED(badd_##TYPE, binary<T, add>)                  \
  NAMED(bmul_##TYPE, binary<T, multiply>)             \
  NAMED(affine_##TYPE, affine<T>)
OF_REAL(f32, float)
OF_REAL(bf16, Bf16)
OF_TYPE(u32, uint32_t)
NAMED(copy2d_u8, copy2d<uint8_t>)
NAMED(copy2d_f16, copy2d<uint16_t>)
NAMED(ucopy_u8, copy<uint8_t>)
NAMED(ucopy_f16, copy<uint16_t>)
NAMED(cast_f32_bf16, cast<float, Bf16>)
NAMED(cast_bf16_f32, cast<Bf16, float>)
NAMED(cast_f16_f32, cast<Half, float>)
NAMED(cast_f16_bf16, cast<Half, Bf16>)
NAMED(cast_f32_f32, cast<float, float>)
NAMED(cast_bf16_bf16, cast<Bf16, Bf16>)

}  // namespace
