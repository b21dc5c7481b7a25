// The instructions of kernels/mma.cuh on the CPU.

#pragma once

inline float bf16(unsigned pair, unsigned which) {
  const unsigned bits = which ? pair & 0xffff0000u : pair << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline void mma(float sum[4], const unsigned a[4], const unsigned b[2]) {
  const emulate::Shown mine = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const emulate::Shown *all = emulate::exchange(mine);
  const unsigned lane = threadIdx.x % emulate::WARP, row = lane / 4, column = lane % 4 * 2;
  for (unsigned i = 0; i < 4; i++)
    for (unsigned k = 0; k < 16; k++) {
      // The threads with the value at (row, k) of the first factor, and at (column, k) of the
      // second.
      const emulate::Shown &of_a = all[row * 4 + k % 8 / 2];
      const emulate::Shown &of_b = all[(column + i % 2) * 4 + k % 8 / 2];
      sum[i] += bf16(of_a.words[k / 8 * 2 + i / 2], k % 2) * bf16(of_b.words[4 + k / 8], k % 2);
    }
}

inline void load_tiles(unsigned tiles[4], const Bf16 *mine) {
  const emulate::Shown *all = emulate::exchange(mine);
  const unsigned lane = threadIdx.x % emulate::WARP;
  for (unsigned i = 0; i < 4; i++) {
    const Bf16 *row = emulate::of<const Bf16 *>(all[i * 8 + lane / 4]);
    memcpy(&tiles[i], row + lane % 4 * 2, sizeof tiles[i]);
  }
}

inline void load_tiles_transposed(unsigned tiles[4], const Bf16 *mine) {
  const emulate::Shown *all = emulate::exchange(mine);
  const unsigned lane = threadIdx.x % emulate::WARP;
  for (unsigned i = 0; i < 4; i++) {
    const auto at = [&](unsigned row) { return emulate::of<const Bf16 *>(all[i * 8 + row])[lane / 4].bits; };
    tiles[i] = (unsigned)at(lane % 4 * 2 + 1) << 16 | at(lane % 4 * 2);
  }
}

// Copies are made only when they are waited for, so that a missing wait is noticed.
inline void copy_later(void *to, const void *from, bool there) {
  emulate::self().copies.push_back({to, there ? from : nullptr});
}

inline void copies_done() {
  for (const auto &[to, from] : emulate::self().copies) {
    if (from)
      memcpy(to, from, 16);
    else
      memset(to, 0, 16);
  }
  emulate::self().copies.clear();
}
