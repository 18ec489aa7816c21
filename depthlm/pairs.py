"""Two frames of one scene: how much they share, how far the camera moved, and which frames make a pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depthlm.errors import DepthLMError
from depthlm.frame import Frame
from depthlm.store import FrameStore

# Labels looked at per frame: the share of more would not differ by more than a few per cent.
MAX_LABELS = 256
TRIES = 8


def overlap(first: Frame, second: Frame) -> float:
    """Share (0..1) of the first frame's labelled points that project into the second's image; hidden ones count."""
    xy, z = first.labels
    if len(z) > MAX_LABELS:  # at random: every n-th pixel of a map may be of a few columns only
        few = np.random.default_rng(0).integers(len(z), size=MAX_LABELS)
        xy, z = xy[few], z[few]
    world = first.camera.to_world(first.camera.back_project(xy, z))
    return float(second.camera.sees(second.camera.from_world(world)).mean())


def motion(first: Frame, second: Frame) -> float:
    """Distance of the two camera centres, metres."""
    return float(np.linalg.norm(first.camera.to_world(np.zeros((1, 3))) - second.camera.to_world(np.zeros((1, 3)))))


@dataclass(frozen=True)
class PairRule:
    """Which two frames may be asked about together.

    Args:
        min_overlap, max_overlap: bounds of the smaller of the two shares (see `overlap`), 0..1: with too little in
            common the motion can't be seen, with nearly everything there is little of it to see.
        min_motion_m: metres; the relative error of a smaller motion means nothing.

    Raises:
        DepthLMError: bounds between which nothing lies.
    """

    min_overlap: float = 0.3
    max_overlap: float = 0.8
    min_motion_m: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.min_overlap < self.max_overlap <= 1 and self.min_motion_m > 0):
            raise DepthLMError(
                "pairs", f"{self} leaves no pair", "0 < min_overlap < max_overlap <= 1, min_motion_m > 0"
            )

    def allows(self, first: Frame, second: Frame) -> bool:
        """True for two posed frames within the bounds."""
        if first.camera.pose is None or second.camera.pose is None or motion(first, second) < self.min_motion_m:
            return False
        return self.min_overlap <= min(overlap(first, second), overlap(second, first)) <= self.max_overlap


def find_partner(
    store: FrameStore, index: int, frame: Frame, rng: np.random.Generator, rule: PairRule | None = None
) -> Frame | None:
    """A frame of the same scene that makes a pair with ``store[index]``, or None where `TRIES` draws found none.

    Neighbours in the store are drawn more often (as 1 / their distance in frames): in a video they are the ones that
    overlap, and in a set of single views all are near.
    """
    if frame.camera.pose is None:
        return None
    others = store.scenes[frame.scene]
    others = others[others != index]
    if not len(others):
        return None
    near = 1 / np.abs(others - index)
    draws = rng.choice(others, min(TRIES, len(others)), replace=False, p=near / near.sum())
    rule = rule or PairRule()
    return next((other for i in draws if rule.allows(frame, other := store[int(i)])), None)
