"""Reader of ScanNet v2 as its own exporter writes it: indoor sequences of an iPad with a Structure sensor, with poses.

Cite: Dai et al., "ScanNet: Richly-annotated 3D Reconstructions of Indoor Scenes", CVPR 2017. Licence: ScanNet terms of
use, not for commercial use. Layout: what ``SensReader/python/reader.py`` makes of a ``.sens`` file, a folder for each
scan: ``scene0000_00/color/0.jpg``, ``depth/0.png``, ``pose/0.txt``, ``intrinsic/intrinsic_color.txt``,
``intrinsic_depth.txt``, ``extrinsic_color.txt``, ``extrinsic_depth.txt`` (4x4); beside the scans (or above ``scans``)
the repository's ``Tasks/Benchmark/scannetv2_train.txt``, ``_val.txt``, ``_test.txt``.
Units: depth is z as uint16 millimetres, 0 unknown, 640x480 for images of 1296x968; poses are camera-to-world, metres,
``-inf`` where tracking was lost. Depth pixels become labels where the colour camera sees them: through the two
intrinsics, for the files share one camera frame. Splits: ``train``, ``val``, ``test`` of those lists. Times: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.depth_map import check_range, decode_depth, in_range, thinned, without_edges
from data_gen.readers.paths import dataset_root, frame_id, image_size, inside, read_bytes, read_numbers
from data_gen.registration import register
from depthlm.camera import Camera
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

SPLITS = ("train", "val", "test", "all")


class ScanNetReader:
    """One frame per colour image; keys are ``sceneNNNN_NN/NUMBER``.

    Args:
        source: the folder of the scans, or the one that holds ``scans``.
        split: scans of ``scannetv2_SPLIT.txt``, or ``"all"`` scans there are.
        every: take frames whose number is a multiple of it (30 Hz).
        labels: labels a frame, drawn from the about 250,000 there are; 0 for all.
        edge_radius: px of depth left out beside a jump; colour and depth meet only to a pixel or two.
        min_m, max_m: z outside is left out, metres.

    Raises:
        DepthLMError: no such folder, an unknown option.
    """

    name = "scannet"

    def __init__(
        self,
        source: str | Path,
        split: str = "train",
        every: int = 10,
        labels: int = 4096,
        edge_radius: int = 2,
        min_m: float = 0.1,
        max_m: float = 10.0,
        licence: str = "ScanNet terms of use, non-commercial",
    ) -> None:
        self.source = dataset_root(source, "the folder of the exported scans")
        self.root = self.source / "scans" if (self.source / "scans").is_dir() else self.source
        if split not in SPLITS:
            raise DepthLMError("split", f"{split!r} is not one of {', '.join(SPLITS)}")
        if every < 1 or edge_radius < 0:
            raise DepthLMError("every, edge_radius", f"must be at least 1 and 0, got {every} and {edge_radius}")
        check_range(min_m, max_m)
        self.split, self.every, self.labels, self.edge_radius = split, every, labels, edge_radius
        self.min_m, self.max_m, self.licence = min_m, max_m, licence

    def settings(self) -> dict[str, Any]:
        """Folder name and options."""
        names = ("split", "every", "labels", "edge_radius", "min_m", "max_m", "licence")
        return {"source": self.source.name, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _keys(self) -> list[str]:
        keys = []
        for scan in self._scans():
            numbers = [int(p.stem) for p in inside(self.root, scan).glob("color/*.jpg") if p.stem.isdigit()]
            keys += [f"{scan}/{number}" for number in sorted(numbers) if number % self.every == 0]
        if not keys:
            raise DepthLMError(
                self.root,
                f"holds no color/*.jpg of a scan of split {self.split}",
                "export the .sens files with SensReader/python/reader.py",
                "no frames",
            )
        return keys

    def _scans(self) -> list[str]:
        if self.split == "all":
            return sorted(p.parent.name for p in self.root.glob("*/color"))
        name = f"scannetv2_{self.split}.txt"
        folder = self.source if (self.source / name).is_file() else self.root
        try:
            return sorted(read_bytes(folder, name, "split").decode().split())
        except DepthLMError as error:
            mend = "copy it from Tasks/Benchmark of github.com/ScanNet/ScanNet, or take --split all"
            raise DepthLMError(error.where, error.reason, mend, error.kind) from error

    def keys(self) -> Sequence[str]:
        """``sceneNNNN_NN/NUMBER``, by scan and number."""
        return self._keys

    def read(self, key: str) -> Frame:
        """The frame with its depth as labels of the colour image.

        Raises:
            DepthLMError: a file is missing, unreadable or outside the dataset; tracking was lost (kind ``bad pose``);
                colour and depth of a scan have different frames.
        """
        scan, _, number = key.partition("/")
        image = read_bytes(self.root, f"{scan}/color/{number}.jpg", "image")
        width, height = image_size(image, f"{scan}/color/{number}.jpg")
        name = f"{scan}/depth/{number}.png"
        depth = in_range(
            decode_depth(read_bytes(self.root, name, "depth"), name, 0.001, invalid=(0, 65535)), self.min_m, self.max_m
        )
        pose = read_numbers(self.root, f"{scan}/pose/{number}.txt", "pose", (4, 4))
        colour_k, depth_k = (
            read_numbers(self.root, f"{scan}/intrinsic/intrinsic_{kind}.txt", "intrinsics", (4, 4))
            for kind in ("color", "depth")
        )
        self._check_one_frame(scan)
        camera = Camera(width, height, colour_k[0, 0], colour_k[1, 1], colour_k[0, 2], colour_k[1, 2], pose=pose)
        rows, columns = depth.shape
        depth_camera = Camera(columns, rows, depth_k[0, 0], depth_k[1, 1], depth_k[0, 2], depth_k[1, 2])
        registered = register(without_edges(depth, self.edge_radius), depth_camera, camera, np.eye(4))
        xy, z = thinned(registered, self.labels, key)
        return Frame(
            id=frame_id(key),
            image=image,
            camera=camera,
            xy=xy,
            z=z,
            scene=scan,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )

    def _check_one_frame(self, scan: str) -> None:
        """Depth and colour of exported scans are aligned: both extrinsics, where there are files, are the identity."""
        for kind in ("color", "depth"):
            name = f"{scan}/intrinsic/extrinsic_{kind}.txt"
            if not inside(self.root, name).is_file():
                continue
            if not np.allclose(read_numbers(self.root, name, "calibration", (4, 4)), np.eye(4), atol=1e-4):
                raise DepthLMError(name, "is not the identity: depth and colour are not aligned", "", "bad calibration")
