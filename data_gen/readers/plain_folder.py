"""Reader of a plain folder: what someone with a camera of their own writes in an afternoon.

Layout: ``rgb/NAME.{jpg,jpeg,png,webp}``, ``depth/NAME.{png,pgm,tif,tiff,npy}``, ``intrinsics.json``, optional
``poses/NAME.txt``. Sub-folders of ``rgb`` are allowed and are the scenes; without any, all is one scene.
``intrinsics.json``: ``{"fx", "fy", "cx", "cy"}`` in px, integer coordinates at pixel centres, optional ``"width",
"height"`` (checked) and ``"distortion"`` (OpenCV's order); or an object that gives one such per NAME or sub-folder, and
``"default"`` for the rest. What it does not give, or all without the file, can be estimated (``camera_from``).
Depth: z (or, with ``depth_is=distance``, Euclidean) of the image's viewpoint. Integer maps are counts of ``unit_m``
metres (default 1 mm); float maps and ``.npy`` are metres times ``unit_m`` where it is given. 0, NaN, inf and values
outside 0.1–200 m are unknown. A map of another size than its image must be registered to it, edges to edges.
Poses: 4x4 camera-to-world, metres, OpenCV axes (x right, y down, z forward). Licence and splits: the user's own.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data_gen.depth_map import as_z, decode_depth_image, depth_fields, in_range
from data_gen.readers.paths import dataset_root, frame_id, image_size, read_bytes, read_numbers
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame, decode_rgb

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
DEPTHS = (".png", ".pgm", ".tif", ".tiff", ".npy")
MIN_M, MAX_M = 0.1, 200.0
INTRINSICS = "give fx, fy, cx, cy there"
DepthKind = Literal["z", "distance"]


class PlainFolderReader:
    """One frame per image below ``rgb/``; keys are its path without the ending.

    Args:
        source: the folder.
        unit_m: metres of one count of integer maps, and factor of float maps; default 0.001 and 1.
        depth_is: ``"z"`` or ``"distance"``; it is stored as z.
        camera_from: spatial encoder with point map heads, as ``depthlm convert`` makes it, that estimates the camera
            of images without intrinsics; the store's report counts them.
        labels: labels of a frame whose map is of another size than its image, drawn by its name; 0: all.
        dataset: name in the store; default the folder's.
        split, licence: provenance, stored with each frame.

    Raises:
        DepthLMError: no such folder, no or wrong ``intrinsics.json``, an unknown ``depth_is``, no positive ``unit_m``,
            or a ``camera_from`` that tells no camera.
    """

    name = "plain-folder"

    def __init__(
        self,
        source: str | Path,
        unit_m: float | None = None,
        depth_is: DepthKind = "z",
        labels: int = 0,
        camera_from: str | None = None,
        dataset: str | None = None,
        split: str = "train",
        licence: str = "",
    ) -> None:
        self.source = dataset_root(source, "the folder that holds rgb/, depth/ and intrinsics.json")
        dataset_root(self.source / "rgb", "a folder with the images in rgb/")
        if depth_is not in get_args(DepthKind):
            raise DepthLMError("depth_is", f"{depth_is!r} is not one of {', '.join(get_args(DepthKind))}")
        if unit_m is not None and not 0 < unit_m < float("inf"):
            raise DepthLMError("unit_m", f"{unit_m} is no number of metres", "0.001 is a millimetre")
        self.unit_m, self.depth_is, self.labels = unit_m, depth_is, labels
        self.dataset, self.split, self.licence = dataset or self.source.resolve().name, split, licence
        self.camera_from = camera_from
        self._intrinsics = self._read_intrinsics()
        if camera_from is not None:
            self._camera_encoder()  # told now, not frame by frame

    def _read_intrinsics(self) -> dict[str, Any]:
        path = self.source / "intrinsics.json"
        if not path.is_file():
            if self.camera_from is not None:
                return {}
            mend = f"{INTRINSICS}, or --set camera_from=ENCODER estimates the camera"
            raise DepthLMError(path, "no such intrinsics file", mend, "missing intrinsics")
        try:
            found = json.loads(read_bytes(self.source, path.name, "intrinsics"))
        except ValueError as error:
            raise DepthLMError(path, f"is not JSON: {error}", "correct it") from error
        if not isinstance(found, dict):
            raise DepthLMError(path, "holds no object", INTRINSICS)
        return found

    def settings(self) -> dict[str, Any]:
        """Options and calibration."""
        names = ("unit_m", "depth_is", "labels", "dataset", "split", "licence", "camera_from")
        return {"intrinsics": self._intrinsics, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _files(self) -> dict[str, str]:
        """Key -> image path below the source; two images of one key are told apart by their whole name."""
        root = self.source / "rgb"
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGES)
        return {p.relative_to(root).with_suffix("").as_posix(): p.relative_to(self.source).as_posix() for p in files}

    def keys(self) -> Sequence[str]:
        """Paths below ``rgb/``, without ending, in order."""
        return list(self._files)

    def read(self, key: str) -> Frame:
        """The frame of an image.

        Raises:
            DepthLMError: depth or calibration missing, or any of them impossible.
        """
        image = read_bytes(self.source, self._files[key], "image")
        size = image_size(image, self.source / self._files[key])
        known = self.camera_from is None or self._given(key) is not None
        camera = self._camera(key, *size) if known else self._estimated(key, image)
        z = self._depth(key)
        if self.depth_is == "distance":
            z = as_z(z, camera.scaled(z.shape[1], z.shape[0]))
        return Frame(
            id=frame_id(key),
            image=image,
            camera=camera,
            **depth_fields(z, camera.width, camera.height, self.labels, key),
            scene=Path(key).parent.as_posix() if "/" in key else self.dataset,
            dataset=self.dataset,
            split=self.split,
            licence=self.licence,
            noted={} if known else {f"no intrinsics: camera estimated by {Path(str(self.camera_from)).name}": 1},
        )

    def _given(self, key: str) -> dict[str, Any] | None:
        """What intrinsics.json says of an image, if it is a camera."""
        table = self._intrinsics
        found = next((table[k] for k in (key, Path(key).parent.as_posix(), "default") if k in table), table)
        whole = isinstance(found, dict) and all(name in found for name in ("fx", "fy", "cx", "cy"))
        return found if whole else None

    def _estimated(self, key: str, image: bytes) -> Camera:
        from depthlm.spatial.estimate import estimate

        pixels = decode_rgb(image, f"{self.source / self._files[key]}")
        return replace(estimate(self._camera_encoder(), pixels).camera, pose=self._pose(key))

    def _camera_encoder(self) -> Any:
        """The encoder, once loaded in each process: it would be dear to send to all of them."""
        from depthlm.spatial.estimate import camera_encoder

        try:
            return camera_encoder(str(self.camera_from))
        except DepthLMError as error:
            raise DepthLMError("camera_from", f"{error.where}: {error.reason}", error.mend, error.kind) from error

    def _camera(self, key: str, width: int, height: int) -> Camera:
        found = self._given(key)
        where = f"{self.source / 'intrinsics.json'} for {key}"
        if found is None:
            raise DepthLMError(where, "gives no fx, fy, cx, cy", "add them, or a default", "no intrinsics")
        if (found.get("width", width), found.get("height", height)) != (width, height):
            reason = f"is for {found.get('width')}x{found.get('height')}, the image is {width}x{height}"
            raise DepthLMError(where, reason, "give the intrinsics of this size", "image size differs")
        try:
            numbers = {name: float(found[name]) for name in ("fx", "fy", "cx", "cy")}
            distortion = tuple(float(v) for v in found.get("distortion", ()))
        except (TypeError, ValueError) as error:
            raise DepthLMError(where, f"holds other than numbers: {error}", "", "bad intrinsics") from error
        return Camera(width, height, **numbers, distortion=distortion, pose=self._pose(key))

    def _pose(self, key: str) -> NDArray[np.float64] | None:
        name = f"poses/{key}.txt"
        return read_numbers(self.source, name, "pose", (4, 4)) if (self.source / name).exists() else None

    def _depth(self, key: str) -> NDArray[np.float32]:
        names = [f"depth/{key}{suffix}" for suffix in DEPTHS if (self.source / f"depth/{key}{suffix}").exists()]
        if not names:
            raise DepthLMError(self.source / f"depth/{key}.png", "no such depth map", "", "missing depth")
        where, data = self.source / names[0], read_bytes(self.source, names[0], "depth")
        if names[0].endswith(".npy"):
            try:
                values = np.load(io.BytesIO(data), allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise DepthLMError(where, f"can't be read: {error}", "", "unreadable depth") from error
            if values.ndim != 2 or values.dtype.kind not in "fiu":
                raise DepthLMError(where, f"holds {values.dtype} of shape {values.shape}", "", "unreadable depth")
        else:
            values = decode_depth_image(data, where)
        default = 0.001 if values.dtype.kind in "iu" else 1.0
        return in_range(values * np.float64(default if self.unit_m is None else self.unit_m), MIN_M, MAX_M)
