// The cuBLAS products that candle calls, and a cuRAND without random numbers.

#include "../emulate.h"
#include "../../../kernels/values.cuh"
#include "streams.h"

#define API extern "C" __attribute__((visibility("default")))

enum Type : int { F32 = 0, BF16 = 14 };

namespace {

struct Handle {
  emulate::Stream *stream = nullptr;
};

struct BlasMatrix {
  char *at;
  Type type;
  size_t pitch;  // from column to column
  long long stride;
  bool transposed;
  float get(size_t batch, size_t row, size_t column) const {
    if (transposed) std::swap(row, column);
    const size_t i = (long long)batch * stride + column * pitch + row;
    return type == F32 ? ((float *)at)[i] : widen(((Bf16 *)at)[i]);
  }
  void put(size_t batch, size_t row, size_t column, float value) const {
    const size_t i = (long long)batch * stride + column * pitch + row;
    type == F32 ? store(value, (float *)at + i) : store(value, (Bf16 *)at + i);
  }
};

// Eight partial sums, which the compiler can vectorize.
float dot(const float *a, const float *b, size_t k) {
  float sums[8] = {};
  size_t l = 0;
  for (; l + 8 <= k; l += 8)
    for (size_t i = 0; i < 8; i++) sums[i] += a[l + i] * b[l + i];
  float sum = 0;
  for (; l < k; l++) sum += a[l] * b[l];
  for (const float part : sums) sum += part;
  return sum;
}

void multiply(size_t m, size_t n, size_t k, size_t batches, float alpha, float beta, BlasMatrix a, BlasMatrix b,
              BlasMatrix c) {
  std::vector<float> row(k), columns(n * k);
  for (size_t batch = 0; batch < batches; batch++) {
    for (size_t j = 0; j < n; j++)
      for (size_t l = 0; l < k; l++) columns[j * k + l] = b.get(batch, l, j);
    for (size_t i = 0; i < m; i++) {
      for (size_t l = 0; l < k; l++) row[l] = a.get(batch, i, l);
      for (size_t j = 0; j < n; j++) {
        const float sum = alpha * dot(row.data(), &columns[j * k], k);
        c.put(batch, i, j, beta != 0 ? sum + beta * c.get(batch, i, j) : sum);
      }
    }
  }
}

}  // namespace

API int cublasCreate_v2(Handle **handle) { return *handle = new Handle, 0; }
API int cublasDestroy_v2(Handle *handle) { return delete handle, 0; }
API int cublasSetStream_v2(Handle *handle, emulate::Stream *stream) { return handle->stream = stream, 0; }
API int cublasDgemmStridedBatched() { abort(); }
API int cublasGemmStridedBatchedEx(Handle *handle, int on_a, int on_b, int m, int n, int k, const float *alpha,
                                   char *a, Type a_type, int a_pitch, long long a_stride, char *b, Type b_type,
                                   int b_pitch, long long b_stride, const float *beta, char *c, Type c_type,
                                   int c_pitch, long long c_stride, int batches, int, int) {
  for (const Type type : {a_type, b_type, c_type})
    if (type != F32 && type != BF16) return 15;
  const BlasMatrix first = {a, a_type, (size_t)a_pitch, a_stride, on_a != 0};
  const BlasMatrix second = {b, b_type, (size_t)b_pitch, b_stride, on_b != 0};
  const BlasMatrix out = {c, c_type, (size_t)c_pitch, c_stride, false};
  const float by = *alpha, old = *beta;
  handle->stream->add([=] { multiply(m, n, k, batches, by, old, first, second, out); });
  return 0;
}

API int curandCreateGenerator(void **generator, int) { return *generator = nullptr, 0; }
API int curandDestroyGenerator(void *) { return 0; }
API int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
API int curandSetStream(void *, void *) { return 0; }
