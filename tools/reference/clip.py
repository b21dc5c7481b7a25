"""Synthetic pictures by integer formulas that any language can repeat."""

import numpy as np


def video(frames, height, width, k=0):
    """A moving square over a gradient, as uint8 [frames, height, width, 3].

    The square's side is a third of the shorter one; it moves (7, 5) pixels a frame and wraps. `k`
    tells several clips apart. (`testing::clip` in Rust repeats it.)
    """
    t, y, x, c = np.meshgrid(
        np.arange(frames), np.arange(height), np.arange(width), np.arange(3), indexing="ij"
    )
    background = (x * 3 + y * 5 + t * 17 + c * 40 + k * 29) % 256
    side = min(height, width) // 3
    inside = (((x - 7 * t) % width) < side) & (((y - 5 * t) % height) < side)
    return np.where(inside, (255 - 60 * c - 11 * t) % 256, background).astype(np.uint8)
