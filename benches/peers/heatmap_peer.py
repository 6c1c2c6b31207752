"""A heat map with matplotlib: `figure` is imshow and savefig as they come, `pixels` has one pixel a value.

    pip install -r benches/peers/requirements-heatmap.txt
    python benches/peers/heatmap_peer.py
"""

import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from peer import serve

maps = {}


def cosines(side):
    """What a map of cosines looks like: a bright diagonal, blocks, and noise."""
    if side not in maps:
        at = np.arange(side)
        near = 1.0 / (1.0 + np.abs(at[:, None] - at[None, :]) / 64.0)
        blocks = np.where(at[:, None] // 300 == at[None, :] // 300, 0.2, 0.0)
        noise = np.random.default_rng(0).random((side, side))
        maps[side] = (0.3 + 0.4 * near + blocks + 0.1 * noise).astype(np.float32)
    return maps[side]


def figure(side):
    fig, axes = plt.subplots()
    axes.imshow(cosines(side), vmin=0.0, vmax=1.0)
    fig.savefig(io.BytesIO(), format="png")
    plt.close(fig)


def pixels(side):
    fig = plt.figure(figsize=(side / 100, side / 100), dpi=100)
    axes = fig.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(cosines(side), vmin=0.0, vmax=1.0)
    fig.savefig(io.BytesIO(), format="png")
    plt.close(fig)


if __name__ == "__main__":
    serve({"figure": figure, "pixels": pixels}, name=matplotlib.__version__)
