"""Readers: one outside dataset each, to frames. Outside packages add theirs by the entry points `depthlm.readers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from depthlm.frame import Frame
from depthlm.registry import Registry


@runtime_checkable
class Reader(Protocol):
    """Lists the frames of a dataset and reads one at a time; must be picklable, for it is sent to worker processes."""

    name: str

    def keys(self) -> Sequence[str]:
        """One key per frame, unique, in the same order on every machine; cheap: no image is opened.

        Raises:
            DepthLMError: the dataset is not there or not laid out as expected.
        """
        ...

    def read(self, key: str) -> Frame:
        """The frame of a key, depth as z in metres; ``dropped`` counts measured points that give no label, by reason.

        Raises:
            DepthLMError: this frame is unusable; its ``kind`` is the reason under which it is counted.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """Source and options, JSON-ready: two readers of equal settings give equal frames."""
        ...


READERS: Registry[type[Reader]] = Registry(
    "reader",
    {
        "argoverse2": "data_gen.readers.argoverse2:Argoverse2Reader",
        "arkitscenes": "data_gen.readers.arkitscenes:ARKitScenesReader",
        "ddad": "data_gen.readers.ddad:DdadReader",
        "depthlm-jsonl": "data_gen.readers.depthlm_jsonl:DepthlmJsonlReader",
        "diode": "data_gen.readers.diode:DiodeReader",
        "eth3d": "data_gen.readers.eth3d:Eth3dReader",
        "hm3d": "data_gen.readers.omnidata:HM3DReader",
        "hololens": "data_gen.readers.hololens:HololensReader",
        "huggingface": "data_gen.readers.huggingface:HuggingFaceReader",
        "hypersim": "data_gen.readers.hypersim:HypersimReader",
        "ibims1": "data_gen.readers.ibims1:Ibims1Reader",
        "kitti": "data_gen.readers.kitti:KittiReader",
        "matterport3d": "data_gen.readers.matterport3d:Matterport3DReader",
        "nuscenes": "data_gen.readers.nuscenes:NuScenesReader",
        "nyuv2": "data_gen.readers.nyuv2:NyuV2Reader",
        "plain-folder": "data_gen.readers.plain_folder:PlainFolderReader",
        "scannet": "data_gen.readers.scannet:ScanNetReader",
        "scannetpp": "data_gen.readers.scannetpp:ScanNetPPReader",
        "sevenscenes": "data_gen.readers.sevenscenes:SevenScenesReader",
        "sunrgbd": "data_gen.readers.sunrgbd:SunRgbdReader",
        "taskonomy": "data_gen.readers.omnidata:TaskonomyReader",
        "tum-rgbd": "data_gen.readers.tum_rgbd:TumRgbdReader",
        "virtual-kitti-2": "data_gen.readers.virtual_kitti_2:VirtualKitti2Reader",
        "waymo": "data_gen.readers.waymo:WaymoReader",
    },
    entry_points="depthlm.readers",
)
