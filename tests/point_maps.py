"""Exact point maps of drawn rooms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 160, 120


def room(focal: float, seed: int = 0) -> NDArray[np.float64]:
    """(H, W, 3): the inside of a box with a block in it, seen by a camera in its middle."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack([(x - (WIDTH - 1) / 2) / focal, (y - (HEIGHT - 1) / 2) / focal, np.ones_like(x, float)], -1)
    walls = np.random.default_rng(seed).uniform(1.5, 5, 3)
    with np.errstate(divide="ignore"):
        z = np.minimum.reduce(
            [walls[0] / abs(rays[..., 0]), walls[1] / abs(rays[..., 1]), np.full(x.shape, 2 * walls[2])]
        )
    z[40:80, 60:110] = np.minimum(z[40:80, 60:110], 2.0)
    return rays * z[..., None]
