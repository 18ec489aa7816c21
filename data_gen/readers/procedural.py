"""Procedural scenes as a dataset: frames with exact depth, cameras and poses, a function of (seed, scene, view)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_gen.procedural.raycast import render
from data_gen.procedural.scene import Scene, SceneKind, make_scene
from data_gen.procedural.trajectories import sample_cameras
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

MIN_LABEL_M, MAX_LABEL_M = 0.3, 80.0
USUAL_CLUTTER = (0.3, 1.5)


class ProceduralReader:
    """Reads nothing: frame ``scene/view`` is rendered when asked for.

    Args:
        scenes: number of scenes, ``views`` frames each.
        mix: share of rooms and streets.
        labels: labelled pixels a frame.
        dense: also keep the whole z map.
        fov: range of horizontal fields of view, degrees.
        quality: JPEG quality; 0 writes PNG.
        clutter: range of how full scenes are, 1 being usual.
        stream: scenes of another stream are others under every seed.

    Raises:
        DepthLMError: an option that is no such number, range or mix.
    """

    name = "procedural"

    def __init__(
        self,
        scenes: int,
        views: int = 4,
        width: int = 320,
        height: int = 240,
        seed: int = 0,
        mix: dict[str, float] | None = None,
        labels: int = 64,
        dense: bool = False,
        fov: tuple[float, float] = (40.0, 110.0),
        distortion: bool = False,
        quality: int = 95,
        clutter: tuple[float, float] = USUAL_CLUTTER,
        stream: str = "",
    ) -> None:
        self.scenes, self.views, self.width, self.height, self.seed = scenes, views, width, height, seed
        self.mix = mix or {"room": 0.7, "street": 0.3}
        self.labels, self.dense, self.fov, self.distortion, self.quality = labels, dense, fov, distortion, quality
        self.clutter, self.stream = clutter, stream
        self._check()
        self._words = [seed, *([len(stream), *stream.encode()] if stream else [])]
        self._last: tuple[int, Scene, list[Camera]] | None = None

    def _check(self) -> None:
        """Refuse options that can't be: they come from recipes as well."""
        for name, least in (("scenes", 1), ("views", 1), ("width", 1), ("height", 1), ("labels", 2), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise DepthLMError(name, f"is {value!r}", f"a whole number, {least} or more")
        if not isinstance(self.quality, int) or not 0 <= self.quality <= 100:
            raise DepthLMError("quality", f"is {self.quality!r}", "0 for PNG, or 1 to 100")
        for name in ("dense", "distortion"):
            if not isinstance(getattr(self, name), bool):
                raise DepthLMError(name, f"is {getattr(self, name)!r}", "true or false")
        weights = list(self.mix.values()) if isinstance(self.mix, dict) else [None]
        if not all(map(_is_number, weights)) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
            raise DepthLMError(
                "mix", f"is {self.mix!r}", "weights that are not negative, e.g. {room: 0.7, street: 0.3}"
            )
        if unknown := set(self.mix) - {"room", "street"}:
            raise DepthLMError("mix", f"unknown scene kinds {sorted(map(str, unknown))}", "room and street are known")
        for name, most in (("fov", 180), ("clutter", float("inf"))):
            value = getattr(self, name)
            two = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
            if not two or not 0 <= value[0] <= value[1] < most or (name == "fov" and value[0] == 0):
                raise DepthLMError(
                    name, f"is {value!r}", "two rising numbers" + (" below 180" if name == "fov" else "")
                )

    def keys(self) -> Sequence[str]:
        """``scene/view``, in order."""
        return [f"{scene:06d}/{view}" for scene in range(self.scenes) for view in range(self.views)]

    def settings(self) -> dict[str, Any]:
        """All arguments."""
        names = ("scenes", "views", "width", "height", "seed", "mix", "labels", "dense", "distortion", "quality")
        more = {"clutter": list(self.clutter), "stream": self.stream}
        more = {} if more == {"clutter": list(USUAL_CLUTTER), "stream": ""} else more
        return {"reader": self.name, "fov": list(self.fov), **{name: getattr(self, name) for name in names}, **more}

    def read(self, key: str) -> Frame:
        """Render one frame.

        Raises:
            DepthLMError: the scene leaves no room for so many views, or nothing in view is near enough to label.
        """
        scene_index, view = (int(part) for part in key.split("/"))
        scene, cameras = self._scene(scene_index)
        if view >= len(cameras):
            raise DepthLMError(f"frame {key}", "the scene has no room for another camera", kind="no room for camera")
        camera = cameras[view]
        pixels, z = render(scene, camera)
        rng = np.random.default_rng([*self._words, scene_index, view])
        xy, label_z = _draw_labels(rng, z, self.labels)
        return Frame(
            id=key,
            image=_encode(pixels, self.quality),
            camera=camera,
            xy=xy,
            z=label_z,
            scene=f"{scene_index:06d}",
            dataset=f"procedural-{scene.kind}",
            licence="CC0-1.0",
            depth=z if self.dense else None,
        )

    def _scene(self, index: int) -> tuple[Scene, list[Camera]]:
        if self._last is None or self._last[0] != index:
            rng = np.random.default_rng([*self._words, index])
            share = self.mix.get("room", 0.0) / sum(self.mix.values())
            kind: SceneKind = "room" if rng.random() < share else "street"
            scene = make_scene(rng, kind, clutter=float(rng.uniform(*self.clutter)))
            cameras = sample_cameras(rng, scene, self.views, self.width, self.height, self.fov, self.distortion)
            self._last = index, scene, cameras
        return self._last[1], self._last[2]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _draw_labels(
    rng: np.random.Generator, z: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Labelled pixels (n, 2) and z (n,): half anywhere, half evenly over log z, so that near and far both occur."""
    flat = z.ravel()
    usable = np.flatnonzero((flat >= MIN_LABEL_M) & (flat <= MAX_LABEL_M))
    if len(usable) < count:
        raise DepthLMError("frame", f"only {len(usable)} pixels lie in {MIN_LABEL_M}–{MAX_LABEL_M} m", kind="no labels")
    anywhere = rng.choice(usable, count // 2, replace=False)
    mixed = rng.permutation(usable)  # many pixels of a wall or a row of floor share one z: none comes first
    by_depth = mixed[np.argsort(flat[mixed], kind="stable")]
    logs = np.log(flat[by_depth])
    wanted = rng.uniform(logs[0], logs[-1], count - count // 2)
    spread = by_depth[np.minimum(np.searchsorted(logs, wanted), len(logs) - 1)]
    picked = rng.permutation(np.unique(np.concatenate([anywhere, spread])))
    ys, xs = np.divmod(picked, z.shape[1])
    return np.stack([xs, ys], axis=1).astype(np.float32), flat[picked]


def _encode(pixels: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if quality:
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()
