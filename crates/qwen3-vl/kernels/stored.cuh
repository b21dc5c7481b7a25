// How weights are stored, and how they become f32: what the products in gemv.cu and tile.cu differ
// by. A matrix has its rows one below the other, also those of matrices that are joined and of
// experts.
//
// Weights are read in pieces: 16 bytes, or 16 values if they are wider than a byte. A piece has one
// or two spans of 16 columns each. Twins: cpu::fp8, cpu::packed, cpu::blocks.

#pragma once

#include "values.cuh"

constexpr unsigned SPAN_COLUMNS = 16;

// A matrix, and what its format needs; the rest is 0.
struct Matrix {
  const unsigned char *values;  // rows at a pitch, 16-byte aligned
  const void *scales;
  const unsigned char *zeros;  // [rows, groups]; null if all zero points are `zero`
  const unsigned *index;       // FP8: each row's line of scales; integers: each 32 columns' group
  unsigned rows;               // of a product: those of one expert
  unsigned columns;            // a multiple of 16
  unsigned pitch;              // bytes from row to row, a multiple of 16
  unsigned groups;             // scales of a row
  unsigned block;              // FP8: columns of a scale, a multiple of 16
  unsigned zero;               // integers: the zero point, or what is added to those of `zeros`
  unsigned scale_type;         // integers: 0 for f32, 1 for f16, 2 for bf16
};

struct alignas(16) Words {
  unsigned words[4];
  __device__ unsigned byte(int i) const { return words[i / 4] >> (i % 4 * 8) & 255; }
};
__device__ inline Words words_at(const unsigned char *from) { return *(const Words *)from; }

__device__ inline float of_bits(unsigned bits) {
  union {
    unsigned bits;
    float value;
  } of = {bits};
  return of.value;
}
// A finite number of half precision: the exponent is shifted by a product, which is exact, also of
// numbers below the normal ones.
__device__ inline float of_half(unsigned bits) {
  return of_bits((bits & 0x8000) << 16 | (bits & 0x7fff) << 13) * of_bits((127 + 112) << 23);
}
__device__ inline float half_at(const unsigned char *from) { return of_half(*(const unsigned short *)from); }
// Likewise of E4M3.
__device__ inline float of_fp8(unsigned byte) {
  return of_bits((byte & 0x80) << 24 | (byte & 0x7f) << 20) * of_bits((127 + 120) << 23);
}
// An integer below 2^23 plus 2^23, which costs no conversion.
constexpr float LIFTED = 8388608.0f;
__device__ inline float lifted(unsigned integer) { return of_bits(0x4b000000u | integer); }

// Where a piece's spans are: of each PERIOD columns, the pieces have 16 each in the first of SPANS
// equal parts, and as many at the same place in the next.
template <unsigned SPANS_, unsigned PERIOD>
struct Places {
  static constexpr unsigned SPANS = SPANS_, PART = PERIOD / SPANS, PIECES = PART / SPAN_COLUMNS;
  __device__ static unsigned column(unsigned piece, unsigned span) {
    return piece / PIECES * PERIOD + span * PART + piece % PIECES * SPAN_COLUMNS;
  }
  __device__ static unsigned piece(unsigned column) {
    return column / PERIOD * PIECES + column % PART / SPAN_COLUMNS;
  }
  __device__ static unsigned span(unsigned column) { return column % PERIOD / PART; }
  // Pieces that have all columns.
  __device__ static unsigned pieces(unsigned columns) { return (columns + PERIOD - 1) / PERIOD * PIECES; }
};

// Each format has a Piece, which `load` reads of a row and `widen` turns into a span's 16 values.

template <typename T>
struct Dense : Places<1, 16> {
  using Piece = Pack<16, T>;
  __device__ static Piece load(const Matrix &w, size_t row, unsigned piece) {
    return Piece::at((const T *)(w.values + row * w.pitch) + piece * SPAN_COLUMNS);
  }
  __device__ static void widen(const Piece &piece, unsigned, float *to) {
    UNROLL for (int i = 0; i < 16; i++) to[i] = piece[i];
  }
};

struct Fp8 : Places<1, 16> {
  struct Piece {
    Words bytes;
    float scale;
  };
  __device__ static Piece load(const Matrix &w, size_t row, unsigned piece) {
    const unsigned at = piece * SPAN_COLUMNS;
    const float *line = (const float *)w.scales + (size_t)w.index[row] * w.groups;
    return {words_at(w.values + row * w.pitch + at), line[at / w.block]};
  }
  __device__ static void widen(const Piece &piece, unsigned, float *to) {
    UNROLL for (int i = 0; i < 16; i++) to[i] = of_fp8(piece.bytes.byte(i)) * piece.scale;
  }
};

// Integers of 8 or 4 bits: (integer - zero) * scale. Of 4 bits, see cpu::packed.
template <unsigned BITS>
struct Integers : Places<8 / BITS, BITS == 8 ? 16 : 64> {
  using P = Places<8 / BITS, BITS == 8 ? 16 : 64>;
  struct Piece {
    Words bytes;
    float scale[P::SPANS], zero[P::SPANS];
  };
  __device__ static Piece load(const Matrix &w, size_t row, unsigned piece) {
    Piece of;
    of.bytes = words_at(w.values + row * w.pitch + piece * 16);
    UNROLL for (unsigned span = 0; span < P::SPANS; span++) {
      const unsigned at = P::column(piece, span);
      // The last span of a row may have no columns.
      const size_t i = row * w.groups + (at < w.columns ? w.index[at / 32] : 0);
      of.scale[span] = w.scale_type == 0   ? ((const float *)w.scales)[i]
                       : w.scale_type == 1 ? half_at((const unsigned char *)w.scales + 2 * i)
                                           : ::widen(((const Bf16 *)w.scales)[i]);
      of.zero[span] = LIFTED + (float)(w.zero + (w.zeros ? w.zeros[i] : 0));
    }
    return of;
  }
  __device__ static void widen(const Piece &piece, unsigned span, float *to) {
    const float zero = span ? piece.zero[P::SPANS - 1] : piece.zero[0];
    const float scale = span ? piece.scale[P::SPANS - 1] : piece.scale[0];
    UNROLL for (int i = 0; i < 16; i++) {
      const unsigned byte = piece.bytes.byte(i);
      to[i] = (lifted(BITS == 8 ? byte : span ? byte >> 4 : byte & 15) - zero) * scale;
    }
  }
};

// ggml's Q4_K (HIGH_BITS 0) and Q5_K (32 bytes, a bit of each value): 256 values a block, scale and
// minimum of each 32 in 6 bits.
template <unsigned HIGH_BITS>
struct K45 : Places<2, 64> {
  struct Piece {
    Words low, high;
    float scale[2], least[2];
    unsigned nth;  // of the block's 64 values
  };
  __device__ static Piece load(const Matrix &w, size_t row, unsigned piece) {
    const unsigned char *block = w.values + row * w.pitch + piece / 8 * (144 + HIGH_BITS);
    const unsigned nth = piece % 8 / 2, half = piece % 2 * 16;
    const float scale = half_at(block), least = half_at(block + 2);
    Piece of;
    of.nth = nth;
    of.low = words_at(block + 16 + HIGH_BITS + nth * 32 + half);
    of.high = HIGH_BITS ? words_at(block + 16 + half) : Words{};
    const unsigned char *packed = block + 4;
    UNROLL for (unsigned span = 0; span < 2; span++) {
      const unsigned i = nth * 2 + span;
      const unsigned six = i < 4 ? packed[i] & 63 : (packed[i + 4] & 15) | packed[i - 4] >> 6 << 4;
      const unsigned min = i < 4 ? packed[i + 4] & 63 : packed[i + 4] >> 4 | packed[i] >> 6 << 4;
      of.scale[span] = scale * (float)six;
      of.least[span] = least * (float)min;
    }
    return of;
  }
  __device__ static void widen(const Piece &piece, unsigned span, float *to) {
    const float scale = span ? piece.scale[1] : piece.scale[0];
    const float least = span ? piece.least[1] : piece.least[0];
    UNROLL for (int i = 0; i < 16; i++) {
      const unsigned byte = piece.low.byte(i);
      unsigned integer = span ? byte >> 4 : byte & 15;
      if (HIGH_BITS) integer |= (piece.high.byte(i) >> (piece.nth * 2 + span) & 1) << 4;
      to[i] = (lifted(integer) - LIFTED) * scale - least;
    }
  }
};

// ggml's Q6_K, each block of 210 bytes filled up to 224: of each 128 values, 64 bytes of low halves
// and 32 of two more bits; a scale of 8 bits for each 16 values.
struct K6 : Places<2, 128> {
  struct Piece {
    Words low, high;
    float scale[2];
    unsigned shift;
  };
  __device__ static Piece load(const Matrix &w, size_t row, unsigned piece) {
    const unsigned char *block = w.values + row * w.pitch + piece / 8 * 224;
    const unsigned nth = piece % 8 / 4, chunk = piece % 4;
    const float scale = half_at(block + 208);
    const signed char *scales = (const signed char *)block + 192 + nth * 8 + chunk;
    Piece of;
    of.low = words_at(block + nth * 64 + chunk * 16);
    of.high = words_at(block + 128 + nth * 32 + chunk % 2 * 16);
    of.shift = chunk / 2 * 2;
    of.scale[0] = scale * (float)scales[0];
    of.scale[1] = scale * (float)scales[4];
    return of;
  }
  __device__ static void widen(const Piece &piece, unsigned span, float *to) {
    const float scale = span ? piece.scale[1] : piece.scale[0];
    UNROLL for (int i = 0; i < 16; i++) {
      const unsigned byte = piece.low.byte(i);
      const unsigned two = piece.high.byte(i) >> (piece.shift + span * 4) & 3;
      to[i] = (lifted((span ? byte >> 4 : byte & 15) | two << 4) - (LIFTED + 32)) * scale;
    }
  }
};

// Declares PRODUCT(name of the format, format) for all formats with inputs of type T.
#define OF_FORMATS(PRODUCT, TYPE, T)            \
  PRODUCT(dense, TYPE, Dense<T>, T, T)          \
  PRODUCT(fp8, TYPE, Fp8, T, T)                 \
  PRODUCT(nibbles, TYPE, Integers<4>, T, T)     \
  PRODUCT(bytes, TYPE, Integers<8>, T, T)       \
  PRODUCT(q4k, TYPE, K45<0>, T, T)              \
  PRODUCT(q5k, TYPE, K45<32>, T, T)             \
  PRODUCT(q6k, TYPE, K6, T, T)
// The router's weights are dense, its logits f32.
#define OF_ALL(PRODUCT)                          \
  OF_FORMATS(PRODUCT, f32, float)                \
  OF_FORMATS(PRODUCT, bf16, Bf16)                \
  PRODUCT(router, bf16, Dense<Bf16>, Bf16, float)
