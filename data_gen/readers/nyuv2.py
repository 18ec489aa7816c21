"""Reader of NYU Depth v2: the 1,449 labelled frames (.mat) or frames exported scene by scene (PNG/PGM).

Cite: Silberman, Hoiem, Kohli, Fergus, "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012.
Licence: none stated by its authors; research use is customary.
Layouts: (a) ``nyu_depth_v2_labeled.mat`` (MATLAB 7.3) with ``images``, ``rawDepths`` (measured), ``depths`` (holes
filled), ``scenes``; beside it ``splits.mat`` with ``trainNdxs``, ``testNdxs`` counted from 1. (b) A folder of a folder
per scene, the toolbox's synchronised and projected frames as depth papers exchange them: ``SCENE/rgb_00045.jpg`` and
``SCENE/sync_depth_00045.png``; the two kinds may lie in ``rgb`` (or ``color``) and ``depth`` folders, the prefixes be
left out, depth be PGM. There, ``pose.txt`` may give a line ``tx ty tz qx qy qz qw`` a frame, camera-to-world, metres.
Units: (a) metres, 0 unknown; (b) millimetres as uint16, 0 unknown. Both z, on the colour image's own pixels, cut by the
toolbox at 10 m: what is there is unknown here. Camera: that of the toolbox's ``camera_params.m``; the images are
undistorted, which leaves a white border: labels lie inside the toolbox's own mask (``get_projection_mask.m``) only.
Splits: (a) the official ``train`` (795) and ``test`` (654, default); (b) what the folder holds, told by ``split``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_gen.depth_map import check_range, decode_depth, in_range
from data_gen.poses import from_quaternion
from data_gen.readers.mat_files import load_mat, open_hdf5
from data_gen.readers.paths import frame_id, inside, read_bytes, read_numbers
from depthlm.camera import Camera, Floats
from depthlm.errors import DepthLMError
from depthlm.frame import Frame

Depth = Literal["raw", "filled"]
WIDTH, HEIGHT = 640, 480
FX, FY, CX, CY = 518.85790117450188, 519.46961112127485, 325.58244941119034, 253.73616633400465
VALID = (slice(44, 471), slice(40, 601))  # rows and columns on which the toolbox projects depth
LABELLED = "nyu_depth_v2_labeled.mat"
# Exported frames: the folders and the prefixes of the two kinds of file.
COLOUR_FOLDERS, COLOUR_TYPES = ("", "rgb", "color"), (".jpg", ".png", ".ppm")
DEPTH_FOLDERS, DEPTH_TYPES = ("", "depth"), (".png", ".pgm")


class NyuV2Reader:
    """Keys are ``labelled/0001`` … (counted as MATLAB does) or ``SCENE/00045``.

    Args:
        source: the .mat file, the folder that holds it, or the folder of exported scenes (or of one scene).
        split: labelled: ``"test"`` (default), ``"train"`` or ``"all"``; exported: what is stored with each frame,
            default ``"train"``.
        depth: of the .mat file: ``"raw"`` (measured) or ``"filled"`` (holes guessed; not for labels).
        min_m, max_m: z outside is unknown, metres; the toolbox cuts at 10 m.

    Raises:
        DepthLMError: nothing of the kind at ``source``, an unknown option.
    """

    name = "nyuv2"

    def __init__(
        self,
        source: str | Path,
        split: str = "",
        depth: Depth = "raw",
        min_m: float = 0.1,
        max_m: float = 9.99,
        licence: str = "NYU Depth v2, research",
    ) -> None:
        source = Path(source).resolve()
        if not source.exists():
            raise DepthLMError(source, "no such file or folder", f"give {LABELLED} or a folder of scenes", "no source")
        self.root, self.mat = (source, LABELLED) if source.is_dir() else (source.parent, source.name)
        self.source_name = source.name
        self.labelled = source.is_file() or (source / LABELLED).is_file()
        self.split = split or ("test" if self.labelled else "train")
        if self.labelled and self.split not in ("train", "test", "all"):
            raise DepthLMError("split", f"{split!r} is not one of train, test, all")
        if depth not in get_args(Depth):
            raise DepthLMError("depth", f"{depth!r} is not one of {', '.join(get_args(Depth))}")
        check_range(min_m, max_m)
        self.depth, self.min_m, self.max_m, self.licence = depth, min_m, max_m, licence

    def settings(self) -> dict[str, Any]:
        """Name of the file or folder, and options."""
        names = ("split", "depth", "min_m", "max_m", "licence")
        return {"source": self.source_name, **{name: getattr(self, name) for name in names}}

    def keys(self) -> Sequence[str]:
        """``labelled/0001`` … of the split, or ``SCENE/NUMBER`` sorted by scene and number."""
        return self._labelled_keys() if self.labelled else list(self._exported)

    def read(self, key: str) -> Frame:
        """One frame, its depth dense on the image's pixels.

        Raises:
            DepthLMError: a file is missing, unreadable, outside the dataset or not 640x480.
        """
        image, depth, scene, pose = self._read_labelled(key) if self.labelled else self._read_exported(key)
        if depth.shape != (HEIGHT, WIDTH):
            raise DepthLMError(key, f"depth is not {WIDTH}x{HEIGHT}", "give uncropped frames", "depth size differs")
        inner = np.zeros_like(depth)
        inner[VALID] = depth[VALID]
        return Frame(
            id=frame_id(key),
            image=image,
            camera=Camera(WIDTH, HEIGHT, FX, FY, CX, CY, pose=pose),
            xy=np.zeros((0, 2), np.float32),
            z=np.zeros(0, np.float32),
            depth=in_range(inner, self.min_m, self.max_m),
            scene=scene,
            dataset=self.name,
            split=self.split,
            licence=self.licence,
        )

    def _labelled_keys(self) -> list[str]:
        with open_hdf5(self.root, self.mat) as file:
            missing = [name for name in ("images", "rawDepths", "depths", "scenes") if name not in file]
            if missing:
                raise DepthLMError(self.root / self.mat, f"lacks {', '.join(missing)}", f"it should be {LABELLED}")
            count = len(file["images"])
        if self.split == "all":
            return [f"labelled/{number:04d}" for number in range(1, count + 1)]
        numbers = load_mat(self.root, "splits.mat", "split").get(f"{self.split}Ndxs")
        if numbers is None or numbers.size == 0 or numbers.min() < 1 or numbers.max() > count:
            raise DepthLMError(
                self.root / "splits.mat",
                f"has no usable {self.split}Ndxs for {count} frames",
                "it lies on the dataset's page",
                "bad split",
            )
        return [f"labelled/{number:04d}" for number in sorted(numbers.ravel().tolist())]

    def _read_labelled(self, key: str) -> tuple[bytes, NDArray[np.float32], str, None]:
        index = int(key.rpartition("/")[2]) - 1
        with open_hdf5(self.root, self.mat) as file:
            try:
                pixels = file["images"][index].transpose(2, 1, 0)  # MATLAB's axes in reverse: 3, width, height
                depth = file["rawDepths" if self.depth == "raw" else "depths"][index].T
                characters = file[file["scenes"][0, index]][:]
            except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
                raise DepthLMError(
                    self.root / self.mat, f"frame {index + 1} can't be read: {error}", "", "bad row"
                ) from error
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")  # the file holds bare pixels
        return buffer.getvalue(), depth.astype(np.float32), "".join(map(chr, characters.ravel())), None

    @cached_property
    def _exported(self) -> dict[str, tuple[str, str | None, str, str, int]]:
        """Key -> names of image and depth, scene, the scene's folder, and the frame's place there."""
        folders = [self.root, *sorted(path for path in self.root.rglob("*") if path.is_dir())]
        frames: dict[str, tuple[str, str | None, str, str, int]] = {}
        for folder in folders:
            if folder.name in (*COLOUR_FOLDERS, *DEPTH_FOLDERS) and folder != self.root:
                continue  # read with the folder above
            colour = _numbered(self.root, folder, COLOUR_FOLDERS, COLOUR_TYPES, "rgb_")
            depth = _numbered(self.root, folder, DEPTH_FOLDERS, DEPTH_TYPES, "sync_depth_")
            relative = folder.relative_to(self.root).as_posix()
            scene = self.root.name if relative == "." else relative
            for place, (number, name) in enumerate(sorted(colour.items())):
                frames[f"{scene}/{number:05d}"] = name, depth.get(number), scene, relative, place
        if not frames:
            raise DepthLMError(
                self.root,
                f"holds neither {LABELLED} nor scenes with rgb_*.jpg and sync_depth_*.png",
                "give the folder of scenes",
                "no frames",
            )
        return frames

    def _read_exported(self, key: str) -> tuple[bytes, NDArray[np.float32], str, Floats | None]:
        image_name, depth_name, scene, folder, place = self._exported[key]
        if depth_name is None:
            raise DepthLMError(key, "has no depth file of its number", "restore it", "missing depth")
        image = read_bytes(self.root, image_name, "image")
        depth = decode_depth(read_bytes(self.root, depth_name, "depth"), depth_name, 0.001)
        pose = None
        if inside(self.root, f"{folder}/pose.txt").is_file():
            lines = read_numbers(self.root, f"{folder}/pose.txt", "pose", (-1, 7))
            if place >= len(lines):
                raise DepthLMError(f"{folder}/pose.txt", f"has no line for frame {place + 1}", "", "missing pose")
            pose = from_quaternion(lines[place, :3], lines[place, 3:])
        return image, depth, scene, pose


def _numbered(root: Path, scene: Path, folders: Sequence[str], types: Sequence[str], prefix: str) -> dict[int, str]:
    """Number of a frame -> name of its file relative to ``root``.

    In the scene's own folder, where both kinds of file lie, the prefix is asked for.
    """
    found: dict[int, str] = {}
    for folder in folders:
        pattern = re.compile(rf"({prefix}){'' if folder == '' else '?'}(\d+)")
        for path in sorted((scene / folder).glob("*")):
            match = pattern.fullmatch(path.stem)
            if match and path.suffix in types:
                found[int(match[2])] = path.relative_to(root).as_posix()
    return found
