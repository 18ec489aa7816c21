"""A ray caster for boxes, spheres, upright capsules and planes, with textures in metric units and exact z.

Rays are scaled so that their z component in the camera frame is 1: the ray parameter of a hit then *is* z.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from data_gen.procedural.scene import BOX, CYLINDER, PLANE, Scene
from depthlm.camera import Camera
from depthlm.errors import DepthLMError

NEAR_M = 0.05


def render(scene: Scene, camera: Camera) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Render a posed camera's view: (H, W, 3) uint8 RGB and (H, W) float32 z in metres, 0 where there is only sky."""
    ys, xs = np.mgrid[0 : camera.height, 0 : camera.width]
    rays = camera.normalized(np.stack([xs.ravel(), ys.ravel()], axis=1))
    if camera.pose is None:
        raise DepthLMError("camera", "has no pose", "a scene is rendered from a place in it", "no pose")
    rotation, origin = camera.pose[:3, :3].copy(), camera.pose[:3, 3].copy()
    windows = _windows(scene.shapes, rotation, origin)
    pixels, z = _cast(rays, rotation, origin, scene.shapes, scene.materials, scene.light, windows)
    shape = camera.height, camera.width
    return pixels.reshape(*shape, 3), z.reshape(shape).astype(np.float32)


def _windows(
    shapes: NDArray[np.float64], rotation: NDArray[np.float64], origin: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where each shape can be seen, by its bounding sphere: (n, 5) X/Z range, Y/Z range, least z. Planes: anywhere."""
    out = np.tile([-np.inf, np.inf, -np.inf, np.inf, 0.0], (len(shapes), 1))
    solid = shapes[:, 0] != PLANE
    radius = np.select(
        [shapes[:, 0] == BOX, shapes[:, 0] == CYLINDER],
        [np.linalg.norm(shapes[:, 4:7], axis=1), np.hypot(shapes[:, 4], shapes[:, 5])],
        shapes[:, 4],
    )
    centre = (shapes[:, 1:4] - origin) @ rotation
    near = centre[:, 2] - radius
    out[solid, 4] = near[solid]
    ahead = solid & (near > NEAR_M)
    for k in range(2):  # the sphere lies between these two planes through the camera, taken at its nearest z
        c, r, zn = centre[ahead, k], radius[ahead], near[ahead]
        out[ahead, 2 * k] = np.minimum((c - r) / zn, (c - r) / (zn + 2 * r))
        out[ahead, 2 * k + 1] = np.maximum((c + r) / zn, (c + r) / (zn + 2 * r))
    behind = solid & (centre[:, 2] + radius < 0)
    out[behind, 4] = np.inf
    return out


@njit(cache=True, nogil=True)
def _hash(x: int, y: int, z: int) -> float:
    """Noise in [0, 1) of an integer lattice point."""
    h = (x * 374761393 + y * 668265263 + z * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return (h ^ (h >> 16)) / 4294967296.0


@njit(cache=True, nogil=True)
def _texture(kind: int, u: float, v: float, size: float) -> float:
    """Brightness 0..1 of a texture at surface coordinates (u, v), metres; ``size`` is its period."""
    a, b = u / size, v / size
    i, j = int(math.floor(a)), int(math.floor(b))
    fa, fb = a - i, b - j
    if kind == 1:  # checker
        return 1.0 if (i + j) % 2 == 0 else 0.55
    if kind == 2:  # bricks: twice as long as high, joints of 4%
        b = b * 2
        j = int(math.floor(b))
        a = a + 0.5 * (j % 2)
        i = int(math.floor(a))
        if a - i < 0.04 or b - j < 0.08:
            return 0.5
        return 0.8 + 0.2 * _hash(i, j, 3)
    if kind == 3:  # planks along v
        return 0.45 if fa < 0.05 else 0.7 + 0.3 * _hash(i, int(math.floor(b / 6 + 0.37 * i)), 5)
    if kind == 4:  # stripes
        return 1.0 if fa < 0.5 else 0.65
    if kind == 5:  # facade: a dark window in each cell
        return 0.3 if 0.25 < fa < 0.75 and 0.25 < fb < 0.8 else 0.95
    return 0.85 + 0.15 * _hash(int(math.floor(a * 4)), int(math.floor(b * 4)), 7)  # speckle


@njit(cache=True, nogil=True)
def _hit(
    shapes: NDArray[np.float64], i: int, o: NDArray[np.float64], d: NDArray[np.float64], best: float
) -> tuple[float, float, float, float, float, float]:
    """Nearest hit of a ray with shape i: t, normal (3), surface coordinates (2); t = FAR_M for none."""
    none = (1e9, 0.0, 0.0, 0.0, 0.0, 0.0)
    kind = int(shapes[i, 0])
    if kind == 0:  # plane: axis, offset
        axis = int(shapes[i, 1])
        if abs(d[axis]) < 1e-12:
            return none
        t = (shapes[i, 2] - o[axis]) / d[axis]
        if t < 0.05 or t >= best:
            return none
        n = -1.0 if d[axis] > 0 else 1.0
        x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
        if axis == 0:
            return (t, n, 0.0, 0.0, z, y)
        if axis == 1:
            return (t, 0.0, n, 0.0, x, z)
        return (t, 0.0, 0.0, n, x, y)
    if kind == 1:  # box turned about the vertical: centre, half sizes, cos, sin
        c, sn = shapes[i, 7], shapes[i, 8]
        px, py, pz = o[0] - shapes[i, 1], o[1] - shapes[i, 2], o[2] - shapes[i, 3]
        ox, oz = c * px - sn * pz, sn * px + c * pz
        dx, dz = c * d[0] - sn * d[2], sn * d[0] + c * d[2]
        t0, t1, axis = -1e30, 1e30, 0
        for k in range(3):
            ok = ox if k == 0 else (py if k == 1 else oz)
            dk = dx if k == 0 else (d[1] if k == 1 else dz)
            h = shapes[i, 4 + k]
            if abs(dk) < 1e-12:
                if abs(ok) > h:
                    return none
                continue
            a, b = (-h - ok) / dk, (h - ok) / dk
            if a > b:
                a, b = b, a
            if a > t0:
                t0, axis = a, k
            t1 = min(t1, b)
        if t0 > t1 or t0 < 0.05 or t0 >= best:
            return none
        x, y, z = ox + t0 * dx, py + t0 * d[1], oz + t0 * dz
        if axis == 0:
            n = -1.0 if dx > 0 else 1.0
            return (t0, c * n, 0.0, -sn * n, z, y)
        if axis == 1:
            return (t0, 0.0, -1.0 if d[1] > 0 else 1.0, 0.0, x, z)
        n = -1.0 if dz > 0 else 1.0
        return (t0, sn * n, 0.0, c * n, x, y)
    px, py, pz = o[0] - shapes[i, 1], o[1] - shapes[i, 2], o[2] - shapes[i, 3]
    r = shapes[i, 4]
    if kind == 2:  # sphere: centre, radius
        a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        b = px * d[0] + py * d[1] + pz * d[2]
        q = b * b - a * (px * px + py * py + pz * pz - r * r)
        if q < 0:
            return none
        t = (-b - math.sqrt(q)) / a
        if t < 0.05 or t >= best:
            return none
        x, y, z = (px + t * d[0]) / r, (py + t * d[1]) / r, (pz + t * d[2]) / r
        return (t, x, y, z, math.atan2(x, z) * r, y * r)
    # upright cylinder: centre, radius, half height; with a flat top
    a = d[0] * d[0] + d[2] * d[2]
    b = px * d[0] + pz * d[2]
    q = b * b - a * (px * px + pz * pz - r * r)
    if q < 0 or a < 1e-12:
        return none
    t = (-b - math.sqrt(q)) / a
    y = py + t * d[1]
    if t >= 0.05 and t < best and abs(y) <= shapes[i, 5]:
        x, z = (px + t * d[0]) / r, (pz + t * d[2]) / r
        return (t, x, 0.0, z, math.atan2(x, z) * r, y)
    if d[1] > 1e-12:  # from above onto the top
        t = (-shapes[i, 5] - py) / d[1]
        x, z = px + t * d[0], pz + t * d[2]
        if t >= 0.05 and t < best and x * x + z * z <= r * r:
            return (t, 0.0, -1.0, 0.0, x, z)
    return none


@njit(cache=True, nogil=True)
def _cast(
    rays: NDArray[np.float64],
    rotation: NDArray[np.float64],
    origin: NDArray[np.float64],
    shapes: NDArray[np.float64],
    materials: NDArray[np.float64],
    light: NDArray[np.float64],
    windows: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Nearest hit and shading of each ray (X/Z, Y/Z); z is the hit's ray parameter."""
    n = len(rays)
    pixels = np.empty((n, 3), np.uint8)
    depth = np.zeros(n)
    d = np.empty(3)
    for i in range(n):
        for k in range(3):
            d[k] = rotation[k, 0] * rays[i, 0] + rotation[k, 1] * rays[i, 1] + rotation[k, 2]
        best, which = 1e9, -1
        nx, ny, nz, u, v = 0.0, 0.0, 0.0, 0.0, 0.0
        x, y = rays[i, 0], rays[i, 1]
        for s in range(len(shapes)):
            # indexed, not sliced: a slice a shape and pixel would cost more than the intersection
            if x < windows[s, 0] or x > windows[s, 1] or y < windows[s, 2] or y > windows[s, 3]:
                continue
            if windows[s, 4] >= best:
                continue
            hit = _hit(shapes, s, origin, d, best)
            if hit[0] < best:
                best, nx, ny, nz, u, v = hit
                which = s
        if which < 0:
            up = -d[1] / math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
            for k in range(3):
                pixels[i, k] = np.uint8(min(255.0, (176.0, 204.0, 235.0)[k] * (1.08 - 0.25 * max(0.0, up))))
            continue
        depth[i] = best
        diffuse = max(0.0, nx * light[0] + ny * light[1] + nz * light[2])
        shade = (0.6 + 0.4 * diffuse) * _texture(
            int(materials[which, 3]), u + materials[which, 5], v + materials[which, 6], materials[which, 4]
        )
        for k in range(3):
            pixels[i, k] = np.uint8(min(255.0, materials[which, k] * shade))
    return pixels, depth
