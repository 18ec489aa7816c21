"""Reader of ETH3D's high-resolution multi-view scenes: laser-scanned depth on undistorted DSLR photographs.

Cite: Schöps, Schönberger, Galliani, Sattler, Schindler, Pollefeys, Geiger, "A Multi-View Stereo Benchmark with
High-Resolution Images and Multi-Camera Videos", CVPR 2017. Licence: CC BY-NC-SA 4.0. Layout: ``SCENE/`` with
``images/dslr_images_undistorted/*.JPG``, ``dslr_calibration_undistorted/{cameras,images}.txt``,
``dslr_calibration_jpg/{cameras,images}.txt`` and ``ground_truth_depth/dslr_images/*.JPG`` (no JPEGs: float32 z in
metres, row by row, inf unknown). The depth belongs to the *distorted* photographs: a depth pixel's ray is found by
their lens and projected into the undistorted one. Poses: COLMAP's, world in metres. Splits: the 13 scenes of the
benchmark's training set, the only ones with depth, are DepthLM's for evaluation; stored as ``val``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.colmap import parse_cameras, parse_images
from data_gen.depth_map import check_range, in_range, thinned
from data_gen.readers.paths import dataset_root, inside, read_bytes
from data_gen.thin_prism import ThinPrismFisheye
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

IMAGES = "images/dslr_images_undistorted"
DEPTHS = "ground_truth_depth/dslr_images"
UNDISTORTED, DISTORTED = "dslr_calibration_undistorted", "dslr_calibration_jpg"


class Eth3dReader:
    """One frame per photograph; keys are ``SCENE/DSC_NNNN``.

    Args:
        source: the folder that holds the scenes.
        scenes: names, or one; all there are by default.
        labels: labels a frame, drawn from the about ten million there are; 0 for all.
        min_m, max_m: z outside gives no label, metres.

    Raises:
        DepthLMError: no such folder, a bad range.
    """

    name = "eth3d"

    def __init__(
        self,
        source: str | Path,
        scenes: str | Sequence[str] | None = None,
        labels: int = 4096,
        min_m: float = 0.1,
        max_m: float = 200.0,
        licence: str = "CC BY-NC-SA 4.0",
    ) -> None:
        self.root = dataset_root(source, "the folder that holds courtyard, delivery_area, …")
        check_range(min_m, max_m)
        self.scenes = None if scenes is None else [scenes] if isinstance(scenes, str) else list(dict.fromkeys(scenes))
        self.labels, self.min_m, self.max_m, self.licence = labels, min_m, max_m, licence
        self._calibration: tuple[str, dict[str, Camera], dict[str, ThinPrismFisheye]] | None = None

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("scenes", "labels", "min_m", "max_m", "licence")
        return {"source": self.root.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _keys(self) -> list[str]:
        found = sorted(path.name for path in self.root.iterdir() if (path / DEPTHS).is_dir())
        if missing := set(self.scenes or ()) - set(found):
            raise DepthLMError(
                self.root / min(missing), f"has no {DEPTHS}", "unpack SCENE_dslr_depth.7z there", "no source"
            )
        keys = [
            f"{scene}/{path.stem}"
            for scene in (found if self.scenes is None else self.scenes)
            for path in sorted(inside(self.root, f"{scene}/{DEPTHS}").glob("*.JPG"))
        ]
        if not keys:
            raise DepthLMError(self.root, f"holds no SCENE/{DEPTHS}", "unpack SCENE_dslr_depth.7z here", "no frames")
        return keys

    def keys(self) -> Sequence[str]:
        """``SCENE/DSC_NNNN``, in order."""
        return self._keys

    def read(self, key: str) -> Frame:
        """One photograph with its labels.

        Raises:
            DepthLMError: a missing or unreadable file, calibration or pose.
        """
        scene, stem = key.split("/")
        cameras, lenses = self._cameras(scene)
        name = f"{stem}.JPG"
        if name not in cameras or name not in lenses:
            where = f"{scene}/{UNDISTORTED if name not in cameras else DISTORTED}/images.txt"
            raise DepthLMError(where, f"lacks {name}", "unpack both calibrations", "missing calibration")
        camera = cameras[name]
        xy, z, dropped = self._labels(f"{scene}/{DEPTHS}/{name}", lenses[name], camera, key)
        return Frame(
            id=key,
            image=read_bytes(self.root, f"{scene}/{IMAGES}/{name}", "image"),
            camera=camera,
            xy=xy,
            z=z,
            scene=scene,
            dataset=self.name,
            split="val",
            licence=self.licence,
            dropped=dropped,
        )

    def _labels(
        self, name: str, lens: ThinPrismFisheye, camera: Camera, key: str
    ) -> tuple[Floats, Floats, Counter[str]]:
        """Depth pixels of the distorted photograph at their places in the undistorted one."""
        data = read_bytes(self.root, name, "depth")
        if len(data) != 4 * lens.width * lens.height:
            raise DepthLMError(
                name,
                f"has {len(data)} bytes, {lens.width}x{lens.height} floats are {4 * lens.width * lens.height}",
                "unpack SCENE_dslr_depth.7z again",
                "unreadable depth",
            )
        depth = in_range(np.frombuffer(data, "<f4").reshape(lens.height, lens.width), self.min_m, self.max_m)
        ys, xs = np.nonzero(depth)
        xy, z = thinned((np.stack([xs, ys], axis=1).astype(np.float32), depth[ys, xs]), self.labels, key)
        rays = lens.normalized(xy)
        found = np.isfinite(rays).all(axis=1)
        seen = np.zeros(len(z), bool)
        points = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
        seen[found] = camera.sees(points[found])
        placed = camera.project(points[seen]).astype(np.float32)
        on = camera.contains(placed)  # float32 may have rounded a label onto the edge
        return placed[on], z[seen][on], +Counter({"outside the image": int(len(z) - on.sum())})

    def _cameras(self, scene: str) -> tuple[dict[str, Camera], dict[str, ThinPrismFisheye]]:
        """By image name: the undistorted cameras with poses, and the distorted photographs' lenses."""
        if self._calibration is None or self._calibration[0] != scene:
            files = [
                f"{scene}/{folder}/{name}.txt" for folder in (UNDISTORTED, DISTORTED) for name in ("cameras", "images")
            ]
            texts = [read_bytes(self.root, file, "calibration").decode(errors="replace") for file in files]
            cameras, lenses = parse_cameras(texts[0], files[0]), parse_lenses(texts[2], files[2])
            try:
                posed = {
                    name: replace(cameras[number], pose=pose)
                    for name, (number, pose) in parse_images(texts[1], files[1]).items()
                }
                by_name = {name: lenses[number] for name, (number, _) in parse_images(texts[3], files[3]).items()}
            except KeyError as error:
                raise DepthLMError(
                    f"{scene}/cameras.txt", f"lacks camera {error}", "restore it", "bad intrinsics"
                ) from error
            self._calibration = scene, posed, by_name
        return self._calibration[1:]


def parse_lenses(text: str, where: str) -> dict[int, ThinPrismFisheye]:
    """The cameras of a COLMAP ``cameras.txt`` that all are of the model THIN_PRISM_FISHEYE.

    Raises:
        DepthLMError: a line of another form or model.
    """
    lenses = {}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if words[1] != "THIN_PRISM_FISHEYE":
                raise ValueError(f"model {words[1]}")
            values = tuple(float(word) for word in words[4:])
            lenses[int(words[0])] = ThinPrismFisheye(int(words[2]), int(words[3]), values)
        except (ValueError, IndexError) as error:
            reason = f"camera {line[:60]!r} is no THIN_PRISM_FISHEYE: {error}"
            raise DepthLMError(where, reason, "unpack SCENE_dslr_jpg.7z again", "bad intrinsics") from error
    return lenses
