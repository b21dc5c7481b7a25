// Cuts frames of bytes into normalised patches. Twin: cpu::patchify, with the same bits.

#include "values.cuh"

struct Patches {
  unsigned patch, merge, temporal, height, width;
};

// frames: [inputs, temporal, height, width, 3]
// levels: [3, 256], the normalised value of each level of each channel
// out:    [inputs * patches, 3 * temporal * patch * patch], in merge-block order
// Threads: one for each of `count` values of the result, in blocks of any size.
template <typename T>
__device__ void patchify(const unsigned char *frames, const float *levels, T *out, Patches p,
                         unsigned long long count) {
  const unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const unsigned area = p.patch * p.patch, length = 3 * p.temporal * area, side = p.patch * p.merge;
  const unsigned of_input = p.height / p.patch * (p.width / p.patch), columns = p.width / side;
  const unsigned in_patch = i % length, row = i / length % of_input;
  const unsigned long long input = i / length / of_input;
  const unsigned x = in_patch % p.patch, y = in_patch / p.patch % p.patch;
  const unsigned time = in_patch / area % p.temporal, channel = in_patch / area / p.temporal;
  const unsigned in_block = row % (p.merge * p.merge), at = row / (p.merge * p.merge);
  const unsigned top = at / columns * side + in_block / p.merge * p.patch;
  const unsigned left = at % columns * side + in_block % p.merge * p.patch;
  const unsigned long long frame = input * p.temporal + time;
  const unsigned char level = frames[((frame * p.height + top + y) * p.width + left + x) * 3 + channel];
  store(levels[channel * 256 + level], out + i);
}

#define PATCHIFY(NAME, T)                                                                                           \
  KERNEL(patchify_##NAME,                                                                                           \
         (const unsigned char *frames, const float *levels, T *out, unsigned patch, unsigned merge,                 \
          unsigned temporal, unsigned height, unsigned width, unsigned long long count),                            \
         (frames, levels, out, Patches{patch, merge, temporal, height, width}, count), (patchify<T>))
PATCHIFY(f32, float)
PATCHIFY(bf16, Bf16)
