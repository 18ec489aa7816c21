"""Rooms and streets made of textured, metrically sized shapes.

World frame: y points down, the floor is y = 0, so a height h is y = -h; x and z lie on the ground; metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PLANE, BOX, SPHERE, CYLINDER = 0, 1, 2, 3
SPECKLE, CHECKER, BRICKS, PLANKS, STRIPES, FACADE = 0, 1, 2, 3, 4, 5
SceneKind = Literal["room", "street"]
# Tiles, bricks, boards and windows have usual sizes, and so tell how far away they are; metres, each varied by 10%.
PERIOD_M = {SPECKLE: 0.4, CHECKER: 0.4, BRICKS: 0.3, PLANKS: 0.2, STRIPES: 0.25, FACADE: 3.0}
STREET_PERIOD_M = {SPECKLE: 1.0, CHECKER: 1.0, PLANKS: 2.0}
OBJECT_PERIOD_M = {SPECKLE: 0.2, CHECKER: 0.12, PLANKS: 0.1, STRIPES: 0.12}


@dataclass
class Scene:
    """Shapes with their materials.

    Args:
        kind: room or street.
        bounds: x and z range in which a camera may stand, metres: x0, x1, z0, z1.
        shapes: (n, 9) rows ``kind, …``: plane (axis, offset), box (centre 3, half sizes 3, cos, sin of yaw), sphere
            (centre 3, radius), cylinder (centre 3, radius, half height).
        materials: (n, 7) rows: RGB 0..255, texture, texture period in metres, texture offset 2.
        light: unit vector towards the light.
    """

    kind: SceneKind
    bounds: tuple[float, float, float, float]
    light: NDArray[np.float64]
    shapes: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 9)))
    materials: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 7)))

    def free(self, point: NDArray[np.float64], clearance: float) -> bool:
        """True when no object comes nearer than ``clearance`` metres to the point (in the ground plane)."""
        for s in self.shapes:
            if s[0] == PLANE:
                continue
            reach = math.hypot(s[4], s[6]) if s[0] == BOX else s[4]
            if math.hypot(point[0] - s[1], point[2] - s[3]) < reach + clearance:
                return False
        return True


class _Builder:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.shapes: list[list[float]] = []
        self.materials: list[list[float]] = []

    def add(self, shape: list[float], texture: int, period: float, colour: NDArray[np.float64] | None = None) -> None:
        colour = self.colour() if colour is None else colour
        self.shapes.append(shape + [0.0] * (9 - len(shape)))
        self.materials.append([*colour, texture, period, *self.rng.uniform(0, 10, 2)])

    def colour(self, low: float = 95, high: float = 250) -> NDArray[np.float64]:
        """A colour that is not one of the markers' pure ones."""
        grey = self.rng.uniform(low, high)
        return np.clip(grey + self.rng.normal(0, 30, 3), 40, 245)

    def surface(self, shape: list[float], periods: dict[int, float], colour: NDArray[np.float64] | None = None) -> None:
        """Add a shape with one of the textures, in about its usual size."""
        texture = int(self.rng.choice(list(periods)))
        self.add(shape, texture, periods[texture] * self.rng.uniform(0.9, 1.1), colour)

    def box(self, x: float, z: float, size: tuple[float, float, float], base: float = 0.0, yaw: float = 0.0) -> None:
        """A box of width, height, length standing ``base`` metres above the floor."""
        w, h, length = size
        shape = [BOX, x, -base - h / 2, z, w / 2, h / 2, length / 2, math.cos(yaw), math.sin(yaw)]
        self.surface(shape, OBJECT_PERIOD_M)

    def person(self, x: float, z: float) -> None:
        height = self.rng.uniform(1.5, 1.9)
        head = 0.065 * height
        self.add([CYLINDER, x, -0.24 * height, z, 0.13, 0.24 * height], SPECKLE, 0.1, self.colour(30, 120))
        self.add([CYLINDER, x, -0.67 * height, z, 0.19, 0.19 * height], STRIPES, 0.12)
        skin = np.array([224.0, 172.0, 140.0]) * self.rng.uniform(0.5, 1.05)
        self.add([SPHERE, x, -height + head, z, head], SPECKLE, 0.2, np.clip(skin, 0, 245))

    def car(self, x: float, z: float, yaw: float) -> None:
        paint = self.colour(60, 240)
        c, s = math.cos(yaw), math.sin(yaw)
        self.add([BOX, x, -0.6, z, 0.9, 0.35, 2.1, c, s], SPECKLE, 0.5, paint)
        self.add([BOX, x, -1.2, z, 0.78, 0.28, 1.1, c, s], STRIPES, 1.1, np.array([60.0, 66.0, 74.0]))
        for side in (-0.8, 0.8):
            for along in (-1.3, 1.3):
                wx, wz = c * side + s * along, -s * side + c * along
                self.add([SPHERE, x + wx, -0.32, z + wz, 0.32], SPECKLE, 0.2, np.array([45.0, 45.0, 45.0]))


def make_scene(rng: np.random.Generator, kind: SceneKind, clutter: float = 1.0) -> Scene:
    """A random scene; ``clutter`` scales the number of objects in it."""
    make = _make_room if kind == "room" else _make_street
    builder = _Builder(rng)
    bounds = make(builder, clutter)
    light = np.array([rng.uniform(-0.6, 0.6), -1.0, rng.uniform(-0.6, 0.6)])
    return Scene(kind, bounds, light / np.linalg.norm(light), np.array(builder.shapes), np.array(builder.materials))


def _make_room(b: _Builder, clutter: float) -> tuple[float, float, float, float]:
    rng = b.rng
    w, length, height = rng.uniform(2.5, 10), rng.uniform(3, 12), rng.uniform(2.3, 3.2)
    x, z = w / 2, length / 2
    b.surface([PLANE, 1, 0.0], {k: PERIOD_M[k] for k in (CHECKER, PLANKS)})
    b.add([PLANE, 1, -height], CHECKER if rng.random() < 0.5 else SPECKLE, 0.6, b.colour(190, 245))
    for axis, offset in ((0, -x), (0, x), (2, -z), (2, z)):
        b.surface([PLANE, axis, offset], {k: PERIOD_M[k] for k in (SPECKLE, BRICKS, STRIPES)})
    door = rng.uniform(-0.6, 0.6) * w
    b.box(door / 1.5, z, (0.9, 2.0, 0.06))
    furniture = [
        (1.4, 0.75, 0.8),
        (0.6, 1.8, 0.5),
        (0.9, 0.9, 0.45),
        (0.45, 0.45, 0.45),
        (2.0, 0.5, 1.6),
        (0.3, 0.3, 0.3),
    ]
    for _ in range(rng.poisson(5 * clutter) + 1):
        px, pz = rng.uniform(-x + 0.4, x - 0.4), rng.uniform(-z + 0.4, z - 0.4)
        what = rng.random()
        if what < 0.7:
            size = furniture[int(rng.integers(len(furniture)))]
            b.box(px, pz, size, yaw=rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)]))
            if rng.random() < 0.3:
                r = rng.uniform(0.08, 0.2)
                b.add([SPHERE, px, -size[1] - r, pz, r], CHECKER, 0.1)
        elif what < 0.85:
            r = rng.uniform(0.1, 0.4)
            b.surface([SPHERE, px, -r, pz, r], {k: OBJECT_PERIOD_M[k] for k in (STRIPES, CHECKER)})
        else:
            b.person(px, pz)
    return -x + 0.35, x - 0.35, -z + 0.35, z - 0.35


def _make_street(b: _Builder, clutter: float) -> tuple[float, float, float, float]:
    rng = b.rng
    half = rng.uniform(4, 9)
    b.surface([PLANE, 1, 0.0], STREET_PERIOD_M, b.colour(90, 160))
    for side in (-1, 1):
        z = -30.0
        while z < 75:
            length, depth, storeys = rng.uniform(6, 18), rng.uniform(5, 10), int(rng.integers(1, 6))
            height = 3.0 * storeys
            x = side * (half + rng.uniform(0, 2) + depth / 2)
            shape = [BOX, x, -height / 2, z + length / 2, depth / 2, height / 2, length / 2, 1.0, 0.0]
            texture = FACADE if rng.random() < 0.8 else BRICKS
            b.add(shape, texture, PERIOD_M[texture])
            z += length + rng.choice([0.0, rng.uniform(1, 6)])
    for _ in range(rng.poisson(6 * clutter) + 2):
        side = rng.choice([-1, 1])
        b.car(side * rng.uniform(1.6, half - 1.2), rng.uniform(-20, 60), rng.normal(0, 0.1))
    for _ in range(rng.poisson(5 * clutter)):
        b.person(rng.uniform(-half + 0.5, half - 0.5), rng.uniform(-15, 40))
    for z in np.arange(-18, 60, rng.uniform(8, 20)):
        b.add([CYLINDER, half - 0.6, -2.0, z, 0.12, 2.0], STRIPES, 0.5)
    return -half + 1.0, half - 1.0, -12.0, 25.0
