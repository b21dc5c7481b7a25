"""The 20 held-out clips: seeds that training never drew, every speed and direction."""
from traffic_scene import Options, make_clip

HELDOUT_SEED = 700_000_000
PLAN = [("slow", "left"), ("fast", "left"), ("slow", "right"), ("fast", "right"), ("slow", "up"), ("fast", "up"),
        ("slow", "down"), ("fast", "down"), ("stopped", None), ("none", None)]


def heldout_clips(n=20):
    for i in range(n):
        speed, d = PLAN[i % len(PLAN)]
        fps = (1, 2, 4)[i % 3]
        frames = 4 if fps == 1 else (4, 6)[i % 2]
        width, height = [(128, 96), (96, 96), (128, 96), (160, 96)][i % 4]
        yield make_clip(HELDOUT_SEED + 20_000_000 + i, Options(
            width=width, height=height, frames=frames, fps=fps, speed=speed, direction=d, max_count=3,
            count=None if speed == "none" else 1 + i % 3))
